"""Laws of calibration errors and proper scores, their definitions, and those of scikit-learn."""

from collections import defaultdict
from fractions import Fraction
from math import fsum, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss
from strategies import columns, heights

from misgiving.errors import UsageError
from misgiving.metrics.calibration import (
    brier_score,
    classwise_calibration_error,
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
    return reliability(shares / 16, observed, bins=bins, scheme=scheme).error


@SCHEMES
@given(outcomes, numbers_of_bins)
def test_a_calibration_error_is_the_gap_of_the_means_with_one_bin_more_with_others_and_at_most_1(
    scheme, drawn, bins
):
    shares, observed = drawn
    gap = abs(shares.mean() / 16 - observed.mean())
    assert ece(drawn, 1, scheme) == pytest.approx(gap, abs=1e-12)
    assert gap - 1e-12 <= ece(drawn, bins, scheme) <= 1
    assert ece((16 * observed, observed), bins, scheme) == 0


@given(outcomes, numbers_of_bins)
def test_a_bin_of_mass_holds_no_more_than_its_share_except_for_ties(drawn, bins):
    shares, observed = drawn
    found = reliability(shares / 16, observed, bins=bins)
    most = max(np.count_nonzero(shares == share) for share in shares)
    assert found.counts.max() < len(shares) / bins + most


@given(outcomes, numbers_of_bins, st.integers(-8, 8), st.integers(1, 4))
def test_the_calibration_error_of_losses_is_in_their_unit(drawn, bins, shift, factor):
    predicted, true = (factor * column + float(shift) for column in drawn)
    moved = reliability(predicted, true, bins=bins).error
    plain = reliability(drawn[0] / 1.0, drawn[1], bins=bins).error
    assert moved == pytest.approx(factor * plain, abs=1e-11)


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


MEASURES = [brier_score, negative_log_likelihood, classwise_calibration_error]
OF_CLASSES = pytest.mark.parametrize("measure", MEASURES)


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


def bin_by_mass(value, predicted, bins):
    return sum(other < value for other in predicted) * bins // len(predicted)


def bin_by_width(value, predicted, bins):  # noqa: ARG001  the other's arguments
    edges = np.linspace(0, 1, bins + 1)
    return next(b for b in range(bins) if value <= edges[b + 1] or b == bins - 1)


BINS = {"mass": bin_by_mass, "width": bin_by_width}


def binned(predicted, observed, place):
    members = defaultdict(list)
    for value, outcome in zip(predicted, observed, strict=True):
        members[place(value)].append((value, float(outcome)))
    return [
        (sum(p for p, _ in pairs) / len(pairs), sum(o for _, o in pairs) / len(pairs), len(pairs))
        for _, pairs in sorted(members.items())
    ]


def brute_force_ece(predicted, observed, *, bins, scheme):
    rows = binned(predicted, observed, lambda value: BINS[scheme](value, predicted, bins))
    return sum(count * abs(p - o) for p, o, count in rows) / len(predicted)


@SCHEMES
@given(outcomes, numbers_of_bins)
def test_bins_and_errors_equal_loops_over_the_samples(scheme, drawn, bins):
    predicted, observed = drawn[0] / 16, drawn[1]
    expected = binned(predicted, observed, lambda value: BINS[scheme](value, predicted, bins))
    curve = reliability(predicted, observed, bins=bins, scheme=scheme)
    assert 1 <= len(curve.counts) <= bins
    assert (np.diff(curve.predicted) > 0).all()
    assert curve.counts.sum() == len(predicted)
    np.testing.assert_allclose(np.transpose(curve), expected, atol=1e-12)
    by_loops = brute_force_ece(predicted, observed, bins=bins, scheme=scheme)
    assert ece(drawn, bins, scheme) == pytest.approx(by_loops, abs=1e-12)


@SCHEMES
@given(classified(), numbers_of_bins)
def test_the_classwise_error_is_the_mean_over_one_class_against_the_rest(scheme, drawn, bins):
    rows, labels = drawn[0] / 16, drawn[1]
    errors = [
        brute_force_ece(rows[:, k], labels == k, bins=bins, scheme=scheme) for k in range(CLASSES)
    ]
    error = classwise_calibration_error(rows, labels, bins=bins, scheme=scheme)
    assert error == pytest.approx(sum(errors) / CLASSES, abs=1e-12)


@pytest.mark.parametrize(("scheme", "strategy"), [("mass", "quantile"), ("width", "uniform")])
@pytest.mark.parametrize("seed", range(3))
def test_without_ties_the_bins_are_those_of_scikit_learn(scheme, strategy, seed):
    random = np.random.default_rng(seed)
    predicted = random.random(200)
    observed = random.random(200) < predicted**2
    shares, means = calibration_curve(observed, predicted, n_bins=10, strategy=strategy)
    found = reliability(predicted, observed, bins=10, scheme=scheme)
    np.testing.assert_allclose(found.observed, shares, atol=1e-12)
    np.testing.assert_allclose(found.predicted, means, atol=1e-12)


@given(outcomes, numbers_of_bins, heights(SIXTEENTHS, largest=1e6))
def test_bins_of_mass_depend_on_the_order_of_predictions_only(drawn, bins, steps):
    predicted, observed = drawn
    once, stretched = (
        reliability(values, observed, bins=bins) for values in (predicted / 16, steps[predicted])
    )
    np.testing.assert_array_equal(stretched.observed, once.observed)
    np.testing.assert_array_equal(stretched.counts, once.counts)


def test_scores_agree_with_scikit_learn_and_leave_the_probabilities_as_they_are():
    random = np.random.default_rng(0)
    labels, probabilities = random.integers(3, size=40), random.dirichlet(np.ones(3), size=40)
    copy, pairs = probabilities.copy(), probabilities[:, :1] * [1, -1] + [0, 1]
    expected = 2 * brier_score_loss(labels == 0, pairs[:, 0])  # of two classes, twice its score
    assert brier_score(pairs, (labels != 0) * 1) == pytest.approx(expected, abs=1e-12)
    expected = log_loss(labels, probabilities, labels=range(3))
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(probabilities, copy)


@OF_CLASSES
@pytest.mark.parametrize(
    ("row", "label"),
    [([0.5, 0.4], 1), ([1.5, -0.5], 1), ([np.nan, 0.5], 1)],
)
def test_rows_that_are_no_distributions_are_refused(measure, row, label):
    with pytest.raises(UsageError):
        measure(np.array([[0.5, 0.5], row]), np.array([0, label]))


@OF_CLASSES
def test_rows_with_rounding_errors_are_accepted(measure):
    assert measure(np.array([[0.5, 0.5 + 9e-7]]), np.array([0])) > 0
