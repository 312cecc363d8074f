"""Laws of the metrics of selective prediction, and brute force over orders in fractions."""

from fractions import Fraction
from itertools import pairwise, permutations
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DISTINCT, columns, heights, orders

from misgiving.metrics.selective import (
    augrc,
    aurc,
    balanced_aurc,
    coverage_at_risk,
    excess_aurc,
    risk_at_coverage,
)

QUARTERS = 6  # losses are these many quarters, which floats add without rounding
CLASSES = 3
AREAS = {"aurc": aurc, "excess_aurc": excess_aurc, "augrc": augrc}
cases = columns(DISTINCT, QUARTERS)
few_cases = columns(3, QUARTERS, size=5)
classified = columns(DISTINCT, QUARTERS, CLASSES)


def areas(confidences, quarters):
    return {
        name: measure(confidences.astype(float), quarters / 4) for name, measure in AREAS.items()
    }


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
    ("measure", "of_order"), [(aurc, mean_risk), (augrc, area_of_generalised_risk)]
)
@given(few_cases)
def test_an_area_is_its_mean_over_all_orders_of_acceptance(measure, of_order, drawn):
    confidences, quarters = drawn
    expected = mean(of_order(order, quarters) for order in orders_of_acceptance(confidences))
    assert measure(confidences / 2, quarters / 4) == pytest.approx(float(expected), abs=1e-12)


@given(few_cases)
def test_the_excess_is_the_difference_to_the_best_order(drawn):
    confidences, quarters = drawn
    every_order = permutations(range(len(quarters)))
    best = min(mean_risk(order, quarters) for order in every_order)
    excess = mean(mean_risk(o, quarters) for o in orders_of_acceptance(confidences)) - best
    assert excess_aurc(confidences / 2, quarters / 4) == pytest.approx(float(excess), abs=1e-12)


@given(few_cases, st.integers(1, 100))
def test_the_risk_at_a_coverage_is_its_mean_over_all_orders_of_acceptance(drawn, percent):
    confidences, quarters = drawn
    first = ceil(Fraction(percent, 100) * len(quarters))
    expected = mean(risks(o, quarters)[first - 1] for o in orders_of_acceptance(confidences))
    found = risk_at_coverage(confidences / 2, quarters / 4, percent / 100)
    assert found == pytest.approx(float(expected), abs=1e-12)


@given(cases, heights())
def test_no_strictly_increasing_map_of_the_confidence_changes_an_area(drawn, steps):
    confidences, quarters = drawn
    assert areas(steps[confidences], quarters) == areas(confidences, quarters)


@given(cases, st.data())
def test_the_order_of_samples_changes_no_area(drawn, data):
    order = data.draw(orders(len(drawn[0])))
    shuffled = areas(*(column[order] for column in drawn))
    assert shuffled == pytest.approx(areas(*drawn), abs=1e-12)


@given(cases)
def test_areas_lie_between_the_extremes_of_the_loss(drawn):
    confidences, quarters = drawn
    found, losses = areas(confidences, quarters), quarters / 4
    assert losses.min() - 1e-12 <= found["aurc"] <= losses.max() + 1e-12
    assert -1e-12 <= found["excess_aurc"] <= found["aurc"] + 1e-12
    assert -1e-12 <= found["augrc"] <= losses.mean() + 1e-12


@given(cases, st.integers(1, 7))
def test_areas_are_in_units_of_the_loss(drawn, factor):
    confidences, quarters = drawn
    expected = {name: factor * value for name, value in areas(confidences, quarters).items()}
    assert areas(confidences, factor * quarters) == pytest.approx(expected, abs=1e-11)


@given(cases, st.integers(1, 20))
def test_a_constant_added_to_the_loss_is_added_to_aurc_and_leaves_its_excess(drawn, quarters_more):
    confidences, quarters = drawn
    before, after = areas(confidences, quarters), areas(confidences, quarters + quarters_more)
    assert after["aurc"] == pytest.approx(before["aurc"] + quarters_more / 4, abs=1e-11)
    assert after["excess_aurc"] == pytest.approx(before["excess_aurc"], abs=1e-11)


@given(cases)
def test_augrc_of_an_order_and_of_its_reverse_sum_to_the_mean_loss(drawn):
    confidences, quarters = drawn
    both = augrc(confidences / 2, quarters / 4) + augrc(-confidences / 2, quarters / 4)
    assert both == pytest.approx(quarters.mean() / 4, abs=1e-12)


@given(cases, st.integers(2, 4))
def test_repeating_every_sample_leaves_the_generalised_area(drawn, times):
    confidences, quarters = (np.repeat(column, times) for column in drawn)
    expected = areas(*drawn)["augrc"]
    assert areas(confidences, quarters)["augrc"] == pytest.approx(expected, abs=1e-12)


@given(cases)
def test_a_confidence_that_falls_with_the_loss_has_no_excess(drawn):
    confidences, quarters = drawn
    assert areas(-quarters, quarters)["excess_aurc"] == 0
    assert areas(-quarters, quarters)["aurc"] <= areas(confidences, quarters)["aurc"] + 1e-12


@given(cases, st.integers(0, 4 * QUARTERS))
def test_the_coverage_at_a_risk_is_the_largest_of_a_threshold_within_it(drawn, sixteenths):
    confidences, quarters = drawn
    accepted = [confidences >= threshold for threshold in confidences]
    within = [
        mask.mean() for mask in accepted if 4 * quarters[mask].sum() <= sixteenths * mask.sum()
    ]
    found = coverage_at_risk(confidences / 2, quarters / 4, sixteenths / 16)
    assert found == pytest.approx(max(within, default=0))


@given(cases, st.lists(st.floats(0, 2), min_size=2, max_size=2).map(sorted))
def test_the_more_risk_is_allowed_the_more_is_covered(drawn, allowed):
    confidences, quarters = drawn
    less, more = (coverage_at_risk(confidences / 2, quarters / 4, risk) for risk in allowed)
    assert less <= more


@given(cases)
def test_full_coverage_has_the_mean_loss_as_risk(drawn):
    confidences, quarters = drawn[0] / 2, drawn[1] / 4
    assert risk_at_coverage(confidences, quarters, 1.0) == pytest.approx(quarters.mean())
    assert coverage_at_risk(confidences, quarters, float(quarters.mean())) == 1


@given(classified, st.permutations(range(CLASSES)), heights())
def test_neither_class_names_nor_a_map_of_the_confidence_change_a_balanced_area(
    drawn, names, steps
):
    confidences, quarters, labels = drawn
    plain = balanced_aurc(confidences / 2, quarters / 4, labels, num_classes=CLASSES)
    renamed = balanced_aurc(
        steps[confidences], quarters / 4, np.array(names)[labels], num_classes=CLASSES
    )
    assert renamed == pytest.approx(plain, abs=1e-12)


@given(columns(DISTINCT, QUARTERS, size=DISTINCT), st.data())
def test_of_a_single_class_without_ties_the_balanced_area_is_the_plain_one(drawn, data):
    quarters = drawn[1]
    confidences = data.draw(orders(len(quarters))) / 2
    one_class = np.zeros(len(quarters), dtype=int)
    found = balanced_aurc(confidences, quarters / 4, one_class, num_classes=1)
    assert found == pytest.approx(aurc(confidences, quarters / 4), abs=1e-12)


@given(classified, st.integers(2, 4))
def test_repeating_every_sample_leaves_the_balanced_area(drawn, times):
    once, repeated = (
        balanced_aurc(confidences / 2, quarters / 4, labels, num_classes=CLASSES)
        for confidences, quarters, labels in (drawn, [np.repeat(of, times) for of in drawn])
    )
    assert repeated == pytest.approx(once, abs=1e-12)
