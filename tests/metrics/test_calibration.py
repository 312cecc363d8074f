from collections import defaultdict
from math import inf, log

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from misgiving.errors import UsageError
from misgiving.metrics.calibration import (
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
)

CLASSES = 3
SCHEMES = ["mass", "width"]
SCORES = [brier_score, negative_log_likelihood]


def predictions(seed, count=40):
    """Probabilities in twelfths, so that many are tied and some fall on the edges of bins."""
    random = np.random.default_rng(seed)
    twelfths = 1 + random.multinomial(9, np.ones(CLASSES) / CLASSES, size=count)
    return twelfths / 12, random.integers(CLASSES, size=count)


def outcomes(seed, count=40):
    random = np.random.default_rng(seed)
    predicted = random.integers(13, size=count) / 12
    return predicted, random.random(count) < predicted


def bin_by_mass(value, predicted, bins):
    return sum(other < value for other in predicted) * bins // len(predicted)


def bin_by_width(value, predicted, bins, limits=(0.0, 1.0)):  # noqa: ARG001  the other's arguments
    edges = np.linspace(*limits, bins + 1)
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


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bins", [1, 2, 5, 12, 100])
@pytest.mark.parametrize("seed", range(3))
def test_the_bins_equal_loops_over_the_samples(scheme, bins, seed):
    predicted, observed = outcomes(seed)
    expected = binned(predicted, observed, lambda value: BINS[scheme](value, predicted, bins))
    found = reliability(predicted, observed, bins=bins, scheme=scheme)
    np.testing.assert_allclose(np.transpose(found), expected, atol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bins", [2, 5, 15])
@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_error_is_the_mean_gap_of_the_bins(scheme, bins, seed):
    predicted, observed = outcomes(seed)
    expected = brute_force_ece(predicted, observed, bins=bins, scheme=scheme)
    found = expected_calibration_error(predicted, observed, bins=bins, scheme=scheme)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(3))
def test_the_classwise_error_is_the_mean_over_one_class_against_the_rest(scheme, seed):
    probabilities, labels = predictions(seed)
    expected = [
        brute_force_ece(probabilities[:, k], [y == k for y in labels], bins=7, scheme=scheme)
        for k in range(CLASSES)
    ]
    found = classwise_calibration_error(probabilities, labels, bins=7, scheme=scheme)
    assert found == pytest.approx(sum(expected) / CLASSES, abs=1e-12)


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


@pytest.mark.parametrize("bins", [1, 3, 7, 40])
def test_bins_of_mass_differ_by_one_sample_at_most(bins):
    predicted = np.random.default_rng(0).random(40)
    counts = reliability(predicted, predicted, bins=bins).counts
    assert len(counts) == bins
    assert np.ptp(counts) <= 1


def test_equal_predictions_stay_in_one_bin_of_mass():
    predicted, observed = outcomes(0)
    assert len(set(reliability(predicted, observed, bins=40).predicted)) == len(set(predicted))


def test_bins_of_mass_depend_on_the_order_of_predictions_only():
    predicted, observed = outcomes(1)
    once, stretched = (reliability(values, observed) for values in (predicted, 9 * predicted**3))
    np.testing.assert_array_equal(stretched.observed, once.observed)
    np.testing.assert_array_equal(stretched.counts, once.counts)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_losses_are_compared_in_their_own_unit(scheme):
    predicted, true = np.array([0.5, 2.0, 4.0]), np.array([1.5, 3.0, 5.0])
    error = expected_calibration_error(predicted, true, bins=2, scheme=scheme, limits=(0.0, 4.0))
    assert error == pytest.approx(1.0, abs=1e-12)


def test_limits_place_the_bins_of_width():
    predicted = np.random.default_rng(0).integers(-8, 9, size=50) / 4
    expected = binned(
        predicted, predicted, lambda value: bin_by_width(value, None, 5, limits=(-3.0, 2.0))
    )
    found = reliability(predicted, predicted, bins=5, scheme="width", limits=(-3.0, 2.0))
    np.testing.assert_allclose(np.transpose(found), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_brier_score_is_the_mean_sum_of_squares(seed):
    probabilities, labels = predictions(seed)
    squares = [
        (p - (k == label)) ** 2
        for row, label in zip(probabilities, labels, strict=True)
        for k, p in enumerate(row)
    ]
    assert brier_score(probabilities, labels) == pytest.approx(sum(squares) / 40, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_log_likelihood_is_the_mean_logarithm_at_the_label(seed):
    probabilities, labels = predictions(seed)
    logarithms = [log(row[label]) for row, label in zip(probabilities, labels, strict=True)]
    expected = -sum(logarithms) / 40
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(expected, abs=1e-12)


def test_the_brier_score_of_two_classes_is_twice_that_of_scikit_learn():
    predicted, observed = outcomes(0)
    rows = np.stack([1 - predicted, predicted], axis=1)
    expected = 2 * brier_score_loss(observed, predicted)
    assert brier_score(rows, observed.astype(int)) == pytest.approx(expected, abs=1e-12)


def test_the_log_likelihood_agrees_with_scikit_learn():
    probabilities, labels = predictions(0)
    expected = log_loss(labels, probabilities, labels=range(CLASSES))
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_a_score_leaves_the_probabilities_as_they_are(score):
    probabilities, labels = predictions(0)
    score(probabilities, labels)
    np.testing.assert_array_equal(probabilities, predictions(0)[0])


@pytest.mark.parametrize("score", SCORES)
def test_a_score_is_a_plain_float(score):
    assert type(score(*predictions(0))) is float


def test_an_impossible_label_makes_the_likelihood_infinite():
    probabilities, labels = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 0])
    assert negative_log_likelihood(probabilities, labels) == inf
    assert negative_log_likelihood(probabilities[1:], labels[1:]) == pytest.approx(log(2))


OF_CLASSES = [*SCORES, classwise_calibration_error]


@pytest.mark.parametrize("measure", OF_CLASSES)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.5, 0.4], "probabilities sum to 0.9 at position 1; each row"),
        ([1.5, -0.5], "probabilities is below 0 or above 1 at position 1; give a softmax"),
        ([np.nan, 0.5], "probabilities is not finite at position 1; leave"),
    ],
)
def test_rows_that_are_not_distributions_are_refused(measure, row, message):
    with pytest.raises(UsageError, match=message):
        measure(np.array([[0.5, 0.5], row]), np.array([0, 1]))


@pytest.mark.parametrize("measure", OF_CLASSES)
def test_rows_with_rounding_errors_are_accepted(measure):
    assert measure(np.array([[0.5, 0.5 + 9e-7]]), np.array([0])) > 0


@pytest.mark.parametrize("measure", OF_CLASSES)
@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_without_a_probability_is_refused(measure, label):
    with pytest.raises(UsageError, match=f"labels has class {label} at position 0"):
        measure(np.array([[0.5, 0.5]]), np.array([label]))


@pytest.mark.parametrize("measure", [reliability, expected_calibration_error])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_prediction_outside_of_the_limits_is_refused(measure, value):
    with pytest.raises(UsageError, match=f"predicted is {value} at position 1, outside of limits"):
        measure(np.array([0.5, value]), np.array([0, 1]), scheme="width")


@pytest.mark.parametrize("limits", [(1.0, 0.0), (1.0, 1.0)])
def test_limits_in_the_wrong_order_are_refused(limits):
    with pytest.raises(UsageError, match="limits is"):
        reliability(np.array([1.0]), np.array([1]), scheme="width", limits=limits)


def test_no_bins_are_refused():
    with pytest.raises(UsageError, match="bins is 0; ask for at least 1"):
        reliability(np.array([0.5]), np.array([1]), bins=0)


def test_predictions_that_are_not_finite_are_refused():
    with pytest.raises(UsageError, match="predicted is not finite at position 0"):
        expected_calibration_error(np.array([np.nan, 0.5]), np.array([0, 1]))


@pytest.mark.usefixtures("as_in_use")
def test_an_unknown_scheme_is_refused():
    with pytest.raises(UsageError, match="scheme is 'equal'; choose from mass, width"):
        reliability(np.array([0.5]), np.array([1]), scheme="equal")


@pytest.mark.parametrize("measure", OF_CLASSES)
@pytest.mark.usefixtures("as_in_use")
def test_lengths_that_differ_name_the_argument(measure):
    with pytest.raises(UsageError, match="probabilities has length 2 but labels has length 3"):
        measure(np.full((2, 2), 0.5), np.array([0, 1, 1]))
