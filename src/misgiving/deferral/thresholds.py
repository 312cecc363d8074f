"""Acceptance thresholds that hold with confidence: selected by how many of the best are wrong.

The k best calibration cases are counted at some ranks k. A rank is certified if few enough of them
are wrong. The limits are such that the number of wrong cases would fall to any of them with a
probability of at most the level, if each case were wrong with the probability `max_error`,
whatever its score. No risk curve has a higher probability that a rank is certified above which more
than `max_error` are wrong; docs/explanation/guarantee.md has the proof. At which ranks the level is
spent is chosen by the tuning set, so that the limits are fixed before the calibration set is looked
at.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from misgiving.deferral.bounds import binomial_cdf, tolerance_rank
from misgiving.deferral.settings import Targets
from misgiving.errors import DataError

FEWEST_CASES = 5
MOST_RANKS = 100
PRIOR_CASES = 20.0  # tuning cases that the mean error probability is worth
SPENT_EVENLY = 0.2  # of the level, over all ranks
ENDS_OF_SPENDING = (0.05, 0.1, 0.25, 0.5, 0.75, 1)  # shares of the ranks
GROWTH_OF_SPENDING = 1.5  # from a rank to 2.7 times as many cases, relative to the first rank
PATHS = 300  # simulated calibration sets, by which ways to spend the level are compared
OVERDISPERSION = 4.0  # of the number of errors in these, relative to the tuning set's Poisson
ROUNDING = 1e-9
NEGLIGIBLE = 1e-12  # probability of a number of wrong cases

Values = Float[np.ndarray, " n"]
Mask = Bool[np.ndarray, " n"]
Counts = Int[np.ndarray, " ranks"]
Shares = Float[np.ndarray, " ranks"]
Thresholds = Float[np.ndarray, " ranks"]


@dataclass(frozen=True, kw_only=True)
class ScoredCases:
    """Predictions of known correctness, one per group.

    Attributes:
        scores: Acceptance scores; higher means more likely correct.
        ood_scores: Higher means more in-distribution.
        error_probabilities: Of the predicted class, as the policy gives it.
        predicted: Position of the predicted class.
        labels: Position of the true class.
        acceptable: False where an image is deferred whatever its score, by a rule that was fixed
            before.
    """

    scores: Values
    ood_scores: Values
    error_probabilities: Values
    predicted: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    acceptable: Mask

    @property
    def wrong(self) -> Mask:
        """True where the predicted class is wrong."""
        return np.asarray(self.predicted != self.labels)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: Mask | Int[np.ndarray, " _"]) -> "ScoredCases":
        return ScoredCases(**{name: values[chosen] for name, values in vars(self).items()})

    def above(self, ood_limit: float | None) -> Mask:
        """Mark the acceptable cases above the OOD limit, if there is one."""
        if ood_limit is None:
            return self.acceptable
        return self.acceptable & (self.ood_scores > ood_limit)

    def check_usable(self, set_name: str) -> None:
        """Check that a policy can be tuned or calibrated with these cases.

        Raises:
            DataError: They are too few, or a score is not finite or is the same for all.
        """
        if len(self) < FEWEST_CASES:
            raise DataError(
                f"the {set_name} set has {len(self)} cases; give at least {FEWEST_CASES} groups"
            )
        for name in ("scores", "ood_scores"):
            finite = np.isfinite(getattr(self, name))
            if not finite.all():
                raise DataError(
                    f"{name} of the {set_name} set are not finite at position {finite.argmin()}; "
                    "leave such cases out, and say so"
                )
        if np.ptp(self.scores) == 0:
            raise DataError(
                f"scores of the {set_name} set are all {self.scores[0]:g}, so no threshold "
                "separates the cases; give outputs that differ in confidence, not classes alone"
            )


class RankCounts(NamedTuple):
    """Calibration cases at each rank that is tested, strictest first.

    Attributes:
        ood_limit: None without an OOD rule.
        above: Number of cases above it, whether acceptable or not.
        kept: True for the acceptable ones of these: the only ones that certify the error.
        ranks: Number of kept cases that are accepted.
        thresholds: Lowest accepted score; -inf: all. NaN where the next case has the same score.
        wrong: How many of the accepted are wrong.
        silent: Cases that are accepted with a wrong answer, without the OOD limit.
        missed: For each class with a target, its cases that are accepted as another class, without
            the OOD limit.
        cases: All cases.
        class_cases: For each class with a target, all of its cases.
    """

    ood_limit: float | None
    above: int
    kept: Mask
    ranks: Counts
    thresholds: Thresholds
    wrong: Counts
    silent: Counts
    missed: list[Counts]
    cases: int
    class_cases: list[int]


@dataclass(frozen=True, kw_only=True)
class CertificationPlan:
    """Hypotheses that are fixed before the calibration set is looked at.

    Attributes:
        targets: Error rates to certify.
        classes: Names of the classes, in the order of the labels.
        rank: Rank of the OOD limit among the calibration cases, lowest first; None: no OOD rule.
        risks: Expected share of wrong cases among the 1, 2, ... best tuning cases.
    """

    targets: Targets
    classes: tuple[str, ...]
    rank: int | None
    risks: Values

    @classmethod
    def from_tuning(
        cls, tuning: ScoredCases, targets: Targets, *, classes: Sequence[str], cases: int
    ) -> "CertificationPlan":
        """Plan the certification with so many calibration cases."""
        rank, limit = ood_limit_rank(cases, targets), None
        if rank is not None:
            same_share = max(1, round(rank / cases * len(tuning)))
            limit = float(np.sort(tuning.ood_scores)[same_share - 1])
        usable = tuning[np.flatnonzero(tuning.above(limit))]
        best_first = usable[np.lexsort((usable.wrong, usable.error_probabilities, -usable.scores))]
        numbers = np.arange(1, len(usable) + 1)
        wrong, expected = np.cumsum([best_first.wrong, best_first.error_probabilities], axis=1)
        risks = (wrong + PRIOR_CASES * expected / numbers) / (numbers + PRIOR_CASES)
        return cls(targets=targets, classes=tuple(classes), rank=rank, risks=risks)

    def count(self, calibration: ScoredCases) -> RankCounts:
        """Count the calibration cases at each rank."""
        limit = None if self.rank is None else float(np.sort(calibration.ood_scores)[self.rank - 1])
        kept, missable = calibration.above(limit), calibration.acceptable & calibration.wrong
        best_first = np.flatnonzero(kept)[np.argsort(-calibration.scores[kept], kind="stable")]
        scores = np.append(calibration.scores[best_first], -np.inf)
        ranks = ranks_to_test(len(best_first))
        thresholds = just_above(scores[ranks], scores[ranks - 1])
        of_class = [
            calibration.labels == self.classes.index(name) for name in self.targets.class_max_miss
        ]
        return RankCounts(
            ood_limit=limit,
            above=int((calibration.ood_scores > (-np.inf if limit is None else limit)).sum()),
            kept=kept,
            ranks=ranks,
            thresholds=thresholds,
            wrong=np.cumsum(calibration.wrong[best_first])[ranks - 1],
            silent=number_reaching(calibration.scores[missable], thresholds),
            cases=len(calibration),
            missed=[
                number_reaching(calibration.scores[members & missable], thresholds)
                for members in of_class
            ],
            class_cases=[int(members.sum()) for members in of_class],
        )

    def loosest_certified(self, counts: RankCounts, *, max_error: float | None = None) -> int:
        """Position of the loosest rank that meets the targets, -1 for none.

        Args:
            counts: The calibration cases at each rank.
            max_error: Target error rate instead of the planned one.
        """
        selected = self.meets_other_targets(counts) & ~np.isnan(counts.thresholds)
        target = self.targets.max_error if max_error is None else max_error
        if target is not None and len(counts.ranks):
            ranks, risks = tuple(counts.ranks.tolist()), tuple(self.risks.tolist())
            selected &= counts.wrong <= chosen_limits(
                ranks, risks, target, self.targets.level_of_error
            )
        return int(np.flatnonzero(selected)[-1]) if selected.any() else -1

    def meets_other_targets(self, counts: RankCounts) -> Bool[np.ndarray, " ranks"]:
        """Mark the ranks that certify the class targets and that of silent errors.

        What is missed can only grow with the rank. So each target is tested in a fixed sequence
        from the strictest rank on, at the whole level: a rank is certified wrongly only if the
        strictest one that breaks a target passes the test of this target.
        """
        targets, level = self.targets, self.targets.level_of_misses
        rates = targets.class_max_miss.values()
        tests = [*zip(rates, counts.missed, counts.class_cases, strict=True)]
        if targets.max_silent_error is not None:
            tests.append((targets.max_silent_error, counts.silent, counts.cases))
        passed = np.ones(len(counts.ranks), dtype=bool)
        for rate, missed, cases in tests:
            passed &= np.logical_and.accumulate(binomial_cdf(missed, cases, rate) <= level)
        return passed


def ood_limit_rank(cases: int, targets: Targets) -> int | None:
    """Rank of the OOD limit among the calibration cases, lowest first (Wilks, 1941; Vovk, 2012).

    An image below the limit is out-of-distribution; one exactly at it is deferred. What is accepted
    lies strictly above, where the calibration cases are, given the limit, a simple random sample.
    On average the share below the k-th lowest of n cases is k / (n + 1). None: there is no such
    target, or there are too few cases.
    """
    rate = targets.max_ood_false_alarms or 0.0  # for which there is no rank
    if targets.is_average:
        return math.floor(rate * (cases + 1) + ROUNDING) or None
    return tolerance_rank(cases, rate=rate, level=targets.level) or None


def ranks_to_test(cases: int) -> Counts:
    """At most 100 evenly spaced ranks among so many cases, the last of which is all of them.

    >>> ranks_to_test(3), len(ranks_to_test(1234))
    (array([1, 2, 3]), 100)
    """
    shares = np.arange(1, MOST_RANKS + 1) / MOST_RANKS
    return np.unique(np.ceil(shares * cases - ROUNDING).astype(int)) if cases else np.arange(0)


def just_above(excluded: Thresholds, accepted: Thresholds) -> Thresholds:
    """The loosest threshold that does not accept a score; NaN where it equals an accepted one."""
    lowest = np.where(np.isneginf(excluded), excluded, np.nextafter(excluded, np.inf))
    return np.where(accepted > excluded, lowest, np.nan)


def number_reaching(scores: Values, thresholds: Thresholds) -> Counts:
    """Number of scores that reach each threshold.

    >>> number_reaching(np.array([0.9, 0.5, 0.2]), np.array([0.9, 0.5, -np.inf]))
    array([1, 2, 3])
    """
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")


@lru_cache(maxsize=64)
def chosen_limits(
    ranks: tuple[int, ...], risks: tuple[float, ...], max_error: float, level: float
) -> Counts:
    """Highest number of wrong cases that certifies each rank; -1: none does.

    By the way to spend the level with which most cases would be accepted, if the shares of wrong
    cases among the best are those of the tuning set, `risks`.
    """
    numbers, best, limits = np.array(ranks), -1.0, np.full(len(ranks), -1)
    expected = expected_errors(numbers, np.array(risks))
    for shares in ways_to_spend(len(ranks)):
        tried = limits_of_ranks(ranks, tuple((level * shares).tolist()), max_error)
        accepted = float((numbers * (expected <= tried)).max(axis=1).mean())
        if accepted > best:
            best, limits = accepted, tried
    return limits


def expected_errors(ranks: Counts, risks: Values) -> Int[np.ndarray, "paths ranks"]:
    """Random numbers of wrong cases at each rank, by the risks among the best tuning cases."""
    generator, tuning = np.random.default_rng(0), np.arange(len(risks) + 1)
    wrong = np.maximum.accumulate(np.append(0.0, tuning[1:] * risks))
    scale = ranks[-1] / max(1, len(risks))
    steps = np.diff(ranks, prepend=0)
    added = np.diff(scale * np.interp(ranks, scale * tuning, wrong), prepend=0) / steps
    shape = (wrong[-1] + 1) / OVERDISPERSION
    factors = generator.gamma(shape, 1 / shape, size=(PATHS, 1))
    return np.cumsum(generator.binomial(steps, np.clip(added * factors, 0, 1)), axis=1)


def ways_to_spend(ranks: int) -> Iterator[Shares]:
    """Shares of a level that may be spent up to each of so many ranks.

    A fifth is spent evenly over all, the rest between a first and a last rank: a part at the first,
    and then with the logarithm of the rank, as tests at one level do whose numbers accumulate.
    """
    numbers = np.arange(1, ranks + 1)
    ends = sorted({math.ceil(ranks * share) for share in ENDS_OF_SPENDING})
    for first, last in combinations_with_replacement(ends, 2):
        spent = 1 + GROWTH_OF_SPENDING * np.log(np.clip(numbers, first, last) / first)
        between = np.where(numbers < first, 0, spent / spent[-1])
        yield SPENT_EVENLY * numbers / ranks + (1 - SPENT_EVENLY) * between


@lru_cache(maxsize=4096)
def limits_of_ranks(
    ranks: tuple[int, ...], spending: tuple[float, ...], max_error: float
) -> Counts:
    """Highest number of wrong cases at each rank that certifies it; -1: none does.

    If each case is wrong with the probability `max_error`, the limit of any rank up to the k-th is
    reached with a probability of at most `spending[k]`. What one rank cannot use, as numbers are
    whole, is left to the next.

    >>> limits_of_ranks((59, 93), (0.05, 0.05), 0.05)
    array([0, 0])
    """
    limits = []
    # probabilities of numbers of wrong cases, from `lowest` on, without having reached a limit
    going, lowest, spent = np.ones(1), 0, 0.0
    for step, most in zip(np.diff(ranks, prepend=0).tolist(), spending, strict=True):
        going = np.convolve(going, _probabilities(step, max_error))
        spent_with = spent + np.cumsum(going)
        reached = int(np.searchsorted(spent_with, most, side="right"))
        if reached:
            spent = spent_with[reached - 1]
        going, lowest = going[reached:], lowest + reached
        limits.append(lowest - 1)
    return np.array(limits)


@lru_cache(maxsize=1024)
def _probabilities(cases: int, probability: float) -> Values:
    """Probabilities of the numbers of wrong cases, up to the last one that matters."""
    cumulative = binomial_cdf(np.arange(cases + 1), cases, probability)
    probabilities = np.diff(cumulative, prepend=0.0)
    likely = int(np.flatnonzero(probabilities > NEGLIGIBLE)[-1])
    return probabilities[: likely + 1]
