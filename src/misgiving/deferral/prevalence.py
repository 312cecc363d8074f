"""The error among accepted answers where classes occur in other shares.

It assumes that only the mix of classes changes: within a class, images and answers stay as they
were. The bound holds for every candidate at once, so also for the one that was chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from misgiving.errors import DataError, UsageError

ROUNDING = 1e-9
Mix = Float[np.ndarray, " classes"]
ClassCounts = Int[np.ndarray, " classes"]


@dataclass(frozen=True, kw_only=True)
class PrevalenceOutcome:
    """The error among the accepted in another mix of classes; None where nothing is accepted.

    Attributes:
        mix: Share of each class, in the order of the classes.
        estimate: From the shares observed within each class.
        bound: What the error exceeds with a probability of at most 1 - confidence.
    """

    mix: tuple[float, ...]
    estimate: float | None
    bound: float | None


def completed(
    prevalence: Mapping[str, float], classes: Sequence[str], *, cases: ClassCounts
) -> Mix:
    """The share of every class: the named ones, and the rest in the proportion of the cases.

    >>> completed({"a": 0.4}, ["a", "b", "c"], cases=np.array([5, 1, 2]))
    array([0.4, 0.2, 0.4])
    """
    named = np.isin(classes, list(prevalence))
    shares = np.array([prevalence.get(name, 0.0) for name in classes], dtype=float)
    rest, others = 1 - shares.sum(), np.where(named, 0, cases)
    if rest < -ROUNDING or (rest > ROUNDING and not others.any()):
        raise UsageError(
            f"prevalence sums to {shares.sum():g}, and must sum to 1 with the classes that are not "
            "named; change the shares, or leave one out"
        )
    mix: Mix = shares + max(rest, 0.0) * others / max(others.sum(), 1)
    missing = [name for name, q, n in zip(classes, mix, cases, strict=True) if q > 0 and not n]
    if missing:
        raise DataError(
            f"prevalence of {missing[0]}: it has no calibration cases; add some, or leave it out"
        )
    return mix


def estimated_error(wrong: ClassCounts, right: ClassCounts, cases: ClassCounts, mix: Mix) -> float:
    """Error among the accepted: sum q_k w_k / (sum q_k w_k + sum q_k r_k), shares within classes.

    >>> wrong, right, cases = np.array([1, 0]), np.array([9, 5]), np.array([10, 10])
    >>> estimated_error(wrong, right, cases, np.array([0.5, 0.5]))
    0.066...
    """
    weights = mix / np.maximum(cases, 1)
    accepted = float(weights @ (wrong + right))
    return float(weights @ wrong) / accepted if accepted else 0.0


def bounded_error(most_wrong: Mix, least_right: Mix, *, mix: Mix) -> float:
    """What the error among the accepted is at most, from bounds within each class.

    >>> bounded_error(np.array([0.1, 0.1]), np.array([0.3, 0.3]), mix=np.array([0.5, 0.5]))
    0.25
    """
    wrong, right = float(mix @ most_wrong), float(mix @ least_right)
    return wrong / (wrong + right)
