from itertools import product

import numpy as np
import pytest
from scipy import stats

from misgiving.deferral.bounds import conformal_p_values, kth_lowest, tolerance_rank
from misgiving.deferral.settings import Targets
from misgiving.deferral.thresholds import CertificationPlan, ScoredCases


def every_draw(cells, cases):
    """All counts of cases by cell."""
    for counts in product(range(cases + 1), repeat=cells - 1):
        if sum(counts) <= cases:
            yield [*counts, cases - sum(counts)]


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


def test_the_error_above_a_limit_that_the_same_cases_set_is_certified_exactly():
    # Pairs of OOD score and error: only familiar images (OOD score 1) can be wrong.
    cells, shares, cases, max_error = [(0, 0), (1, 0), (1, 1)], (0.6, 0.2, 0.2), 12, 0.45
    plan = CertificationPlan(  # one threshold, accepting everything, that has the whole level
        targets=Targets(
            max_error=max_error, confidence=0.8, max_ood_false_alarms=0.9, simultaneous=False
        ),
        classes=("a",),
        thresholds=np.array([-np.inf]),
        rank=2,
        accepted=np.array([50]),
        wrong=np.array([5]),
        expected=cases - 2,
    )
    missed = 0.0
    for counts in every_draw(len(cells), cases):
        ood_score, wrong = np.repeat(np.array(cells), counts, axis=0).T
        counted = plan.count(
            ScoredCases(
                scores=np.zeros(cases),
                ood_scores=ood_score.astype(float),
                wrong=wrong.astype(bool),
                labels=np.zeros(cases, dtype=int),
                acceptable=np.ones(cases, dtype=bool),
            )
        )
        # half of the images above a limit of 0 are wrong; above 1 there are none
        if plan.loosest_certified(counted) >= 0 and counted.ood_limit == 0:
            missed += stats.multinomial.pmf(counts, cases, shares)
    assert 0.05 < missed <= 0.2


@pytest.mark.parametrize("level", [0.1, 0.25, 0.5])
def test_p_values_of_images_like_the_calibration_cases_are_valid(level):
    random = np.random.default_rng(0)
    drawn = random.integers(8, size=(1000, 12)) / 8  # tied, as after rounding
    p_values = [conformal_p_values(row[:1], np.sort(row[1:]))[0] for row in drawn]
    share = np.mean(np.array(p_values) <= level)
    assert share <= level + 3 * np.sqrt(level * (1 - level) / len(drawn))  # else by chance: 0.2 %


def test_p_values_of_the_least_and_the_most_familiar_image_and_of_none():
    p_values = conformal_p_values(np.array([-5.0, 50.0, np.nan]), np.arange(9.0))
    np.testing.assert_array_equal(p_values, [0.1, 1.0, np.nan])
