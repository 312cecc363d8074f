import numpy as np
import pytest
from scipy import stats

from misgiving.deferral.multiple_testing import (
    candidate_thresholds,
    counts_by_threshold,
    starting_levels,
)


@pytest.mark.parametrize("count", [2, 7, 50, 333])
def test_candidates_are_few_and_distinct_and_end_with_accepting_everything(count):
    scores = np.random.default_rng(count).random(count)
    thresholds = candidate_thresholds(scores)
    assert len(thresholds) == min(count, 50)
    assert (np.diff(thresholds) < 0).all()
    assert thresholds[-1] == -np.inf


def test_candidates_accept_even_steps_of_the_tune_part():
    scores = np.random.default_rng(0).random(500)
    accepted = [(scores >= threshold).sum() for threshold in candidate_thresholds(scores)]
    assert accepted == list(range(10, 501, 10))


def test_the_lowest_score_is_no_candidate_beside_accepting_everything():
    scores = np.array([0.2, 0.2, 0.2, 0.9])
    np.testing.assert_array_equal(candidate_thresholds(scores), [0.9, -np.inf])


def test_counts_are_those_of_scalar_loops():
    random = np.random.default_rng(0)
    scores, counted = random.integers(6, size=(3, 40)) / 5, random.random((3, 40)) < 0.4
    thresholds = np.array([1.0, 0.6, 0.5, 0.2, -np.inf])
    expected = [
        [sum(c and s >= t for s, c in zip(*row, strict=True)) for t in thresholds]
        for row in zip(scores, counted, strict=True)
    ]
    np.testing.assert_array_equal(counts_by_threshold(scores, counted, thresholds), expected)


def power(cases, risk, max_error, level):
    passing = [k for k in range(cases + 1) if stats.binom.cdf(k, cases, max_error) <= level]
    return stats.binom.cdf(passing[-1], cases, risk) if passing and cases else 0.0


@pytest.mark.parametrize("max_error", [0.05, 0.1, 0.3])
def test_most_of_the_level_starts_where_power_and_coverage_are_best(max_error):
    accepted, wrong = np.array([40, 80, 120, 160, 200]), np.array([0, 2, 7, 20, 60])
    levels = starting_levels(accepted, wrong, cases=300, max_error=max_error, level=0.05)
    values = [
        power(round(300 * n / 200), (k + 1) / (n + 2), max_error, 0.04) * (n / 200) ** 0.2
        for n, k in zip(accepted, wrong, strict=True)
    ]
    expected = np.full(5, 0.002)
    expected[np.argmax(values)] += 0.04
    np.testing.assert_allclose(levels, expected)


def test_a_few_cases_without_an_error_are_not_taken_for_a_risk_of_zero():
    levels = starting_levels(
        np.array([10, 200]), np.array([0, 18]), cases=1000, max_error=0.1, level=0.05
    )
    assert np.argmax(levels) == 1


def test_levels_of_few_candidates_still_add_up():
    levels = starting_levels(np.array([3, 5]), np.array([0, 0]), cases=10, max_error=0.5, level=0.1)
    assert levels.sum() == pytest.approx(0.1)
