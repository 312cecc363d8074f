from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from misgiving.errors import UsageError
from misgiving.metrics.ood import ood_metrics


def confidences(seed, inliers=41, outliers=29):
    """Two overlapping sets on a coarse grid, so that many confidences are tied."""
    random = np.random.default_rng(seed)
    return np.round(random.normal(1, 1, inliers), 1), np.round(random.normal(0, 1, outliers), 1)


def rates_of_every_threshold(inliers, outliers):
    for threshold in [np.inf, *sorted({*inliers, *outliers}, reverse=True)]:
        yield np.mean(inliers >= threshold), np.mean(outliers >= threshold)


def swept_fpr(inliers, outliers):
    return next(
        fpr for tpr, fpr in rates_of_every_threshold(inliers, outliers) if tpr >= 0.95 - 1e-9
    )


def swept_detection_error(inliers, outliers):
    return min(
        0.5 * (1 - tpr) + 0.5 * fpr for tpr, fpr in rates_of_every_threshold(inliers, outliers)
    )


def as_binary(positives, negatives):
    truth = np.r_[np.ones(len(positives)), np.zeros(len(negatives))]
    return truth, np.r_[positives, negatives]


def trapezoid(positives, negatives):
    precision, recall, _ = precision_recall_curve(*as_binary(positives, negatives))
    return auc(recall, precision)


def aupr_of_odin_pytorch(positives, negatives):
    """Precision TPR / (TPR + FPR), in rectangles with the precision of the stricter threshold."""
    area, looser, last = 0.0, 1.0, 0.0
    for threshold in sorted({*positives, *negatives}):
        recall, fpr = np.mean(positives >= threshold), np.mean(negatives >= threshold)
        last = recall / (recall + fpr)
        area += (looser - recall) * last
        looser = recall
    return area + looser * last


@pytest.mark.parametrize("name", ["aupr_in", "aupr_out"])
def test_for_sets_of_one_size_aupr_is_near_that_of_odin_pytorch(name):
    random = np.random.default_rng(0)
    inliers, outliers = random.normal(1, 1, 1000), random.normal(0, 1, 1000)
    sides = (inliers, outliers) if name == "aupr_in" else (-outliers, -inliers)
    assert ood_metrics(inliers, outliers)[name] == pytest.approx(
        aupr_of_odin_pytorch(*sides), abs=2e-3
    )


def test_for_sets_of_unequal_size_aupr_depends_on_the_sizes_and_that_of_odin_pytorch_does_not():
    random = np.random.default_rng(0)
    inliers, outliers = random.normal(size=9000), random.normal(size=1000)  # no signal at all
    measured = ood_metrics(inliers, outliers)
    assert measured["aupr_in"] == pytest.approx(0.9, abs=0.02)
    assert measured["aupr_out"] == pytest.approx(0.1, abs=0.02)
    assert aupr_of_odin_pytorch(inliers, outliers) == pytest.approx(0.5, abs=0.02)
    assert aupr_of_odin_pytorch(-outliers, -inliers) == pytest.approx(0.5, abs=0.02)


ORACLES = {
    "fpr_at_tpr95": swept_fpr,
    "detection_error": swept_detection_error,
    "auroc": lambda inliers, outliers: roc_auc_score(*as_binary(inliers, outliers)),
    "aupr_in": trapezoid,
    "aupr_out": lambda inliers, outliers: trapezoid(-outliers, -inliers),
    "average_precision_in": lambda inliers, outliers: average_precision_score(
        *as_binary(inliers, outliers)
    ),
    "average_precision_out": lambda inliers, outliers: average_precision_score(
        *as_binary(-outliers, -inliers)
    ),
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("seed", range(5))
def test_a_measure_agrees_with_scikit_learn_or_a_sweep_of_thresholds(name, seed):
    inliers, outliers = confidences(seed)
    expected = ORACLES[name](inliers, outliers)
    assert ood_metrics(inliers, outliers)[name] == pytest.approx(expected, abs=1e-12)


def test_each_metric_has_an_oracle():
    assert ood_metrics(*confidences(0)).keys() == ORACLES.keys()


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("seed", range(3))
def test_a_weight_counts_as_that_many_repetitions(name, seed):
    inliers, outliers = confidences(seed, inliers=8, outliers=6)
    random = np.random.default_rng(seed)
    of_inliers, of_outliers = random.poisson(1, size=(9, 8)), random.poisson(1, size=(9, 6))
    of_inliers[:, 0] += 1  # never empty; the test below is about that
    of_outliers[:, 0] += 1
    weighted = ood_metrics(
        inliers, outliers, inlier_weights=of_inliers, outlier_weights=of_outliers
    )[name]
    for row in range(9):
        repeated = np.repeat(inliers, of_inliers[row]), np.repeat(outliers, of_outliers[row])
        np.testing.assert_allclose(weighted[row], ood_metrics(*repeated)[name], atol=1e-12)


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("empty", ["inlier_weights", "outlier_weights"])
def test_a_set_without_weight_leaves_a_measure_undefined(name, empty):
    inliers, outliers = confidences(0, inliers=5, outliers=5)
    assert np.isnan(ood_metrics(inliers, outliers, **{empty: np.zeros((2, 5))})[name]).all()


def test_weights_of_one_set_and_none_of_the_other_broadcast():
    inliers, outliers = confidences(0)
    weights = np.random.default_rng(0).poisson(1, size=(2, 3, 29))
    alone = ood_metrics(inliers, outliers, outlier_weights=weights)
    both = ood_metrics(inliers, outliers, inlier_weights=np.ones((3, 41)), outlier_weights=weights)
    np.testing.assert_equal(alone, both)


@pytest.mark.parametrize("name", ORACLES)
def test_without_weights_a_measure_is_a_plain_float(name):
    assert type(ood_metrics(*confidences(0))[name]) is float


def test_the_number_of_accepted_inliers_is_exact_at_every_size():
    for count in range(1, 201):
        values = np.arange(float(count))
        accepted = ceil(Fraction("0.95") * count)
        assert ood_metrics(values, values)["fpr_at_tpr95"] == accepted / count


@pytest.mark.parametrize("name", ORACLES)
def test_a_measure_depends_on_the_order_of_confidences_only(name):
    inliers, outliers = confidences(0)
    stretched = ood_metrics(np.exp(inliers), np.exp(outliers))[name]
    assert stretched == ood_metrics(inliers, outliers)[name]


def test_a_detector_that_is_always_wrong_has_a_detection_error_of_one_half():
    found = ood_metrics(np.array([0.1, 0.2]), np.array([0.8, 0.9]))
    assert found["detection_error"] == 0.5


def test_an_empty_set_is_refused_by_name():
    with pytest.raises(UsageError, match="outliers is empty"):
        ood_metrics(np.array([0.5]), np.array([]))


def test_a_confidence_that_is_not_finite_is_refused():
    with pytest.raises(UsageError, match="inliers is not finite at position 1"):
        ood_metrics(np.array([0.5, np.nan]), np.array([0.5]))


@pytest.mark.usefixtures("as_in_use")
def test_weights_of_another_length_are_refused_by_name():
    with pytest.raises(UsageError, match="outlier_weights has shape"):
        ood_metrics(*confidences(0), outlier_weights=np.ones((2, 7)))
