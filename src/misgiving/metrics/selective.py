"""What remains wrong among accepted samples when the least confident are deferred.

A confidence is higher where a sample should rather be accepted. An error is 0 or 1, or any
non-negative loss. Samples of equal confidence are accepted in random order: every measure is its
expectation over these orders.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Real

from misgiving.errors import UsageError
from misgiving.metrics._weighted import (
    Measured,
    Weights,
    measured,
    ratio,
    repetitions,
    sample_weights,
    samples,
    sums_by_group,
)

Confidences = Float[np.ndarray, " n"]
Errors = Bool[np.ndarray, " n"] | Real[np.ndarray, " n"]


class RiskCoverage(NamedTuple):
    """The risk-coverage curve at the distinct thresholds, strictest first."""

    coverages: Float[np.ndarray, " thresholds"]
    """Share of samples accepted."""
    risks: Float[np.ndarray, " thresholds"]
    """Mean error of the accepted samples."""


class _Steps(NamedTuple):
    """What each distinct threshold adds, strictest first, and all that is accepted up to it."""

    added: Float[np.ndarray, "*replicates thresholds"]
    added_error: Float[np.ndarray, "*replicates thresholds"]
    accepted: Float[np.ndarray, "*replicates thresholds"]
    accepted_error: Float[np.ndarray, "*replicates thresholds"]


def risk_coverage(confidences: Confidences, errors: Errors) -> RiskCoverage:
    """Selective risk at every coverage that a threshold can give.

    >>> risk_coverage(np.array([0.9, 0.5, 0.5]), np.array([0, 1, 0]))
    RiskCoverage(coverages=array([0.33333333, 1.        ]), risks=array([0.        , 0.33333333]))
    """
    confidences, errors = _checked(confidences, errors)
    steps = _steps(confidences, errors, np.ones(len(errors)))
    return RiskCoverage(steps.accepted / len(errors), steps.accepted_error / steps.accepted)


def aurc(confidences: Confidences, errors: Errors, *, weights: Weights | None = None) -> Measured:
    """Mean selective risk over the coverages k / n, k = 1 to n (Geifman and El-Yaniv, 2017).

    Weights must be whole numbers: a sample of weight w counts as w samples.

    >>> aurc(np.array([0.9, 0.5]), np.array([0, 1]))
    0.25
    """
    confidences, errors = _checked(confidences, errors)
    return measured(_aurc(confidences, errors, repetitions(weights, len(errors))), weights)


def excess_aurc(
    confidences: Confidences, errors: Errors, *, weights: Weights | None = None
) -> Measured:
    """AURC less that of the oracle, which accepts samples in the order of their errors.

    0 is a perfect order. Weights must be whole numbers.

    >>> excess_aurc(np.array([0.1, 0.5]), np.array([0, 1]))
    0.5
    """
    confidences, errors = _checked(confidences, errors)
    counts = repetitions(weights, len(errors))
    excess = _aurc(confidences, errors, counts) - _aurc(-errors, errors, counts)
    return measured(excess, weights)


def augrc(confidences: Confidences, errors: Errors, *, weights: Weights | None = None) -> Measured:
    """Area under the generalised risk over coverage from 0 to 1 (Traub et al., NeurIPS 2024).

    The generalised risk at a coverage is the error of the accepted over *all* samples: the
    probability that a sample is both accepted and wrong. The area is the trapezoid over the
    distinct thresholds, from (0, 0). With 0/1 errors, error rate r and AUROC for errors A it is
    (1 - A) r (1 - r) + r^2 / 2.

    >>> augrc(np.array([0.9, 0.5]), np.array([0, 1]))
    0.125
    """
    confidences, errors = _checked(confidences, errors)
    steps = _steps(confidences, errors, sample_weights(weights, len(errors)))
    heights = steps.accepted_error - steps.added_error / 2
    total = steps.accepted[..., -1]
    return measured(ratio((steps.added * heights).sum(axis=-1), total**2), weights)


def _checked(confidences: Confidences, errors: Errors) -> tuple[Confidences, Confidences]:
    confidences, values = samples(confidences=confidences, errors=errors)
    if values.min() < 0:
        raise UsageError(
            f"errors is negative at position {np.argmin(values)}; give 0 / 1 errors or losses"
        )
    return confidences, values


def _steps(
    confidences: Confidences, errors: Confidences, weights: Float[np.ndarray, "*replicates n"]
) -> _Steps:
    distinct, groups = np.unique(-confidences, return_inverse=True)
    added = sums_by_group(weights, groups, num_groups=len(distinct))
    added_error = sums_by_group(weights * errors, groups, num_groups=len(distinct))
    return _Steps(added, added_error, np.cumsum(added, axis=-1), np.cumsum(added_error, axis=-1))


def _aurc(
    confidences: Confidences, errors: Confidences, weights: Float[np.ndarray, "*replicates n"]
) -> Float[np.ndarray, "*replicates"]:
    """Sum of the expected selective risks over all ranks, divided by their number.

    Let a samples with errors of sum e be accepted before a tie of m samples with mean error u. In
    random order the j-th of them is expected to bring the sum to e + j u, so the ranks of the tie
    add sum_j (e + j u) / (a + j) = m u + (e - a u) (H(a + m) - H(a)), H the harmonic numbers.
    """
    steps = _steps(confidences, errors, weights)
    before = steps.accepted - steps.added
    mean_error = steps.added_error / np.maximum(steps.added, 1.0)  # no samples: the error is 0 too
    harmonic = _harmonic_numbers(int(steps.accepted.max(initial=0.0)))
    reciprocals = harmonic[steps.accepted.astype(np.intp)] - harmonic[before.astype(np.intp)]
    lead = (steps.accepted_error - steps.added_error) - before * mean_error
    risks = steps.added_error + lead * reciprocals
    return ratio(risks.sum(axis=-1), steps.accepted[..., -1])


def _harmonic_numbers(last: int) -> Float[np.ndarray, " numbers"]:
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, last + 1))])
