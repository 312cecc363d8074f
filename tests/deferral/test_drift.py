import math

import numpy as np
import pytest

from misgiving.deferral import DeferralPolicy, DriftMonitor, Interval, Targets, calibrate
from misgiving.deferral.drift import (
    FRACTIONS,
    JUMPS,
    RANKED,
    STAKES,
    AcceptanceTest,
    RankTest,
    _of_ranks,
    tie_of,
)

OOD = Targets(max_error=0.15, max_ood_false_alarms=0.1)


def made_policy(drawn_cases, *, size=200, seed=2, targets=OOD):
    found = calibrate(
        drawn_cases(300, 1), drawn_cases(size, seed), targets, classes=("NV", "MEL", "BCC")
    )
    names = {"score": "confidence", "ood_detector": "knn", "seed": 3}
    prints = {"model_fingerprint": "a" * 64, "calibration_fingerprint": "b" * 64}
    return DeferralPolicy(calibration=found, **names, **prints)


def show(monitor, policy, cases, name="stream"):
    """Let the monitor see cases as the service decides them."""
    decided = policy.decide(cases.scores, cases.ood_scores)
    columns = zip(cases.scores, cases.ood_scores, decided, strict=True)
    for number, (score, likeness, one) in enumerate(columns):
        monitor.see(
            score=float(score),
            ood_score=float(likeness),
            accepted=one.decision == "accept",
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


def test_wealth_is_that_of_scalar_loops():
    random = np.random.default_rng(0)
    calibration, values = random.integers(9, size=40) / 9, random.integers(7, size=60) / 7
    ties, test = random.random(60), RankTest(calibration.tolist())
    for value, tie in zip(values, ties, strict=True):
        test.see(float(value), float(tie))
    expected = in_loops(calibration.tolist(), values.tolist(), ties.tolist())
    assert math.exp(test.wealth.log) == pytest.approx(expected, rel=1e-9)


def share_of_alarms(draw, *, streams, cases, size, level, seed=0):
    random = np.random.default_rng(seed)
    alarms = 0
    for _ in range(streams):
        test = RankTest(draw(random, size).tolist())
        for value, tie in zip(draw(random, cases), random.random(cases), strict=True):
            test.see(float(value), float(tie))
        alarms += test.wealth.highest >= math.log(1 / level)
    return alarms / streams


def continuous(random, count):
    return random.normal(size=count)


def tied(random, count):
    return random.integers(2, size=count).astype(float)


@pytest.mark.parametrize("draw", [continuous, tied])
def test_few_streams_that_have_not_changed_ever_alarm(draw):
    share = share_of_alarms(draw, streams=100, cases=120, size=20, level=0.25)
    assert share <= 0.25


@pytest.mark.soak
@pytest.mark.parametrize("draw", [continuous, tied])
@pytest.mark.parametrize("size", [10, 200])
def test_few_of_many_long_streams_ever_alarm(draw, size):
    share = share_of_alarms(draw, streams=500, cases=1000, size=size, level=0.05)
    assert share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 500)


def test_whatever_happens_next_wealth_grows_in_no_mean_over_p_values():
    test, steps = RankTest([]), 2000
    middles = (np.arange(steps) + 0.5) / steps
    for p_value in (0.1, 0.05, 0.3, 0.02):
        test.see(0.0, p_value)
    moved = (1 - JUMPS) * test.wealth._shares + JUMPS * test.wealth._shares.mean(1, keepdims=True)
    place = np.stack([1 + stake * (middles - 0.5) for stake in STAKES])
    spread = np.stack([1 + stake * (abs(2 * middles - 1) - 0.5) for stake in STAKES])
    factors = np.concatenate([np.ones((1, steps)), place, spread])
    assert (factors >= 0).all()
    assert (moved.sum(axis=0) @ factors).mean() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("true", [0.4, 0.5, 0.6])
def test_no_stake_on_acceptance_can_be_expected_to_win_within_the_interval(true):
    test = AcceptanceTest(Interval(0.4, 0.6))
    shares = test.wealth._shares.sum(axis=0)
    after = {}
    for accepted in (True, False):
        fresh = AcceptanceTest(Interval(0.4, 0.6))
        fresh.see(accepted)
        after[accepted] = math.exp(fresh.wealth.log)
    assert shares.sum() == pytest.approx(1.0)
    assert true * after[True] + (1 - true) * after[False] <= 1 + 1e-12
    assert len(shares) == 2 * len(FRACTIONS) + 1


def test_few_acceptance_rates_at_the_edge_of_the_interval_ever_alarm():
    random, alarms = np.random.default_rng(0), 0
    for _ in range(100):
        test = AcceptanceTest(Interval(0.4, 0.6))
        for accepted in random.random(150) < 0.6:
            test.see(bool(accepted))
        alarms += test.wealth.highest >= math.log(4)
    assert alarms <= 25


def test_cases_like_the_calibration_cases_raise_no_alarm(drawn_cases):
    policy = made_policy(drawn_cases)
    found = show(DriftMonitor(policy), policy, drawn_cases(200, 7))
    assert set(found) == {"scores", "familiarity", "acceptance"}
    assert all(test.since is None for test in found.values())
    assert [round(test.alarm_at) for test in found.values()] == [300, 300, 600]


def test_a_change_of_scores_and_of_acceptance_is_noticed_and_said(drawn_cases):
    policy = made_policy(drawn_cases)
    cases = drawn_cases(150, 7)
    cases.scores[:] = cases.scores / 3
    found = show(DriftMonitor(policy), policy, cases)
    assert found["scores"].since < 60
    assert "The model is less sure in the last 100 cases" in found["scores"].sentence
    assert found["acceptance"].since < 150
    assert found["acceptance"].sentence.startswith("Accepted are 0 % of the last 100 cases")
    assert found["familiarity"].since is None


def test_scores_that_only_spread_are_noticed(drawn_cases):
    policy, random = made_policy(drawn_cases), np.random.default_rng(0)
    cases = drawn_cases(200, 7)
    cases.scores[:] = np.where(random.random(200) < 0.5, 0.02, 0.98) + random.random(200) / 100
    assert show(DriftMonitor(policy), policy, cases)["scores"].since is not None


@pytest.mark.parametrize(
    ("quantiles", "where"),
    [((0.45, 0.55), "in the middle"), ((0.01, 0.99), "at the ends")],
)
def test_scores_whose_spread_alone_changes_are_told_by_their_spread(quantiles, where, drawn_cases):
    policy = made_policy(drawn_cases)
    kept, cases = policy.calibration.evidence.scores, drawn_cases(200, 7)
    ends = np.quantile(kept, quantiles)
    cases.scores[:] = ends[np.arange(200) % 2] + np.random.default_rng(0).normal(0, 1e-3, 200)
    found = show(DriftMonitor(policy), policy, cases)["scores"]
    assert found.since is not None
    for sentence in (found.sentence, found.alarmed_with):
        assert "sure" not in sentence
        assert f"gather {where} of all before" in sentence.replace("a little ", "")


def told(ranks):
    return _of_ranks(RANKED["scores"], ranks)


@pytest.mark.parametrize(
    ("ranks", "sentence"),
    [
        ([0.1, 0.3], "The model is less sure in the last 2 cases than before: they rank at 20 % "),
        ([0.9, 0.7], "The model is more sure in the last 2 cases than before: they rank at 80 % "),
        ([0.3, 0.8], "The model is a little more sure in the last 2 cases"),
        ([0.45, 0.55], "The model's scores of the last 2 cases gather in the middle of all before"),
        ([0.0, 1.0], "The model's scores of the last 2 cases gather at the ends of all before: th"),
        ([0.45, 0.55], "they rank 10 % of the way from the middle to an end on average"),
        ([0.0, 0.0, 0.0, 0.9], "The model is less sure"),
        ([], "No case has been seen."),
    ],
)
def test_ranks_are_told_by_their_place_and_where_that_is_usual_by_their_spread(ranks, sentence):
    assert sentence in told(ranks)


def test_what_raised_an_alarm_is_still_said_when_later_cases_are_the_other_way(drawn_cases):
    policy = made_policy(drawn_cases)
    monitor, low, high = DriftMonitor(policy), drawn_cases(60, 7), drawn_cases(120, 8)
    low.scores[:] = low.scores / 5
    assert show(DriftMonitor(policy), policy, drawn_cases(60, 9))["scores"].alarmed_with is None
    at_alarm = show(monitor, policy, low)["scores"].alarmed_with
    high.scores[:] = 0.99 + high.scores / 1000
    later = show(monitor, policy, high, name="later")["scores"]
    assert "The model is less sure" in later.alarmed_with == at_alarm
    assert "The model is more sure in the last 100 cases" in later.sentence


def test_unfamiliar_images_are_noticed_even_where_the_score_says_nothing(drawn_cases):
    policy = made_policy(drawn_cases)
    cases = drawn_cases(100, 7)
    cases.ood_scores[:] -= 2
    found = show(DriftMonitor(policy), policy, cases)
    assert found["familiarity"].since < 40
    assert "less like the training images" in found["familiarity"].sentence


def test_an_alarm_stays_although_cases_become_ordinary_again(drawn_cases):
    policy = made_policy(drawn_cases)
    monitor, odd = DriftMonitor(policy), drawn_cases(60, 7)
    odd.scores[:] = odd.scores / 5
    since = show(monitor, policy, odd)["scores"].since
    later = show(monitor, policy, drawn_cases(400, 8), name="later")["scores"]
    assert later.since == since is not None
    assert later.e_value < later.highest


def test_a_score_that_is_no_number_counts_as_the_lowest():
    lowest, nothing = RankTest([0.1, 0.2]), RankTest([0.1, 0.2])
    lowest.see(-math.inf, 0.5)
    nothing.see(math.nan, 0.5)
    assert list(lowest.recent) == list(nothing.recent) == [0.5 / 3]


def test_a_policy_that_accepts_nothing_is_watched_by_its_scores(drawn_cases):
    policy = made_policy(drawn_cases, targets=Targets(max_error=0.001))
    found = show(DriftMonitor(policy), policy, drawn_cases(20, 7))
    assert set(found) == {"scores", "familiarity"}


def test_places_among_equal_scores_are_spread_evenly():
    places = np.sort([tie_of(f"scores {number}") for number in range(20_000)])
    assert np.abs(places - np.linspace(0, 1, 20_000)).max() < 0.015
