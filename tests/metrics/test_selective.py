from fractions import Fraction
from itertools import pairwise, permutations, product
from math import ceil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from misgiving.errors import UsageError
from misgiving.metrics.selective import (
    accepted_errors,
    augrc,
    aurc,
    balanced_aurc,
    coverage_at_risk,
    excess_aurc,
    risk_at_coverage,
)

CLASSES = 3
MEASURES = [aurc, excess_aurc, augrc]


def confidences_and_losses(seed, count=6):
    random = np.random.default_rng(seed)
    return random.integers(3, size=count) / 2, np.round(random.exponential(size=count), 1)


def orders(confidences):
    """Every order of acceptance that goes from the highest confidence to the lowest."""
    for order in map(list, permutations(range(len(confidences)))):
        if (np.diff(confidences[order]) <= 0).all():
            yield order


def mean_selective_risk(losses):
    return np.mean([np.mean(losses[:k]) for k in range(1, len(losses) + 1)])


def area_of_generalised_risk(losses):
    count = len(losses)
    heights = [sum(losses[:k]) / count for k in range(count + 1)]
    return sum((heights[k] + heights[k + 1]) / 2 / count for k in range(count))


def aurc_of_fd_shifts(confidences, losses):
    """Trapezoids between the distinct thresholds; the first risk holds down to coverage 0."""
    points = []
    for threshold in sorted(set(confidences), reverse=True):
        accepted = losses[confidences >= threshold]
        points.append((len(accepted) / len(losses), accepted.mean()))
    points = [(0.0, points[0][1]), *points]
    return sum((right - left) * (low + high) / 2 for (left, low), (right, high) in pairwise(points))


@pytest.mark.parametrize("count", [10, 100, 1000])
def test_without_ties_aurc_differs_from_fd_shifts_by_half_the_range_of_risks_over_n(count):
    random = np.random.default_rng(count)
    confidences, errors = random.permutation(count) / count, random.integers(2, size=count)
    first, whole = errors[np.argmax(confidences)], errors.mean()
    difference = aurc_of_fd_shifts(confidences, errors) - aurc(confidences, errors)
    assert difference == pytest.approx((first - whole) / (2 * count), abs=1e-12)
    assert abs(difference) <= 0.5 / count


def test_over_a_large_tie_aurc_differs_from_fd_shifts_however_many_samples_there_are():
    confidences, errors = np.r_[1.0, np.zeros(99)], np.r_[0, np.ones(99, dtype=int)]
    # in random order the risk is 1 - 1/k after k samples; a straight line is far below it
    assert aurc(confidences, errors) == pytest.approx(1 - sum(1 / k for k in range(1, 101)) / 100)
    assert aurc_of_fd_shifts(confidences, errors) == pytest.approx(0.99 * 0.99 / 2)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("seed", range(3))
def test_a_weight_counts_as_that_many_repetitions(measure, seed):
    confidences, losses = confidences_and_losses(seed, count=9)
    weights = np.random.default_rng(seed).poisson(1, size=(2, 5, 9))
    weighted = measure(confidences, losses, weights=weights)
    for row in np.ndindex(2, 5):
        repeated = measure(np.repeat(confidences, weights[row]), np.repeat(losses, weights[row]))
        np.testing.assert_allclose(weighted[row], repeated, atol=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_without_any_weight_a_measure_is_undefined(measure):
    assert np.isnan(measure(*confidences_and_losses(0), weights=np.zeros((2, 6)))).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_without_weights_a_measure_is_a_plain_float(measure):
    assert type(measure(*confidences_and_losses(0))) is float


@pytest.mark.parametrize("seed", range(5))
def test_aurc_is_its_mean_over_all_orders_within_ties(seed):
    confidences, losses = confidences_and_losses(seed)
    expected = np.mean([mean_selective_risk(losses[order]) for order in orders(confidences)])
    assert aurc(confidences, losses) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_augrc_is_its_mean_over_all_orders_within_ties(seed):
    confidences, losses = confidences_and_losses(seed)
    expected = np.mean([area_of_generalised_risk(losses[order]) for order in orders(confidences)])
    assert augrc(confidences, losses) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_augrc_of_errors_follows_from_their_auroc_and_rate(seed):
    random = np.random.default_rng(seed)
    confidences, errors = np.round(random.random(80), 1), random.random(80) < 0.3
    rate, separation = errors.mean(), roc_auc_score(~errors, confidences)
    expected = (1 - separation) * rate * (1 - rate) + rate**2 / 2
    assert augrc(confidences, errors) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_excess_aurc_is_the_distance_to_the_best_of_all_orders(seed):
    confidences, losses = confidences_and_losses(seed)
    best = min(mean_selective_risk(np.array(order)) for order in permutations(losses))
    expected = aurc(confidences, losses) - best
    assert excess_aurc(confidences, losses) == pytest.approx(expected, abs=1e-12)


def test_excess_aurc_of_a_perfect_order_is_zero():
    _, losses = confidences_and_losses(0)
    assert excess_aurc(-losses, losses) == 0.0


def test_a_constant_confidence_has_the_mean_error_as_aurc():
    _, losses = confidences_and_losses(0)
    assert aurc(np.full(6, 0.5), losses) == pytest.approx(losses.mean(), abs=1e-12)


@pytest.mark.parametrize("measure", [aurc, excess_aurc])
def test_fractions_of_a_sample_are_refused(measure):
    with pytest.raises(UsageError, match="weights must be whole numbers"):
        measure(np.array([0.5, 0.9]), np.array([0, 1]), weights=np.array([0.5, 1.0]))


@pytest.mark.parametrize("measure", MEASURES)
def test_negative_errors_are_refused(measure):
    with pytest.raises(UsageError, match="errors is negative at position 1"):
        measure(np.array([0.5, 0.9]), np.array([0.1, -0.1]))


@pytest.mark.parametrize("measure", MEASURES)
def test_confidences_that_are_not_finite_are_refused(measure):
    with pytest.raises(UsageError, match="confidences is not finite at position 0"):
        measure(np.array([np.nan, 0.9]), np.array([0, 1]))


COVERAGES = [0.1, 0.25, 0.5, 0.55, 0.8, 1.0]
RISKS = [0.0, 0.3, 0.5, 0.7, 1.0, 5.0]
AT_POINTS = [
    *((risk_at_coverage, coverage) for coverage in COVERAGES),
    *((coverage_at_risk, risk) for risk in RISKS),
]


@pytest.mark.parametrize("coverage", COVERAGES)
@pytest.mark.parametrize("seed", range(3))
def test_risk_at_coverage_is_its_mean_over_all_orders_within_ties(coverage, seed):
    confidences, losses = confidences_and_losses(seed)
    first = ceil(Fraction(str(coverage)) * len(losses))
    expected = np.mean([losses[order][:first].mean() for order in orders(confidences)])
    assert risk_at_coverage(confidences, losses, coverage) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("coverage", ["0.07", "0.55", "0.9", "0.95", "1.0"])
def test_the_number_of_accepted_samples_is_exact_at_every_size(coverage):
    for count in range(1, 201):
        accepted = ceil(Fraction(coverage) * count)
        errors = np.arange(count) == accepted - 1  # the last that is accepted is wrong
        found = risk_at_coverage(-np.arange(float(count)), errors, float(coverage))
        assert found == 1 / accepted


@pytest.mark.parametrize("risk", RISKS)
@pytest.mark.parametrize("seed", range(5))
def test_coverage_at_risk_is_the_best_of_all_thresholds(risk, seed):
    confidences, losses = confidences_and_losses(seed, count=12)
    masks = [confidences >= threshold for threshold in confidences]
    coverages = [mask.mean() for mask in masks if losses[mask].mean() <= risk]
    expected = max(coverages, default=0.0)
    assert coverage_at_risk(confidences, losses, risk) == pytest.approx(expected, abs=1e-12)


def test_coverage_at_risk_allows_the_rounding_of_a_sum():
    assert coverage_at_risk(np.array([0.9, 0.8, 0.7]), np.array([0.1, 0.2, 0.3]), 0.2) == 1.0


@pytest.mark.parametrize("count", [7, 100, 150])
def test_coverage_at_risk_is_exact_at_every_error_rate(count):
    for wrong in range(1, count):
        errors = np.arange(count) >= count - wrong
        found = coverage_at_risk(np.zeros(count), errors, wrong / count)
        assert found == 1.0
        assert coverage_at_risk(np.zeros(count), errors, (wrong - 0.01) / count) == 0.0


@pytest.mark.parametrize(("measure", "point"), AT_POINTS)
@pytest.mark.parametrize("seed", range(3))
def test_at_a_point_a_weight_counts_as_that_many_repetitions(measure, point, seed):
    confidences, losses = confidences_and_losses(seed, count=9)
    weights = np.random.default_rng(seed).poisson(1, size=(2, 5, 9))
    weighted = measure(confidences, losses, point, weights=weights)
    for row in np.ndindex(2, 5):
        repeated = (np.repeat(values, weights[row]) for values in (confidences, losses))
        np.testing.assert_allclose(weighted[row], measure(*repeated, point), atol=1e-12)


@pytest.mark.parametrize(("measure", "point"), AT_POINTS)
def test_at_a_point_a_measure_depends_on_the_order_of_confidences_only(measure, point):
    confidences, losses = confidences_and_losses(0)
    stretched = measure(np.exp(confidences), losses, point)
    assert stretched == measure(confidences, losses, point)
    assert type(stretched) is float


@pytest.mark.parametrize(("measure", "point"), AT_POINTS)
def test_at_a_point_without_any_weight_a_measure_is_undefined(measure, point):
    weights = np.zeros((2, 6))
    assert np.isnan(measure(*confidences_and_losses(0), point, weights=weights)).all()


def with_labels(seed, count=25):
    labels = np.random.default_rng(seed + 100).choice(CLASSES, size=count, p=[0.7, 0.25, 0.05])
    return *confidences_and_losses(seed, count), labels


def balanced_risk(losses, labels):
    return np.mean([losses[labels == k].mean() for k in set(labels)])


@pytest.mark.parametrize("seed", range(5))
def test_balanced_aurc_is_the_mean_over_samples_of_the_risk_at_their_threshold(seed):
    confidences, losses, labels = with_labels(seed)
    masks = [confidences >= threshold for threshold in confidences]
    expected = np.mean([balanced_risk(losses[mask], labels[mask]) for mask in masks])
    found = balanced_aurc(confidences, losses, labels, num_classes=CLASSES)
    assert found == pytest.approx(expected, abs=1e-12)
    assert type(found) is float


@pytest.mark.parametrize("seed", range(3))
def test_balanced_aurc_of_one_class_without_ties_is_aurc(seed):
    random = np.random.default_rng(seed)
    confidences, losses = random.random(30), random.random(30)
    found = balanced_aurc(confidences, losses, np.zeros(30, dtype=int), num_classes=1)
    assert found == pytest.approx(aurc(confidences, losses), abs=1e-12)


def test_weights_may_be_as_large_as_their_type():
    random = np.random.default_rng(0)
    confidences, errors = random.random(50), random.random(50) < 0.3
    weights = np.full(50, 2**62)
    assert augrc(confidences, errors, weights=weights) == pytest.approx(augrc(confidences, errors))


@pytest.mark.parametrize("seed", range(3))
def test_in_balanced_aurc_a_weight_counts_as_that_many_repetitions(seed):
    arrays = with_labels(seed, count=9)
    weights = np.random.default_rng(seed).poisson(1, size=(2, 5, 9))
    weighted = balanced_aurc(*arrays, num_classes=CLASSES, weights=weights)
    for row in np.ndindex(2, 5):
        repeated = (np.repeat(values, weights[row]) for values in arrays)
        expected = balanced_aurc(*repeated, num_classes=CLASSES)
        assert weighted[row] == pytest.approx(expected, abs=1e-12)


def test_balanced_aurc_depends_on_the_order_of_confidences_only():
    confidences, *rest = with_labels(0)
    once, stretched = (
        balanced_aurc(values, *rest, num_classes=CLASSES)
        for values in (confidences, np.exp(confidences))
    )
    assert stretched == once


def test_balanced_aurc_without_any_weight_is_undefined():
    weights = np.zeros((2, 25))
    assert np.isnan(balanced_aurc(*with_labels(0), num_classes=CLASSES, weights=weights)).all()


def test_a_label_outside_of_the_classes_is_refused():
    with pytest.raises(UsageError, match="labels has class 2 at position 1"):
        balanced_aurc(np.array([0.5, 0.9]), np.array([0, 1]), np.array([0, 2]), num_classes=2)


@pytest.mark.parametrize("coverage", [0.0, 1.1, np.nan])
def test_an_impossible_coverage_is_refused(coverage):
    with pytest.raises(UsageError, match="coverage is"):
        risk_at_coverage(*confidences_and_losses(0), coverage)


@pytest.mark.parametrize("risk", [-0.1, np.nan])
def test_an_impossible_risk_is_refused(risk):
    with pytest.raises(UsageError, match="risk is"):
        coverage_at_risk(*confidences_and_losses(0), risk)


def test_risk_at_coverage_refuses_fractions_of_a_sample():
    with pytest.raises(UsageError, match="weights must be whole numbers"):
        risk_at_coverage(*confidences_and_losses(0), 0.5, weights=np.full(6, 0.5))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.usefixtures("as_in_use")
def test_lengths_that_differ_name_the_argument(measure):
    with pytest.raises(UsageError, match="errors has length 3 but confidences has length 2"):
        measure(np.zeros(2), np.zeros(3))


@pytest.mark.usefixtures("as_in_use")
def test_labels_of_another_length_are_named():
    with pytest.raises(UsageError, match="labels has length 3 but confidences has length 2"):
        balanced_aurc(np.zeros(2), np.zeros(2), np.zeros(3, dtype=int), num_classes=1)


def test_the_error_per_group_is_that_of_one_image_of_each_group():
    groups = ["a", "b", "a", "c", "a", "b", "d"]
    accepted = np.array([1, 1, 0, 1, 1, 1, 0], dtype=bool)
    wrong = np.array([1, 0, 1, 0, 0, 1, 1], dtype=bool)
    members = [[row for row, name in enumerate(groups) if name == one] for one in "abcd"]
    draws = list(product(*members))  # all equally likely
    taken = Fraction(sum(int(accepted[list(draw)].sum()) for draw in draws), len(draws))
    failed = Fraction(sum(int((accepted & wrong)[list(draw)].sum()) for draw in draws), len(draws))
    found = accepted_errors(accepted, wrong, groups)
    assert found == {
        "error_among_accepted": pytest.approx(2 / 5),
        "error_per_group": pytest.approx(float(failed / taken)),
    }


def test_a_resampled_group_counts_as_often_as_it_was_drawn():
    groups, accepted = ["a", "a", "b"], np.array([True, True, True])
    wrong = np.array([True, False, False])
    found = accepted_errors(accepted, wrong, groups, weights=np.array([[3, 3, 1], [0, 0, 2]]))
    np.testing.assert_allclose(found["error_per_group"], [1.5 / 4, 0])
    np.testing.assert_allclose(found["error_among_accepted"], [3 / 7, 0])


def test_errors_of_a_policy_that_accepts_nothing_are_undefined():
    nothing = np.zeros(3, dtype=bool)
    found = accepted_errors(nothing, ~nothing, ["a", "a", "b"])
    assert [np.isnan(value) for value in found.values()] == [True, True]
