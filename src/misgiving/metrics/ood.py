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
    Around,
    MetricValue,
    Ordered,
    checked_arrays,
    checked_weights,
    metric_value,
    ratio,
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
    sweep = _sweep(inliers, outliers, inlier_weights, outlier_weights)
    return {
        name: metric_value(metric(sweep), inlier_weights, outlier_weights)
        for name, metric in METRICS.items()
    }


@dataclass(frozen=True, eq=False)
class _Sweep:
    """Thresholds at each inlier's confidence, highest confidence first.

    Between two of them only outliers are accepted, which makes no metric better.
    """

    inliers: Ordered
    outliers: Ordered

    @cached_property
    def accepted_inliers(self) -> Around:
        """Weight accepted just above each threshold, and by it."""
        return self.inliers.around(self.inliers.values)

    @cached_property
    def accepted_outliers(self) -> Around:
        """Weight accepted just above each threshold, and by it."""
        return self.outliers.around(self.inliers.values)

    @cached_property
    def inverted(self) -> "_Sweep":
        """The same samples with outliers as positives and the sign of the confidence flipped."""
        return _Sweep(self.outliers.negated, self.inliers.negated)

    @cached_property
    def summed_precision(self) -> PerReplicate:
        """Sum, over the inliers, of the precision at each threshold."""
        return self._summed(self.accepted_inliers.up_to, self.accepted_outliers.up_to)

    @property
    def summed_precision_above(self) -> PerReplicate:
        """Sum, over the inliers, of the precision just above each threshold."""
        return self._summed(self.accepted_inliers.below, self.accepted_outliers.below)

    def _summed(self, inliers: PerReplicate, outliers: PerReplicate) -> PerReplicate:
        inliers = inliers + TINY
        return np.asarray(np.vecdot(self.inliers.weights, inliers / (inliers + outliers)))

    def where_defined(self, values: PerReplicate) -> PerReplicate:
        """The values, NaN in replicates without inliers or without outliers."""
        both = (self.inliers.total > 0) & (self.outliers.total > 0)
        return np.where(both, values, np.nan)

    def per_inlier(self, sums: PerReplicate | np.float64) -> PerReplicate:
        """A sum over the inliers, divided by their number."""
        return self.where_defined(ratio(sums, self.inliers.total))


def _sweep(
    inliers: Inliers,
    outliers: Outliers,
    inlier_weights: InlierWeights,
    outlier_weights: OutlierWeights,
) -> _Sweep:
    (inliers,), (outliers,) = checked_arrays(inliers=inliers), checked_arrays(outliers=outliers)
    of_inliers = checked_weights(inlier_weights, len(inliers), name="inlier_weights")
    of_outliers = checked_weights(outlier_weights, len(outliers), name="outlier_weights")
    rows = np.broadcast_shapes(of_inliers.shape[:-1], of_outliers.shape[:-1])
    return _Sweep(
        Ordered.of(-inliers, np.broadcast_to(of_inliers, (*rows, len(inliers)))),
        Ordered.of(-outliers, np.broadcast_to(of_outliers, (*rows, len(outliers)))),
    )


def _fpr_at_tpr95(sweep: _Sweep) -> PerReplicate:
    accepted = sweep.accepted_inliers.up_to
    # 0.95 * n may round up past the whole number that it means; a count is never that close to it
    enough = accepted >= sweep.inliers.total[..., None] * 0.95 * (1 - 1e-12)
    strictest = np.argmax(enough, axis=-1)[..., None]
    outliers = np.take_along_axis(sweep.accepted_outliers.up_to, strictest, axis=-1)[..., 0]
    return sweep.where_defined(ratio(outliers, sweep.outliers.total))


def _detection_error(sweep: _Sweep) -> PerReplicate:
    true_positives, false_positives = (
        accepted.up_to / np.where(of_set.total > 0, of_set.total, np.nan)[..., None]
        for accepted, of_set in (
            (sweep.accepted_inliers, sweep.inliers),
            (sweep.accepted_outliers, sweep.outliers),
        )
    )
    least = (false_positives - true_positives).min(axis=-1)  # at most 0, where all are accepted
    return np.asarray(0.5 + 0.5 * least)


def _auroc(sweep: _Sweep) -> PerReplicate:
    pairs = sweep.inliers.total * sweep.outliers.total
    return np.asarray(1 - sweep.accepted_outliers.share_of_pairs(sweep.inliers.weights, pairs))


def _aupr(sweep: _Sweep) -> PerReplicate:
    return sweep.per_inlier((sweep.summed_precision_above + sweep.summed_precision) / 2)


def _average_precision(sweep: _Sweep) -> PerReplicate:
    return sweep.per_inlier(sweep.summed_precision)


METRICS: dict[str, Callable[[_Sweep], PerReplicate]] = {
    "fpr_at_tpr95": _fpr_at_tpr95,
    "detection_error": _detection_error,
    "auroc": _auroc,
    "aupr_in": _aupr,
    "aupr_out": lambda sweep: _aupr(sweep.inverted),
    "average_precision_in": _average_precision,
    "average_precision_out": lambda sweep: _average_precision(sweep.inverted),
}
