from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from misgiving.deferral.bounds import (
    cases_for_tolerance,
    conformal_p_values,
    kth_lowest,
    lower_bound,
    tolerance_rank,
    two_sided_interval,
    upper_bound,
)
from misgiving.deferral.settings import Targets
from misgiving.deferral.thresholds import (
    CertificationPlan,
    ScoredCases,
    candidate_thresholds,
    fallback_procedure,
    fixed_sequence,
    starting_levels,
)

PROBABILITIES = np.linspace(0.001, 0.999, 400)
LEVELS = np.array([0.05, 0.15, 0.05])


@pytest.mark.parametrize("level", [0.05, 0.2])
@pytest.mark.parametrize("cases", [1, 2, 5, 12])
def test_a_bound_misses_no_probability_more_often_than_its_level(cases, level):
    counts = np.arange(cases + 1)
    chances = stats.binom.pmf(counts, cases, PROBABILITIES[:, None])
    too_low = upper_bound(counts, np.full(cases + 1, cases), level=level) < PROBABILITIES[:, None]
    too_high = lower_bound(counts, np.full(cases + 1, cases), level=level) > PROBABILITIES[:, None]
    for missed in (too_low, too_high):
        misses = (chances * missed).sum(axis=1)
        assert misses.max() <= level + 1e-12
        assert misses.max() > 0.9 * level  # and no bound could be tighter by much


@pytest.mark.parametrize(("count", "cases"), [(0, 7), (7, 7), (3, 40), (1, 1)])
def test_two_sided_intervals_are_those_of_scipy(count, cases):
    expected = stats.binomtest(count, cases).proportion_ci(0.95, method="exact")
    assert two_sided_interval(count, cases, level=0.05) == pytest.approx(
        (expected.low, expected.high)
    )


@pytest.mark.parametrize(("count", "cases"), [(0.3, 7.5), (7.2, 7.5), (3.5, 40.25)])
def test_effective_numbers_have_the_quantiles_of_beta_distributions(count, cases):
    low, high = two_sided_interval(count, cases, level=0.05)
    assert stats.beta.cdf(low, count, cases - count + 1) == pytest.approx(0.025)
    assert stats.beta.sf(high, count + 1, cases - count) == pytest.approx(0.025)


def test_a_tiny_level_loses_no_digits():
    bound = float(upper_bound(3, 100, level=1e-13))
    assert stats.binom.cdf(3, 100, bound) == pytest.approx(1e-13, rel=1e-6)


def test_so_many_cases_have_a_tolerance_limit_also_where_the_level_is_a_power_and_fewer_none():
    # As at 0.64**2, where by rounding the 2 cases that the logarithms give have no rank.
    for rate in (np.arange(1, 100) / 100).tolist():
        for level in (0.051, 0.026, *((1 - rate) ** power for power in range(1, 11))):
            cases = cases_for_tolerance(rate=rate, level=level)
            assert tolerance_rank(cases, rate=rate, level=level) > 0
            if level in (0.051, 0.026):
                assert tolerance_rank(cases - 1, rate=rate, level=level) == 0


def test_candidate_thresholds_accept_even_steps_of_the_tuning_set():
    scores = np.random.default_rng(0).random(500)
    accepted = [(scores >= threshold).sum() for threshold in candidate_thresholds(scores)]
    assert accepted == list(range(10, 501, 10))
    for count in (2, 7, 50, 333):
        assert len(candidate_thresholds(scores[:count])) == min(count, 50)


def power(cases, risk, max_error, level):
    passing = [k for k in range(cases + 1) if stats.binom.cdf(k, cases, max_error) <= level]
    return stats.binom.cdf(passing[-1], cases, risk) if passing and cases else 0.0


@pytest.mark.parametrize("max_error", [0.05, 0.1, 0.3])
def test_most_of_the_level_starts_where_power_and_coverage_are_best(max_error):
    accepted, wrong = np.array([40, 80, 120, 160, 200]), np.array([0, 2, 7, 20, 60])
    levels = starting_levels(accepted, wrong, cases=300, max_error=max_error, level=0.05)
    values = [
        power(round(300 * n / 200), (k + 1) / (n + 2), max_error, 0.045) * (n / 200) ** 0.05
        for n, k in zip(accepted, wrong, strict=True)
    ]
    expected = np.full(5, 0.001)
    expected[np.argmax(values)] += 0.045
    np.testing.assert_allclose(levels, expected)


def test_a_few_cases_without_an_error_do_not_count_as_zero_risk():
    levels = starting_levels(
        np.array([10, 200]), np.array([0, 18]), cases=1000, max_error=0.1, level=0.05
    )
    assert np.argmax(levels) == 1


def every_count(cells, cases):
    """All ways to distribute the cases over the cells."""
    for bars in combinations(range(cases + cells - 1), cells - 1):
        yield np.diff([-1, *bars, cases + cells - 1]) - 1


def chances(counts, probabilities):
    """Multinomial probability of each row of counts."""
    return stats.multinomial.pmf(counts, counts[0].sum(), probabilities)


@pytest.mark.parametrize("risks", [(0.5, 0.5, 0.5), (0.2, 0.75, 0.5), (0.5, 0.48, 0.47)])
def test_no_threshold_is_certified_wrongly_more_often_than_the_levels_allow(risks):
    shares, max_error = np.array([0.4, 0.3, 0.3]), 0.45
    right, wrong = shares * (1 - np.array(risks)), shares * np.array(risks)
    beyond = np.cumsum(wrong) > max_error * np.cumsum(shares)
    counts = np.array(list(every_count(6, 10)))
    accepted = np.cumsum(counts[:, :3] + counts[:, 3:], axis=1)
    mistaken = np.cumsum(counts[:, 3:], axis=1)
    found = fallback_procedure(accepted, mistaken, max_error=max_error, levels=LEVELS)
    missed = chances(counts, [*right, *wrong]) @ (found & beyond).any(axis=1)
    assert 0.02 < missed <= LEVELS.sum()


@pytest.mark.parametrize("risks", [(0.26, 0.05), (0.1, 0.18), (0.15, 0.15)])
def test_no_class_is_missed_above_its_target_more_often_than_the_level_allows(risks):
    rate, level, cases = 0.25, 0.2, 15
    beyond = np.cumsum(risks) > rate
    counts = np.array(list(every_count(3, cases)))
    misses = np.cumsum(counts[:, :2], axis=1)
    found = fixed_sequence(misses, np.full(len(misses), cases), rate=rate, level=level)
    missed = chances(counts, [*risks, 1 - sum(risks)]) @ (found & beyond).any(axis=1)
    assert 0.02 < missed <= level


@pytest.mark.parametrize("shares", [(0.15, 0.05, 0.8), (0.25, 0.25, 0.5), (0.3, 0.1, 0.6)])
def test_few_are_called_ood_even_where_scores_are_tied(shares):
    rate, level, cases = 0.24, 0.2, 12
    rank = tolerance_rank(cases, rate=rate, level=level)
    counts = np.array(list(every_count(3, cases)))
    limits = [kth_lowest(np.repeat([0.0, 1.0, 2.0], row), rank) for row in counts]
    below = np.array([sum(x for at, x in enumerate(shares) if at < limit) for limit in limits])
    assert chances(counts, shares) @ (below > rate) <= level


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
    counts = np.array(list(every_count(len(cells), cases)))
    ood_scores, wrong = np.array([np.repeat(cells, row, axis=0).T for row in counts]).swapaxes(0, 1)
    counted = plan.count(
        ScoredCases(
            scores=np.zeros(wrong.shape),
            ood_scores=ood_scores.astype(float),
            wrong=wrong.astype(bool),
            labels=np.zeros_like(wrong),
            acceptable=np.ones(wrong.shape, dtype=bool),
        )
    )
    # half of the images above a limit of 0 are wrong; above 1 there are none
    is_missed = (plan.loosest_certified(counted) >= 0) & (counted.ood_limit == 0)
    assert 0.05 < chances(counts, shares) @ is_missed <= 0.2


def test_p_values_of_the_least_and_the_most_familiar_image_and_of_none():
    p_values = conformal_p_values(np.array([-5.0, 50.0, np.nan]), np.arange(9.0))
    np.testing.assert_array_equal(p_values, [0.1, 1.0, np.nan])
