import numpy as np
import pytest
from scipy import stats

from misgiving.deferral.bounds import (
    cases_for_tolerance,
    lower_bound,
    tolerance_rank,
    two_sided_interval,
    upper_bound,
)

PROBABILITIES = np.linspace(0.001, 0.999, 400)


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


def test_without_cases_the_bounds_are_0_and_1():
    assert (float(lower_bound(0, 0, level=0.1)), float(upper_bound(0, 0, level=0.1))) == (0.0, 1.0)


def test_a_tiny_level_loses_no_digits():
    bound = float(upper_bound(3, 100, level=1e-13))
    assert stats.binom.cdf(3, 100, bound) == pytest.approx(1e-13, rel=1e-6)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("level", [0.05, 0.025])
def test_fewer_cases_than_those_for_a_tolerance_limit_have_none(rate, level):
    cases = cases_for_tolerance(rate=rate, level=level)
    ranks = [tolerance_rank(n, rate=rate, level=level) for n in (cases - 1, cases)]
    assert ranks == [0, 1]


def test_so_many_cases_have_a_tolerance_limit_also_where_the_level_is_a_power():
    # As at 0.64**2, where by rounding the 2 cases that the logarithms give have no rank.
    for rate in np.arange(1, 100) / 100:
        for power in range(1, 11):
            level = float((1 - rate) ** power)
            cases = cases_for_tolerance(rate=float(rate), level=level)
            assert tolerance_rank(cases, rate=float(rate), level=level) > 0
