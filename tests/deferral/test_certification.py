from itertools import combinations
from math import factorial, prod

import numpy as np
import pytest
from scipy import stats

from misgiving.deferral.multiple_testing import fallback_procedure, fixed_sequence, loosest

LEVELS = np.array([0.05, 0.15, 0.05])


def every_count(cells, cases):
    """All ways to distribute the cases over the cells."""
    for bars in combinations(range(cases + cells - 1), cells - 1):
        yield np.diff([-1, *bars, cases + cells - 1]) - 1


def chance(counts, probabilities):
    ways = factorial(sum(counts)) // prod(factorial(count) for count in counts)
    return ways * prod(p**n for p, n in zip(probabilities, counts, strict=True))


def in_loops(accepted, wrong, max_error, levels):
    rejected, carried = [], 0.0
    for n, k, level in zip(accepted, wrong, levels, strict=True):
        carried += level
        rejected.append(bool(stats.binom.cdf(k, n, max_error) <= carried))
        carried = carried if rejected[-1] else 0.0
    return rejected


def test_certified_thresholds_are_those_of_scalar_loops():
    random = np.random.default_rng(0)
    added = random.integers(30, size=(200, 6))
    wrong = np.cumsum(random.binomial(added, 0.15), axis=1)
    accepted, levels = np.cumsum(added, axis=1), np.full(6, 0.1)
    found = fallback_procedure(accepted, wrong, max_error=0.2, levels=levels)
    expected = [in_loops(n, k, 0.2, levels) for n, k in zip(accepted, wrong, strict=True)]
    np.testing.assert_array_equal(found, expected)
    assert 0.1 < found.mean() < 0.9


@pytest.mark.parametrize("risks", [(0.5, 0.5, 0.5), (0.2, 0.75, 0.5), (0.5, 0.48, 0.47)])
def test_no_threshold_is_certified_wrongly_more_often_than_the_levels_allow(risks):
    shares, max_error = np.array([0.4, 0.3, 0.3]), 0.45
    right, wrong = shares * (1 - np.array(risks)), shares * np.array(risks)
    beyond = np.cumsum(wrong) > max_error * np.cumsum(shares)
    broken = 0.0
    for counts in every_count(6, 10):
        n, k = np.cumsum(counts[:3] + counts[3:]), np.cumsum(counts[3:])
        found = fallback_procedure(n, k, max_error=max_error, levels=LEVELS)
        broken += chance(counts, [*right, *wrong]) * (found & beyond).any()
    assert 0.02 < broken <= LEVELS.sum()


def test_a_threshold_that_accepts_no_case_is_not_certified():
    none = np.zeros(2, dtype=int)
    assert not fallback_procedure(none, none, max_error=0.5, levels=np.array([0.5, 0.4])).any()


def test_a_level_is_lost_where_it_rejects_nothing():
    accepted, wrong = np.array([10, 40]), np.array([9, 9])
    level = float(stats.binom.cdf(9, 40, 0.4))
    alone = fallback_procedure(
        accepted, wrong, max_error=0.4, levels=np.array([0.9 * level, 0.2 * level])
    )
    assert alone.tolist() == [False, False]


@pytest.mark.parametrize("risks", [(0.26, 0.05), (0.1, 0.18), (0.15, 0.15)])
def test_no_class_is_missed_more_often_than_promised_but_for_the_level(risks):
    rate, level, cases = 0.25, 0.2, 15
    beyond = np.cumsum(risks) > rate
    broken = 0.0
    for counts in every_count(3, cases):
        found = fixed_sequence(np.cumsum(counts[:2]), cases, rate=rate, level=level)
        broken += chance(counts, [*risks, 1 - sum(risks)]) * (found & beyond).any()
    assert 0.02 < broken <= level


def test_beyond_the_first_threshold_that_fails_none_is_allowed():
    misses = np.array([[0, 5, 0], [5, 5, 5], [0, 0, 0]])
    found = fixed_sequence(misses, np.array([50, 50, 200]), rate=0.1, level=0.05)
    assert found.tolist() == [[True, False, False], [False] * 3, [True] * 3]


def test_the_loosest_is_the_last_that_was_chosen():
    chosen = np.array([[True, False, True, False], [False] * 4])
    assert loosest(chosen).tolist() == [2, -1]
