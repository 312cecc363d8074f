"""How well a confidence separates in-distribution from out-of-distribution samples.

In-distribution is the positive class, as in the paper, and a confidence is higher where a sample
looks more in-distribution. Weights count how often a sample occurs; the leading axes of both sets'
weights are replicates and broadcast. A measure is NaN where either set has no weight.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Real

from misgiving.errors import UsageError
from misgiving.metrics._weighted import (
    Measured,
    area_under_roc,
    measured,
    ranked,
    ratio,
    sample_weights,
    samples,
    sums_by_group,
    ties,
)

Inliers = Float[np.ndarray, " n_in"]
Outliers = Float[np.ndarray, " n_out"]
InlierWeights = Real[np.ndarray, "... n_in"] | None
OutlierWeights = Real[np.ndarray, "... n_out"] | None
PerReplicate = Float[np.ndarray, "..."]


@dataclass(frozen=True, eq=False)
class _Tally:
    """Weight of either set at each distinct confidence, highest confidence first."""

    inliers: Float[np.ndarray, "*replicates thresholds"]
    outliers: Float[np.ndarray, "*replicates thresholds"]

    @cached_property
    def accepted_inliers(self) -> PerReplicate:
        return np.cumsum(self.inliers, axis=-1)

    @cached_property
    def accepted_outliers(self) -> PerReplicate:
        return np.cumsum(self.outliers, axis=-1)

    @cached_property
    def precision(self) -> PerReplicate:
        """Share of inliers among the accepted; 1, as at recall 0, while nothing is accepted."""
        accepted = self.accepted_inliers + self.accepted_outliers
        none = accepted == 0
        accepted[none] = 1.0
        shares: PerReplicate = np.divide(self.accepted_inliers, accepted, out=accepted)
        shares[none] = 1.0
        return shares

    @cached_property
    def inverted(self) -> "_Tally":
        """The same samples with outliers as positives and the sign of the confidence turned."""
        return _Tally(self.outliers[..., ::-1], self.inliers[..., ::-1])


def ood_metrics(
    inliers: Inliers,
    outliers: Outliers,
    *,
    inlier_weights: InlierWeights = None,
    outlier_weights: OutlierWeights = None,
) -> dict[str, Measured]:
    """All measures of separation by name, each in [0, 1].

    `fpr_at_tpr95`, `detection_error`, `auroc`, `aupr_in`, `aupr_out`, `average_precision_in` and
    `average_precision_out`. The last four depend on the sizes of the sets.

    >>> ood_metrics(np.array([0.9, 0.8]), np.array([0.5, 0.1]))["auroc"]
    1.0
    """
    tally = _tally(inliers, outliers, inlier_weights, outlier_weights)
    return {
        name: measured(metric(tally), inlier_weights, outlier_weights)
        for name, metric in METRICS.items()
    }


def fpr_at_tpr(
    inliers: Inliers,
    outliers: Outliers,
    *,
    tpr: float = 0.95,
    inlier_weights: InlierWeights = None,
    outlier_weights: OutlierWeights = None,
) -> Measured:
    """Share of outliers accepted by the strictest threshold that accepts `tpr` of the inliers.

    >>> fpr_at_tpr(np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.75, 0.1]), tpr=0.5)
    0.0
    >>> fpr_at_tpr(np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.75, 0.1]), tpr=1.0)
    0.5
    """
    if not 0 < tpr <= 1:
        raise UsageError(f"tpr is {tpr}; it must be above 0 and at most 1")
    tally = _tally(inliers, outliers, inlier_weights, outlier_weights)
    return measured(_fpr_at_tpr(tally, tpr), inlier_weights, outlier_weights)


def detection_error(
    inliers: Inliers,
    outliers: Outliers,
    *,
    inlier_weights: InlierWeights = None,
    outlier_weights: OutlierWeights = None,
) -> Measured:
    """Least mean of the shares of inliers rejected and of outliers accepted, over all thresholds.

    Thresholds that accept all or none are among them, so it is never above 0.5.

    >>> detection_error(np.array([0.9, 0.3]), np.array([0.5, 0.1]))
    0.25
    """
    tally = _tally(inliers, outliers, inlier_weights, outlier_weights)
    return measured(_detection_error(tally), inlier_weights, outlier_weights)


def auroc(
    inliers: Inliers,
    outliers: Outliers,
    *,
    inlier_weights: InlierWeights = None,
    outlier_weights: OutlierWeights = None,
) -> Measured:
    """Probability that an inlier has a higher confidence than an outlier, ties counted half.

    >>> auroc(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
    0.875
    """
    tally = _tally(inliers, outliers, inlier_weights, outlier_weights)
    return measured(_auroc(tally), inlier_weights, outlier_weights)


def aupr_in(
    inliers: Inliers,
    outliers: Outliers,
    *,
    inlier_weights: InlierWeights = None,
    outlier_weights: OutlierWeights = None,
) -> Measured:
    """Area under precision over recall, inliers as positives.

    The trapezoid over scikit-learn's precision-recall curve, which starts at recall 0, precision 1.

    >>> aupr_in(np.array([0.9]), np.array([0.9]))
    0.75
    """
    tally = _tally(inliers, outliers, inlier_weights, outlier_weights)
    return measured(_aupr(tally), inlier_weights, outlier_weights)


def aupr_out(
    inliers: Inliers,
    outliers: Outliers,
    *,
    inlier_weights: InlierWeights = None,
    outlier_weights: OutlierWeights = None,
) -> Measured:
    """Area under precision over recall as `aupr_in`, outliers as positives."""
    tally = _tally(inliers, outliers, inlier_weights, outlier_weights)
    return measured(_aupr(tally.inverted), inlier_weights, outlier_weights)


def average_precision_in(
    inliers: Inliers,
    outliers: Outliers,
    *,
    inlier_weights: InlierWeights = None,
    outlier_weights: OutlierWeights = None,
) -> Measured:
    """Mean precision over steps of recall, not interpolated, inliers as positives.

    >>> average_precision_in(np.array([0.9]), np.array([0.9]))
    0.5
    """
    tally = _tally(inliers, outliers, inlier_weights, outlier_weights)
    return measured(_average_precision(tally), inlier_weights, outlier_weights)


def average_precision_out(
    inliers: Inliers,
    outliers: Outliers,
    *,
    inlier_weights: InlierWeights = None,
    outlier_weights: OutlierWeights = None,
) -> Measured:
    """Mean precision over steps of recall, not interpolated, outliers as positives."""
    tally = _tally(inliers, outliers, inlier_weights, outlier_weights)
    return measured(_average_precision(tally.inverted), inlier_weights, outlier_weights)


def _tally(
    inliers: Inliers,
    outliers: Outliers,
    inlier_weights: InlierWeights,
    outlier_weights: OutlierWeights,
) -> _Tally:
    (inliers,), (outliers,) = samples(inliers=inliers), samples(outliers=outliers)
    distances = -np.concatenate([inliers, outliers])
    if inlier_weights is None and outlier_weights is None:
        return _counted(distances, len(inliers))
    sets = (
        sample_weights(inlier_weights, len(inliers), name="inlier_weights"),
        sample_weights(outlier_weights, len(outliers), name="outlier_weights"),
    )
    distinct, groups = ranked(distances)
    members = np.split(groups, [len(inliers)])
    tallies = (
        sums_by_group(weights, of_set, num_groups=distinct)
        for weights, of_set in zip(sets, members, strict=True)
    )
    return _Tally(*np.broadcast_arrays(*tallies))


def _counted(distances: Float[np.ndarray, " n"], num_inliers: int) -> _Tally:
    """The tally of samples that count once each, inliers first; it needs one sort and no more."""
    tied = ties(distances)
    inliers = tied.sums((tied.order < num_inliers).astype(np.float64))
    return _Tally(inliers, np.diff(tied.starts, append=len(distances)) - inliers)


def _fpr_at_tpr(tally: _Tally, tpr: float = 0.95) -> PerReplicate:
    accepted = tally.accepted_inliers
    # 0.95 * n may round up past the whole number that it means; a count is never that close to it
    enough = accepted >= accepted[..., -1:] * tpr * (1 - 1e-12)
    strictest = np.argmax(enough, axis=-1)[..., None]
    outliers = tally.accepted_outliers
    false_positives = np.take_along_axis(outliers, strictest, axis=-1)[..., 0]
    return _defined(ratio(false_positives, outliers[..., -1]), tally)


def _detection_error(tally: _Tally) -> PerReplicate:
    true_positives, false_positives = (
        accepted / np.where(accepted[..., -1:] > 0, accepted[..., -1:], np.nan)
        for accepted in (tally.accepted_inliers, tally.accepted_outliers)
    )
    errors = 0.5 * (1.0 - true_positives) + 0.5 * false_positives
    return np.asarray(errors.min(axis=-1))  # accepting none gives 0.5, as accepting all does


def _auroc(tally: _Tally) -> PerReplicate:
    return area_under_roc(tally.outliers, tally.inliers)  # highest confidence first: turned twice


def _aupr(tally: _Tally) -> PerReplicate:
    middles = tally.precision / 2
    middles[..., 1:] += tally.precision[..., :-1] / 2
    middles[..., 0] += 0.5  # the curve starts at recall 0, precision 1
    return _mean_over_inliers(middles, tally)


def _average_precision(tally: _Tally) -> PerReplicate:
    return _mean_over_inliers(tally.precision, tally)


def _mean_over_inliers(values: PerReplicate, tally: _Tally) -> PerReplicate:
    area = (tally.inliers * values).sum(axis=-1)
    return _defined(ratio(area, tally.inliers.sum(axis=-1)), tally)


def _defined(values: PerReplicate, tally: _Tally) -> PerReplicate:
    both = (tally.accepted_inliers[..., -1] > 0) & (tally.accepted_outliers[..., -1] > 0)
    return np.where(both, values, np.nan)


METRICS: dict[str, Callable[[_Tally], PerReplicate]] = {
    "fpr_at_tpr95": _fpr_at_tpr,
    "detection_error": _detection_error,
    "auroc": _auroc,
    "aupr_in": _aupr,
    "aupr_out": lambda tally: _aupr(tally.inverted),
    "average_precision_in": _average_precision,
    "average_precision_out": lambda tally: _average_precision(tally.inverted),
}
