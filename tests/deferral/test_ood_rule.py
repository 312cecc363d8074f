from itertools import product

import numpy as np
import pytest
from scipy import stats

from misgiving.deferral.bounds import conformal_p_values, kth_lowest, tolerance_rank
from misgiving.deferral.scored_cases import ScoredCases
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import CertificationPlan


@pytest.mark.parametrize("shares", [(0.15, 0.05, 0.8), (0.25, 0.25, 0.5), (0.3, 0.1, 0.6)])
def test_few_are_called_ood_even_where_scores_are_tied(shares):
    rate, level, cases = 0.24, 0.2, 12
    rank = tolerance_rank(cases, rate=rate, level=level)
    missed = 0.0
    for counts in every_draw(3, cases):
        limit = kth_lowest(np.repeat([0.0, 1.0, 2.0], counts), rank)
        below = sum(share for at, share in enumerate(shares) if at < limit)
        missed += stats.multinomial.pmf(counts, cases, shares) * (below > rate)
    assert missed <= level


def plan_for_all(max_error, rank, cases):
    """A plan with one threshold, accepting everything, that has the whole level."""
    return CertificationPlan(
        targets=Targets(
            max_error=max_error, confidence=0.8, max_ood_false_alarms=0.9, simultaneous=False
        ),
        classes=("a",),
        cases=cases,
        thresholds=np.array([-np.inf]),
        rank=rank,
        accepted=np.array([50]),
        wrong=np.array([5]),
        expected=cases - rank,
    )


def every_draw(cells, cases):
    """All counts of cases by cell."""
    for counts in product(range(cases + 1), repeat=cells - 1):
        if sum(counts) <= cases:
            yield [*counts, cases - sum(counts)]


def test_the_error_above_a_limit_that_the_same_cases_set_is_certified_exactly():
    # Pairs of OOD score and error: only familiar images (OOD score 1) can be wrong.
    cells, shares, cases, max_error = [(0, 0), (1, 0), (1, 1)], (0.6, 0.2, 0.2), 12, 0.45
    plan, missed = plan_for_all(max_error, 2, cases), 0.0
    for counts in every_draw(len(cells), cases):
        ood_score, wrong = np.repeat(np.array(cells), counts, axis=0).T
        found = plan.count(
            ScoredCases(
                scores=np.zeros(cases),
                ood_scores=ood_score.astype(float),
                wrong=wrong.astype(bool),
                labels=np.zeros(cases, dtype=int),
            )
        )
        too_many = (
            found.ood_limit == 0
        )  # half of the images above it are wrong; above 1 there are none
        if plan.loosest_certified(found) >= 0 and too_many:
            missed += stats.multinomial.pmf(counts, cases, shares)
    assert 0.05 < missed <= 0.2


@pytest.mark.parametrize("level", [0.1, 0.25, 0.5])
def test_p_values_of_images_like_the_calibration_cases_are_valid(level):
    random = np.random.default_rng(0)
    drawn = random.integers(8, size=(1000, 12)) / 8  # tied, as after rounding
    p_values = [conformal_p_values(row[:1], np.sort(row[1:]))[0] for row in drawn]
    share = np.mean(np.array(p_values) <= level)
    assert share <= level + 3 * np.sqrt(level * (1 - level) / len(drawn))  # else by chance: 0.2 %


def test_the_least_familiar_image_of_all_has_the_smallest_p_value():
    assert conformal_p_values(np.array([-5.0]), np.arange(9.0)).tolist() == [0.1]
    assert conformal_p_values(np.array([50.0]), np.arange(9.0)).tolist() == [1.0]


def test_a_nan_score_has_a_nan_p_value():
    assert np.isnan(conformal_p_values(np.array([np.nan]), np.arange(9.0))).all()
