"""The confident guarantee: limits of wrong cases at ranks, against enumeration and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from misgiving.deferral.settings import Targets
from misgiving.deferral.thresholds import (
    CertificationPlan,
    ScoredCases,
    crossing_probability,
    limits_of_ranks,
    most_errors,
    ranks_to_test,
)


def enumerated(ranks, limits, probability):
    """The probability of every sequence of right and wrong cases that reaches a limit."""
    total = 0.0
    for wrong in itertools.product((0, 1), repeat=ranks[-1]):
        if any(sum(wrong[:rank]) <= limit for rank, limit in zip(ranks, limits, strict=True)):
            total += math.prod(probability if each else 1 - probability for each in wrong)
    return total


limits_by_rank = st.dictionaries(st.integers(1, 9), st.integers(-1, 4), min_size=1, max_size=4)


@given(limits_by_rank, st.floats(0.05, 0.9))
def test_the_crossing_probability_is_that_of_all_sequences(pairs, probability):
    ranks, limits = zip(*sorted(pairs.items()), strict=True)
    found = crossing_probability(np.array(ranks), np.array(limits), probability)
    assert found == pytest.approx(enumerated(ranks, limits, probability), abs=1e-9)


@given(st.integers(1, 300), st.floats(0.005, 0.5), st.floats(0.01, 0.2), st.integers(0, 9))
def test_limits_use_the_level_and_not_more(cases, max_error, level, seed):
    ranks = ranks_to_test(cases)
    weights = np.random.default_rng(seed).choice([0.1, 1.0], len(ranks))
    weights[-1] = 1
    limits = limits_of_ranks(tuple(ranks.tolist()), tuple(weights.tolist()), max_error, level)
    assert crossing_probability(ranks, limits, max_error) <= level * (1 + 1e-9)
    p_values = stats.binom.cdf(limits, ranks, max_error)
    assert (p_values[limits >= 0] <= level * (1 + 1e-9)).all()
    bonferroni = most_errors(ranks, max_error=max_error, level=weights * level / len(ranks))
    assert (limits >= bonferroni).all()


CURVES = {  # risk by share accepted, at or above the target somewhere
    "just above": lambda u, rate: np.full(len(u), 1.0001 * rate),
    "late": lambda u, rate: np.where(u < 0.5, 0.5 * rate, 1.5001 * rate),
    "steep": lambda u, rate: 2.0002 * rate * u,
    "most confident": lambda u, rate: np.where(u < 0.1, 1.5 * rate, 0.3 * rate),
    "touching": lambda u, rate: np.select([u < 0.3, u < 0.6], [0.0, 2.0001 * rate], 1.0001 * rate),
    "saw": lambda u, rate: np.where(u * 10 % 2 < 1, 2 * rate, 0.0002),
}


def drawn(random, count, curve, rate, steps):
    """Cases of a curve, whose scores are tied where there are few steps."""
    shares = random.random(count)
    return ScoredCases(
        scores=-np.ceil(shares * steps) / steps,
        ood_scores=np.zeros(count),
        error_probabilities=curve(shares, rate).clip(0, 1),
        predicted=(random.random(count) < curve(shares, rate)).astype(int),
        labels=np.zeros(count, dtype=int),
        acceptable=np.ones(count, dtype=bool),
    )


@pytest.mark.parametrize("steps", [10**9, 20])
@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize(("cases", "rate"), [(60, 0.3), (150, 0.1)])
def test_no_risk_curve_breaks_the_target_more_often_than_the_level(cases, rate, name, steps):
    random, curve, draws = np.random.default_rng(cases), CURVES[name], 1000
    grid = (np.arange(100_000) + 0.5) / 100_000
    risks = np.cumsum(curve(grid, rate)) / np.arange(1, 100_001)
    broken = 0
    targets = Targets(max_error=rate)
    for draw in range(draws):
        if draw % 50 == 0:
            tuning = drawn(random, 50, curve, rate, steps)
            plan = CertificationPlan.from_tuning(tuning, targets, classes=("a",), cases=cases)
        counts = plan.count(drawn(random, cases, curve, rate, steps))
        position = plan.loosest_certified(counts)
        if position >= 0:
            share = min(-counts.thresholds[position], 1.0)
            accepted = np.floor(share * steps + 1e-9) / steps
            broken += accepted > 0 and risks[min(int(accepted * 100_000), 100_000) - 1] > rate
    assert broken <= stats.binom.ppf(1 - 1e-4, draws, 0.05)


def test_a_weak_tuning_set_costs_coverage_and_not_validity():
    """Levels are learned from the tuning set: one that misleads only moves the limits."""
    ranks = ranks_to_test(100)
    for power in (np.zeros(100), np.ones(100), np.linspace(1, 0, 100)):
        plan = CertificationPlan(
            targets=Targets(max_error=0.1), classes=("a",), rank=None, risks=power / 5
        )
        limits = plan.most_wrong(ranks, max_error=0.1)
        assert crossing_probability(ranks, limits, 0.1) <= 0.05
