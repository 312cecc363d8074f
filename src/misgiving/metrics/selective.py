"""Selective prediction: error among accepted samples when the least confident are deferred.

A higher confidence means more likely correct. An error is 0 or 1, or any
non-negative loss. Samples of equal confidence are accepted in random order: every metric is its
expectation over these orders.
"""

from functools import cached_property

import numpy as np
from jaxtyping import Float, Int, Real

from misgiving.arrays import Classes, Errors, Groups, Mask, Replicates, Values, Weights
from misgiving.errors import UsageError
from misgiving.metrics._weighted import (
    MetricValue,
    checked_arrays,
    checked_weights,
    metric_value,
    ratio,
)
from misgiving.metrics.aurc import RiskSteps, aurc, ties
from misgiving.metrics.classification import check_classes

ACCEPTED_ERRORS = BY_IMAGES, BY_GROUPS = "error_among_accepted", "error_per_group"


class RiskCoverage:
    """Risk over coverage by one confidence, sorted and summed once for all measures.

    Args:
        confidences: Higher means more likely correct.
        errors: Of the same samples.
        weights: How often each sample occurs; None: once. Leading axes are replicates.
    """

    def __init__(self, confidences: Values, errors: Errors, weights: Weights | None = None) -> None:
        self._confidences, self._errors = checked_arrays(confidences=confidences, errors=errors)
        self._given = weights
        self._weights = checked_weights(weights, len(self._errors))
        self._tied = ties(-self._confidences)

    def aurc(self) -> MetricValue:
        """AURC: mean selective risk over coverages k / n, k = 1 to n (Geifman and El-Yaniv, 2017).

        fd-shifts integrates straight lines between distinct thresholds, from coverage 0 with the
        first risk: without ties more by (first risk - mean error) / 2n, over ties by an amount that
        need not vanish with n.

        Weights must be whole numbers: a sample of weight w counts as w samples.

        >>> RiskCoverage(np.array([0.9, 0.5]), np.array([0, 1])).aurc()
        0.25
        """
        return self._value(aurc(self._whole_steps))

    def excess_aurc(self) -> MetricValue:
        """E-AURC: AURC minus that of the oracle, which accepts in the order of the errors.

        0 is a perfect order. Weights must be whole numbers.

        >>> RiskCoverage(np.array([0.1, 0.5]), np.array([0, 1])).excess_aurc()
        0.5
        """
        best = RiskSteps.of(ties(self._errors), self._errors, self._weights)
        return self._value(aurc(self._whole_steps) - aurc(best))

    def augrc(self) -> MetricValue:
        """AUGRC: area under the generalised risk-coverage curve (Traub et al., NeurIPS 2024).

        The generalised risk at a coverage is the error of the accepted over *all* samples: the
        probability that a sample is both accepted and wrong. The area is the trapezoid over the
        distinct thresholds, from (0, 0). With 0/1 errors, error rate r and AUROC for errors A it is
        (1 - A) r (1 - r) + r^2 / 2.

        >>> RiskCoverage(np.array([0.9, 0.5]), np.array([0, 1])).augrc()
        0.125
        """
        steps = self._steps
        heights = steps.accepted_error - steps.added_error / 2
        total = steps.accepted[..., -1]
        return self._value(ratio((steps.added * heights).sum(axis=-1), total**2))

    def risk_at_coverage(self, coverage: float) -> MetricValue:
        """Mean error of the first k samples, most confident first; k is `coverage` n rounded up.

        Weights must be whole numbers: a sample of weight w counts as w samples.

        >>> RiskCoverage(np.array([0.9, 0.5, 0.5]), np.array([0, 1, 0])).risk_at_coverage(0.5)
        0.25
        """
        steps = self._whole_steps
        # 0.55 * 100 rounds up past the whole number that it means; a count is never that close
        count = np.ceil(coverage * steps.accepted[..., -1:] * (1 - 1e-12))
        last = np.argmax(steps.accepted >= count, axis=-1)[..., None]
        at = RiskSteps(*(np.take_along_axis(sums, last, axis=-1) for sums in steps))
        left_out = at.added_error * (at.accepted - count) / np.maximum(at.added, 1.0)
        return self._value(ratio(at.accepted_error - left_out, count)[..., 0])

    def coverage_at_risk(self, risk: float) -> MetricValue:
        """Largest coverage of a threshold whose selective risk is at most `risk`; 0 without any.

        Samples of equal confidence are accepted together, as no threshold separates them. The
        risk need not rise with coverage: stricter thresholds may exceed it.

        >>> curve = RiskCoverage(np.array([0.9, 0.8, 0.5, 0.1]), np.array([1, 0, 0, 1]))
        >>> curve.coverage_at_risk(0.4)
        0.75
        """
        # sums of losses are rounded: a risk that is equal but for that is allowed
        most = np.where(self._risks <= risk * (1 + 1e-12), self._steps.accepted, 0.0).max(axis=-1)
        return self._value(ratio(most, self._steps.accepted[..., -1]))

    def balanced_aurc(self, labels: Classes, *, num_classes: int) -> MetricValue:
        """Balanced AURC: every class counts alike, however rare it is.

        The balanced risk at a threshold is the mean, over the classes with an accepted sample, of
        the mean error of the class's accepted samples. The area is the mean over samples of the
        balanced risk at the threshold that just accepts them. Samples of equal confidence are
        accepted together here, not in random order as in `aurc`.

        >>> curve = RiskCoverage(np.array([0.9, 0.8, 0.7]), np.array([0, 0, 1]))
        >>> round(curve.balanced_aurc(np.array([0, 0, 1]), num_classes=2), 6)
        0.166667
        """
        checked_arrays(confidences=self._confidences, labels=labels)
        check_classes(num_classes, labels=labels)
        order, steps = self._tied.order, self._steps
        ends = np.append(self._tied.starts[1:], len(order))  # after the last sample of a threshold
        risks, classes = np.zeros(steps.added.shape), np.zeros(steps.added.shape)
        for k in range(num_classes):
            of_class = np.flatnonzero(labels[order] == k)
            counts = self._weights[..., order[of_class]]
            accepted, accepted_error = (
                _sums_before(values, np.searchsorted(of_class, ends))
                for values in (counts, counts * self._errors[order[of_class]])
            )
            present = accepted > 0
            risks += accepted_error / np.where(present, accepted, 1.0)
            classes += present
        balanced = risks / np.maximum(classes, 1.0)  # 0 while nothing is accepted
        area = (steps.added * balanced).sum(axis=-1)
        return self._value(ratio(area, steps.accepted[..., -1]))

    @cached_property
    def _steps(self) -> RiskSteps:
        return RiskSteps.of(self._tied, self._errors, self._weights)

    @cached_property
    def _whole_steps(self) -> RiskSteps:
        """The same, for measures of whole samples."""
        if not np.array_equal(self._weights, np.floor(self._weights)):
            raise UsageError("weights must be whole numbers; give how often each sample occurs")
        return self._steps

    @cached_property
    def _risks(self) -> Float[np.ndarray, "*replicates thresholds"]:
        return ratio(self._steps.accepted_error, self._steps.accepted)

    def _value(self, values: Replicates | np.float64) -> MetricValue:
        return metric_value(values, self._given)


def accepted_errors(
    accepted: Mask,
    wrong: Mask,
    groups: Groups,
    *,
    weights: Weights | None = None,
) -> dict[str, MetricValue]:
    """Share of wrong answers among the accepted, by images and by groups; NaN if none is accepted.

    `error_among_accepted` counts each image once. `error_per_group` counts it 1 / k in a group of k
    images: it is the error for one image of each group, drawn at random, which a policy certifies.
    It is left out where every group has one image.

    >>> accepted_errors(np.array([True, True]), np.array([True, False]), ["a", "b"])
    {'error_among_accepted': 0.5}
    >>> accepted_errors(np.ones(3, bool), np.array([True, True, False]), ["a", "a", "b"])
    {'error_among_accepted': 0.6666666666666666, 'error_per_group': 0.5}
    """
    _, group_of, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    counts = checked_weights(weights, len(accepted))
    shares = {BY_IMAGES: accepted * 1.0}
    if len(sizes) < len(accepted):
        shares[BY_GROUPS] = accepted / sizes[group_of]
    return {
        name: metric_value(ratio(counts @ (share * wrong), counts @ share), weights)
        for name, share in shares.items()
    }


def _sums_before(
    values: Real[np.ndarray, "*replicates m"], ends: Int[np.ndarray, " thresholds"]
) -> Real[np.ndarray, "*replicates thresholds"]:
    """Sums of the first values, as many as each end says."""
    sums = np.zeros((*values.shape[:-1], values.shape[-1] + 1), values.dtype)
    np.cumsum(values, axis=-1, out=sums[..., 1:])
    return sums[..., ends]
