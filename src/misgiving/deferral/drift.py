"""Whether the cases in use still are like the calibration cases: tests that may be read any time.

Each test bets against "nothing has changed" and its wealth, the e-value, starts at 1. While nothing
has changed, the probability that it *ever* reaches 1 / level is at most the level (Ville, 1939).
So one may look after every case, for the whole life of a policy (docs/deferral.md).
"""

import hashlib
import math
from array import array
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from misgiving.deferral.bounds import Interval
from misgiving.deferral.policy import DeferralPolicy

FALSE_ALARMS = 0.01  # probability that any of the tests ever alarms although nothing has changed
TESTS = 3  # which share it
RECENT = 100  # cases that the words are about; the tests are about all
LITTLE = 0.1  # a difference from the usual mean rank that is worded as little
JUMPS = np.array([[1e-4], [1e-3], [1e-2], [1e-1], [1.0]])  # how readily wealth changes its stake
STAKES = np.array([-1.8, -0.9, 0.9, 1.8])  # on a p-value, as a slope: below 2, or all can be lost
FRACTIONS = np.array([0.1, 0.3, 0.6, 0.9])  # of the highest stake on the acceptance rate


class DriftTest(NamedTuple):
    """What one test has found.

    Attributes:
        name: `scores`, `familiarity` or `acceptance`.
        e_value: Wealth now, from 1; grows while the cases are unlike the calibration cases.
        highest: The highest wealth so far.
        alarm_at: The wealth that is an alarm.
        since: How many cases had been seen at the alarm; None: there was none.
        sentence: What recent cases are like, in words.
        alarmed_with: The sentence at the alarm; None: there was none.
    """

    name: str
    e_value: float
    highest: float
    alarm_at: float
    since: int | None
    sentence: str
    alarmed_with: str | None = None


class Words(NamedTuple):
    """What the ranks of a test are said of.

    Attributes:
        subject: Of the comparison, with its verb.
        lower: Than before.
        higher: Than before.
        scores: What is ranked.
    """

    subject: str
    lower: str
    higher: str
    scores: str


RANKED = {
    "scores": Words("The model is", "less sure", "more sure", "The model's scores"),
    "familiarity": Words(
        "The images are",
        "less like the training images",
        "more like the training images",
        "The images' scores of familiarity",
    ),
}


class Wealth:
    """Money on several stakes that moves between them (the Composite Jumper: Vovk et al., 2021).

    A stake whose expected factor is at most 1, whatever came before, cannot be expected to win;
    nor can any mixture of such stakes, however it moves between them.
    """

    def __init__(self, stakes: int) -> None:
        self._shares = np.full((len(JUMPS), stakes), 1 / (len(JUMPS) * stakes))
        self.log = self.highest = 0.0

    def multiply(self, factors: Float[np.ndarray, " stakes"]) -> None:
        """What the stakes have become, by one more case."""
        moved = (1 - JUMPS) * self._shares + JUMPS * self._shares.mean(axis=1, keepdims=True)
        won = moved * factors
        total = won.sum()
        self._shares = won / total  # in proportion, so that wealth may leave the range of floats
        self.log += math.log(total)
        self.highest = max(self.highest, self.log)


class RankTest:
    """Bets that ranks among the calibration cases and all before are no longer uniform.

    These p-values are independent and uniform while all cases can be exchanged (Vovk et al., 2003),
    which holds for any number of calibration cases. Bets are on their place and on their spread.
    """

    def __init__(self, calibration: Iterable[float]) -> None:
        self._seen = array("d", sorted(calibration))
        self.wealth = Wealth(2 * len(STAKES) + 1)
        self.recent: deque[float] = deque(maxlen=RECENT)

    def see(self, value: float, tie: float) -> None:
        """Bet on one case.

        Args:
            value: Of the case; one that is not a number counts as the lowest.
            tie: Uniform from 0 to 1 and independent of all values: its place among equal ones.
        """
        p_value = self._p_value(-math.inf if math.isnan(value) else value, tie)
        self.recent.append(p_value)
        bets = STAKES * (p_value - 0.5), STAKES * (abs(2 * p_value - 1) - 0.5)
        self.wealth.multiply(1 + np.concatenate([[0.0], *bets]))

    def _p_value(self, value: float, tie: float) -> float:
        below, up_to = bisect_left(self._seen, value), bisect_right(self._seen, value)
        insort(self._seen, value)
        return (below + tie * (up_to - below + 1)) / len(self._seen)


class AcceptanceTest:
    """Bets that the share of accepted cases lies outside an interval."""

    def __init__(self, interval: Interval) -> None:
        self.interval = interval
        self.wealth = Wealth(2 * len(FRACTIONS) + 1)
        self.recent: deque[float] = deque(maxlen=RECENT)

    def see(self, accepted: bool) -> None:
        """Bet on one case."""
        self.recent.append(accepted)
        lower, upper = self.interval
        above = FRACTIONS * (accepted - upper) / max(upper, 1e-9)
        below = FRACTIONS * (lower - accepted) / max(1 - lower, 1e-9)
        self.wealth.multiply(1 + np.concatenate([[0.0], above, below]))


class DriftMonitor:
    """The tests of one policy, which see one case after another.

    Attributes:
        cases: How many it has seen.
        alarms: How many cases had been seen when a test alarmed, by its name.
        missing: Why a test is not made, in words.
    """

    def __init__(self, policy: DeferralPolicy, *, false_alarms: float = FALSE_ALARMS) -> None:
        calibration, each = policy.calibration, false_alarms / TESTS
        self.cases = 0
        self.missing: list[str] = []
        self._ranks: dict[str, RankTest] = {}
        self._acceptance: AcceptanceTest | None = None
        self._alarm_at = {"scores": 1 / each, "familiarity": 1 / each, "acceptance": 2 / each}
        self.alarms: dict[str, int] = {}
        self._alarmed_with: dict[str, str] = {}
        if calibration.ood_scores is not None:
            self._ranks["familiarity"] = RankTest(calibration.ood_scores)
        if calibration.evidence is None:
            self.missing.append("the policy keeps no calibration scores; calibrate again")
            return
        self._ranks["scores"] = RankTest(calibration.evidence.scores)
        if policy.accept_threshold is not None:
            interval = calibration.evidence.acceptance(
                policy.accept_threshold,
                ood_rule=policy.ood_threshold is not None,
                level=each / 2,  # the other half is for the bets
            )
            self._acceptance = AcceptanceTest(interval)

    def see(self, *, score: float, ood_score: float | None, accepted: bool, content: str) -> None:
        """Take one more case into account.

        Args:
            score: What is accepted by.
            ood_score: What OOD images are told by, where the policy has a detector.
            accepted: Whether the policy has accepted the answer.
            content: A hash of the image, which decides the case's place among equal scores.
        """
        self.cases += 1
        lowest = -math.inf if ood_score is None else ood_score
        values = {"scores": score, "familiarity": lowest}
        for name, test in self._ranks.items():
            test.see(values[name], tie_of(f"{name} {content}"))
        if self._acceptance is not None:
            self._acceptance.see(accepted)
        for name, wealth in self._wealths():
            if name not in self.alarms and wealth.highest >= math.log(self._alarm_at[name]):
                self.alarms[name] = self.cases
                self._alarmed_with[name] = self._sentence(name)

    @property
    def tests(self) -> list[DriftTest]:
        """What was found so far."""
        return [
            DriftTest(
                name=name,
                e_value=_readable(wealth.log),
                highest=_readable(wealth.highest),
                alarm_at=self._alarm_at[name],
                since=self.alarms.get(name),
                sentence=self._sentence(name),
                alarmed_with=self._alarmed_with.get(name),
            )
            for name, wealth in self._wealths()
        ]

    def _wealths(self) -> list[tuple[str, Wealth]]:
        tests: dict[str, RankTest | AcceptanceTest] = {**self._ranks}
        if self._acceptance is not None:
            tests["acceptance"] = self._acceptance
        return [(name, test.wealth) for name, test in tests.items()]

    def _sentence(self, name: str) -> str:
        if name not in self._ranks:
            return self._of_acceptance()
        return _of_ranks(RANKED[name], list(self._ranks[name].recent))

    def _of_acceptance(self) -> str:
        test = self._acceptance
        if test is None or not test.recent:
            return "No case has been seen."
        lower, upper = test.interval
        return (
            f"Accepted are {_percent(np.mean(test.recent))} of the last {len(test.recent)} cases; "
            f"the calibration cases let expect {_percent(lower)} to {_percent(upper)}."
        )


def tie_of(content: str) -> float:
    """A number from 0 to 1 that is as good as random, but the same for the same content.

    >>> tie_of("a") == tie_of("a") != tie_of("b")
    True
    """
    return int(hashlib.sha256(content.encode()).hexdigest()[:13], 16) / 16**13


def _of_ranks(words: Words, ranks: list[float]) -> str:
    """How the last cases lie among all: by their place; where it is usual, by their spread."""
    if not ranks:
        return "No case has been seen."
    place, spread = float(np.mean(ranks)), float(np.mean(np.abs(2 * np.array(ranks) - 1)))
    usual = abs(place - 0.5) < LITTLE
    if usual and abs(spread - 0.5) > abs(place - 0.5):
        return _spread(words, len(ranks), spread)
    little = "a little " if usual else ""
    return (
        f"{words.subject} {little}{words.higher if place > 0.5 else words.lower} in the last "
        f"{len(ranks)} cases than before: they rank at {_percent(place)} on average, where 50 % is "
        "usual."
    )


def _spread(words: Words, cases: int, spread: float) -> str:
    little = "a little " if abs(spread - 0.5) < LITTLE else ""
    where = "at the ends" if spread > 0.5 else "in the middle"
    return (
        f"{words.scores} of the last {cases} cases gather {little}{where} of all before: they rank "
        f"{_percent(spread)} of the way from the middle to an end on average, where 50 % is usual."
    )


def _percent(share: Float[np.ndarray, ""] | np.floating | float) -> str:
    return f"{100 * float(share):.0f} %"


def _readable(logarithm: float) -> float:
    """The number of this logarithm, or the largest there is."""
    return math.exp(min(logarithm, 700.0))
