"""Drift monitor and expected performance: are new images like the calibration cases?

Each test of the monitor bets against "nothing has changed" and its wealth, the e-value, starts at
1. While nothing has changed, the probability that it *ever* reaches 1 / level is at most the level
(Ville, 1939). So one may look after every case, for the whole life of a policy
(docs/explanation/guarantee.md). For a set that is complete, errors are estimated without labels.
"""

import math
from array import array
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import kolmogorov

from misgiving.deferral.bounds import BinomialInterval, binomial_cdf
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.decision_tables import DecisionRow
from misgiving.deferral.deferral import Deferral
from misgiving.manifests import sha256_of

FALSE_ALARMS = 0.01  # probability that any of the tests ever alarms although nothing has changed
TESTS = 3  # which share it
RECENT = 100  # cases that are described; the tests use all
JUMPS = np.array([[1e-4], [1e-3], [1e-2], [1e-1], [1.0]])  # how readily wealth changes its stake
STAKES = np.array([-1.8, -0.9, 0.9, 1.8])  # on a p-value, as a slope: below 2, or all can be lost
ON_LOCATION = np.array([0.0, *STAKES, *(0 * STAKES)])
ON_SPREAD = np.array([0.0, *(0 * STAKES), *STAKES])
FRACTIONS = np.array([0.1, 0.3, 0.6, 0.9])  # of the highest stake on the acceptance rate

FEWEST_CASES = 20  # calibration cases and images, from which on errors are estimated
DRAWS = 10_000
MOST_TESTED = 5000  # images that are tested for drift, drawn at random
LEVEL = 0.05
DIFFERENT = 0.02  # probability that equal distributions are found to differ

Values = Float[np.ndarray, " n"]
Mask = Bool[np.ndarray, " n"]
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


class DriftMonitor:
    """Tests of one policy's cases, one after another.

    Attributes:
        tests: Of the scores, and of the acceptance where the policy accepts anything.
    """

    def __init__(self, certificate: Certificate) -> None:
        each = FALSE_ALARMS / TESTS
        self.tests: list[RankTest | AcceptanceTest] = [
            RankTest("familiarity", certificate.ood_scores, level=each),
            RankTest("scores", certificate.scores, level=each),
        ]
        if certificate.accept_threshold is not None:
            # half of the level is for the interval, and the other half for the bets
            interval = certificate.acceptance_interval(level=each / 2)
            self.tests.append(AcceptanceTest(interval, level=each / 2))

    @property
    def cases(self) -> int:
        """Number of cases so far."""
        return self.tests[0].cases

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


class ExpectedError(NamedTuple):
    """The share of wrong answers that is expected, with an interval for the share in this set."""

    images: int
    error: float
    lower: float
    upper: float


Expected = tuple[ExpectedError, ExpectedError | None]
"""Expected errors of all images whose outputs are finite, and of the accepted ones.

None where no image is accepted, or too few calibration cases are.
"""


class ExpectedPerformance(NamedTuple):
    """Expected errors of a set of images without labels, and whether to trust them.

    Attributes:
        errors: Of all images, and of the accepted ones.
        alarms: The tests for drift that found the images to differ from the calibration cases.
        threshold: Lowest accepted score, where the batch has its own threshold; else None.
        gaps: Largest difference between the distributions of the images and of the calibration
            cases, by score, where these differ; `acceptance` or `ood`.
    """

    errors: Expected
    threshold: float | None
    alarms: tuple[DriftTest, ...]
    gaps: Mapping[str, float]


def expected_performance(
    deferral: Deferral, decisions: Iterable[DecisionRow]
) -> ExpectedPerformance | None:
    """Estimate the errors of images without labels, and test whether the estimate may hold.

    Args:
        deferral: The policy by which the images were decided.
        decisions: Images without a finite error probability are left out; the paths break ties in
            the tests for drift.

    Returns:
        None where `expected_errors` is None.
    """
    judged = [
        (row.path, (row.error_probability, row.acceptance_score, row.ood_score), row.decision)
        for row in decisions
        if row.error_probability is not None
    ]
    names = [name for name, _, _ in judged]
    numbers = np.array([numbers for _, numbers, _ in judged], dtype=float)
    errors, scores, ood_scores = numbers.reshape(-1, 3).T
    accepted = np.array([decision == "accept" for _, _, decision in judged], dtype=bool)
    certificate, monitor = deferral.certificate_, DriftMonitor(deferral.certificate_)
    has_own = certificate.selection is not None and accepted.any()
    threshold = float(scores[accepted].min()) if has_own else None
    expected = expected_errors(deferral, errors, accepted, threshold=threshold)
    if expected is None:
        return None
    # in a random order, since the images may be sorted
    for row in np.random.default_rng(0).permutation(len(names))[:MOST_TESTED]:
        monitor.update(
            score=float(scores[row]),
            ood_score=float(ood_scores[row]),
            accepted=bool(accepted[row]),
            content=names[row],
        )
    compared = {
        "acceptance": (scores, certificate.scores),
        "ood": (ood_scores, certificate.ood_scores),
    }
    gaps = {}
    for name, (new, calibration) in compared.items():
        gap, p_value = compare_distributions(new, np.array(calibration))
        if p_value <= DIFFERENT / len(compared):
            gaps[name] = gap
    alarms = tuple(test for test in monitor.tests if test.since is not None)
    return ExpectedPerformance(expected, threshold, alarms, gaps)


def compare_distributions(first: Values, second: Float[np.ndarray, " m"]) -> tuple[float, float]:
    """Kolmogorov and Smirnov's test: the largest difference of two distributions, and its p-value.

    For a set that is complete it finds smaller changes than the tests of `DriftMonitor`, which hold
    at any time. The p-value is that for large sets, and too high where values are equal.
    """
    values = np.concatenate([first, second])
    below = (
        np.searchsorted(np.sort(part), values, side="right") / len(part) for part in (first, second)
    )
    gap = float(np.abs(np.subtract(*below)).max())
    effective = len(first) * len(second) / len(values)
    return gap, float(kolmogorov(math.sqrt(effective) * gap))


def expected_errors(
    deferral: Deferral, errors: Values, accepted: Mask, *, threshold: float | None = None
) -> Expected | None:
    """Estimate the errors of images that are drawn like the calibration cases.

    The mean error probability is corrected by the mean difference between errors and error
    probabilities of the calibration cases, which the calibrator has not seen. The interval has 95 %
    of a predictive distribution: the correction is drawn from a normal distribution, and the number
    of errors, given the corrected mean, from a binomial one, which is a little too wide. Images of
    one group count as independent, so that it is too narrow where there are many of each group.

    The accepted calibration cases also chose the threshold, so that fewer of them are wrong than of
    others. So the interval of the accepted reaches at least as high as for a batch with the error
    that is certified, or that holds with confidence beside an average.

    Args:
        deferral: The policy by which the images were decided.
        errors: Error probabilities; images where one is not finite are left out.
        accepted: True for the accepted images.
        threshold: Lowest accepted score of a batch that has its own; None: that of the policy.

    Returns:
        None with fewer than 20 calibration cases or images.
    """
    finite = np.isfinite(errors)
    certificate, scores = deferral.certificate_, np.array(deferral.certificate_.scores)
    lowest, highest = certificate.accept_threshold, certificate.highest_error
    if threshold is not None:
        lowest, highest = threshold, certificate.error_bound_at(threshold)
    residuals = np.array(certificate.errors) - np.array(certificate.error_probabilities)
    if min(len(residuals), finite.sum()) < FEWEST_CASES:
        return None
    reached = scores >= (np.inf if lowest is None else lowest)
    taken, both = np.array(certificate.kept) & reached, finite & accepted
    enough = both.any() and taken.sum() >= FEWEST_CASES
    return (
        _expected(errors[finite], residuals),
        _expected(errors[both], residuals[taken], highest) if enough else None,
    )


def _expected(
    errors: Values, residuals: Float[np.ndarray, " cases"], highest: float = 0.0
) -> ExpectedError:
    mean, correction = float(errors.mean()), float(residuals.mean())
    # one right and one wrong case more: that none was wrong does not mean that none can be
    widened = np.concatenate([residuals, [1 - mean, -mean]])
    spread = widened.std(ddof=1) / np.sqrt(len(residuals))
    random = np.random.default_rng(0)
    means = (mean + correction + spread * random.standard_normal(DRAWS)).clip(0, 1)
    shares = random.binomial(len(errors), means) / len(errors)
    lower, upper = np.quantile(shares, [LEVEL / 2, 1 - LEVEL / 2])
    shares_at_most = binomial_cdf(np.arange(len(errors) + 1), len(errors), highest)
    upper = max(upper, np.searchsorted(shares_at_most, 1 - LEVEL / 2) / len(errors))
    return ExpectedError(
        len(errors), min(max(mean + correction, 0.0), 1.0), float(lower), float(upper)
    )
