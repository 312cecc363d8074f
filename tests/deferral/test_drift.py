import math

import numpy as np
import pytest
from policies import certificate_of, drawn_cases, outcomes

from misgiving.deferral.bounds import BinomialInterval
from misgiving.deferral.drift import (
    FRACTIONS,
    JUMPS,
    STAKES,
    AcceptanceTest,
    DriftMonitor,
    RankTest,
    Wealth,
    acceptance_factors,
    rank_factors,
    tie_breaker,
)
from misgiving.deferral.sentences import lines
from misgiving.deferral.targets import Targets

CERTIFICATE = certificate_of(Targets(max_error=0.15, max_ood_false_alarms=0.1), cases=200)


def sentence(test, recent, knows_training=True):
    return lines("drift.txt", "drift", test, recent, knows_training)[0]


def monitored(cases, monitor=None, name="stream", certificate=CERTIFICATE):
    """Tests by name after a monitor has seen cases as the service decides them."""
    monitor = monitor or DriftMonitor(certificate)
    decided = outcomes(certificate, cases.scores, cases.ood_scores, cases.acceptable)
    columns = zip(cases.scores.tolist(), cases.ood_scores.tolist(), decided, strict=True)
    for number, (score, ood_score, outcome) in enumerate(columns):
        accepted = bool(outcome == "accept")
        monitor.update(
            score=score, ood_score=ood_score, accepted=accepted, content=f"{name} {number}"
        )
    return {test.name: test for test in monitor.tests}


def in_loops(calibration, values, ties):
    """Wealth after the values: ranks by counting, each share of money by itself."""
    slopes = [0.0, *STAKES]
    seen, wealth = list(calibration), 0.0
    spread = [(jump[0], kind) for jump in JUMPS for kind in range(2 * len(STAKES) + 1)]
    money = {at: 1 / len(spread) for at in spread}
    for value, tie in zip(values, ties, strict=True):
        below = sum(earlier < value for earlier in seen)
        equal = sum(earlier == value for earlier in seen) + 1
        seen.append(value)
        p = (below + tie * equal) / len(seen)
        for jump in JUMPS[:, 0]:
            mean = sum(money[jump, kind] for kind in range(9)) / 9
            for kind in range(9):
                place = slopes[kind] * (p - 0.5) if kind < 5 else 0.0
                width = STAKES[kind - 5] * (abs(2 * p - 1) - 0.5) if kind >= 5 else 0.0
                moved = (1 - jump) * money[jump, kind] + jump * mean
                money[jump, kind] = moved * (1 + place + width)
        wealth = sum(money.values())
    return wealth


def p_values_of(calibration, values, ties):
    """Rank p-values of streams: each value among the calibration cases and all before it."""
    earlier = np.tril(np.ones((values.shape[-1],) * 2, dtype=bool), -1)
    each = values[..., :, None]
    below, equal = (
        compare(calibration[..., None, :], each).sum(axis=-1)
        + (compare(values[..., None, :], each) & earlier).sum(axis=-1)
        for compare in (np.less, np.equal)
    )
    counts = calibration.shape[-1] + np.arange(values.shape[-1]) + 1
    return (below + ties * (equal + 1)) / counts


def rank_test(calibration=()):
    return RankTest("scores", calibration, level=0.01)


def test_wealth_and_ranks_equal_scalar_loops():
    random = np.random.default_rng(0)
    calibration, values = random.integers(9, size=40) / 9, random.integers(7, size=60) / 7
    ties, test = random.random(60), rank_test(calibration.tolist())
    for value, tie in zip(values, ties, strict=True):
        test.update(float(value), float(tie))
    expected = in_loops(calibration.tolist(), values.tolist(), ties.tolist())
    assert math.exp(test.wealth.log) == pytest.approx(expected, rel=1e-9)
    np.testing.assert_array_equal(test.recent, p_values_of(calibration, values, ties))


def share_of_alarms(factors, *, level):
    """Share of the streams that ever alarm; `factors` has cases first, then streams."""
    wealth = Wealth(factors.shape[-1])
    for of_case in factors:
        wealth.multiply(of_case)
    return np.mean(wealth.highest >= math.log(1 / level))


def three_deviations_above(level, streams):
    """A share that a test which keeps the level exceeds with a probability of 0.2 %, at most."""
    return level + 3 * math.sqrt(level * (1 - level) / streams)


def continuous(random, shape):
    return random.normal(size=shape)


def tied(random, shape):
    return random.integers(2, size=shape).astype(float)


@pytest.mark.parametrize("draw", [continuous, tied])
@pytest.mark.parametrize(
    ("streams", "cases", "size", "level"),
    [
        (1000, 120, 20, 0.25),
        pytest.param(2000, 1000, 10, 0.05, marks=pytest.mark.soak),
        pytest.param(2000, 1000, 200, 0.05, marks=pytest.mark.soak),
    ],
)
def test_few_streams_without_drift_ever_alarm(draw, streams, cases, size, level):
    random, shape = np.random.default_rng(0), (50, cases)
    p_values = [
        p_values_of(draw(random, (50, size)), draw(random, shape), random.random(shape))
        for _ in range(streams // 50)
    ]
    share = share_of_alarms(rank_factors(np.concatenate(p_values).T), level=level)
    assert share <= three_deviations_above(level, streams)
    assert share > 0.02 or level < 0.25


def test_whatever_happens_next_the_expected_wealth_does_not_grow():
    test, steps = rank_test(), 2000
    middles = (np.arange(steps) + 0.5) / steps
    for p_value in (0.1, 0.05, 0.3, 0.02):
        test.update(0.0, p_value)
    before, factors = test.wealth.log, rank_factors(middles)
    assert (factors >= 0).all()
    test.wealth.multiply(factors)
    assert np.exp(test.wealth.log - before).mean() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("true", [0.4, 0.5, 0.6])
def test_no_stake_on_acceptance_can_be_expected_to_win_within_the_interval(true):
    after = {}
    for accepted in (True, False):
        test = AcceptanceTest(BinomialInterval(0.4, 0.6), level=0.01)
        assert test.wealth.shares.sum() == pytest.approx(1.0)
        assert test.wealth.shares.shape[-1] == 2 * len(FRACTIONS) + 1
        test.update(accepted)
        after[accepted] = math.exp(test.wealth.log)
    assert true * after[True] + (1 - true) * after[False] <= 1 + 1e-12


@pytest.mark.parametrize("true", [0.4, 0.6])
def test_few_acceptance_rates_at_the_edge_of_the_interval_ever_alarm(true):
    accepted = np.random.default_rng(0).random((150, 2000)) < true
    factors = acceptance_factors(accepted, BinomialInterval(0.4, 0.6))
    assert 0.02 < share_of_alarms(factors, level=0.25) <= three_deviations_above(0.25, 2000)


def test_cases_like_the_calibration_cases_raise_no_alarm():
    tests = monitored(drawn_cases(200, 7))
    assert {name: round(test.alarm_at) for name, test in tests.items()} == {
        "familiarity": 300,
        "scores": 300,
        "acceptance": 600,
    }
    assert all(test.since is test.alarmed_with is None for test in tests.values())
    strict = certificate_of(Targets(max_error=0.001), cases=200)  # accepts nothing
    tests = monitored(drawn_cases(20, 7), certificate=strict)
    assert set(tests) == {"scores", "familiarity"}


def test_a_change_of_scores_and_of_acceptance_is_detected_and_described():
    cases = drawn_cases(150, 7)
    cases.scores[:] = cases.scores / 10
    tests = monitored(cases)
    scores, acceptance = tests["scores"], tests["acceptance"]
    assert scores.since < 60
    assert "less sure in the last 100 cases" in sentence(scores, scores.latest)
    assert acceptance.since < 150
    assert "0 % of the last 100 cases" in sentence(acceptance, acceptance.latest)
    assert tests["familiarity"].since is None


@pytest.mark.parametrize(
    ("quantiles", "where"),
    [((0.45, 0.55), "in the middle"), ((0.01, 0.99), "at the ends")],
)
def test_scores_whose_spread_alone_changes_are_detected_and_described_by_it(quantiles, where):
    cases = drawn_cases(200, 7)
    ends = np.quantile(CERTIFICATE.scores, quantiles)
    cases.scores[:] = ends[np.arange(200) % 2] + np.random.default_rng(0).normal(0, 1e-3, 200)
    test = monitored(cases)["scores"]
    assert test.since is not None
    for recent in (test.latest, test.alarmed_with):
        assert "sure" not in sentence(test, recent)
        assert where in sentence(test, recent)


def test_an_alarm_and_its_reason_stay_when_later_cases_are_ordinary_or_differ_the_other_way():
    low, high = drawn_cases(60, 7), drawn_cases(120, 9)
    low.scores[:] = low.scores / 5
    high.scores[:] = 0.99 + high.scores / 1000
    for later_cases in (drawn_cases(400, 8), high):
        monitor = DriftMonitor(CERTIFICATE)
        test = monitored(low, monitor)["scores"]
        since, alarmed_with = test.since, test.alarmed_with
        monitored(later_cases, monitor, name="later")
        assert (test.since, test.alarmed_with) == (since, alarmed_with)
        assert since is not None
        if later_cases is not high:
            assert test.e_value < test.highest
    assert "less sure" in sentence(test, test.alarmed_with)
    assert "more sure in the last 100 cases" in sentence(test, test.latest)


def test_unfamiliar_images_are_detected_even_where_the_score_has_not_changed():
    cases = drawn_cases(100, 7)
    cases.ood_scores[:] -= 2
    test = monitored(cases)["familiarity"]
    assert test.since < 40
    assert "less like the training cases" in sentence(test, test.latest)
    as_score = sentence(test, test.alarmed_with, knows_training=False)
    assert as_score.startswith("The OOD scores are lower in the last ")
    assert "training cases" not in as_score


def test_a_nan_score_counts_as_the_lowest():
    lowest, undefined = rank_test([0.1, 0.2]), rank_test([0.1, 0.2])
    lowest.update(-math.inf, 0.5)
    undefined.update(math.nan, 0.5)
    assert list(lowest.recent) == list(undefined.recent) == [0.5 / 3]


def test_tie_breakers_are_uniform():
    places = np.sort([tie_breaker(f"scores {number}") for number in range(20_000)])
    assert np.abs(places - np.linspace(0, 1, 20_000)).max() < 0.015
