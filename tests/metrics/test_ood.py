"""Laws of the OOD metrics, their definitions in fractions, and the answers of other programs."""

from fractions import Fraction
from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import auc, average_precision_score, precision_recall_curve
from strategies import DISTINCT, ranks

from misgiving.errors import UsageError
from misgiving.metrics.ood import ood_metrics


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
AT_BEST = dict.fromkeys(IN_FRACTIONS, 1.0) | {"fpr_at_tpr95": 0.0, "detection_error": 0.0}


@pytest.mark.parametrize("name", IN_FRACTIONS)
@given(inliers=ranks(), outliers=ranks())
def test_a_measure_is_its_definition_in_fractions(name, inliers, outliers):
    expected = float(IN_FRACTIONS[name](inliers, outliers))
    assert measures(inliers, outliers)[name] == pytest.approx(expected, abs=1e-12)


@given(ranks(), ranks())
def test_measures_lie_between_0_and_1_and_the_detection_error_below_its_limits(inliers, outliers):
    found = measures(inliers, outliers)
    assert all(0 <= value <= 1 for value in found.values())
    assert found["detection_error"] <= min(0.5, (0.05 + found["fpr_at_tpr95"]) / 2 + 1e-12)


@given(ranks(), ranks())
def test_repeating_the_outliers_changes_no_measure_of_rates(inliers, outliers):
    once, twice = measures(inliers, outliers), measures(inliers, np.repeat(outliers, 2))
    for name in ("fpr_at_tpr95", "detection_error", "auroc"):
        assert twice[name] == pytest.approx(once[name], abs=1e-12)


@given(ranks(), ranks())
def test_swapping_the_sets_mirrors_the_auroc_and_negating_too_swaps_in_and_out(inliers, outliers):
    plain, swapped = measures(inliers, outliers), measures(-outliers, -inliers)
    assert measures(outliers, inliers)["auroc"] == pytest.approx(1 - plain["auroc"], abs=1e-12)
    for name in ("auroc", "detection_error"):
        assert swapped[name] == pytest.approx(plain[name], abs=1e-12)
    for name in ("aupr", "average_precision"):
        assert swapped[f"{name}_in"] == pytest.approx(plain[f"{name}_out"], abs=1e-12)


@given(ranks(), ranks())
def test_separated_sets_have_perfect_metrics_and_equal_confidences_those_of_chance(
    inliers, outliers
):
    assert measures(inliers + DISTINCT, outliers) == AT_BEST
    found = measures(np.zeros_like(inliers), np.zeros_like(outliers))
    assert (found["auroc"], found["detection_error"], found["fpr_at_tpr95"]) == (0.5, 0.5, 1.0)
    share = len(inliers) / (len(inliers) + len(outliers))
    assert found["average_precision_in"] == pytest.approx(share)


@given(ranks(), ranks(), st.data())
def test_a_higher_confidence_of_an_inlier_makes_no_rate_worse(inliers, outliers, data):
    raised = inliers.copy()
    raised[data.draw(st.integers(0, len(inliers) - 1))] += data.draw(st.integers(1, DISTINCT))
    before, after = measures(inliers, outliers), measures(raised, outliers)
    assert after["auroc"] >= before["auroc"]
    assert after["fpr_at_tpr95"] <= before["fpr_at_tpr95"]
    assert after["detection_error"] <= before["detection_error"]


def confidences(seed, inliers=41, outliers=29):
    """Two overlapping sets on a coarse grid, so that many confidences are tied."""
    random = np.random.default_rng(seed)
    return np.round(random.normal(1, 1, inliers), 1), np.round(random.normal(0, 1, outliers), 1)


def aupr_of_odin_pytorch(positives, negatives):
    """Precision TPR / (TPR + FPR), in rectangles with the precision of the stricter threshold."""
    area, looser, last = 0.0, 1.0, 0.0
    for threshold in sorted({*positives, *negatives}):
        recall, fpr = np.mean(positives >= threshold), np.mean(negatives >= threshold)
        last = recall / (recall + fpr)
        area += (looser - recall) * last
        looser = recall
    return area + looser * last


def test_aupr_is_near_that_of_odin_pytorch_for_sets_of_one_size_and_else_depends_on_the_sizes():
    random = np.random.default_rng(0)
    inliers, outliers = random.normal(1, 1, 1000), random.normal(0, 1, 1000)
    for name, sides in (("in", (inliers, outliers)), ("out", (-outliers, -inliers))):
        expected = pytest.approx(aupr_of_odin_pytorch(*sides), abs=2e-3)
        assert ood_metrics(inliers, outliers)[f"aupr_{name}"] == expected
    inliers, outliers = random.normal(size=9000), random.normal(size=1000)  # no signal at all
    measured = ood_metrics(inliers, outliers)
    assert measured["aupr_in"] == pytest.approx(0.9, abs=0.02)
    assert measured["aupr_out"] == pytest.approx(0.1, abs=0.02)
    assert aupr_of_odin_pytorch(inliers, outliers) == pytest.approx(0.5, abs=0.02)
    assert aupr_of_odin_pytorch(-outliers, -inliers) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_areas_under_precision_are_those_of_scikit_learn(seed):
    inliers, outliers = confidences(seed)
    measured = ood_metrics(inliers, outliers)
    assert measured.keys() == IN_FRACTIONS.keys()
    for side, sets in {"in": (inliers, outliers), "out": (-outliers, -inliers)}.items():
        truth = np.repeat([1, 0], list(map(len, sets))), np.concatenate(sets)
        precision, recall, _ = precision_recall_curve(*truth)
        assert measured[f"aupr_{side}"] == pytest.approx(auc(recall, precision), abs=1e-12)
        average = average_precision_score(*truth)
        assert measured[f"average_precision_{side}"] == pytest.approx(average, abs=1e-12)


def test_weights_of_one_set_and_none_of_the_other_broadcast():
    inliers, outliers = confidences(0)
    weights = np.random.default_rng(0).poisson(1, size=(2, 3, 29))
    alone = ood_metrics(inliers, outliers, outlier_weights=weights)
    both = ood_metrics(inliers, outliers, inlier_weights=np.ones((3, 41)), outlier_weights=weights)
    np.testing.assert_equal(alone, both)


def test_the_number_of_accepted_inliers_is_exact_at_every_size():
    for count in range(1, 201):
        values = np.arange(float(count))
        accepted = ceil(Fraction("0.95") * count)
        assert ood_metrics(values, values)["fpr_at_tpr95"] == accepted / count


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize(
    ("inliers", "outliers", "options", "name"),
    [
        ([0.5], [], {}, "outliers"),
        ([0.5, np.nan], [0.5], {}, "inliers"),
        ([0.5], [0.5], {"outlier_weights": np.ones((2, 7))}, "outlier_weights"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(inliers, outliers, options, name):
    with pytest.raises(UsageError, match=name):
        ood_metrics(np.array(inliers), np.array(outliers), **options)
