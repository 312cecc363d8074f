"""Error among accepted cases when classes occur in other shares than in the calibration set.

Only the class shares may change: within a class, images and predictions stay as they were. The
bound holds for every threshold that is tested, so also for the one that was chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from misgiving.deferral.bounds import lower_bound, upper_bound
from misgiving.deferral.scored_cases import ScoredCases
from misgiving.deferral.targets import Targets
from misgiving.errors import DataError, UsageError

ROUNDING = 1e-9
Shares = Float[np.ndarray, " classes"]
ClassCounts = Int[np.ndarray, " classes"]


@dataclass(frozen=True, kw_only=True)
class LabelShiftOutcome:
    """Error among accepted cases with other class shares; None where nothing is accepted.

    Attributes:
        shares: Share of each class, in the order of the classes.
        estimate: From the shares of accepted and wrong cases within each class.
        bound: Exceeded with a probability of at most 1 - confidence.
    """

    shares: tuple[float, ...]
    estimate: float | None
    bound: float | None


def error_under_label_shift(
    targets: Targets,
    classes: Sequence[str],
    cases: ScoredCases,
    *,
    threshold: float | None,
    ood_limit: float | None,
    thresholds_tried: int,
) -> LabelShiftOutcome | None:
    """Estimate and bound the error among accepted cases; None where no class shares are given.

    "Accepted and wrong" is counted without the OOD limit. "Accepted and correct" depends on it: if
    one case, chosen beforehand, were the limit, the other cases would be a simple random sample. So
    the case that sets the limit does not count, and the level is shared among all cases.

    Args:
        targets: Shares of some classes, and the confidence. The other classes share the rest, in
            the proportions of the calibration set.
        classes: Names of all classes, in the order of the labels.
        cases: The calibration set.
        threshold: Lowest accepted score; None: nothing is accepted.
        ood_limit: Only cases above it are accepted; None: no limit.
        thresholds_tried: Number of thresholds among which one was chosen.
    """
    if targets.prevalence is None:
        return None
    totals = _by_class(cases, None, classes)
    shares = complete_shares(targets.prevalence, classes, cases=totals)
    if threshold is None:
        return LabelShiftOutcome(shares=tuple(shares.tolist()), estimate=None, bound=None)
    reached, eligible = cases.scores >= threshold, cases.eligible(ood_limit)
    correct = _by_class(cases, reached & eligible & ~cases.wrong, classes)
    each = (1 - targets.confidence) / (2 * np.count_nonzero(shares) * thresholds_tried)
    wrong = _by_class(cases, reached & cases.eligible() & cases.wrong, classes)
    most_wrong = upper_bound(wrong, totals, level=each)
    others = np.ones(len(cases), dtype=bool)
    if cases.ood_scores is not None and ood_limit is not None:
        others[np.argmax(cases.ood_scores == ood_limit)] = False
        each /= len(cases)
    least_correct = lower_bound(correct, _by_class(cases, others, classes), level=each)
    return LabelShiftOutcome(
        shares=tuple(shares.tolist()),
        estimate=estimated_error(
            _by_class(cases, reached & eligible & cases.wrong, classes), correct, totals, shares
        ),
        bound=bounded_error(most_wrong, least_correct, shares=shares),
    )


def complete_shares(
    prevalence: Mapping[str, float], classes: Sequence[str], *, cases: ClassCounts
) -> Shares:
    """Share of every class: those named, and the rest in proportion to the cases.

    Raises:
        DataError: A class with a share has no cases.
        UsageError: The named shares sum to more than 1, or to less and no other class has cases.

    >>> complete_shares({"a": 0.4}, ["a", "b", "c"], cases=np.array([5, 1, 2]))
    array([0.4, 0.2, 0.4])
    """
    named = np.isin(classes, list(prevalence))
    given = np.array([prevalence.get(name, 0.0) for name in classes], dtype=float)
    rest, others = 1 - given.sum(), np.where(named, 0, cases)
    if rest < -ROUNDING or (rest > ROUNDING and not others.any()):
        raise UsageError(
            f"`prevalence` sums to {given.sum():g}; with the classes that it leaves out it must "
            "sum to 1; change the shares, or leave one out"
        )
    shares: Shares = given + max(rest, 0.0) * others / max(others.sum(), 1)
    missing = [name for name, q, n in zip(classes, shares, cases, strict=True) if q > 0 and not n]
    if missing:
        raise DataError(
            f"`prevalence` of {missing[0]}: the class has no calibration cases; add some, or leave "
            "it out"
        )
    return shares


def estimated_error(
    wrong: ClassCounts, correct: ClassCounts, cases: ClassCounts, shares: Shares
) -> float:
    """Sum q_k w_k / (sum q_k w_k + sum q_k c_k) over classes k, w and c as shares of the class.

    >>> wrong, correct, cases = np.array([1, 0]), np.array([9, 5]), np.array([10, 10])
    >>> estimated_error(wrong, correct, cases, np.array([0.5, 0.5]))
    0.066...
    """
    weights = shares / np.maximum(cases, 1)
    accepted = float(weights @ (wrong + correct))
    return float(weights @ wrong) / accepted if accepted else 0.0


def bounded_error(most_wrong: Shares, least_correct: Shares, *, shares: Shares) -> float:
    """Upper bound on the error among accepted cases, from bounds within each class.

    >>> bounded_error(np.array([0.1, 0.1]), np.array([0.3, 0.3]), shares=np.array([0.5, 0.5]))
    0.25
    """
    wrong, correct = float(shares @ most_wrong), float(shares @ least_correct)
    return wrong / (wrong + correct)


def _by_class(
    cases: ScoredCases, counted: Bool[np.ndarray, " n"] | None, classes: Sequence[str]
) -> ClassCounts:
    labels = cases.labels if counted is None else cases.labels[counted]
    return np.bincount(labels, minlength=len(classes))
