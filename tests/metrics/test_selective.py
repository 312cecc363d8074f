"""Selective prediction: laws, brute force over orders in fractions, and other definitions."""

from fractions import Fraction
from itertools import pairwise, permutations, product
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from strategies import DISTINCT, columns, orders

from misgiving.metrics.selective import RiskCoverage, accepted_errors

QUARTERS = 6  # losses are these many quarters, which floats add without rounding
CLASSES = 3
AREAS = ("aurc", "excess_aurc", "augrc")
cases = columns(DISTINCT, QUARTERS)
few_cases = columns(3, QUARTERS, size=5)


def curve(confidences, quarters):
    return RiskCoverage(confidences / 2, quarters / 4)


def areas(confidences, quarters):
    return {name: getattr(curve(confidences, quarters), name)() for name in AREAS}


def orders_of_acceptance(confidences):
    """Every order that goes from the highest confidence to the lowest."""
    for order in permutations(range(len(confidences))):
        if (np.diff(confidences[list(order)]) <= 0).all():
            yield order


def risks(order, quarters):
    """Mean loss of the first k in fractions, for each k."""
    losses = [Fraction(int(quarters[place]), 4) for place in order]
    return [sum(losses[:k]) / k for k in range(1, len(losses) + 1)]


def mean(values):
    values = list(values)
    return sum(values) / Fraction(len(values))


def mean_risk(order, quarters):
    return mean(risks(order, quarters))


def area_of_generalised_risk(order, quarters):
    count = len(order)
    heights = [Fraction(0), *(risk * k / count for k, risk in enumerate(risks(order, quarters), 1))]
    return sum((a + b) / 2 for a, b in pairwise(heights)) / count


@pytest.mark.parametrize(
    ("area", "of_order"), [("aurc", mean_risk), ("augrc", area_of_generalised_risk)]
)
@given(few_cases)
def test_an_area_is_its_mean_over_all_orders_of_acceptance(area, of_order, drawn):
    confidences, quarters = drawn
    expected = mean(of_order(order, quarters) for order in orders_of_acceptance(confidences))
    assert areas(*drawn)[area] == pytest.approx(float(expected), abs=1e-12)


@given(few_cases)
def test_the_excess_is_the_difference_to_the_best_order(drawn):
    confidences, quarters = drawn
    every_order = permutations(range(len(quarters)))
    best = min(mean_risk(order, quarters) for order in every_order)
    excess = mean(mean_risk(o, quarters) for o in orders_of_acceptance(confidences)) - best
    assert curve(*drawn).excess_aurc() == pytest.approx(float(excess), abs=1e-12)


@given(few_cases, st.integers(1, 100))
def test_the_risk_at_a_coverage_is_its_mean_over_all_orders_of_acceptance(drawn, percent):
    confidences, quarters = drawn
    first = ceil(Fraction(percent, 100) * len(quarters))
    expected = mean(risks(o, quarters)[first - 1] for o in orders_of_acceptance(confidences))
    found = curve(*drawn).risk_at_coverage(percent / 100)
    assert found == pytest.approx(float(expected), abs=1e-12)


@given(cases)
def test_areas_lie_between_the_extremes_of_the_loss(drawn):
    confidences, quarters = drawn
    found, losses = areas(confidences, quarters), quarters / 4
    assert losses.min() - 1e-12 <= found["aurc"] <= losses.max() + 1e-12
    assert -1e-12 <= found["excess_aurc"] <= found["aurc"] + 1e-12
    assert -1e-12 <= found["augrc"] <= losses.mean() + 1e-12


@given(cases, st.integers(1, 20))
def test_areas_are_in_units_of_the_loss_and_a_constant_added_to_it_leaves_the_excess(drawn, more):
    confidences, quarters = drawn
    before, after = areas(confidences, quarters), areas(confidences, quarters + more)
    assert after["aurc"] == pytest.approx(before["aurc"] + more / 4, abs=1e-11)
    assert after["excess_aurc"] == pytest.approx(before["excess_aurc"], abs=1e-11)
    scaled = {name: more * value for name, value in before.items()}
    assert areas(confidences, more * quarters) == pytest.approx(scaled, abs=1e-11)


@given(cases)
def test_augrc_and_its_reverse_sum_to_the_mean_loss_and_the_best_order_has_no_excess(drawn):
    confidences, quarters = drawn
    both = curve(*drawn).augrc() + curve(-confidences, quarters).augrc()
    assert both == pytest.approx(quarters.mean() / 4, abs=1e-12)
    assert areas(-quarters, quarters)["excess_aurc"] == 0
    assert areas(-quarters, quarters)["aurc"] <= areas(confidences, quarters)["aurc"] + 1e-12


@given(cases, st.integers(0, 4 * QUARTERS))
def test_the_coverage_at_a_risk_is_the_largest_of_a_threshold_within_it(drawn, sixteenths):
    confidences, quarters = drawn
    made, mean_loss = curve(*drawn), float(quarters.mean() / 4)
    accepted = [confidences >= threshold for threshold in confidences]
    within = [
        mask.mean() for mask in accepted if 4 * quarters[mask].sum() <= sixteenths * mask.sum()
    ]
    assert made.coverage_at_risk(sixteenths / 16) == pytest.approx(max(within, default=0))
    assert made.coverage_at_risk(mean_loss) == 1
    assert made.risk_at_coverage(1.0) == pytest.approx(mean_loss)


@given(cases, st.lists(st.floats(0, 2), min_size=2, max_size=2).map(sorted))
def test_the_more_risk_is_allowed_the_more_is_covered(drawn, allowed):
    less, more = (curve(*drawn).coverage_at_risk(risk) for risk in allowed)
    assert less <= more


@given(columns(DISTINCT, QUARTERS, size=DISTINCT), st.data())
def test_of_a_single_class_without_ties_the_balanced_area_is_the_plain_one(drawn, data):
    quarters = drawn[1]
    made = curve(data.draw(orders(len(quarters))), quarters)
    balanced = made.balanced_aurc(np.zeros(len(quarters), dtype=int), num_classes=1)
    assert balanced == pytest.approx(made.aurc(), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_balanced_aurc_is_the_mean_over_samples_of_the_risk_at_their_threshold(seed):
    random = np.random.default_rng(seed)
    labels = random.choice(CLASSES, size=25, p=[0.7, 0.25, 0.05])
    confidences, losses = random.integers(3, size=25) / 2, np.round(random.exponential(size=25), 1)
    risks = []
    for threshold in confidences:
        accepted = confidences >= threshold
        classes = [accepted & (labels == k) for k in set(labels[accepted])]
        risks.append(np.mean([losses[members].mean() for members in classes]))
    found = RiskCoverage(confidences, losses).balanced_aurc(labels, num_classes=CLASSES)
    assert found == pytest.approx(np.mean(risks), abs=1e-12)


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
    difference = aurc_of_fd_shifts(confidences, errors) - RiskCoverage(confidences, errors).aurc()
    assert difference == pytest.approx((first - whole) / (2 * count), abs=1e-12)
    assert abs(difference) <= 0.5 / count


def test_over_a_large_tie_aurc_differs_from_fd_shifts_however_many_samples_there_are():
    confidences, errors = np.r_[1.0, np.zeros(99)], np.r_[0, np.ones(99, dtype=int)]
    # in random order the risk is 1 - 1/k after k samples; a straight line is far below it
    expected = 1 - sum(1 / k for k in range(1, 101)) / 100
    assert RiskCoverage(confidences, errors).aurc() == pytest.approx(expected)
    assert aurc_of_fd_shifts(confidences, errors) == pytest.approx(0.99 * 0.99 / 2)


@pytest.mark.parametrize("seed", range(3))
def test_augrc_of_errors_follows_from_their_auroc_and_rate(seed):
    random = np.random.default_rng(seed)
    confidences, errors = np.round(random.random(80), 1), random.random(80) < 0.3
    rate, separation = errors.mean(), roc_auc_score(~errors, confidences)
    expected = (1 - separation) * rate * (1 - rate) + rate**2 / 2
    assert RiskCoverage(confidences, errors).augrc() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("coverage", ["0.07", "0.55", "0.9", "0.95", "1.0"])
def test_the_number_of_accepted_samples_is_exact_at_every_size(coverage):
    for count in range(1, 201):
        accepted = ceil(Fraction(coverage) * count)
        errors = np.arange(count) == accepted - 1  # the last that is accepted is wrong
        found = RiskCoverage(-np.arange(float(count)), errors).risk_at_coverage(float(coverage))
        assert found == 1 / accepted


def test_coverage_at_risk_allows_the_rounding_of_a_sum():
    made = RiskCoverage(np.array([0.9, 0.8, 0.7]), np.array([0.1, 0.2, 0.3]))
    assert made.coverage_at_risk(0.2) == 1.0


@pytest.mark.parametrize("count", [7, 100, 150])
def test_coverage_at_risk_is_exact_at_every_error_rate(count):
    for wrong in range(1, count):
        made = RiskCoverage(np.zeros(count), np.arange(count) >= count - wrong)
        assert made.coverage_at_risk(wrong / count) == 1.0
        assert made.coverage_at_risk((wrong - 0.01) / count) == 0.0


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
