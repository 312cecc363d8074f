"""The confident guarantee: limits of wrong cases at ranks, against enumeration and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from misgiving.deferral.certificate import ranks_to_test
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import (
    RankCounts,
    ScoredCases,
    count_ranks,
    limits_of_ranks,
    loosest_certified,
    meets_error,
    probability_of_reaching,
)


def enumerated(ranks, limits, probability):
    """The probability of every sequence of right and wrong cases that reaches a limit."""
    total = 0.0
    for wrong in itertools.product((0, 1), repeat=ranks[-1]):
        if any(sum(wrong[:rank]) <= limit for rank, limit in zip(ranks, limits, strict=True)):
            total += math.prod(probability if each else 1 - probability for each in wrong)
    return total


some_ranks = st.sets(st.integers(1, 9), min_size=1, max_size=4).map(sorted)


@given(some_ranks, st.floats(0.05, 0.9), st.data())
def test_the_probability_of_reaching_a_limit_is_that_of_all_sequences_that_do(
    ranks, probability, data
):
    limits = np.array([data.draw(st.integers(-1, rank)) for rank in ranks])
    reaching = probability_of_reaching(ranks, limits, probability)
    assert reaching == pytest.approx(enumerated(ranks, limits, probability), abs=1e-9)


@given(some_ranks, st.floats(0.05, 0.9), st.floats(0.01, 0.4))
def test_limits_are_the_highest_of_one_level_that_are_reached_as_rarely_as_allowed(
    ranks, probability, level
):
    limits = limits_of_ranks((tuple(ranks),), probability, level)[0]
    assert enumerated(ranks, limits, probability) <= level + 1e-9
    own, following = (
        stats.binom.cdf(np.array(limits) + more, ranks, probability) for more in (0, 1)
    )
    assert max(own) <= min(following) * (1 + 1e-9)
    highest = min(following) * (1 + 2e-3)  # as the level of each is found by halving
    raised = [*limits + (following <= highest)]
    assert highest > level or enumerated(ranks, raised, probability) > level - 1e-9


@given(st.integers(1, 300), st.floats(0.005, 0.5), st.floats(0.01, 0.2), st.data())
def test_fewer_ranks_never_have_lower_limits(cases, max_error, level, data):
    ranks = ranks_to_test(cases).tolist()
    fewer = sorted(data.draw(st.sets(st.sampled_from(ranks), min_size=1)))
    limits = dict(zip(ranks, limits_of_ranks((tuple(ranks),), max_error, level)[0], strict=True))
    for rank, limit in zip(
        fewer, limits_of_ranks((tuple(fewer),), max_error, level)[0], strict=True
    ):
        assert limit >= limits[rank]


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_certified_gives_its_level_to_the_ranks_that_are_left(tied):
    """Ranks 10 and 30, with a target of 0.5: alone, each needs a p-value of 0.05."""
    counts = RankCounts(
        **{"above": 30, "kept": np.ones(30, dtype=bool), "limited": []},
        ranks=np.array([10, 30]),
        thresholds=np.array([np.nan if tied else 0.7, 0.1]),
        wrong=np.array([0, 10]),
    )
    assert limits_of_ranks(((10, 30),), 0.5, 0.05)[0].tolist() == [1, 9]
    assert stats.binom.cdf(10, 30, 0.5) < 0.05 < stats.binom.cdf(11, 30, 0.5)
    assert meets_error([counts], 0.5, 0.05)[0].tolist() == [not tied, not tied]
    assert not meets_error([counts._replace(wrong=np.array([2, 10]))], 0.5, 0.05)[0].any()


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
@pytest.mark.usefixtures("as_in_use")
def test_no_risk_curve_breaks_the_target_more_often_than_the_level(cases, rate, name, steps):
    random, curve, draws = np.random.default_rng(cases), CURVES[name], 500
    grid = (np.arange(100_000) + 0.5) / 100_000
    risks = np.cumsum(curve(grid, rate)) / np.arange(1, 100_001)
    broken = 0
    targets = Targets(max_error=rate, max_ood_false_alarms=None)
    for _ in range(draws):
        counts = count_ranks(drawn(random, cases, curve, rate, steps), targets, classes=("a",))
        position = loosest_certified([counts], targets)[0]
        if position >= 0:
            share = min(-counts.thresholds[position], 1.0)
            accepted = np.floor(share * steps + 1e-9) / steps
            broken += accepted > 0 and risks[min(int(accepted * 100_000), 100_000) - 1] > rate
    assert broken <= stats.binom.ppf(1 - 1e-4, draws, 0.05)
