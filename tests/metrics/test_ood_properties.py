"""Laws of the OOD metrics, and their definitions in fractions."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DISTINCT, heights, orders, ranks

from misgiving.metrics.ood import ood_metrics

MEASURES = (
    "fpr_at_tpr95",
    "detection_error",
    "auroc",
    "aupr_in",
    "aupr_out",
    "average_precision_in",
    "average_precision_out",
)
AT_BEST = dict.fromkeys(MEASURES, 1.0) | {"fpr_at_tpr95": 0.0, "detection_error": 0.0}


def measures(inliers, outliers):
    return ood_metrics(inliers.astype(float), outliers.astype(float))


def rates(inliers, outliers):
    """Accepted shares of either set at each threshold, from accepting none to accepting all."""
    for threshold in range(DISTINCT, -1, -1):
        yield tuple(
            Fraction(int((of_set >= threshold).sum()), len(of_set))
            for of_set in (inliers, outliers)
        )


def fpr_in_fractions(inliers, outliers):
    return next(f for t, f in rates(inliers, outliers) if t >= Fraction(95, 100))


def detection_error_in_fractions(inliers, outliers):
    return min((1 - true + false) / 2 for true, false in rates(inliers, outliers))


def auroc_in_fractions(inliers, outliers):
    wins = sum(2 * int(i > o) + int(i == o) for i in inliers for o in outliers)
    return Fraction(wins, 2 * len(inliers) * len(outliers))


def precision_and_recall(positives, negatives):
    """At each threshold; precision is 1 while nothing is accepted."""
    points = []
    for true, false in rates(positives, negatives):
        accepted = true * len(positives) + false * len(negatives)
        points.append((true * len(positives) / accepted if accepted else Fraction(1), true))
    return points


def aupr_in_fractions(positives, negatives):
    points = precision_and_recall(positives, negatives)
    return sum((q - p) * (a + b) / 2 for (a, p), (b, q) in pairwise(points))


def average_precision_in_fractions(positives, negatives):
    points = precision_and_recall(positives, negatives)
    return sum((q - p) * b for (_, p), (b, q) in pairwise(points))


def turned(of_fractions):
    top = DISTINCT - 1
    return lambda inliers, outliers: of_fractions(top - outliers, top - inliers)


IN_FRACTIONS = {
    "fpr_at_tpr95": fpr_in_fractions,
    "detection_error": detection_error_in_fractions,
    "auroc": auroc_in_fractions,
    "aupr_in": aupr_in_fractions,
    "aupr_out": turned(aupr_in_fractions),
    "average_precision_in": average_precision_in_fractions,
    "average_precision_out": turned(average_precision_in_fractions),
}


@pytest.mark.parametrize("name", MEASURES)
@given(inliers=ranks(), outliers=ranks())
def test_a_measure_is_its_definition_in_fractions(name, inliers, outliers):
    expected = float(IN_FRACTIONS[name](inliers, outliers))
    assert measures(inliers, outliers)[name] == pytest.approx(expected, abs=1e-12)


@given(ranks(), ranks())
def test_fpr_at_tpr95_needs_exactly_95_percent_of_the_inliers(inliers, outliers):
    inliers = np.repeat(inliers, 20)
    expected = float(fpr_in_fractions(inliers, outliers))
    assert measures(inliers, outliers)["fpr_at_tpr95"] == pytest.approx(expected, abs=1e-12)


@given(ranks(), ranks())
def test_every_measure_lies_between_0_and_1_and_no_detection_error_is_above_one_half(
    inliers, outliers
):
    found = measures(inliers, outliers)
    assert all(0 <= value <= 1 for value in found.values())
    assert found["detection_error"] <= 0.5


@given(ranks(), ranks(), heights())
def test_no_strictly_increasing_map_of_the_confidence_changes_a_measure(inliers, outliers, steps):
    assert measures(steps[inliers], steps[outliers]) == measures(inliers, outliers)


@given(ranks(), ranks(), st.data())
def test_the_order_of_samples_changes_no_measure(inliers, outliers, data):
    shuffled = (of_set[data.draw(orders(len(of_set)))] for of_set in (inliers, outliers))
    assert measures(*shuffled) == measures(inliers, outliers)


@given(ranks(), ranks(), st.integers(2, 5))
def test_repeating_every_sample_changes_no_measure(inliers, outliers, times):
    repeated = measures(np.repeat(inliers, times), np.repeat(outliers, times))
    assert repeated == pytest.approx(measures(inliers, outliers), abs=1e-12)


@given(ranks(), ranks())
def test_repeating_the_outliers_changes_no_measure_of_rates(inliers, outliers):
    once, twice = measures(inliers, outliers), measures(inliers, np.repeat(outliers, 2))
    for name in ("fpr_at_tpr95", "detection_error", "auroc"):
        assert twice[name] == pytest.approx(once[name], abs=1e-12)


@given(ranks(), ranks())
def test_swapping_the_sets_turns_the_auroc_into_its_complement(inliers, outliers):
    swapped = measures(outliers, inliers)["auroc"]
    assert swapped == pytest.approx(1 - measures(inliers, outliers)["auroc"], abs=1e-12)


@given(ranks(), ranks())
def test_negating_and_swapping_the_sets_swaps_in_and_out(inliers, outliers):
    plain, swapped = measures(inliers, outliers), measures(-outliers, -inliers)
    for name in ("auroc", "detection_error"):
        assert swapped[name] == pytest.approx(plain[name], abs=1e-12)
    for name in ("aupr", "average_precision"):
        assert swapped[f"{name}_in"] == pytest.approx(plain[f"{name}_out"], abs=1e-12)


@given(ranks(), ranks())
def test_sets_separated_by_a_threshold_have_perfect_metrics(inliers, outliers):
    assert measures(inliers + DISTINCT, outliers) == AT_BEST


@given(ranks(), ranks(), st.data())
def test_a_higher_confidence_of_an_inlier_makes_no_rate_worse(inliers, outliers, data):
    raised = inliers.copy()
    raised[data.draw(st.integers(0, len(inliers) - 1))] += data.draw(st.integers(1, DISTINCT))
    before, after = measures(inliers, outliers), measures(raised, outliers)
    assert after["auroc"] >= before["auroc"]
    assert after["fpr_at_tpr95"] <= before["fpr_at_tpr95"]
    assert after["detection_error"] <= before["detection_error"]


@given(ranks(), ranks())
def test_no_detection_error_exceeds_that_at_95_percent_of_the_inliers(inliers, outliers):
    found = measures(inliers, outliers)
    assert found["detection_error"] <= (0.05 + found["fpr_at_tpr95"]) / 2 + 1e-12


@given(ranks(), ranks())
def test_confidences_that_are_all_equal_are_no_better_than_chance(inliers, outliers):
    found = measures(np.zeros_like(inliers), np.zeros_like(outliers))
    assert (found["auroc"], found["detection_error"], found["fpr_at_tpr95"]) == (0.5, 0.5, 1.0)
    share = len(inliers) / (len(inliers) + len(outliers))
    assert found["average_precision_in"] == pytest.approx(share)
