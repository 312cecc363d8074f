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
    chosen_limits,
    expected_errors,
    limits_of_ranks,
    ranks_to_test,
    ways_to_spend,
)


def enumerated(ranks, limits, probability):
    """The probability of every sequence of right and wrong cases that reaches a limit."""
    total = 0.0
    for wrong in itertools.product((0, 1), repeat=ranks[-1]):
        if any(sum(wrong[:rank]) <= limit for rank, limit in zip(ranks, limits, strict=True)):
            total += math.prod(probability if each else 1 - probability for each in wrong)
    return total


def reaching(ranks, limits, probability):
    """The same, case by case, for more of them."""
    going, total, limit_at = {0: 1.0}, 0.0, dict(zip(ranks, limits, strict=True))
    for rank in range(1, ranks[-1] + 1):
        added = dict.fromkeys(range(rank + 1), 0.0)
        for wrong, share in going.items():
            added[wrong] += share * (1 - probability)
            added[wrong + 1] += share * probability
        total += sum(share for wrong, share in added.items() if wrong <= limit_at.get(rank, -1))
        going = {w: share for w, share in added.items() if w > limit_at.get(rank, -1)}
    return total


parts_by_rank = st.dictionaries(st.integers(1, 9), st.floats(0, 0.2), min_size=1, max_size=4)


@given(parts_by_rank, st.floats(0.05, 0.9))
def test_limits_spend_what_is_allowed_up_to_each_rank(parts, probability):
    ranks = tuple(sorted(parts))
    spending = tuple(itertools.accumulate(parts[rank] for rank in ranks))
    limits = limits_of_ranks(ranks, spending, probability).tolist()
    for number, (rank, allowed) in enumerate(zip(ranks, spending, strict=True)):
        before = limits[:number]
        assert enumerated(ranks[: number + 1], [*before, limits[number]], probability) <= (
            allowed + 1e-9
        )
        if limits[number] < rank:
            higher = enumerated(ranks[: number + 1], [*before, limits[number] + 1], probability)
            assert higher > allowed - 1e-9


@given(st.integers(1, 300), st.floats(0.005, 0.5), st.floats(0.01, 0.2), st.integers(0, 9))
def test_each_way_to_spend_uses_the_level_and_not_more(cases, max_error, level, seed):
    ranks = ranks_to_test(cases)
    ways = list(ways_to_spend(len(ranks)))
    shares = ways[seed * len(ways) // 10]
    assert (np.diff(shares, prepend=0) >= -1e-12).all()
    assert shares[-1] == pytest.approx(1)
    limits = limits_of_ranks(tuple(ranks.tolist()), tuple((level * shares).tolist()), max_error)
    assert reaching(ranks.tolist(), limits.tolist(), max_error) <= level * (1 + 1e-9)
    parts = level * np.diff(shares, prepend=0)
    for rank, limit, part in zip(ranks, limits, parts, strict=True):  # Bonferroni's inequality
        if limit < rank:
            assert stats.binom.cdf(limit + 1, rank, max_error) > part - 1e-12


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


def test_a_misleading_tuning_set_costs_coverage_and_not_validity():
    ranks = ranks_to_test(100)
    for risks in (np.zeros(100), np.full(100, 0.2), np.linspace(0.2, 0, 100), np.empty(0)):
        limits = chosen_limits(tuple(ranks.tolist()), tuple(risks.tolist()), 0.1, 0.05)
        assert 0.03 < reaching(ranks.tolist(), limits.tolist(), 0.1) <= 0.05


@pytest.mark.parametrize("risk", [0.02, 0.08])
def test_expected_errors_have_the_risk_of_the_tuning_set(risk):
    ranks = ranks_to_test(300)
    expected = expected_errors(ranks, np.full(2000, risk)).mean(axis=0) / ranks
    assert expected == pytest.approx(np.full(100, risk), rel=0.15)
