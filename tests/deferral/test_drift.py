import math

import numpy as np
import pytest

from misgiving.deferral.bounds import BinomialInterval
from misgiving.deferral.drift import (
    FRACTIONS,
    JUMPS,
    STAKES,
    AcceptanceTest,
    DriftMonitor,
    DriftTest,
    RankTest,
    Wealth,
    acceptance_factors,
    rank_factors,
    tie_breaker,
)
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import certify_thresholds
from misgiving.report.drift import drift_sentence

OOD = Targets(max_error=0.15, max_ood_false_alarms=0.1)


def certified(drawn_cases, *, targets=OOD):
    return certify_thresholds(
        drawn_cases(300, 1), drawn_cases(200, 2), targets, classes=("NV", "MEL", "BCC")
    )


def sentences(test, knows_training=True):
    """The latest cases, and those at the alarm, in words."""
    return [
        drift_sentence(test, recent, knows_training=knows_training)
        for recent in (test.recent, test.alarmed_with)
    ]


def show(monitor, policy, cases, name="stream"):
    """Let the monitor see cases as the service decides them."""
    decided = policy.decide(cases.scores, cases.ood_scores)[0]
    columns = zip(cases.scores, cases.ood_scores, decided, strict=True)
    for number, (score, ood_score, one) in enumerate(columns):
        monitor.update(
            score=float(score),
            ood_score=float(ood_score),
            accepted=one == "accept",
            content=f"{name} {number}",
        )
    return {test.name: test for test in monitor.tests}


def in_loops(calibration, values, ties):
    """Wealth after the values: ranks by counting, each share of money by itself."""
    slopes = [0.0, *STAKES]
    seen, wealth = list(calibration), 0.0
    spread = [(jump[0], kind) for jump in JUMPS for kind in range(2 * len(STAKES) + 1)]
    money = {at: 1 / len(spread) for at in spread}
    for value, tie in zip(values, ties, strict=True):
        below = sum(one < value for one in seen)
        equal = sum(one == value for one in seen) + 1
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


def test_wealth_equals_scalar_loops():
    random = np.random.default_rng(0)
    calibration, values = random.integers(9, size=40) / 9, random.integers(7, size=60) / 7
    ties, test = random.random(60), RankTest(calibration.tolist())
    for value, tie in zip(values, ties, strict=True):
        test.update(float(value), float(tie))
    expected = in_loops(calibration.tolist(), values.tolist(), ties.tolist())
    assert math.exp(test.wealth.log) == pytest.approx(expected, rel=1e-9)


def p_values_of(calibration, values, ties):
    """Rank p-values of one stream: each value among the calibration cases and all before it."""
    earlier = np.tril(np.ones((len(values), len(values)), dtype=bool), -1)
    below, equal = (
        of(calibration, values[:, None]).sum(axis=1)
        + (of(values, values[:, None]) & earlier).sum(axis=1)
        for of in (np.less, np.equal)
    )
    return (below + ties * (equal + 1)) / (len(calibration) + np.arange(len(values)) + 1)


def test_p_values_are_ranks_among_the_calibration_cases_and_all_before():
    random = np.random.default_rng(0)
    calibration, values = random.integers(9, size=40) / 9, random.integers(7, size=60) / 7
    ties, test = random.random(60), RankTest(calibration.tolist())
    for value, tie in zip(values, ties, strict=True):
        test.update(float(value), float(tie))
    np.testing.assert_array_equal(test.recent, p_values_of(calibration, values, ties))


def share_of_alarms(factors, *, level):
    """Share of the streams that ever alarm; `factors` has cases first, then streams."""
    wealth = Wealth(factors.shape[-1])
    for of_case in factors:
        wealth.multiply(of_case)
    return np.mean(wealth.highest >= math.log(1 / level))


def share_of_rank_alarms(draw, *, streams, cases, size, level):
    random = np.random.default_rng(0)
    p_values = [
        p_values_of(draw(random, size), draw(random, cases), random.random(cases))
        for _ in range(streams)
    ]
    return share_of_alarms(rank_factors(np.array(p_values).T), level=level)


def three_deviations_above(level, streams):
    """A share that a test which keeps the level exceeds with a probability of 0.2 %, at most."""
    return level + 3 * math.sqrt(level * (1 - level) / streams)


def continuous(random, count):
    return random.normal(size=count)


def tied(random, count):
    return random.integers(2, size=count).astype(float)


@pytest.mark.parametrize("draw", [continuous, tied])
def test_few_streams_without_drift_ever_alarm(draw):
    share = share_of_rank_alarms(draw, streams=1000, cases=120, size=20, level=0.25)
    assert 0.02 < share <= three_deviations_above(0.25, 1000)


@pytest.mark.soak
@pytest.mark.parametrize("draw", [continuous, tied])
@pytest.mark.parametrize("size", [10, 200])
def test_few_of_many_long_streams_ever_alarm(draw, size):
    share = share_of_rank_alarms(draw, streams=2000, cases=1000, size=size, level=0.05)
    assert share <= three_deviations_above(0.05, 2000)


def test_whatever_happens_next_the_expected_wealth_does_not_grow():
    test, steps = RankTest([]), 2000
    middles = (np.arange(steps) + 0.5) / steps
    for p_value in (0.1, 0.05, 0.3, 0.02):
        test.update(0.0, p_value)
    factors = rank_factors(middles)
    assert (factors >= 0).all()
    moved = test.wealth.moved().sum(axis=0)
    assert (factors @ moved).mean() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("true", [0.4, 0.5, 0.6])
def test_no_stake_on_acceptance_can_be_expected_to_win_within_the_interval(true):
    after = {}
    for accepted in (True, False):
        test = AcceptanceTest(BinomialInterval(0.4, 0.6))
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


def test_cases_like_the_calibration_cases_raise_no_alarm(drawn_cases):
    policy = certified(drawn_cases)
    found = show(DriftMonitor(policy), policy, drawn_cases(200, 7))
    assert set(found) == {"scores", "familiarity", "acceptance"}
    assert all(test.since is None for test in found.values())
    assert [round(test.alarm_at) for test in found.values()] == [300, 300, 600]


def test_a_change_of_scores_and_of_acceptance_is_detected_and_described(drawn_cases):
    policy = certified(drawn_cases)
    cases = drawn_cases(150, 7)
    cases.scores[:] = cases.scores / 3
    found = show(DriftMonitor(policy), policy, cases)
    assert found["scores"].since < 60
    assert "less sure in the last 100 cases" in sentences(found["scores"])[0]
    assert found["acceptance"].since < 150
    assert "0 % of the last 100 cases" in sentences(found["acceptance"])[0]
    assert found["familiarity"].since is None


def test_scores_that_only_spread_are_detected(drawn_cases):
    policy, random = certified(drawn_cases), np.random.default_rng(0)
    cases = drawn_cases(200, 7)
    cases.scores[:] = np.where(random.random(200) < 0.5, 0.02, 0.98) + random.random(200) / 100
    assert show(DriftMonitor(policy), policy, cases)["scores"].since is not None


@pytest.mark.parametrize(
    ("quantiles", "where"),
    [((0.45, 0.55), "in the middle"), ((0.01, 0.99), "at the ends")],
)
def test_scores_whose_spread_alone_changes_are_described_by_their_spread(
    quantiles, where, drawn_cases
):
    policy = certified(drawn_cases)
    kept, cases = policy.calibration_scores.scores, drawn_cases(200, 7)
    ends = np.quantile(kept, quantiles)
    cases.scores[:] = ends[np.arange(200) % 2] + np.random.default_rng(0).normal(0, 1e-3, 200)
    found = show(DriftMonitor(policy), policy, cases)["scores"]
    assert found.since is not None
    for sentence in sentences(found):
        assert "sure" not in sentence
        assert where in sentence


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([0.1, 0.3], ["less sure", "last 2 cases", "20 %"]),
        ([0.9, 0.7], ["more sure", "last 2 cases", "80 %"]),
        ([0.3, 0.8], ["a little more sure"]),
        ([0.45, 0.55], ["scores of the last 2 cases", "in the middle", "10 %"]),
        ([0.0, 1.0], ["scores of the last 2 cases", "at the ends", "100 %"]),
        ([0.0, 0.0, 0.0, 0.9], ["less sure"]),
        ([], ["No case"]),
    ],
)
def test_ranks_are_described_by_their_mean_or_where_that_is_usual_by_their_spread(ranks, words):
    test = RankTest([])
    test.recent.extend(ranks)
    recent = test.latest
    state = DriftTest("scores", 1.0, 1.0, 300.0, None, recent)
    sentence = drift_sentence(state, recent, knows_training=True)
    assert all(word in sentence for word in words), sentence


def test_the_reason_of_an_alarm_is_kept_when_later_cases_differ_the_other_way(drawn_cases):
    policy = certified(drawn_cases)
    monitor, low, high = DriftMonitor(policy), drawn_cases(60, 7), drawn_cases(120, 8)
    low.scores[:] = low.scores / 5
    assert show(DriftMonitor(policy), policy, drawn_cases(60, 9))["scores"].alarmed_with is None
    at_alarm = show(monitor, policy, low)["scores"].alarmed_with
    high.scores[:] = 0.99 + high.scores / 1000
    later = show(monitor, policy, high, name="later")["scores"]
    assert later.alarmed_with == at_alarm
    latest, alarmed_with = sentences(later)
    assert "less sure" in alarmed_with
    assert "more sure in the last 100 cases" in latest


def test_unfamiliar_images_are_detected_even_where_the_score_has_not_changed(drawn_cases):
    policy = certified(drawn_cases)
    cases = drawn_cases(100, 7)
    cases.ood_scores[:] -= 2
    found = show(DriftMonitor(policy), policy, cases)
    assert found["familiarity"].since < 40
    assert "less like the training images" in sentences(found["familiarity"])[0]


def test_a_score_that_knows_no_training_image_is_described_as_a_score(drawn_cases):
    policy = certified(drawn_cases)
    cases = drawn_cases(100, 7)
    cases.ood_scores[:] -= 2
    found = show(DriftMonitor(policy), policy, cases)["familiarity"]
    for sentence in sentences(found, knows_training=False):
        assert sentence.startswith("The OOD scores are lower in the last ")
        assert "training images" not in sentence


def test_an_alarm_stays_although_cases_become_ordinary_again(drawn_cases):
    policy = certified(drawn_cases)
    monitor, odd = DriftMonitor(policy), drawn_cases(60, 7)
    odd.scores[:] = odd.scores / 5
    since = show(monitor, policy, odd)["scores"].since
    later = show(monitor, policy, drawn_cases(400, 8), name="later")["scores"]
    assert later.since == since is not None
    assert later.e_value < later.highest


def test_a_nan_score_counts_as_the_lowest():
    lowest, undefined = RankTest([0.1, 0.2]), RankTest([0.1, 0.2])
    lowest.update(-math.inf, 0.5)
    undefined.update(math.nan, 0.5)
    assert list(lowest.recent) == list(undefined.recent) == [0.5 / 3]


def test_a_policy_that_accepts_nothing_is_monitored_by_its_scores(drawn_cases):
    policy = certified(drawn_cases, targets=Targets(max_error=0.001))
    found = show(DriftMonitor(policy), policy, drawn_cases(20, 7))
    assert set(found) == {"scores", "familiarity"}


def test_tie_breakers_are_uniform():
    places = np.sort([tie_breaker(f"scores {number}") for number in range(20_000)])
    assert np.abs(places - np.linspace(0, 1, 20_000)).max() < 0.015
