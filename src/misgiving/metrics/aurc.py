"""AURC: the area under the selective risk, and the sums over ties that it is made of."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Real, Shaped

from misgiving.arrays import Replicates, Values, Weights


class Ties(NamedTuple):
    """Samples in ascending order of a value, and the start of each distinct value."""

    order: Int[np.ndarray, " n"]
    """Sample numbers; the order within a tie is arbitrary."""
    starts: Int[np.ndarray, " distinct"]
    """Position in `order` of the first sample of each distinct value."""

    def sums(self, ordered: Real[np.ndarray, "*rows n"]) -> Real[np.ndarray, "*rows distinct"]:
        """Sum at each distinct value of numbers given for the samples in `order`."""
        if len(self.starts) == len(self.order):  # none is tied
            return ordered
        return np.add.reduceat(ordered, self.starts, axis=-1)


def ties(values: Shaped[np.ndarray, " n"]) -> Ties:
    """Sort samples by value and find ties.

    >>> ties(np.array([0.5, 0.1, 0.1, 0.1])).starts
    array([0, 3])
    """
    order = np.argsort(values)
    ordered = values[order]
    return Ties(order, np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])))


class RiskSteps(NamedTuple):
    """Samples and errors added by each distinct threshold, strictest first, and their totals."""

    added: Real[np.ndarray, "*replicates thresholds"]
    added_error: Real[np.ndarray, "*replicates thresholds"]
    accepted: Real[np.ndarray, "*replicates thresholds"]
    accepted_error: Real[np.ndarray, "*replicates thresholds"]

    @classmethod
    def of(cls, tied: Ties, errors: Values, weights: Weights) -> "RiskSteps":
        """Sum samples and errors in the order of `tied`."""
        counts = weights[..., tied.order]
        added, added_error = tied.sums(counts), tied.sums(counts * errors[tied.order])
        return cls(added, added_error, np.cumsum(added, axis=-1), np.cumsum(added_error, axis=-1))


def aurc(steps: RiskSteps) -> Replicates:
    """Mean of the expected selective risks over all ranks; NaN without samples.

    Let a samples with errors of sum e be accepted before a tie of m samples with mean error u. In
    random order the j-th of them is expected to bring the sum to e + j u, so the ranks of the tie
    add sum_j (e + j u) / (a + j) = m u + (e - a u) (H(a + m) - H(a)), H the harmonic numbers.

    >>> steps = RiskSteps.of(ties(np.array([-0.9, -0.5])), np.array([0.0, 1.0]), np.ones(2))
    >>> float(aurc(steps))
    0.25
    """
    before = steps.accepted - steps.added
    mean_error = steps.added_error / np.maximum(steps.added, 1.0)  # of no samples: 0
    ranks = np.arange(1, int(steps.accepted.max(initial=0.0)) + 1)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / ranks)])
    reciprocals = harmonic[steps.accepted.astype(np.intp)] - harmonic[before.astype(np.intp)]
    lead = (steps.accepted_error - steps.added_error) - before * mean_error
    total, risks = steps.accepted[..., -1], steps.added_error + lead * reciprocals
    return np.asarray(risks.sum(axis=-1) / np.where(total > 0, total, np.nan))
