from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import r2_score
from strategies import DISTINCT, columns

from misgiving.metrics.loss_estimation import (
    error_auroc,
    order_agreement,
    r_squared,
    spearman,
    spread_ratio,
)

MEASURES = (spearman, order_agreement, spread_ratio, r_squared)
losses = columns(DISTINCT, DISTINCT)
answers = columns(DISTINCT, 2)


def same(found, expected):
    """Equal but for rounding, or both undefined."""
    return found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def share_in_order(predicted, true):
    """Over the pairs whose true losses differ, ties of predicted ones counted half; else None."""
    halves = [
        1 + int(np.sign(predicted[i] - predicted[j]) * np.sign(true[i] - true[j]))
        for i, j in combinations(range(len(true)), 2)
        if true[i] != true[j]
    ]
    return Fraction(sum(halves), 2 * len(halves)) if halves else None


@given(losses)
def test_order_agreement_is_the_share_of_pairs_in_fractions(drawn):
    share = share_in_order(*drawn)
    expected = np.nan if share is None else float(share)
    assert same(order_agreement(drawn[0] / 2, drawn[1] / 4), expected)


@given(losses)
def test_spearman_is_that_of_scipy_and_undefined_where_either_is_constant(drawn):
    predicted, true = drawn
    found = spearman(predicted / 2, true / 4)
    if np.ptp(predicted) == 0 or np.ptp(true) == 0:
        assert np.isnan(found)
    else:
        assert same(found, spearmanr(predicted, true).statistic)
        assert -1 - 1e-12 <= found <= 1 + 1e-12


@given(losses)
def test_negating_the_prediction_reverses_the_order_and_swapping_keeps_spearman(drawn):
    predicted, true = (column / 4 for column in drawn)
    assert same(spearman(-predicted, true), -spearman(predicted, true))
    assert same(spearman(true, predicted), spearman(predicted, true))
    assert same(order_agreement(-predicted, true), 1 - order_agreement(predicted, true))


@given(losses, st.integers(-9, 9), st.integers(-5, 5))
def test_the_spread_scales_with_the_loss_and_ignores_shifts(drawn, shift, factor):
    predicted, true = (column / 4 for column in drawn)
    expected = abs(factor) * spread_ratio(predicted, true)
    assert same(spread_ratio(factor * predicted + shift, true), expected)


@given(losses, st.integers(-9, 9), st.integers(1, 5))
def test_r_squared_ignores_scale_and_shift(drawn, shift, factor):
    predicted, true = (column / 4 for column in drawn)
    moved = r_squared(factor * predicted + shift, factor * true + shift)
    assert same(moved, r_squared(predicted, true))


@given(losses)
def test_the_true_losses_are_perfect_and_their_mean_has_an_r_squared_of_0(drawn):
    predicted, true = (column / 4 for column in drawn)
    assume(np.ptp(true))
    assert [measure(true, true) for measure in MEASURES] == pytest.approx([1] * 4)
    assert r_squared(predicted, true) <= 1
    assert r_squared(np.full(len(true), true.mean()), true) == pytest.approx(0, abs=1e-12)


@given(answers)
def test_the_auroc_for_errors_is_the_share_of_pairs_in_fractions(drawn):
    confidences, wrong = drawn
    share = share_in_order(confidences, 1 - wrong)
    expected = np.nan if share is None else float(share)
    assert same(error_auroc(confidences / 2, wrong), expected)


@pytest.mark.parametrize("seed", range(3))
def test_measures_of_spread_are_those_of_numpy_and_scikit_learn(seed):
    random = np.random.default_rng(seed)
    predicted, true = random.normal(size=50), random.exponential(size=50)
    assert spread_ratio(predicted, true) == pytest.approx(np.std(predicted) / np.std(true))
    assert r_squared(predicted, true) == pytest.approx(r2_score(true, predicted), abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_true_losses_that_are_constant_leave_a_measure_undefined(measure):
    assert np.isnan(measure(np.arange(10.0), np.full(10, 0.1)))


def test_true_losses_that_are_constant_in_a_replicate_leave_their_correlation_undefined():
    true = np.array([5.0, *[0.1] * 9])
    weights = np.random.default_rng(0).poisson(1, size=(50, 10)) * (true < 1)
    assert np.isnan(spearman(np.arange(10.0), true, weights=weights)).all()


def test_order_agreement_of_a_large_reversed_set_is_zero():
    true = np.arange(25_000.0)
    assert order_agreement(-true, true) == 0.0
