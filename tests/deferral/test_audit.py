"""Bounds and alarm of audited answers, against loops over single answers."""

import math
from itertools import product

import numpy as np
import pytest

from misgiving.deferral.audit import (
    ALARM_FACTORS,
    BOUND_FACTORS,
    alarm_evidence,
    answers_until_alarm,
    anytime_upper_bound,
    audit_state,
    bound_evidence,
)

SEQUENCES = np.array(list(product([False, True], repeat=10)))


def probabilities(error):
    """Probability of each of the sequences, if answers are wrong with this probability."""
    return error ** SEQUENCES.sum(axis=1) * (1 - error) ** (~SEQUENCES).sum(axis=1)


def wealth_by_answer(outcomes, target):
    """E-values of the alarm: one bet for each start and factor, followed answer by answer."""

    def waiting(answers):
        return 0.5 * 500 / (answers + 500)

    bets, values = [], []
    for answer, wrong in enumerate(outcomes, 1):
        started = waiting(answer - 1) - waiting(answer) + (0.5 if answer == 1 else 0.0)
        bets += [[factor, started / len(ALARM_FACTORS)] for factor in ALARM_FACTORS]
        for bet in bets:
            bet[1] *= (bet[0] if wrong else 1) / (1 + target * (bet[0] - 1))
        values.append(waiting(answer) + sum(bet[1] for bet in bets))
    return values


def test_the_alarm_is_that_of_a_loop_over_starts():
    wrong = np.random.default_rng(0).random((2, 300)) < [[0.02], [0.2]]
    evidence = alarm_evidence(wrong, 0.05)
    for life, values in zip(wrong, evidence, strict=True):
        np.testing.assert_allclose(np.exp(values), wealth_by_answer(life, 0.05), rtol=1e-9)
    outcomes = ["wrong" if bad else "right" for bad in wrong[1]]
    state, values = audit_state(outcomes, target=0.05), wealth_by_answer(wrong[1], 0.05)
    assert state.alarm_at == next(k for k, value in enumerate(values, 1) if value >= 100)
    assert state.e_value == pytest.approx(values[-1])


@pytest.mark.parametrize("error", [0.01, 0.1, 0.2])
def test_the_evidence_is_at_most_one_on_average_after_each_answer(error):
    weights, answers = probabilities(error), np.arange(1, 11)
    alarm = weights @ np.exp(alarm_evidence(SEQUENCES, 0.2))
    bound = weights @ np.exp(bound_evidence(SEQUENCES.cumsum(axis=1), answers, error))
    np.testing.assert_allclose(bound, 1, rtol=1e-9)
    if error == 0.2:
        np.testing.assert_allclose(alarm, 1, rtol=1e-9)
    else:
        assert (np.diff(alarm, prepend=1) < 0).all()


def test_the_bound_is_the_least_error_that_is_rejected():
    for wrong, answers in ((0, 30), (3, 50), (40, 400)):

        def evidence(error, wrong=wrong, answers=answers):
            return sum(
                factor**wrong / (1 + error * (factor - 1)) ** answers / len(BOUND_FACTORS)
                for factor in BOUND_FACTORS
            )

        bound = float(anytime_upper_bound(wrong, answers))
        assert evidence(bound - 1e-6) < 20 <= evidence(bound + 1e-6)
    assert float(anytime_upper_bound(2, 2)) == 1
    state = audit_state([], target=0.05)
    assert (state.estimate, state.upper, state.e_value) == (None, 1, 1)


def test_the_bound_of_a_changing_error_is_broken_in_at_most_a_twentieth_of_the_lives():
    errors = np.where(np.arange(300) < 150, 0.02, 0.1)
    wrong = np.random.default_rng(1).random((2000, 300)) < errors
    answers = np.arange(1, 301)
    evidence = bound_evidence(wrong.cumsum(axis=1), answers, errors.cumsum() / answers)
    assert (evidence.max(axis=1) >= math.log(20)).mean() <= 0.05


def test_doubtful_answers_count_as_wrong_in_the_upper_bound_alone():
    kinds = ("right", "overdue", "unconfirmed", "wrong")
    states = {kind: audit_state(["right", kind] * 100, target=0.1) for kind in kinds}
    uppers = [states[kind].upper for kind in kinds]
    assert uppers[0] < uppers[1] == uppers[2] == uppers[3]
    for kind in kinds[:3]:
        state = states[kind]
        assert (state.wrong, state.alarm_at) == (0, None)
        assert state.e_value == pytest.approx(states["right"].e_value)
    assert [states[kind].audited for kind in kinds] == [200, 100, 200, 200]
    assert states["overdue"].overdue == states["unconfirmed"].unconfirmed == 100
    assert states["wrong"].alarm_at
    assert states["wrong"].estimate == 0.5 < uppers[3] < 0.7


def test_an_alarm_stays_and_comes_no_later_when_more_is_confirmed():
    outcomes = ["right"] * 20 + ["unconfirmed", "wrong"] * 10 + ["right"] * 500
    before = audit_state(outcomes, target=0.05)
    confirmed = ["wrong" if outcome == "unconfirmed" else outcome for outcome in outcomes]
    after = audit_state(confirmed, target=0.05)
    assert after.e_value < 100
    assert after.alarm_at < before.alarm_at
    assert after.upper == before.upper


def test_a_doubled_error_is_noticed_in_time():
    median, ninth = answers_until_alarm(0.05)
    assert median <= 260
    assert median < ninth
    assert answers_until_alarm(0.05, change=3.0)[0] < median
    assert median < answers_until_alarm(0.05, after=500)[0] <= 600
