"""Metrics of out-of-distribution detection: separation of two sets by a confidence.

In-distribution is the positive class, as in the paper, and a confidence is higher where a sample
looks more in-distribution. Weights count how often a sample occurs; the leading axes of both sets'
weights are replicates and broadcast. A metric is NaN where either set has no weight.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Real

from misgiving.arrays import Replicates
from misgiving.metrics._weighted import (
    Around,
    MetricValue,
    Ordered,
    checked_arrays,
    checked_weights,
    metric_value,
    ratio,
)

LEAST_WEIGHT = 1e-300  # makes 1 of 0 / 0, and is lost in any other sum


def ood_metrics(
    inliers: Float[np.ndarray, " n_in"],
    outliers: Float[np.ndarray, " n_out"],
    *,
    inlier_weights: Real[np.ndarray, "... n_in"] | None = None,
    outlier_weights: Real[np.ndarray, "... n_out"] | None = None,
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
    (inliers,), (outliers,) = checked_arrays(inliers=inliers), checked_arrays(outliers=outliers)
    of_inliers = checked_weights(inlier_weights, len(inliers), name="inlier_weights")
    of_outliers = checked_weights(outlier_weights, len(outliers), name="outlier_weights")
    rows = np.broadcast_shapes(of_inliers.shape[:-1], of_outliers.shape[:-1])
    sweep = _Sweep(
        Ordered.of(-inliers, np.broadcast_to(of_inliers, (*rows, len(inliers)))),
        Ordered.of(-outliers, np.broadcast_to(of_outliers, (*rows, len(outliers)))),
    )
    inverted = _Sweep(sweep.outliers.negated, sweep.inliers.negated)
    values = {
        "fpr_at_tpr95": sweep.fpr_at_tpr95(),
        "detection_error": sweep.detection_error(),
        "auroc": sweep.auroc(),
        "aupr_in": sweep.aupr(),
        "aupr_out": inverted.aupr(),
        "average_precision_in": sweep.average_precision(),
        "average_precision_out": inverted.average_precision(),
    }
    defined = (sweep.inliers.total > 0) & (sweep.outliers.total > 0)
    return {
        name: metric_value(np.where(defined, value, np.nan), inlier_weights, outlier_weights)
        for name, value in values.items()
    }


@dataclass(frozen=True, eq=False)
class _Sweep:
    """Thresholds at each inlier's confidence, highest confidence first.

    Between two of them only outliers are accepted, which makes no metric better. Values are of no
    meaning in replicates without inliers or without outliers.
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

    def fpr_at_tpr95(self) -> Replicates:
        accepted = self.accepted_inliers.up_to
        # 0.95 * n may round up past the whole number that it means; a count is never that close
        enough = accepted >= self.inliers.total[..., None] * 0.95 * (1 - 1e-12)
        strictest = np.argmax(enough, axis=-1)[..., None]
        outliers = np.take_along_axis(self.accepted_outliers.up_to, strictest, axis=-1)[..., 0]
        return ratio(outliers, self.outliers.total)

    def detection_error(self) -> Replicates:
        true_positives = ratio(self.accepted_inliers.up_to, self.inliers.total[..., None])
        false_positives = ratio(self.accepted_outliers.up_to, self.outliers.total[..., None])
        least = (false_positives - true_positives).min(axis=-1)  # at most 0: all are accepted
        return np.asarray(0.5 + 0.5 * least)

    def auroc(self) -> Replicates:
        pairs = self.inliers.total * self.outliers.total
        return np.asarray(1 - self.accepted_outliers.share_of_pairs(self.inliers.weights, pairs))

    def aupr(self) -> Replicates:
        above = self._summed_precision(self.accepted_inliers.below, self.accepted_outliers.below)
        return ratio((above + self.summed_precision) / 2, self.inliers.total)

    def average_precision(self) -> Replicates:
        return ratio(self.summed_precision, self.inliers.total)

    @cached_property
    def summed_precision(self) -> Replicates:
        """Sum, over the inliers, of the precision at each threshold."""
        return self._summed_precision(self.accepted_inliers.up_to, self.accepted_outliers.up_to)

    def _summed_precision(
        self,
        inliers: Float[np.ndarray, "*replicates m"],
        outliers: Float[np.ndarray, "*replicates m"],
    ) -> Replicates:
        inliers = inliers + LEAST_WEIGHT
        return np.asarray(np.vecdot(self.inliers.weights, inliers / (inliers + outliers)))
