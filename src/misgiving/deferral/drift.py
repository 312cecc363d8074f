"""Drift monitor: are new cases like the calibration cases?

Each test of the monitor bets against "nothing has changed" and its wealth, the e-value, starts at
1. While nothing has changed, the probability that it *ever* reaches 1 / level is at most the level
(Ville, 1939). So one may look after every case, for the whole life of a policy
(docs/explanation/guarantee.md).
"""

import math
from array import array
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from misgiving.deferral.bounds import BinomialInterval, two_sided_interval
from misgiving.deferral.certificate import Certificate
from misgiving.files import sha256_of

FALSE_ALARMS = 0.01  # probability that any of the tests ever alarms although nothing has changed
TESTS = 3  # which share it
RECENT = 100  # cases that are described; the tests use all
JUMPS = np.array([[1e-4], [1e-3], [1e-2], [1e-1], [1.0]])  # how readily wealth changes its stake
STAKES = np.array([-1.8, -0.9, 0.9, 1.8])  # on a p-value, as a slope: below 2, or all can be lost
ON_LOCATION = np.array([0.0, *STAKES, *(0 * STAKES)])
ON_SPREAD = np.array([0.0, *(0 * STAKES), *STAKES])
FRACTIONS = np.array([0.1, 0.3, 0.6, 0.9])  # of the highest stake on the acceptance rate

PerStream = Float[np.ndarray, "*streams"] | np.floating


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
        mean = self.shares.mean(axis=-1, keepdims=True)
        moved = (1 - JUMPS) * self.shares + JUMPS * mean  # wealth moves between the stakes
        won = moved * factors[..., None, :]
        total = won.sum(axis=(-2, -1))
        self.shares = won / total[..., None, None]  # shares, so that wealth can exceed all floats
        self.log = self.log + np.log(total)
        self.highest = np.maximum(self.highest, self.log)


class Recent(NamedTuple):
    """The latest cases of a test.

    Attributes:
        cases: How many there are.
        mean: Mean rank among all earlier cases, from 0 to 1; or the share that is accepted.
        spread: Mean distance of the ranks from the middle, as a share of the largest.
    """

    cases: int
    mean: float
    spread: float


class DriftTest:
    """A sequential test of the cases of one policy.

    Attributes:
        name: `scores`, `familiarity` or `acceptance`.
        alarm_at: Wealth at which the test alarms.
        wealth: Grows while the cases differ from the calibration cases.
        interval: Of the share to be accepted, by the calibration cases; None for ranks.
        cases: Number of cases so far.
        since: Number of cases at the alarm; None without an alarm.
        alarmed_with: The latest cases at the alarm; None without an alarm.
    """

    interval: BinomialInterval | None = None

    def __init__(self, name: str, *, level: float, stakes: int) -> None:
        self.name, self.alarm_at, self.wealth = name, 1 / level, Wealth(stakes)
        self.cases = 0
        self.since: int | None = None
        self.alarmed_with: Recent | None = None
        self.recent: deque[float] = deque(maxlen=RECENT)

    def bet(self, value: float, factors: Float[np.ndarray, " stakes"]) -> None:
        """Multiply the stakes for one case, described by its rank or its acceptance."""
        self.cases += 1
        self.recent.append(value)
        self.wealth.multiply(factors)
        if self.since is None and self.wealth.highest >= math.log(self.alarm_at):
            self.since, self.alarmed_with = self.cases, self.latest

    @property
    def latest(self) -> Recent | None:
        """The latest cases in numbers; None before the first case."""
        values = np.array(self.recent, dtype=float)
        if not len(values):
            return None
        return Recent(len(values), float(values.mean()), float(np.abs(2 * values - 1).mean()))

    @property
    def e_value(self) -> float:
        """Wealth now, from 1."""
        return _finite_exp(self.wealth.log)

    @property
    def highest(self) -> float:
        """The highest wealth so far."""
        return _finite_exp(self.wealth.highest)


class RankTest(DriftTest):
    """Bets that ranks among the calibration cases and all earlier cases are no longer uniform.

    These p-values are independent and uniform while all cases are exchangeable (Vovk et al., 2003),
    for any number of calibration cases.
    """

    def __init__(self, name: str, calibration: Iterable[float], *, level: float) -> None:
        super().__init__(name, level=level, stakes=2 * len(STAKES) + 1)
        self.earlier = array("d", sorted(calibration))

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
        self.bet(p_value, rank_factors(np.array(p_value)))


def rank_factors(p_values: PerStream) -> Float[np.ndarray, "*streams stakes"]:
    """Factors of the stakes: none, on the location and on the spread of the ranks."""
    ranks = np.asarray(p_values)[..., None]
    spreads = abs(2 * ranks - 1)
    return np.asarray(1 + ON_LOCATION * (ranks - 0.5) + ON_SPREAD * (spreads - 0.5))


class AcceptanceTest(DriftTest):
    """Bets that the share of accepted cases lies outside an interval."""

    def __init__(self, interval: BinomialInterval, *, level: float) -> None:
        super().__init__("acceptance", level=level, stakes=2 * len(FRACTIONS) + 1)
        self.interval: BinomialInterval = interval

    def update(self, accepted: bool) -> None:
        """Bet on one case."""
        self.bet(float(accepted), acceptance_factors(np.array(accepted), self.interval))


def acceptance_factors(
    accepted: Bool[np.ndarray, "*streams"], interval: BinomialInterval
) -> Float[np.ndarray, "*streams stakes"]:
    """Factors of the stakes: none, on a share above and on one below the interval."""
    outcome, (lower, upper) = np.asarray(accepted, dtype=float)[..., None], interval
    above = FRACTIONS * (outcome - upper) / max(upper, 1e-9)
    below = FRACTIONS * (lower - outcome) / max(1 - lower, 1e-9)
    return 1 + np.concatenate([np.zeros_like(outcome), above, below], axis=-1)


def acceptance_interval(certificate: Certificate, *, level: float) -> BinomialInterval:
    """Interval of the share of all cases that is accepted; misses with at most this level.

    It holds for every tested rank (of a pool, for every rank) and, with an OOD rule, whichever case
    is the limit: if that case had been chosen beforehand, the others would be a simple random
    sample. So it also holds for the threshold and the limit that were chosen.
    """
    images = len(certificate.images.scores)
    ood_rule = certificate.ood_threshold is not None
    limits = images if ood_rule else 1
    ranks = certificate.num_ranks if certificate.pool is None else images
    each = level / (ranks * limits)
    return two_sided_interval(certificate.accepted_images, images - ood_rule, level=each)


class DriftMonitor:
    """Tests of one policy's cases, one after another.

    Attributes:
        tests: Of the scores, and of the acceptance where the policy accepts by one threshold.
    """

    def __init__(self, certificate: Certificate) -> None:
        each = FALSE_ALARMS / TESTS
        self.tests: list[RankTest | AcceptanceTest] = [
            RankTest("familiarity", certificate.ood_scores, level=each),
            RankTest("scores", certificate.images.scores, level=each),
        ]
        has_one_threshold = certificate.selection is None and not certificate.by_value
        if certificate.accepted and has_one_threshold:
            # half of the level is for the interval, and the other half for the bets
            interval = acceptance_interval(certificate, level=each / 2)
            self.tests.append(AcceptanceTest(interval, level=each / 2))

    def update(self, *, score: float, ood_score: float, accepted: bool, content: str) -> None:
        """Take one more case into account.

        Args:
            score: Acceptance score; NaN counts as the lowest.
            ood_score: OOD score; NaN counts as the lowest.
            accepted: True if the policy accepts the prediction.
            content: A hash of the image, which breaks ties between equal scores.
        """
        values = {"scores": score, "familiarity": ood_score}
        for test in self.tests:
            if isinstance(test, RankTest):
                test.update(values[test.name], tie_breaker(f"{test.name} {content}"))
            else:
                test.update(accepted)


def tie_breaker(content: str) -> float:
    """Pseudo-random number from 0 to 1 that is the same for the same content.

    >>> tie_breaker("a") == tie_breaker("a") != tie_breaker("b")
    True
    """
    return int(sha256_of(content.encode())[:13], 16) / 16**13


def _finite_exp(logarithm: PerStream) -> float:
    return math.exp(min(float(logarithm), 700.0))
