from itertools import combinations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import r2_score, roc_auc_score

from misgiving.errors import UsageError
from misgiving.metrics.loss_estimation import (
    error_auroc,
    order_agreement,
    r_squared,
    spearman,
    spread_ratio,
)

OF_LOSSES = [spearman, order_agreement, spread_ratio, r_squared]


def losses(seed, count=50):
    """Predicted and true losses on a coarse grid, so that both have ties."""
    random = np.random.default_rng(seed)
    true = np.round(random.exponential(size=count), 1)
    return np.round(true + random.normal(size=count), 1), true


def confidences_and_errors(seed, count=50):
    random = np.random.default_rng(seed)
    return np.round(random.random(count), 1), random.random(count) < 0.4


def arrays(measure, seed, count=50):
    draw = confidences_and_errors if measure is error_auroc else losses
    return draw(seed, count)


@pytest.mark.parametrize("measure", [*OF_LOSSES, error_auroc])
@pytest.mark.parametrize("seed", range(3))
def test_a_weight_counts_as_that_many_repetitions(measure, seed):
    first, second = arrays(measure, seed, count=9)
    weights = np.random.default_rng(seed).poisson(1, size=(2, 5, 9))
    weighted = measure(first, second, weights=weights)
    for row in np.ndindex(2, 5):
        repeated = measure(np.repeat(first, weights[row]), np.repeat(second, weights[row]))
        np.testing.assert_allclose(weighted[row], repeated, atol=1e-12)


@pytest.mark.parametrize("measure", [*OF_LOSSES, error_auroc])
def test_without_any_weight_a_measure_is_undefined(measure):
    assert np.isnan(measure(*arrays(measure, 0), weights=np.zeros((2, 50)))).all()


@pytest.mark.parametrize("measure", [*OF_LOSSES, error_auroc])
def test_without_weights_a_measure_is_a_plain_float(measure):
    assert type(measure(*arrays(measure, 0))) is float


@pytest.mark.parametrize("seed", range(5))
def test_spearman_agrees_with_scipy(seed):
    predicted, true = losses(seed)
    expected = spearmanr(predicted, true).statistic
    assert spearman(predicted, true) == pytest.approx(expected, abs=1e-12)


def test_spearman_of_a_constant_prediction_is_undefined():
    assert np.isnan(spearman(np.full(3, 0.1), np.array([1.0, 2.0, 3.0])))


def share_of_pairs_in_order(predicted, true):
    right, comparable = 0.0, 0
    for i, j in combinations(range(len(true)), 2):
        product = np.sign(predicted[i] - predicted[j]) * np.sign(true[i] - true[j])
        right += (true[i] != true[j]) * (1 + product) / 2
        comparable += true[i] != true[j]
    return right / comparable


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [4, 50])
def test_order_agreement_is_the_share_of_pairs_in_order(seed, count):
    predicted, true = losses(seed, count)
    expected = share_of_pairs_in_order(predicted, true)
    assert order_agreement(predicted, true) == pytest.approx(expected, abs=1e-12)


def test_order_agreement_with_a_constant_is_one_half():
    assert order_agreement(np.full(3, 0.1), np.array([1.0, 2.0, 3.0])) == 0.5


def test_order_agreement_without_different_true_losses_is_undefined():
    assert np.isnan(order_agreement(np.array([1.0, 2.0]), np.array([0.3, 0.3])))


def test_order_agreement_refuses_fractions_of_a_sample():
    with pytest.raises(UsageError, match="weights must be whole numbers"):
        order_agreement(*losses(0), weights=np.full(50, 0.5))


def test_order_agreement_of_a_large_reversed_set_is_zero():
    true = np.arange(25_000.0)
    assert order_agreement(-true, true) == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_spread_ratio_is_the_quotient_of_standard_deviations(seed):
    predicted, true = losses(seed)
    expected = np.std(predicted) / np.std(true)
    assert spread_ratio(predicted, true) == pytest.approx(expected, abs=1e-12)


def test_spread_ratio_of_a_collapse_to_a_constant_is_exactly_zero():
    assert spread_ratio(np.full(7, 0.1), np.arange(7.0)) == 0.0


@pytest.mark.parametrize("measure", [spearman, spread_ratio, r_squared])
def test_constant_true_losses_leave_a_measure_undefined(measure):
    assert np.isnan(measure(np.arange(7.0), np.full(7, 0.1)))


@pytest.mark.parametrize("measure", OF_LOSSES)
def test_true_losses_that_are_constant_in_a_replicate_leave_it_undefined(measure):
    true = np.array([5.0, *[0.1] * 9])
    weights = np.random.default_rng(0).poisson(1, size=(50, 10)) * (true < 1)
    assert np.isnan(measure(np.arange(10.0), true, weights=weights)).all()


@pytest.mark.parametrize("seed", range(3))
def test_r_squared_agrees_with_scikit_learn(seed):
    predicted, true = losses(seed)
    assert r_squared(predicted, true) == pytest.approx(r2_score(true, predicted), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_error_auroc_agrees_with_scikit_learn(seed):
    confidences, errors = confidences_and_errors(seed)
    expected = roc_auc_score(~errors, confidences)
    assert error_auroc(confidences, errors) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("error", [0, 1])
def test_error_auroc_is_undefined_unless_there_are_both(error):
    assert np.isnan(error_auroc(np.array([0.1, 0.2]), np.array([error, error])))


def test_error_auroc_refuses_losses():
    with pytest.raises(UsageError, match="errors must be 0"):
        error_auroc(np.array([0.1, 0.2]), np.array([0.0, 0.7]))


def test_single_precision_is_measured_as_double():
    predicted, true = (values.astype(np.float32) for values in losses(0))
    doubled = r_squared(predicted.astype(np.float64), true.astype(np.float64))
    assert r_squared(predicted, true) == doubled


@pytest.mark.parametrize("measure", OF_LOSSES)
@pytest.mark.usefixtures("as_in_use")
def test_lengths_that_differ_name_the_argument(measure):
    with pytest.raises(UsageError, match="true has length 3 but predicted has length 2"):
        measure(np.zeros(2), np.zeros(3))


@pytest.mark.parametrize("measure", OF_LOSSES)
def test_losses_that_are_not_finite_are_named_with_their_position(measure):
    with pytest.raises(UsageError, match="predicted is not finite at position 1"):
        measure(np.array([1.0, np.inf]), np.array([1.0, 2.0]))
