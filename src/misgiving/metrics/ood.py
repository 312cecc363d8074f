"""Metrics of out-of-distribution detection: separation of two sets by a confidence.

In-distribution is the positive class, as in the paper, and a confidence is higher where a sample
looks more in-distribution. Weights count how often a sample occurs; the leading axes of both sets'
weights are replicates and broadcast. A metric is NaN where either set has no weight.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Real

from misgiving.metrics._weighted import (
    MetricValue,
    area_under_roc,
    checked_arrays,
    checked_weights,
    dense_ranks,
    metric_value,
    ratio,
    sums_by_group,
    ties,
)

Inliers = Float[np.ndarray, " n_in"]
Outliers = Float[np.ndarray, " n_out"]
InlierWeights = Real[np.ndarray, "... n_in"] | None
OutlierWeights = Real[np.ndarray, "... n_out"] | None
TINY = 1e-300  # makes 1 of 0 / 0, and is lost in any other sum
PerReplicate = Float[np.ndarray, "..."]


def ood_metrics(
    inliers: Inliers,
    outliers: Outliers,
    *,
    inlier_weights: InlierWeights = None,
    outlier_weights: OutlierWeights = None,
) -> dict[str, MetricValue]:
    """All metrics of separation by name, each in [0, 1]; the last four depend on the set sizes.

    - `fpr_at_tpr95`: share of outliers accepted by the strictest threshold that accepts at least
      95 % of the inliers.
    - `detection_error`: least mean, over thresholds, of the shares of inliers rejected and of
      outliers accepted. Thresholds that accept all or none are among them, so at most 0.5.
    - `auroc`: probability that an inlier has a higher confidence than an outlier, ties half.
    - `aupr_in`, `aupr_out`: area under precision over recall with either set as positives, by the
      trapezoid over scikit-learn's curve, which starts at recall 0, precision 1. Precision is
      of counts; odin-pytorch's script takes TPR / (TPR + FPR), and rectangles with the precision
      of the stricter threshold, which does not depend on the sizes.
    - `average_precision_in`, `average_precision_out`: mean precision over steps of recall, without
      interpolation.

    >>> ood_metrics(np.array([0.9, 0.5]), np.array([0.5, 0.1]))["auroc"]
    0.875
    """
    counts = _count_by_confidence(inliers, outliers, inlier_weights, outlier_weights)
    return {
        name: metric_value(metric(counts), inlier_weights, outlier_weights)
        for name, metric in METRICS.items()
    }


@dataclass(frozen=True, eq=False)
class _Counts:
    """Weight of either set at each distinct confidence, highest confidence first, and its sums."""

    inliers: Float[np.ndarray, "*replicates thresholds"]
    outliers: Float[np.ndarray, "*replicates thresholds"]
    accepted_inliers: PerReplicate
    accepted_outliers: PerReplicate

    @classmethod
    def of(cls, inliers: PerReplicate, outliers: PerReplicate) -> "_Counts":
        """Add what each confidence accepts."""
        return cls(inliers, outliers, np.cumsum(inliers, axis=-1), np.cumsum(outliers, axis=-1))

    @cached_property
    def precision(self) -> PerReplicate:
        """Share of inliers among the accepted; 1, as at recall 0, while nothing is accepted."""
        accepted_inliers = self.accepted_inliers + TINY
        shares: PerReplicate = accepted_inliers / (accepted_inliers + self.accepted_outliers)
        return shares

    @cached_property
    def inverted(self) -> "_Counts":
        """The same samples with outliers as positives and the sign of the confidence flipped."""
        accepted = (
            (sums[..., -1:] - sums + added)[..., ::-1]
            for sums, added in (
                (self.accepted_outliers, self.outliers),
                (self.accepted_inliers, self.inliers),
            )
        )
        return _Counts(self.outliers[..., ::-1], self.inliers[..., ::-1], *accepted)

    def where_defined(self, values: PerReplicate) -> PerReplicate:
        """The values, NaN in replicates without inliers or without outliers."""
        both = (self.accepted_inliers[..., -1] > 0) & (self.accepted_outliers[..., -1] > 0)
        return np.where(both, values, np.nan)

    def per_inlier(self, sums: PerReplicate | np.float64) -> PerReplicate:
        """A sum over the inliers, divided by their number."""
        return self.where_defined(ratio(sums, self.accepted_inliers[..., -1]))

    @cached_property
    def summed_precision(self) -> PerReplicate | np.float64:
        """Sum, over the inliers, of the precision at each."""
        sums: PerReplicate | np.float64 = np.vecdot(self.inliers, self.precision)
        return sums


def _count_by_confidence(
    inliers: Inliers,
    outliers: Outliers,
    inlier_weights: InlierWeights,
    outlier_weights: OutlierWeights,
) -> _Counts:
    (inliers,), (outliers,) = checked_arrays(inliers=inliers), checked_arrays(outliers=outliers)
    distances = -np.concatenate([inliers, outliers])
    if inlier_weights is None and outlier_weights is None:  # one sort is enough
        tied = ties(distances)
        counts = tied.sums((tied.order < len(inliers)).astype(np.float64))
        return _Counts.of(counts, np.diff(tied.starts, append=len(distances)) - counts)
    weights = (
        checked_weights(inlier_weights, len(inliers), name="inlier_weights"),
        checked_weights(outlier_weights, len(outliers), name="outlier_weights"),
    )
    distinct, ranks = dense_ranks(distances)
    by_set = (
        sums_by_group(of_set, members, num_groups=distinct)
        for of_set, members in zip(weights, np.split(ranks, [len(inliers)]), strict=True)
    )
    return _Counts.of(*np.broadcast_arrays(*by_set))


def _fpr_at_tpr95(counts: _Counts) -> PerReplicate:
    accepted = counts.accepted_inliers
    # 0.95 * n may round up past the whole number that it means; a count is never that close to it
    enough = accepted >= accepted[..., -1:] * 0.95 * (1 - 1e-12)
    strictest = np.argmax(enough, axis=-1)[..., None]
    outliers = counts.accepted_outliers
    false_positives = np.take_along_axis(outliers, strictest, axis=-1)[..., 0]
    return counts.where_defined(ratio(false_positives, outliers[..., -1]))


def _detection_error(counts: _Counts) -> PerReplicate:
    true_positives, false_positives = (
        accepted / np.where(accepted[..., -1:] > 0, accepted[..., -1:], np.nan)
        for accepted in (counts.accepted_inliers, counts.accepted_outliers)
    )
    least = (false_positives - true_positives).min(axis=-1)  # 0 where all are accepted, or none
    return np.asarray(0.5 + 0.5 * least)


def _aupr(counts: _Counts) -> PerReplicate:
    before = np.vecdot(counts.inliers[..., 1:], counts.precision[..., :-1])
    before = before + counts.inliers[..., 0]  # the curve starts at recall 0, precision 1
    return counts.per_inlier((before + counts.summed_precision) / 2)


def _average_precision(counts: _Counts) -> PerReplicate:
    return counts.per_inlier(counts.summed_precision)


METRICS: dict[str, Callable[[_Counts], PerReplicate]] = {
    "fpr_at_tpr95": _fpr_at_tpr95,
    "detection_error": _detection_error,
    # highest confidence first, so both sets are swapped
    "auroc": lambda counts: area_under_roc(
        counts.outliers, counts.inliers, counts.accepted_inliers
    ),
    "aupr_in": _aupr,
    "aupr_out": lambda counts: _aupr(counts.inverted),
    "average_precision_in": _average_precision,
    "average_precision_out": lambda counts: _average_precision(counts.inverted),
}
