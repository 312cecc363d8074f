"""Drift monitor: sequential tests of exchangeability with the calibration cases.

Each test bets against "nothing has changed" and its wealth, the e-value, starts at 1. While nothing
has changed, the probability that it *ever* reaches 1 / level is at most the level (Ville, 1939).
So one may look after every case, for the whole life of a policy (docs/explanation/guarantee.md).
"""

import json
import math
from array import array
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from misgiving.deferral.bounds import BinomialInterval
from misgiving.deferral.policy import DeferralPolicy
from misgiving.manifests import sha256_of
from misgiving.scores.features import FEATURE_SCORES

FALSE_ALARMS = 0.01  # probability that any of the tests ever alarms although nothing has changed
TESTS = 3  # which share it
RECENT = 100  # cases that a sentence describes; the tests use all
SMALL = 0.1  # a difference from the usual mean rank that is described as "a little"
JUMPS = np.array([[1e-4], [1e-3], [1e-2], [1e-1], [1.0]])  # how readily wealth changes its stake
STAKES = np.array([-1.8, -0.9, 0.9, 1.8])  # on a p-value, as a slope: below 2, or all can be lost
ON_LOCATION = np.array([0.0, *STAKES, *(0 * STAKES)])
ON_SPREAD = np.array([0.0, *(0 * STAKES), *STAKES])
FRACTIONS = np.array([0.1, 0.3, 0.6, 0.9])  # of the highest stake on the acceptance rate
NO_CASE = "No case has arrived yet."

PerStream = Float[np.ndarray, "*streams"] | np.floating
State = dict[str, Shaped[np.ndarray, "..."]]


class DriftTest(NamedTuple):
    """State of one test.

    Attributes:
        name: `scores`, `familiarity` or `acceptance`.
        e_value: Wealth now, from 1; grows while the cases differ from the calibration cases.
        highest: The highest wealth so far.
        alarm_at: Wealth at which the test alarms.
        since: Number of cases at the alarm; None without an alarm.
        sentence: Description of recent cases.
        alarmed_with: The sentence at the alarm; None without an alarm.
    """

    name: str
    e_value: float
    highest: float
    alarm_at: float
    since: int | None
    sentence: str
    alarmed_with: str | None = None


class RankWording(NamedTuple):
    """Phrases in which the ranks of a score are described."""

    subject: str
    lower: str
    higher: str
    scores: str


RANKED = {
    "scores": RankWording("The model is", "less sure", "more sure", "The model's scores"),
    "familiarity": RankWording(
        "The images are",
        "less like the training images",
        "more like the training images",
        "The images' familiarity scores",
    ),
    "ood_scores": RankWording("The OOD scores are", "lower", "higher", "The OOD scores"),
}
"""By test; that of familiarity has other words where its score knows no training image."""


class Wealth:
    """Betting wealth on several stakes (Composite Jumper: Vovk et al., 2021), of many streams.

    A stake whose expected factor is at most 1, given all earlier cases, cannot be expected to win;
    nor can any mixture of such stakes, whichever way wealth moves between them.
    """

    def __init__(self, stakes: int) -> None:
        self.shares = np.full((len(JUMPS), stakes), 1 / (len(JUMPS) * stakes))
        self.log: PerStream = np.float64(0)
        self.highest: PerStream = np.float64(0)

    def multiply(self, factors: Float[np.ndarray, "*streams stakes"]) -> None:
        """Multiply each stake by its factor for one more case of each stream."""
        won = self.moved() * factors[..., None, :]
        total = won.sum(axis=(-2, -1))
        self.shares = won / total[..., None, None]  # shares, so that wealth can exceed all floats
        self.log = self.log + np.log(total)
        self.highest = np.maximum(self.highest, self.log)

    def moved(self) -> Float[np.ndarray, "*streams jumps stakes"]:
        """Shares after wealth has moved between the stakes."""
        moved: Float[np.ndarray, "*streams jumps stakes"] = (
            1 - JUMPS
        ) * self.shares + JUMPS * self.shares.mean(axis=-1, keepdims=True)
        return moved


class RankTest:
    """Bets that ranks among the calibration cases and all earlier cases are no longer uniform.

    These p-values are independent and uniform while all cases are exchangeable (Vovk et al., 2003),
    for any number of calibration cases.
    """

    def __init__(self, calibration: Iterable[float]) -> None:
        self.earlier = array("d", sorted(calibration))
        self.wealth = Wealth(2 * len(STAKES) + 1)
        self.recent: deque[float] = deque(maxlen=RECENT)

    def update(self, value: float, tie: float) -> None:
        """Bet on one case.

        Args:
            value: Score of the case; NaN counts as the lowest.
            tie: Uniform from 0 to 1 and independent of all values: breaks ties with earlier scores.
        """
        value = -math.inf if math.isnan(value) else value
        below, up_to = bisect_left(self.earlier, value), bisect_right(self.earlier, value)
        insort(self.earlier, value)
        p_value = (below + tie * (up_to - below + 1)) / len(self.earlier)
        self.recent.append(p_value)
        self.wealth.multiply(rank_factors(np.array(p_value)))


def rank_factors(p_values: PerStream) -> Float[np.ndarray, "*streams stakes"]:
    """Factors of the stakes: none, on the location and on the spread of the ranks."""
    ranks = np.asarray(p_values)[..., None]
    factors: Float[np.ndarray, "*streams stakes"] = (
        1 + ON_LOCATION * (ranks - 0.5) + ON_SPREAD * (abs(2 * ranks - 1) - 0.5)
    )
    return factors


class AcceptanceTest:
    """Bets that the share of accepted cases lies outside an interval."""

    def __init__(self, interval: BinomialInterval) -> None:
        self.interval = interval
        self.wealth = Wealth(2 * len(FRACTIONS) + 1)
        self.recent: deque[float] = deque(maxlen=RECENT)

    def update(self, accepted: bool) -> None:
        """Bet on one case."""
        self.recent.append(accepted)
        self.wealth.multiply(acceptance_factors(np.array(accepted), self.interval))


def acceptance_factors(
    accepted: Bool[np.ndarray, "*streams"], interval: BinomialInterval
) -> Float[np.ndarray, "*streams stakes"]:
    """Factors of the stakes: none, on a share above and on one below the interval."""
    outcome, (lower, upper) = np.asarray(accepted, dtype=float)[..., None], interval
    above = FRACTIONS * (outcome - upper) / max(upper, 1e-9)
    below = FRACTIONS * (lower - outcome) / max(1 - lower, 1e-9)
    return 1 + np.concatenate([np.zeros_like(outcome), above, below], axis=-1)


class DriftMonitor:
    """Tests of one policy's cases, one after another.

    Attributes:
        cases: Number of cases so far.
        alarms: Number of cases at the alarm, by the name of the test.
    """

    def __init__(self, policy: DeferralPolicy, *, false_alarms: float = FALSE_ALARMS) -> None:
        certificate, each = policy.certificate, false_alarms / TESTS
        self.cases = 0
        self.alarms: dict[str, int] = {}
        self._alarmed_with: dict[str, str] = {}
        self._alarm_at = {"scores": 1 / each, "familiarity": 1 / each, "acceptance": 2 / each}
        self._familiarity = RANKED[
            "familiarity" if policy.ood_detector in FEATURE_SCORES else "ood_scores"
        ]
        self._ranks: dict[str, RankTest] = {}
        if certificate.ood_scores is not None:
            self._ranks["familiarity"] = RankTest(certificate.ood_scores)
        self._ranks["scores"] = RankTest(certificate.calibration_scores.scores)
        self._acceptance: AcceptanceTest | None = None
        if policy.accept_threshold is not None:
            interval = certificate.calibration_scores.acceptance_interval(
                policy.accept_threshold,
                ood_rule=policy.ood_threshold is not None,
                level=each / 2,  # the other half is for the bets
            )
            self._acceptance = AcceptanceTest(interval)

    def update(
        self, *, score: float, ood_score: float | None, accepted: bool, content: str
    ) -> None:
        """Take one more case into account.

        Args:
            score: Acceptance score.
            ood_score: OOD score, where the policy has a detector.
            accepted: True if the policy accepts the prediction.
            content: A hash of the image, which breaks ties between equal scores.
        """
        self.cases += 1
        lowest = -math.inf if ood_score is None else ood_score
        values = {"scores": score, "familiarity": lowest}
        for name, ranks in self._ranks.items():
            ranks.update(values[name], tie_breaker(f"{name} {content}"))
        if self._acceptance is not None:
            self._acceptance.update(accepted)
        for name, test in self._tests().items():
            if name not in self.alarms and test.wealth.highest >= math.log(self._alarm_at[name]):
                self.alarms[name] = self.cases
                self._alarmed_with[name] = self._describe(name, test)

    @property
    def tests(self) -> list[DriftTest]:
        """State of each test."""
        return [
            DriftTest(
                name=name,
                e_value=_finite_exp(test.wealth.log),
                highest=_finite_exp(test.wealth.highest),
                alarm_at=self._alarm_at[name],
                since=self.alarms.get(name),
                sentence=self._describe(name, test),
                alarmed_with=self._alarmed_with.get(name),
            )
            for name, test in self._tests().items()
        ]

    def state(self) -> State:
        """All that the bets on further cases depend on, as arrays; see `restore`."""
        counted = json.dumps([self.cases, self.alarms, self._alarmed_with])
        kept: State = {"counted": np.array(counted)}
        for name, test in self._tests().items():
            kept |= {f"{name} {part}": values for part, values in _state_of(test).items()}
        return kept

    def restore(self, state: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
        """Continue from the state of a monitor of the same policy."""
        self.cases, self.alarms, self._alarmed_with = json.loads(str(state["counted"]))
        for name, test in self._tests().items():
            test.wealth.shares = state[f"{name} shares"]
            test.wealth.log, test.wealth.highest = state[f"{name} wealth"]
            test.recent.extend(state[f"{name} recent"].tolist())
            if isinstance(test, RankTest):
                test.earlier = array("d", state[f"{name} earlier"].tobytes())

    def _tests(self) -> dict[str, RankTest | AcceptanceTest]:
        acceptance = {} if self._acceptance is None else {"acceptance": self._acceptance}
        return {**self._ranks, **acceptance}

    def _describe(self, name: str, test: RankTest | AcceptanceTest) -> str:
        if isinstance(test, RankTest):
            words = self._familiarity if name == "familiarity" else RANKED[name]
            return describe_ranks(words, list(test.recent))
        if not test.recent:
            return NO_CASE
        lower, upper = test.interval
        return (
            f"{_percent(np.mean(test.recent))} of the last {len(test.recent)} cases are accepted; "
            f"{_percent(lower)} to {_percent(upper)} are expected from the calibration cases."
        )


def _state_of(test: RankTest | AcceptanceTest) -> State:
    wealth = test.wealth
    kept: State = {
        "shares": wealth.shares,
        "wealth": np.array([wealth.log, wealth.highest]),
        "recent": np.array(test.recent, dtype=float),
    }
    return kept | {"earlier": np.array(test.earlier)} if isinstance(test, RankTest) else kept


def tie_breaker(content: str) -> float:
    """Pseudo-random number from 0 to 1 that is the same for the same content.

    >>> tie_breaker("a") == tie_breaker("a") != tie_breaker("b")
    True
    """
    return int(sha256_of(content.encode())[:13], 16) / 16**13


def describe_ranks(words: RankWording, ranks: Sequence[float]) -> str:
    """Describe recent ranks by their mean, or by their spread where the mean is usual."""
    if not ranks:
        return NO_CASE
    location, spread = float(np.mean(ranks)), float(np.mean(np.abs(2 * np.array(ranks) - 1)))
    usual = abs(location - 0.5) < SMALL
    if usual and abs(spread - 0.5) > abs(location - 0.5):
        little = "a little " if abs(spread - 0.5) < SMALL else ""
        where = "at the ends" if spread > 0.5 else "in the middle"
        return (
            f"{words.scores} of the last {len(ranks)} cases gather {little}{where} of all earlier "
            f"scores: on average they rank {_percent(spread)} of the way from the middle to an "
            "end, where 50 % is usual."
        )
    little = "a little " if usual else ""
    return (
        f"{words.subject} {little}{words.higher if location > 0.5 else words.lower} in the last "
        f"{len(ranks)} cases than before: on average they rank at {_percent(location)}, where 50 % "
        "is usual."
    )


def _percent(share: Float[np.ndarray, ""] | np.floating | float) -> str:
    return f"{100 * float(share):.0f} %"


def _finite_exp(logarithm: PerStream) -> float:
    return math.exp(min(float(logarithm), 700.0))
