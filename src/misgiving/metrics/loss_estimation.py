"""Metrics of loss estimation: rank correlation, spread and R^2 of predicted losses; error AUROC."""

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from scipy.stats import kendalltau

from misgiving.errors import UsageError
from misgiving.metrics._weighted import (
    MetricValue,
    Weights,
    auroc,
    checked_arrays,
    checked_weights,
    metric_value,
    ratio,
    ties,
    whole_weights,
)

Losses = Float[np.ndarray, " n"]
WeightRows = Real[np.ndarray, "*replicates n"]
PerReplicate = Float[np.ndarray, "*replicates"]


def spearman(predicted: Losses, true: Losses, *, weights: Weights | None = None) -> MetricValue:
    """Spearman's rank correlation, with mid-ranks for ties; NaN if either is constant.

    >>> spearman(np.array([1.0, 2.0, 9.0]), np.array([0.1, 0.2, 0.3]))
    1.0
    """
    predicted, true = checked_arrays(predicted=predicted, true=true)
    counts = checked_weights(weights, len(true))
    ranks, true_ranks = _centred_ranks(predicted, counts), _centred_ranks(true, counts)
    scale = np.sqrt(_sum(counts, ranks, ranks) * _sum(counts, true_ranks, true_ranks))
    return metric_value(ratio(_sum(counts, ranks, true_ranks), scale), weights)


def order_agreement(
    predicted: Losses, true: Losses, *, weights: Weights | None = None
) -> MetricValue:
    """Share of pairs with different true losses in the correct predicted order, ties half.

    Weights must be whole numbers. NaN if no two true losses differ. Takes n log n time for each
    replicate.

    >>> order_agreement(np.array([0.5, 0.5, 0.9]), np.array([1.0, 2.0, 3.0]))
    0.8333333333333333
    """
    predicted, true = checked_arrays(predicted=predicted, true=true)
    counts = whole_weights(weights, len(true))
    rows = counts.reshape(-1, len(true)).astype(np.int64)
    shares = [_share_in_order(np.repeat(predicted, row), np.repeat(true, row)) for row in rows]
    return metric_value(np.array(shares, dtype=np.float64).reshape(counts.shape[:-1]), weights)


def spread_ratio(predicted: Losses, true: Losses, *, weights: Weights | None = None) -> MetricValue:
    """Standard deviation of the predicted losses over that of the true ones.

    0 means a collapse to a constant. NaN if the true losses are constant.

    >>> spread_ratio(np.array([1.0, 2.0]), np.array([0.0, 4.0]))
    0.25
    """
    predicted, true = checked_arrays(predicted=predicted, true=true)
    counts = checked_weights(weights, len(true))
    squared = ratio(_squared_deviations(predicted, counts), _squared_deviations(true, counts))
    return metric_value(np.sqrt(squared), weights)


def r_squared(predicted: Losses, true: Losses, *, weights: Weights | None = None) -> MetricValue:
    """Share of the true losses' variance that the prediction explains; below 0 if it adds error.

    The reference is the constant mean of the true losses. NaN if these are constant.

    >>> r_squared(np.array([1.0, 3.0]), np.array([0.0, 4.0]))
    0.75
    """
    predicted, true = checked_arrays(predicted=predicted, true=true)
    counts = checked_weights(weights, len(true))
    unexplained = counts @ (predicted - true) ** 2
    return metric_value(1.0 - ratio(unexplained, _squared_deviations(true, counts)), weights)


def error_auroc(
    confidences: Float[np.ndarray, " n"],
    errors: Bool[np.ndarray, " n"] | Real[np.ndarray, " n"],
    *,
    weights: Weights | None = None,
) -> MetricValue:
    """AUROC of error detection: a correct sample has a higher confidence than a wrong one.

    Errors are 1 for a wrong sample and 0 for a correct one; ties count half. NaN unless there are
    both.

    >>> error_auroc(np.array([0.9, 0.8, 0.8]), np.array([False, False, True]))
    0.75
    """
    confidences, wrong = checked_arrays(confidences=confidences, errors=errors)
    if not np.isin(wrong, (0.0, 1.0)).all():
        raise UsageError("errors must be 0 (correct) or 1 (wrong); compare classes, not losses")
    counts = checked_weights(weights, len(wrong))
    return metric_value(auroc(confidences, wrong == 0, counts), weights)


def _centred_ranks(values: Losses, weights: WeightRows) -> WeightRows:
    """Mid-ranks less their mean; exactly 0 where all samples with weight are tied."""
    distinct = ties(values)
    tied = distinct.sums(weights.take(distinct.order, axis=-1))
    middle = weights.sum(axis=-1, keepdims=True) / 2
    groups = np.unique(values, return_inverse=True)[1]
    ranks: WeightRows = (np.cumsum(tied, axis=-1) - tied / 2 - middle)[..., groups]
    return ranks


def _sum(weights: WeightRows, left: WeightRows, right: WeightRows) -> PerReplicate:
    return np.asarray(np.einsum("...n,...n,...n->...", weights, left, right))


def _squared_deviations(values: Losses, weights: WeightRows) -> PerReplicate:
    """Weighted sum of squared distances from the weighted mean.

    Distances are first taken from a sample that has weight, so that a constant gives exactly 0.
    """
    reference = values[np.argmax(weights > 0, axis=-1)]
    shifted = values - reference[..., None]
    total = weights.sum(axis=-1)
    mean = np.einsum("...n,...n->...", weights, shifted) / np.where(total > 0, total, 1.0)
    deviations = shifted - mean[..., None]
    return _sum(weights, deviations, deviations)


def _share_in_order(predicted: Losses, true: Losses) -> float:
    """(1 + D) / 2 with Somers' D, from scipy's tau-b in n log n time."""
    comparable = _untied_pairs(true)
    if comparable == 0:
        return float("nan")
    predicted_apart = _untied_pairs(predicted)
    if predicted_apart == 0:
        return 0.5
    tau = kendalltau(predicted, true).statistic
    correct_less_wrong: int = round(tau * np.sqrt(comparable) * np.sqrt(predicted_apart))
    return 0.5 + 0.5 * correct_less_wrong / comparable


def _untied_pairs(values: Losses) -> int:
    tied: Int[np.ndarray, " groups"] = np.unique(values, return_counts=True)[1]
    return int((len(values) ** 2 - (tied**2).sum()) // 2)
