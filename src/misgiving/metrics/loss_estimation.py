"""Metrics of loss estimation: rank correlation, spread and R^2 of predicted losses; error AUROC."""

import numpy as np
from jaxtyping import Int
from scipy.stats import kendalltau

from misgiving.arrays import Errors, Replicates, Values, Weights
from misgiving.metrics._weighted import (
    MetricValue,
    auroc,
    checked_arrays,
    checked_weights,
    metric_value,
    ratio,
)
from misgiving.metrics.aurc import ties


def spearman(predicted: Values, true: Values, *, weights: Weights | None = None) -> MetricValue:
    """Spearman's rank correlation, with mid-ranks for ties; NaN if either is constant.

    >>> spearman(np.array([1.0, 2.0, 9.0]), np.array([0.1, 0.2, 0.3]))
    1.0
    """
    predicted, true = checked_arrays(predicted=predicted, true=true)
    counts = checked_weights(weights, len(true))
    ranks, true_ranks = _centred_ranks(predicted, counts), _centred_ranks(true, counts)
    scale = np.sqrt(_sum(counts, ranks, ranks) * _sum(counts, true_ranks, true_ranks))
    return metric_value(ratio(_sum(counts, ranks, true_ranks), scale), weights)


def order_agreement(predicted: Values, true: Values) -> float:
    """Share of pairs with different true losses in the correct predicted order, ties half.

    NaN if no two true losses differ. It is (1 + D) / 2 with Somers' D, from scipy's tau-b in
    n log n time.

    >>> order_agreement(np.array([0.5, 0.5, 0.9]), np.array([1.0, 2.0, 3.0]))
    0.8333333333333333
    """
    predicted, true = checked_arrays(predicted=predicted, true=true)
    comparable, predicted_apart = _untied_pairs(true), _untied_pairs(predicted)
    if comparable == 0:
        return float("nan")
    if predicted_apart == 0:
        return 0.5
    tau = kendalltau(predicted, true).statistic
    correct_less_wrong: int = round(tau * np.sqrt(comparable) * np.sqrt(predicted_apart))
    return 0.5 + 0.5 * correct_less_wrong / comparable


def spread_ratio(predicted: Values, true: Values) -> float:
    """Standard deviation of the predicted losses over that of the true ones.

    0 means a collapse to a constant. NaN if the true losses are constant.

    >>> spread_ratio(np.array([1.0, 2.0]), np.array([0.0, 4.0]))
    0.25
    """
    predicted, true = checked_arrays(predicted=predicted, true=true)
    return float(np.sqrt(ratio(_squared_deviations(predicted), _squared_deviations(true))))


def r_squared(predicted: Values, true: Values) -> float:
    """Share of the true losses' variance that the prediction explains; below 0 if it adds error.

    The reference is the constant mean of the true losses. NaN if these are constant.

    >>> r_squared(np.array([1.0, 3.0]), np.array([0.0, 4.0]))
    0.75
    """
    predicted, true = checked_arrays(predicted=predicted, true=true)
    unexplained = np.ones(len(true)) @ (predicted - true) ** 2
    return float(1.0 - ratio(unexplained, _squared_deviations(true)))


def error_auroc(
    confidences: Values,
    errors: Errors,
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
    counts = checked_weights(weights, len(wrong))
    return metric_value(auroc(confidences, wrong == 0, counts), weights)


def _centred_ranks(values: Values, weights: Weights) -> Weights:
    """Mid-ranks less their mean; exactly 0 where all samples with weight are tied."""
    distinct = ties(values)
    tied = distinct.sums(weights.take(distinct.order, axis=-1))
    middle = weights.sum(axis=-1, keepdims=True) / 2
    groups = np.unique(values, return_inverse=True)[1]
    ranks: Weights = (np.cumsum(tied, axis=-1) - tied / 2 - middle)[..., groups]
    return ranks


def _sum(weights: Weights, left: Weights, right: Weights) -> Replicates:
    return np.asarray(np.einsum("...n,...n,...n->...", weights, left, right))


def _squared_deviations(values: Values) -> Replicates:
    """Sum of squared distances from the mean.

    Distances are first taken from one of the values, so that a constant gives exactly 0.
    """
    ones, shifted = np.ones(len(values)), values - values[0]
    deviations = shifted - np.einsum("n,n->", ones, shifted) / len(values)
    return _sum(ones, deviations, deviations)


def _untied_pairs(values: Values) -> int:
    tied: Int[np.ndarray, " groups"] = np.unique(values, return_counts=True)[1]
    return int((len(values) ** 2 - (tied**2).sum()) // 2)
