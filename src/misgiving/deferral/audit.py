"""Living bound: the error of accepted answers, from labels of a random sample of them.

Both parts multiply, for each audited answer, the likelihood ratio θ^x / (1 + p (θ - 1)) of an error
(x = 1) or a right answer (x = 0), where p is the probability of an error and θ multiplies its odds.
Given all earlier answers it is 1 on average, so that a mixture of such products ever reaches
1 / level with a probability of at most the level (Ville, 1939; docs/explanation/guarantee.md).
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from misgiving.deferral.bounds import Bounds, Counts, Probabilities

BOUND_LEVEL = 0.05
BOUND_FACTORS = (0.1, 0.3, 0.5, 0.7)  # of the odds: bets that the error is lower
BISECTIONS = 40

ALARM_LEVEL = 0.01  # probability of any alarm in the life of a policy that meets its target
ALARM_FACTORS = (1.5, 2.0, 3.0)  # of the odds: bets that the error is higher
FROM_START = 0.5  # share of the wealth that bets from the first answer on
MEDIAN_START = 500  # audited answers after which half of the remaining wealth bets

LIVES = 300  # that are simulated for a plan
LONGEST = 30  # errors at the target, after which a simulated life ends

Outcome = Literal["right", "wrong", "unconfirmed", "overdue"]


class AuditState(NamedTuple):
    """Evidence from the audited answers of one policy.

    Attributes:
        audited: Answers that were audited; overdue ones are not.
        wrong: Errors that a second reader confirmed.
        unconfirmed: Disagreements that nobody has confirmed.
        overdue: Answers that should have been audited by now.
        estimate: Share of confirmed errors among the audited answers; None without any.
        upper: Falls below the error of the answers so far with a probability of at most 5 %, ever;
            unconfirmed and overdue answers count as wrong.
        e_value: Evidence now that the error is above the target, from 1.
        alarm_at: Number of the answer that raised the alarm, from 1; None without an alarm. An
            alarm stays, as long as no confirmed error is taken back.
    """

    audited: int
    wrong: int
    unconfirmed: int
    overdue: int
    estimate: float | None
    upper: float
    e_value: float
    alarm_at: int | None


def audit_state(outcomes: Sequence[Outcome], *, target: float) -> AuditState:
    """Bounds and alarm of the accepted answers that were audited.

    Args:
        outcomes: In the order of the *cases*, not of the reviews, since a pile of disagreements
            that is confirmed in one go would look like a change. The sequence ends before the first
            answer that is neither reviewed nor overdue.
        target: `max_error` of the policy. For `max_silent_error`, `outcomes` has all members of the
            audit sample, and those that were not accepted are right.

    >>> state = audit_state(["right"] * 58 + ["wrong", "unconfirmed"], target=0.05)
    >>> state.audited, state.wrong, state.alarm_at, round(state.upper, 3)
    (60, 1, None, 0.135)
    """
    counts, number = Counter(outcomes), len(outcomes)
    wrong, audited = counts["wrong"], number - counts["overdue"]
    doubtful = wrong + counts["unconfirmed"] + counts["overdue"]
    confirmed = np.array([outcome == "wrong" for outcome in outcomes], dtype=bool)
    wealth = np.exp(alarm_evidence(confirmed, target).clip(max=700.0))
    alarms = np.flatnonzero(wealth >= 1 / ALARM_LEVEL)
    return AuditState(
        audited=audited,
        wrong=wrong,
        unconfirmed=counts["unconfirmed"],
        overdue=counts["overdue"],
        estimate=wrong / audited if audited else None,
        upper=float(anytime_upper_bound(doubtful, number)),
        e_value=float(wealth[-1]) if number else 1.0,
        alarm_at=int(alarms[0]) + 1 if len(alarms) else None,
    )


def anytime_upper_bound(wrong: Counts, answers: Counts) -> Bounds:
    """Upper bound of the mean error of the answers so far, after each answer of a stream.

    With a probability of at least 95 % it holds after all of them, also if the error changes.

    >>> round(float(anytime_upper_bound(0, 60)), 3)
    0.069
    """
    lower, upper = np.zeros(np.shape(wrong)), np.ones(np.shape(wrong))
    for _ in range(BISECTIONS):
        middle = (lower + upper) / 2
        above = bound_evidence(wrong, answers, middle) >= -np.log(BOUND_LEVEL)
        lower, upper = np.where(above, lower, middle), np.where(above, middle, upper)
    return upper


def bound_evidence(wrong: Counts, answers: Counts, error: Probabilities) -> Bounds:
    """Logarithm of the e-value against "the mean error is at least `error`"; it grows with it."""
    ratios = [
        wrong * np.log(factor) - answers * np.log1p(error * (factor - 1))
        for factor in BOUND_FACTORS
    ]
    return np.asarray(np.logaddexp.reduce(ratios) - np.log(len(BOUND_FACTORS)))


def alarm_evidence(
    wrong: Bool[np.ndarray, "*lives answers"], target: float
) -> Float[np.ndarray, "*lives answers"]:
    """Logarithm of the e-value against "no error probability is above the target", by answer.

    Half of the wealth bets from the first answer on. The rest starts later: MEDIAN_START / (k +
    MEDIAN_START) of it has not yet after k answers, so that a late change is noticed, too.

    Args:
        wrong: Confirmed errors among the answers of each life, in their order.
        target: Highest share of errors.
    """
    number = np.arange(wrong.shape[-1] + 1)
    waiting = (1 - FROM_START) * MEDIAN_START / (number + MEDIAN_START)
    starting = np.log(np.concatenate([[1.0], waiting[1:-1]]) - waiting[1:])
    total = np.broadcast_to(np.log(waiting[1:]), wrong.shape)
    for factor in ALARM_FACTORS:
        ratio = np.where(wrong, np.log(factor), 0.0) - np.log1p(target * (factor - 1))
        product = np.cumsum(ratio, axis=-1)
        stakes = np.logaddexp.accumulate(starting - product + ratio, axis=-1)
        total = np.logaddexp(total, product + stakes - np.log(len(ALARM_FACTORS)))
    return total


def answers_until_alarm(target: float, *, change: float = 2.0, after: int = 0) -> tuple[int, int]:
    """Audited answers from a change of the error until the alarm: median, and ninth of ten lives.

    Lives are simulated, with readers who do not err.

    Args:
        target: The error until the change.
        change: Factor by which it grows.
        after: Answers that were audited before the change.

    >>> answers_until_alarm(0.05)
    (231, 493)
    """
    random, delays = np.random.default_rng(0), []
    numbers = np.arange(after + math.ceil(LONGEST / target))
    errors = np.where(numbers < after, target, min(change * target, 1.0))
    for _ in range(LIVES):
        alarms = alarm_evidence(random.random(len(errors)) < errors, target) >= -np.log(ALARM_LEVEL)
        delays.append(int(alarms.argmax()) + 1 - after if alarms.any() else len(errors) - after)
    delays = sorted(delay for delay in delays if delay > 0)
    return delays[len(delays) // 2], delays[9 * len(delays) // 10]
