"""Drift monitor: sequential tests of exchangeability with the calibration cases.

Each test bets against "nothing has changed" and its wealth, the e-value, starts at 1. While nothing
has changed, the probability that it *ever* reaches 1 / level is at most the level (Ville, 1939).
So one may look after every case, for the whole life of a policy (docs/explanation/guarantee.md).
"""

import math
from array import array
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from misgiving.deferral.bounds import BinomialInterval
from misgiving.deferral.certificate import Certificate
from misgiving.manifests import sha256_of

FALSE_ALARMS = 0.01  # probability that any of the tests ever alarms although nothing has changed
TESTS = 3  # which share it
RECENT = 100  # cases that are described; the tests use all
JUMPS = np.array([[1e-4], [1e-3], [1e-2], [1e-1], [1.0]])  # how readily wealth changes its stake
STAKES = np.array([-1.8, -0.9, 0.9, 1.8])  # on a p-value, as a slope: below 2, or all can be lost
ON_LOCATION = np.array([0.0, *STAKES, *(0 * STAKES)])
ON_SPREAD = np.array([0.0, *(0 * STAKES), *STAKES])
FRACTIONS = np.array([0.1, 0.3, 0.6, 0.9])  # of the highest stake on the acceptance rate

PerStream = Float[np.ndarray, "*streams"] | np.floating


class Recent(NamedTuple):
    """The latest cases of a test.

    Attributes:
        cases: How many there are.
        mean: Mean rank among all earlier cases, from 0 to 1; or the share that is accepted. None
            before the first case.
        spread: Mean distance of the ranks from the middle, as a share of the largest; None for
            the share that is accepted.
    """

    cases: int = 0
    mean: float | None = None
    spread: float | None = None


class DriftTest(NamedTuple):
    """State of one test.

    Attributes:
        name: `scores`, `familiarity` or `acceptance`.
        e_value: Wealth now, from 1; grows while the cases differ from the calibration cases.
        highest: The highest wealth so far.
        alarm_at: Wealth at which the test alarms.
        since: Number of cases at the alarm; None without an alarm.
        recent: The latest cases.
        alarmed_with: The latest cases at the alarm; None without an alarm.
        expected: The share to be accepted, as expected from the calibration cases; None for ranks.
    """

    name: str
    e_value: float
    highest: float
    alarm_at: float
    since: int | None
    recent: Recent
    alarmed_with: Recent | None = None
    expected: BinomialInterval | None = None


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

    @property
    def latest(self) -> Recent:
        """The latest ranks in numbers."""
        if not self.recent:
            return Recent()
        ranks = np.array(self.recent)
        return Recent(len(ranks), float(ranks.mean()), float(np.abs(2 * ranks - 1).mean()))


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

    @property
    def latest(self) -> Recent:
        """The latest share in numbers."""
        if not self.recent:
            return Recent()
        return Recent(len(self.recent), float(np.mean(self.recent)))


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

    def __init__(self, certificate: Certificate) -> None:
        each = FALSE_ALARMS / TESTS
        self.cases = 0
        self.alarms: dict[str, int] = {}
        self._alarmed_with: dict[str, Recent] = {}
        self._alarm_at = {"scores": 1 / each, "familiarity": 1 / each, "acceptance": 2 / each}
        self._tests: dict[str, RankTest | AcceptanceTest] = {
            "familiarity": RankTest(certificate.ood_scores),
            "scores": RankTest(certificate.scores),
        }
        if certificate.accept_threshold is not None:
            # the other half of the level is for the bets
            interval = certificate.acceptance_interval(level=each / 2)
            self._tests["acceptance"] = AcceptanceTest(interval)

    def update(self, *, score: float, ood_score: float, accepted: bool, content: str) -> None:
        """Take one more case into account.

        Args:
            score: Acceptance score; NaN counts as the lowest.
            ood_score: OOD score; NaN counts as the lowest.
            accepted: True if the policy accepts the prediction.
            content: A hash of the image, which breaks ties between equal scores.
        """
        self.cases += 1
        values = {"scores": score, "familiarity": ood_score}
        for name, test in self._tests.items():
            if isinstance(test, RankTest):
                test.update(values[name], tie_breaker(f"{name} {content}"))
            else:
                test.update(accepted)
            if name not in self.alarms and test.wealth.highest >= math.log(self._alarm_at[name]):
                self.alarms[name] = self.cases
                self._alarmed_with[name] = test.latest

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
                recent=test.latest,
                alarmed_with=self._alarmed_with.get(name),
                expected=getattr(test, "interval", None),
            )
            for name, test in self._tests.items()
        ]


def tie_breaker(content: str) -> float:
    """Pseudo-random number from 0 to 1 that is the same for the same content.

    >>> tie_breaker("a") == tie_breaker("a") != tie_breaker("b")
    True
    """
    return int(sha256_of(content.encode())[:13], 16) / 16**13


def _finite_exp(logarithm: PerStream) -> float:
    return math.exp(min(float(logarithm), 700.0))
