"""Selective prediction: error among accepted samples when the least confident are deferred.

A higher confidence means more likely correct. An error is 0 or 1, or any
non-negative loss. Samples of equal confidence are accepted in random order: every metric is its
expectation over these orders.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Real

from misgiving.errors import UsageError
from misgiving.metrics._weighted import (
    MetricValue,
    Ties,
    Weights,
    checked_arrays,
    checked_weights,
    metric_value,
    ratio,
    ties,
    whole_weights,
)
from misgiving.metrics.classification import Classes, check_classes

Confidences = Float[np.ndarray, " n"]
Errors = Bool[np.ndarray, " n"] | Real[np.ndarray, " n"]


class _Steps(NamedTuple):
    """Samples and errors added by each distinct threshold, strictest first, and their totals."""

    added: Float[np.ndarray, "*replicates thresholds"]
    added_error: Float[np.ndarray, "*replicates thresholds"]
    accepted: Float[np.ndarray, "*replicates thresholds"]
    accepted_error: Float[np.ndarray, "*replicates thresholds"]


def aurc(
    confidences: Confidences, errors: Errors, *, weights: Weights | None = None
) -> MetricValue:
    """AURC: mean selective risk over coverages k / n, k = 1 to n (Geifman and El-Yaniv, 2017).

    fd-shifts integrates straight lines between distinct thresholds, from coverage 0 with the first
    risk: without ties more by (first risk - mean error) / 2n, over ties by an amount that need not
    vanish with n.

    Weights must be whole numbers: a sample of weight w counts as w samples.

    >>> aurc(np.array([0.9, 0.5]), np.array([0, 1]))
    0.25
    """
    confidences, errors = _checked(confidences, errors)
    return metric_value(_aurc(confidences, errors, whole_weights(weights, len(errors))), weights)


def excess_aurc(
    confidences: Confidences, errors: Errors, *, weights: Weights | None = None
) -> MetricValue:
    """E-AURC: AURC minus that of the oracle, which accepts samples in the order of their errors.

    0 is a perfect order. Weights must be whole numbers.

    >>> excess_aurc(np.array([0.1, 0.5]), np.array([0, 1]))
    0.5
    """
    confidences, errors = _checked(confidences, errors)
    counts = whole_weights(weights, len(errors))
    excess = _aurc(confidences, errors, counts) - _aurc(-errors, errors, counts)
    return metric_value(excess, weights)


def augrc(
    confidences: Confidences, errors: Errors, *, weights: Weights | None = None
) -> MetricValue:
    """AUGRC: area under the generalised risk-coverage curve (Traub et al., NeurIPS 2024).

    The generalised risk at a coverage is the error of the accepted over *all* samples: the
    probability that a sample is both accepted and wrong. The area is the trapezoid over the
    distinct thresholds, from (0, 0). With 0/1 errors, error rate r and AUROC for errors A it is
    (1 - A) r (1 - r) + r^2 / 2.

    >>> augrc(np.array([0.9, 0.5]), np.array([0, 1]))
    0.125
    """
    confidences, errors = _checked(confidences, errors)
    steps = _steps(confidences, errors, checked_weights(weights, len(errors)))
    heights = steps.accepted_error - steps.added_error / 2
    total = steps.accepted[..., -1]
    return metric_value(ratio((steps.added * heights).sum(axis=-1), total**2), weights)


def risk_at_coverage(
    confidences: Confidences, errors: Errors, coverage: float, *, weights: Weights | None = None
) -> MetricValue:
    """Mean error of the first k samples, most confident first, where k is `coverage` n rounded up.

    Weights must be whole numbers: a sample of weight w counts as w samples.

    >>> risk_at_coverage(np.array([0.9, 0.5, 0.5]), np.array([0, 1, 0]), 0.5)
    0.25
    """
    if not 0 < coverage <= 1:
        raise UsageError(f"coverage is {coverage}; it must be above 0 and at most 1")
    confidences, errors = _checked(confidences, errors)
    steps = _steps(confidences, errors, whole_weights(weights, len(errors)))
    # 0.55 * 100 rounds up past the whole number that it means; a count is never that close to it
    wanted = np.ceil(coverage * steps.accepted[..., -1:] * (1 - 1e-12))
    last = np.argmax(steps.accepted >= wanted, axis=-1)[..., None]
    at = _Steps(*(np.take_along_axis(sums, last, axis=-1) for sums in steps))
    left_out = at.added_error * (at.accepted - wanted) / np.maximum(at.added, 1.0)
    return metric_value(ratio(at.accepted_error - left_out, wanted)[..., 0], weights)


def coverage_at_risk(
    confidences: Confidences, errors: Errors, risk: float, *, weights: Weights | None = None
) -> MetricValue:
    """Largest coverage of a threshold whose selective risk is at most `risk`; 0 if there is none.

    Samples of equal confidence are accepted together, as no threshold separates them. The
    risk need not rise with coverage: stricter thresholds may exceed it.

    >>> coverage_at_risk(np.array([0.9, 0.8, 0.5, 0.1]), np.array([1, 0, 0, 1]), 0.4)
    0.75
    """
    if not risk >= 0:
        raise UsageError(f"risk is {risk}; it must be 0 or more")
    confidences, errors = _checked(confidences, errors)
    steps = _steps(confidences, errors, checked_weights(weights, len(errors)))
    # sums of losses are rounded: a risk that is equal but for that is allowed
    allowed = ratio(steps.accepted_error, steps.accepted) <= risk * (1 + 1e-12)
    most = np.where(allowed, steps.accepted, 0.0).max(axis=-1)
    return metric_value(ratio(most, steps.accepted[..., -1]), weights)


def balanced_aurc(
    confidences: Confidences,
    errors: Errors,
    labels: Classes,
    *,
    num_classes: int,
    weights: Weights | None = None,
) -> MetricValue:
    """Balanced AURC: every class counts alike, however rare it is.

    The balanced risk at a threshold is the mean, over the classes with an accepted sample, of the
    mean error of the class's accepted samples. The area is the mean over samples of the balanced
    risk at the threshold that just accepts them. Samples of equal confidence are accepted together
    here, not in random order as in `aurc`.

    >>> sure, errors, labels = np.array([0.9, 0.8, 0.7]), np.array([0, 0, 1]), np.array([0, 0, 1])
    >>> round(balanced_aurc(sure, errors, labels, num_classes=2), 6)
    0.166667
    """
    confidences, errors = _checked(confidences, errors)
    checked_arrays(confidences=confidences, labels=labels)
    check_classes(num_classes, labels=labels)
    tied = ties(-confidences)
    errors, labels = errors[tied.order], labels[tied.order]
    counts = checked_weights(weights, len(errors))[..., tied.order]
    steps = _steps_in_order(tied, errors, counts)
    risks, classes = np.zeros_like(steps.added), np.zeros_like(steps.added)
    for k in range(num_classes):
        of_class = _steps_in_order(tied, errors, counts * (labels == k))
        present = of_class.accepted > 0
        risks += of_class.accepted_error / np.where(present, of_class.accepted, 1.0)
        classes += present
    balanced = risks / np.maximum(classes, 1.0)  # 0 while nothing is accepted
    area = (steps.added * balanced).sum(axis=-1)
    return metric_value(ratio(area, steps.accepted[..., -1]), weights)


def _checked(confidences: Confidences, errors: Errors) -> tuple[Confidences, Confidences]:
    confidences, values = checked_arrays(confidences=confidences, errors=errors)
    if values.min() < 0:
        raise UsageError(
            f"errors is negative at position {np.argmin(values)}; give 0 / 1 errors or losses"
        )
    return confidences, values


def _steps(
    confidences: Confidences, errors: Confidences, weights: Float[np.ndarray, "*replicates n"]
) -> _Steps:
    tied = ties(-confidences)
    return _steps_in_order(tied, errors[tied.order], weights[..., tied.order])


def _steps_in_order(
    tied: Ties, errors: Confidences, weights: Float[np.ndarray, "*replicates n"]
) -> _Steps:
    """Steps from errors and weights in the order of the ties."""
    added, added_error = tied.sums(weights), tied.sums(weights * errors)
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
    ranks = np.arange(1, int(steps.accepted.max(initial=0.0)) + 1)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / ranks)])
    reciprocals = harmonic[steps.accepted.astype(np.intp)] - harmonic[before.astype(np.intp)]
    lead = (steps.accepted_error - steps.added_error) - before * mean_error
    risks = steps.added_error + lead * reciprocals
    return ratio(risks.sum(axis=-1), steps.accepted[..., -1])
