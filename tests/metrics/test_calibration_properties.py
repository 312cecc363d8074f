"""Laws of calibration errors and proper scores, and their definitions in fractions."""

from fractions import Fraction
from math import fsum, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import columns, orders

from misgiving.metrics.calibration import (
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
)

CLASSES = 3
SIXTEENTHS = 17  # 0 to 16
SCHEMES = pytest.mark.parametrize("scheme", ["mass", "width"])
outcomes = columns(SIXTEENTHS, 2)
numbers_of_bins = st.integers(1, 20)


@st.composite
def classified(draw, lowest=0):
    """Shares of sixteen for each class, at least `lowest`, and labels."""
    labels = draw(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=10))
    left = 16 - CLASSES * lowest
    cuts = st.lists(st.integers(0, left), min_size=CLASSES - 1, max_size=CLASSES - 1).map(sorted)
    rows = [np.diff([0, *draw(cuts), left]) + lowest for _ in labels]
    return np.array(rows), np.array(labels)


def ece(drawn, bins, scheme):
    shares, observed = drawn
    return expected_calibration_error(shares / 16, observed, bins=bins, scheme=scheme)


@SCHEMES
@given(outcomes, numbers_of_bins)
def test_a_calibration_error_lies_between_the_gap_of_the_means_and_1(scheme, drawn, bins):
    gap = abs(drawn[0].mean() / 16 - drawn[1].mean())
    assert gap - 1e-12 <= ece(drawn, bins, scheme) <= 1


@SCHEMES
@given(outcomes)
def test_with_one_bin_the_calibration_error_is_the_gap_of_the_means(scheme, drawn):
    gap = abs(drawn[0].mean() / 16 - drawn[1].mean())
    assert ece(drawn, 1, scheme) == pytest.approx(gap, abs=1e-12)


@SCHEMES
@given(outcomes, numbers_of_bins, st.data())
def test_the_order_of_samples_changes_no_calibration_error(scheme, drawn, bins, data):
    order = data.draw(orders(len(drawn[0])))
    shuffled = ece([column[order] for column in drawn], bins, scheme)
    assert shuffled == pytest.approx(ece(drawn, bins, scheme), abs=1e-12)


@SCHEMES
@given(outcomes, numbers_of_bins, st.integers(2, 4))
def test_repeating_every_sample_changes_no_calibration_error(scheme, drawn, bins, times):
    repeated = ece([np.repeat(column, times) for column in drawn], bins, scheme)
    assert repeated == pytest.approx(ece(drawn, bins, scheme), abs=1e-12)


@SCHEMES
@given(outcomes, numbers_of_bins)
def test_exact_predictions_have_no_calibration_error(scheme, drawn, bins):
    _, observed = drawn
    assert ece((16 * observed, observed), bins, scheme) == 0


@SCHEMES
@given(outcomes, numbers_of_bins)
def test_bins_separate_the_samples_by_prediction_and_lose_none(scheme, drawn, bins):
    shares, observed = drawn
    found = reliability(shares / 16, observed, bins=bins, scheme=scheme)
    assert found.counts.sum() == len(shares)
    assert 1 <= len(found.counts) <= bins
    assert (np.diff(found.predicted) > 0).all()
    assert found.counts @ found.predicted == pytest.approx(shares.sum() / 16)
    assert found.counts @ found.observed == pytest.approx(observed.sum())


@given(outcomes, numbers_of_bins)
def test_a_bin_of_mass_holds_no_more_than_its_share_except_for_ties(drawn, bins):
    shares, observed = drawn
    found = reliability(shares / 16, observed, bins=bins)
    most = max(np.count_nonzero(shares == share) for share in shares)
    assert found.counts.max() < len(shares) / bins + most


@SCHEMES
@given(outcomes, numbers_of_bins, st.integers(-8, 8), st.integers(1, 4))
def test_the_calibration_error_of_losses_is_in_their_unit(scheme, drawn, bins, shift, factor):
    limits = (float(shift), float(shift + 16 * factor))
    predicted, true = (factor * column + float(shift) for column in drawn)
    found = expected_calibration_error(predicted, true, bins=bins, scheme=scheme, limits=limits)
    expected = expected_calibration_error(
        drawn[0] / 1.0, drawn[1], bins=bins, scheme=scheme, limits=(0.0, 16.0)
    )
    assert found == pytest.approx(factor * expected, abs=1e-11)


@given(classified())
def test_the_brier_score_is_the_mean_square_in_fractions(drawn):
    rows, labels = drawn
    squares = [
        (Fraction(int(share), 16) - (k == label)) ** 2
        for row, label in zip(rows, labels, strict=True)
        for k, share in enumerate(row)
    ]
    expected = float(sum(squares) / len(labels))
    assert brier_score(rows / 16, labels) == pytest.approx(expected, abs=1e-12)
    assert 0 <= expected <= 2


@given(classified())
def test_the_log_likelihood_is_infinite_where_the_truth_was_impossible_and_else_the_mean(drawn):
    rows, labels = drawn
    of_true = [int(row[label]) for row, label in zip(rows, labels, strict=True)]
    found = negative_log_likelihood(rows / 16, labels)
    assert found >= 0
    if 0 in of_true:
        assert found == np.inf
    else:
        expected = -fsum(log(share / 16) for share in of_true) / len(labels)
        assert found == pytest.approx(expected, abs=1e-12)


OF_CLASSES = pytest.mark.parametrize(
    "measure", [brier_score, negative_log_likelihood, classwise_calibration_error]
)


@OF_CLASSES
@given(classified(lowest=1), st.data())
def test_neither_the_order_of_samples_nor_that_of_classes_changes_a_score(measure, drawn, data):
    rows, labels = drawn
    order, names = data.draw(orders(len(labels))), data.draw(orders(CLASSES))
    renamed = measure(rows[order][:, names] / 16, np.argsort(names)[labels[order]])
    assert renamed == pytest.approx(measure(rows / 16, labels), abs=1e-12)


@OF_CLASSES
@given(classified(lowest=1), st.integers(2, 4))
def test_repeating_every_sample_changes_no_score(measure, drawn, times):
    rows, labels = drawn
    repeated = measure(np.repeat(rows / 16, times, axis=0), np.repeat(labels, times))
    assert repeated == pytest.approx(measure(rows / 16, labels), abs=1e-12)


@OF_CLASSES
@given(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=10))
def test_certainty_of_the_true_class_scores_best(measure, labels):
    assert measure(np.eye(CLASSES)[labels], np.array(labels)) == 0


@pytest.mark.parametrize("measure", [brier_score, negative_log_likelihood])
@given(classified(lowest=1))
def test_the_class_shares_are_the_best_constant_forecast(measure, drawn):
    rows, labels = drawn
    shares = np.bincount(labels, minlength=CLASSES) / len(labels)
    best, other = (np.tile(row, (len(labels), 1)) for row in (shares, rows[0] / 16))
    assert measure(best, labels) <= measure(other, labels) + 1e-12
