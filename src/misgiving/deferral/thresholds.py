"""Acceptance thresholds that hold with confidence: selected by how many of the best are wrong.

The k best calibration cases are counted at some ranks k. A rank is certified if few enough of them
are wrong. The limits are such that the number of wrong cases would fall to any of them with a
probability of at most the level, if each case were wrong with the probability `max_error`,
whatever its score. Certified ranks are left out, and the limits of the others computed again: a
step-down procedure (Romano and Wolf, 2005). No risk curve has a higher probability that a rank is
certified above which more than `max_error` are wrong; docs/explanation/guarantee.md has the proof.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from misgiving.arrays import Classes, Counts, Mask, Thresholds, Values
from misgiving.calibration.apply import Calibrator, error_probabilities
from misgiving.deferral.bounds import binomial_cdf
from misgiving.deferral.certificate import number_reaching, ranks_to_test
from misgiving.deferral.decisions import ScoredImages
from misgiving.deferral.targets import Targets
from misgiving.errors import DataError

FEWEST_CASES = 2
HALVINGS = 12  # in which the level of each single rank is searched
DEVIATIONS = 9.0  # below the expected number of wrong cases, where no limit is
NEGLIGIBLE = 1e-12  # probability of a number of wrong cases


@dataclass(frozen=True, kw_only=True)
class ScoredCases:
    """Answers of known correctness, one per group: classes, or superclasses where these are given.

    Attributes:
        scores: Acceptance scores; higher means more likely correct.
        ood_scores: Higher means more in-distribution.
        error_probabilities: Of the answer.
        predicted: Position of the answer.
        labels: Position of the true one.
        acceptable: False where a case is deferred whatever its score, by a rule that was fixed
            before.
    """

    scores: Values
    ood_scores: Values
    error_probabilities: Values
    predicted: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    acceptable: Mask

    @classmethod
    def of(cls, scored: ScoredImages, labels: Classes, calibration: Calibrator) -> "ScoredCases":
        """Cases that a policy with this calibration has scored, and their true classes."""
        answers = calibration.answers_of(scored.predicted)
        return cls(
            scores=scored.acceptance_score,
            ood_scores=scored.ood_score,
            error_probabilities=error_probabilities(
                calibration.sums(scored.probabilities), answers
            ),
            predicted=answers,
            labels=calibration.answers_of(labels),
            acceptable=scored.acceptable,
        )

    @property
    def wrong(self) -> Mask:
        """True where the answer is wrong."""
        return np.asarray(self.predicted != self.labels)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: Mask | Int[np.ndarray, " _"]) -> "ScoredCases":
        return ScoredCases(**{name: values[chosen] for name, values in vars(self).items()})

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
        above: Number of cases above the OOD limit, whether acceptable or not.
        kept: True for the acceptable ones of these: the only ones that certify the error.
        ranks: Number of kept cases that are accepted.
        thresholds: Lowest accepted score; -inf: all. NaN where the next case has the same score.
        wrong: How many of the accepted are wrong.
        limited: For each of `limited_parts` its rate, the number of its cases that are accepted
            with a wrong answer, without the OOD limit, and the number of all of its cases.
    """

    above: int
    kept: Mask
    ranks: Counts
    thresholds: Thresholds
    wrong: Counts
    limited: list[tuple[float, Counts, int]]


def limited_parts(
    cases: ScoredCases, targets: Targets, classes: Sequence[str]
) -> list[tuple[float, Mask, Mask]]:
    """Targets of each class or superclass that has one, and then that of silent errors.

    For each its rate; its cases; and those of them that are missed if they are accepted, of which
    it limits the share.
    """
    parts = []
    for name, rate in targets.class_max_miss.items():
        positions = targets.positions(name, classes)
        members, answered = (np.isin(x, positions) for x in (cases.labels, cases.predicted))
        parts.append((rate, members, members & ~answered & cases.acceptable))
    if targets.max_silent_error is not None:
        everything = np.ones_like(cases.acceptable)
        parts.append((targets.max_silent_error, everything, cases.wrong & cases.acceptable))
    return parts


def count_ranks(
    calibration: ScoredCases,
    targets: Targets,
    *,
    classes: Sequence[str],
    ood_limit: float | None = None,
    floor: float = -np.inf,
) -> RankCounts:
    """Count the calibration cases at each rank.

    Args:
        calibration: The cases.
        targets: Name the classes whose misses are counted.
        classes: Names of the answers, in the order of the labels.
        ood_limit: None: no OOD rule.
        floor: Score above which the cases were drawn, and above which every threshold is.
    """
    above = calibration.ood_scores > (-np.inf if ood_limit is None else ood_limit)
    kept = calibration.acceptable & above & (calibration.scores > floor)
    best_first = np.flatnonzero(kept)[np.argsort(-calibration.scores[kept], kind="stable")]
    scores = np.append(calibration.scores[best_first], floor)
    ranks = ranks_to_test(len(best_first))
    thresholds = just_above(scores[ranks], scores[ranks - 1])
    return RankCounts(
        above=int(above.sum()),
        kept=kept,
        ranks=ranks,
        thresholds=thresholds,
        wrong=np.cumsum(calibration.wrong[best_first])[ranks - 1],
        limited=[
            (rate, number_reaching(calibration.scores[missed], thresholds), int(part.sum()))
            for rate, part, missed in limited_parts(calibration, targets, classes)
        ],
    )


def loosest_certified(counts: Sequence[RankCounts], targets: Targets) -> list[int]:
    """Position of the loosest rank of each value that meets the targets, -1 for none.

    Of several values, all thresholds hold together.
    """
    selected = [meets_other_targets(each, targets) & ~np.isnan(each.thresholds) for each in counts]
    if targets.max_error is not None:
        certified = meets_error(counts, targets.max_error, targets.level_of_error)
        selected = [one & other for one, other in zip(selected, certified, strict=True)]
    return [max(np.flatnonzero(each).tolist(), default=-1) for each in selected]


def meets_error(
    counts: Sequence[RankCounts], max_error: float, level: float
) -> list[Bool[np.ndarray, " ranks"]]:
    """Mark the ranks that certify `max_error`, in steps without the ranks certified before.

    Ranks of so few cases that they have no limit at first are never tested.
    """
    ranks = [each.ranks for each in counts]
    limits = limits_of_ranks(_hashable(ranks), max_error, level)
    left = [np.flatnonzero(each >= 0) for each in limits]
    certified = [np.zeros(len(each), dtype=bool) for each in ranks]
    added = True
    while added and any(map(len, left)):
        tested = [each[rows] for each, rows in zip(ranks, left, strict=True)]
        limits, added = limits_of_ranks(_hashable(tested), max_error, level), False
        for at, (each, limit) in enumerate(zip(counts, limits, strict=True)):
            rows = left[at]
            passed = (each.wrong[rows] <= limit) & ~np.isnan(each.thresholds[rows])
            certified[at][rows[passed]] = True
            left[at], added = rows[~passed], added or bool(passed.any())
    return certified


def _hashable(ranks: Sequence[Counts]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(each.tolist()) for each in ranks)


def meets_other_targets(counts: RankCounts, targets: Targets) -> Bool[np.ndarray, " ranks"]:
    """Mark the ranks that certify the class targets and that of silent errors.

    What is missed can only grow with the rank. So each target is tested in a fixed sequence from
    the strictest rank on, at the whole level: a rank is certified wrongly only if the strictest one
    that breaks a target passes the test of this target.
    """
    passed = np.ones(len(counts.ranks), dtype=bool)
    for rate, missed, cases in counts.limited:
        p_values = binomial_cdf(missed, cases, rate)
        passed &= np.logical_and.accumulate(p_values <= targets.level_of_misses)
    return passed


def just_above(excluded: Thresholds, accepted: Thresholds) -> Thresholds:
    """The loosest threshold that does not accept a score; NaN where it equals an accepted one."""
    lowest = np.where(np.isneginf(excluded), excluded, np.nextafter(excluded, np.inf))
    return np.where(accepted > excluded, lowest, np.nan)


@lru_cache(maxsize=4096)
def limits_of_ranks(
    ranks: tuple[tuple[int, ...], ...], max_error: float, level: float
) -> list[Counts]:
    """Highest number of wrong cases that certifies each rank of each value; -1: none does.

    Each rank is tested at the same level of its own: the highest (to 0.1 %) with which any limit of
    any value is reached with a probability of at most `level`, if each case is wrong with the
    probability `max_error`. Given their numbers, the cases of values are independent.

    >>> limits_of_ranks(((59, 93),), 0.05, 0.05), limits_of_ranks(((93,),), 0.05, 0.05)
    ([array([0, 0])], [array([1])])
    """
    p_values = [[_cumulative(rank, max_error) for rank in each] for each in ranks]

    def limits_at(own: float) -> list[Counts]:
        return [
            np.array([at + np.searchsorted(x, own, side="right") - 1 for at, x in each], dtype=int)
            for each in p_values
        ]

    def reached_at(own: float) -> float:
        pairs = zip(ranks, limits_at(own), strict=True)
        return 1 - math.prod(1 - probability_of_reaching(*pair, max_error) for pair in pairs)

    # Bonferroni's inequality, and a single test
    low, high = level / max(1, sum(map(len, ranks))), level
    for _ in range(HALVINGS):
        own = math.sqrt(low * high)
        if reached_at(own) <= level:
            low = own
        else:
            high = own
    return limits_at(low)


def probability_of_reaching(ranks: Sequence[int], limits: Counts, probability: float) -> float:
    """Probability that the number of wrong cases is at any rank at most its limit.

    >>> probability_of_reaching((1, 2), np.array([0, 1]), 0.5)
    0.75
    """
    # probabilities of numbers of wrong cases, from `lowest` on, without having reached a limit
    going, lowest, reached = np.ones(1), 0, 0.0
    for step, limit in zip(np.diff(ranks, prepend=0).tolist(), limits.tolist(), strict=True):
        going = np.convolve(going, _probabilities(step, probability))
        going = going[: np.flatnonzero(going > NEGLIGIBLE).max(initial=0) + 1]
        within = max(0, limit + 1 - lowest)
        reached += float(going[:within].sum())
        going, lowest = going[within:], lowest + within
        if not len(going):
            break
    return reached


@lru_cache(maxsize=4096)
def _cumulative(cases: int, probability: float) -> tuple[int, Values]:
    """The first number that is not negligible, and P(at most so many wrong), up to the expected."""
    expected = cases * probability
    first = max(0, int(expected - DEVIATIONS * math.sqrt(expected)))
    return first, binomial_cdf(np.arange(first, int(expected) + 1), cases, probability)


@lru_cache(maxsize=1024)
def _probabilities(cases: int, probability: float) -> Values:
    """Probabilities of the numbers of wrong cases, up to the last one that matters."""
    cumulative = binomial_cdf(np.arange(cases + 1), cases, probability)
    probabilities = np.diff(cumulative, prepend=0.0)
    likely = int(np.flatnonzero(probabilities > NEGLIGIBLE)[-1])
    return probabilities[: likely + 1]
