"""Acceptance thresholds: planned with the tuning set, selected by multiple testing.

The tuning set alone fixes the thresholds to test and the level at which each starts, so that the
hypotheses are fixed before the calibration set is looked at. Counts by threshold have the
thresholds on their last axis, strictest first. Leading axes are independent draws: the benchmark
draws thousands of calibration sets and certifies them with this code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from misgiving.deferral.bounds import (
    binomial_cdf,
    cases_for_tolerance,
    kth_lowest,
    tolerance_rank,
)
from misgiving.deferral.settings import Targets
from misgiving.errors import DataError

FEWEST_CASES = 5
MOST_THRESHOLDS = 50
SPREAD_STARTS = (0.2, 0.4, 0.6, 0.8, 1.0)  # coverages at which the procedure starts in any case
SHARE_OF_BEST = 0.9  # of the error budget, for the most promising threshold
WEIGHT_OF_COVERAGE = 0.05  # against the power of a start; chosen with the share on simulated data

Scores = Float[np.ndarray, "*draws n"]
Limit = Float[np.ndarray, "*draws"] | np.floating | None
Thresholds = Float[np.ndarray, " thresholds"]
CountsByThreshold = Int[np.ndarray, "*draws thresholds"]
Selected = Bool[np.ndarray, "*draws thresholds"]


@dataclass(frozen=True, kw_only=True)
class ScoredCases:
    """Predictions of known correctness, one per group.

    Attributes:
        scores: Acceptance scores; higher means more likely correct.
        ood_scores: Higher means more in-distribution.
        wrong: True where the named class is wrong.
        labels: Position of the true class.
        acceptable: False where an image is deferred whatever its score, by a rule that was fixed
            before.
    """

    scores: Scores
    ood_scores: Scores
    wrong: Bool[np.ndarray, "*draws n"]
    labels: Int[np.ndarray, "*draws n"]
    acceptable: Bool[np.ndarray, "*draws n"]

    def __len__(self) -> int:
        return int(self.scores.shape[-1])

    def __getitem__(self, chosen: Bool[np.ndarray, " n"] | Int[np.ndarray, "..."]) -> "ScoredCases":
        return ScoredCases(**{name: values[chosen] for name, values in vars(self).items()})

    def above(self, ood_limit: Limit) -> Bool[np.ndarray, "*draws n"]:
        """Mark the acceptable cases above the OOD limit, if there is one."""
        if ood_limit is None:
            return self.acceptable
        return self.acceptable & (self.ood_scores > np.asarray(ood_limit)[..., None])

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


class ThresholdCounts(NamedTuple):
    """Calibration cases at each candidate threshold, strictest first.

    Attributes:
        ood_limit: None without an OOD rule.
        kept: Acceptable cases above the limit: the only ones that certify the error.
        accepted: Kept cases that are accepted.
        wrong: How many of these are wrong.
        missed: For each class with a target, its cases that are accepted as another class, without
            the OOD limit.
        class_cases: For each class with a target, all of its cases.
    """

    ood_limit: Limit
    kept: Bool[np.ndarray, "*draws n"]
    accepted: Int[np.ndarray, "*draws thresholds"]
    wrong: Int[np.ndarray, "*draws thresholds"]
    missed: list[Int[np.ndarray, "*draws thresholds"]]
    class_cases: list[Int[np.ndarray, "*draws"] | np.integer]


@dataclass(frozen=True, kw_only=True)
class CertificationPlan:
    """Hypotheses that are fixed before the calibration set is looked at.

    Attributes:
        targets: Error rates to certify.
        classes: Names of the classes, in the order of the labels.
        thresholds: Candidate thresholds, strictest first.
        rank: Rank of the OOD limit among the calibration cases, lowest first; None: no OOD rule.
        accepted: Tuning cases that each threshold accepts.
        wrong: How many of these are wrong.
        expected: Calibration cases that can be accepted, as expected from the tuning set.
    """

    targets: Targets
    classes: tuple[str, ...]
    thresholds: Thresholds
    rank: int | None
    accepted: Int[np.ndarray, " thresholds"]
    wrong: Int[np.ndarray, " thresholds"]
    expected: int

    @classmethod
    def from_tuning(
        cls, tuning: ScoredCases, targets: Targets, *, classes: Sequence[str], cases: int
    ) -> "CertificationPlan":
        """Plan the certification with so many calibration cases."""
        rank, limit = None, None
        if targets.max_ood_false_alarms is not None:
            rank = ood_limit_rank(cases, rate=targets.max_ood_false_alarms, level=targets.level)
            same_share = max(1, round(rank / cases * len(tuning)))
            limit = kth_lowest(tuning.ood_scores, same_share)
        kept, acceptable = tuning.above(limit), tuning.acceptable
        thresholds = candidate_thresholds(tuning.scores[acceptable if acceptable.any() else ...])
        return cls(
            targets=targets,
            classes=tuple(classes),
            thresholds=thresholds,
            rank=rank,
            accepted=counts_by_threshold(tuning.scores, kept, thresholds),
            wrong=counts_by_threshold(tuning.scores, kept & tuning.wrong, thresholds),
            expected=round((cases - (rank or 0)) * float(acceptable.mean())),
        )

    def check_class_targets(self, calibration: ScoredCases) -> None:
        """Check that these cases could certify the class targets, if none were wrong."""
        for name, rate in self.targets.class_max_miss.items():
            cases = int((calibration.labels == self.classes.index(name)).sum())
            smallest = 1 - self.targets.level ** (1 / cases) if cases else 1.0
            if smallest > rate:
                raise DataError(
                    f"`class_max_miss` of {name} is {rate:g}, but {cases} calibration cases "
                    f"certify {math.ceil(smallest * 1000) / 1000:g} at best; ask for more, or add "
                    "cases"
                )

    def count(self, calibration: ScoredCases) -> ThresholdCounts:
        """Count the calibration cases at each threshold."""
        limit = None if self.rank is None else kth_lowest(calibration.ood_scores, self.rank)
        kept, missable = calibration.above(limit), calibration.acceptable & calibration.wrong
        of_class = [
            calibration.labels == self.classes.index(name) for name in self.targets.class_max_miss
        ]

        def reaching(counted: Bool[np.ndarray, "*draws n"]) -> Int[np.ndarray, "*draws thresholds"]:
            return counts_by_threshold(calibration.scores, counted, self.thresholds)

        return ThresholdCounts(
            ood_limit=limit,
            kept=kept,
            accepted=reaching(kept),
            wrong=reaching(kept & calibration.wrong),
            missed=[reaching(members & missable) for members in of_class],
            class_cases=[members.sum(axis=-1) for members in of_class],
        )

    def loosest_certified(
        self, counts: ThresholdCounts, *, max_error: float | None = None
    ) -> Int[np.ndarray, "*draws"]:
        """Position of the loosest threshold that meets the targets, -1 for none.

        Args:
            counts: The calibration cases at each threshold.
            max_error: Target error rate instead of the planned one.
        """
        target = self.targets.max_error if max_error is None else max_error
        levels = starting_levels(
            self.accepted,
            self.wrong,
            cases=self.expected,
            max_error=target,
            level=self.targets.level,
        )
        selected = fallback_procedure(
            counts.accepted, counts.wrong, max_error=target, levels=levels
        )
        return loosest(selected & self.meets_class_targets(counts))

    def meets_class_targets(self, counts: ThresholdCounts) -> Bool[np.ndarray, "*draws thresholds"]:
        """Mark the thresholds that certify every class target."""
        selected = np.ones(counts.accepted.shape, dtype=bool)
        rates = self.targets.class_max_miss.values()
        for rate, missed, cases in zip(rates, counts.missed, counts.class_cases, strict=True):
            selected &= fixed_sequence(missed, cases, rate=rate, level=self.targets.level)
        return selected


def ood_limit_rank(cases: int, *, rate: float, level: float) -> int:
    """Rank of the OOD limit among the calibration cases, lowest first (Wilks, 1941; Vovk, 2012).

    An image below the limit is out-of-distribution; one exactly at it is deferred. What is accepted
    lies strictly above, where the calibration cases are, given the limit, a simple random sample.
    """
    rank = tolerance_rank(cases, rate=rate, level=level)
    if not rank:
        needed = cases_for_tolerance(rate=rate, level=level)
        raise DataError(
            f"`max_ood_false_alarms` of {rate:g} needs at least {needed} calibration cases, got "
            f"{cases}; ask for more, or add cases"
        )
    return rank


def candidate_thresholds(scores: Float[np.ndarray, " n"]) -> Thresholds:
    """At most 50 thresholds at evenly spaced coverages, strictest first; -inf accepts everything.

    >>> candidate_thresholds(np.array([0.1, 0.5, 0.9]))
    array([ 0.9,  0.5, -inf])
    """
    coverages = np.arange(1, MOST_THRESHOLDS) / MOST_THRESHOLDS
    ranks = np.ceil(coverages * len(scores) - 1e-9).astype(int)
    thresholds = np.unique(np.sort(scores)[::-1][ranks - 1])[::-1]
    return np.append(thresholds[thresholds > scores.min()], -np.inf)


def counts_by_threshold(
    scores: Float[np.ndarray, "*draws n"],
    counted: Bool[np.ndarray, "*draws n"],
    thresholds: Thresholds,
) -> CountsByThreshold:
    """Number of the counted cases whose score reaches each threshold.

    >>> scores, counted = np.array([0.9, 0.5, 0.2]), np.array([True, True, False])
    >>> counts_by_threshold(scores, counted, np.array([0.9, 0.5, -np.inf]))
    array([1, 2, 2])
    """
    strictest = np.searchsorted(-thresholds, -scores)  # the strictest threshold that accepts
    rows = strictest.reshape(-1, scores.shape[-1]) if scores.ndim > 1 else strictest[None]
    cells = rows + len(thresholds) * np.arange(len(rows))[:, None]
    added = np.bincount(
        cells.ravel(), weights=counted.ravel(), minlength=len(rows) * len(thresholds)
    ).astype(np.int64)
    by_row = added.reshape(*scores.shape[:-1], len(thresholds))
    return np.cumsum(by_row, axis=-1)


def fallback_procedure(
    accepted: CountsByThreshold,
    wrong: CountsByThreshold,
    *,
    max_error: float,
    levels: Float[np.ndarray, " thresholds"],
) -> Selected:
    """Select the thresholds at which "more than `max_error` of the accepted are wrong" is rejected.

    The fallback procedure (Wiens, 2003): a threshold is tested at its own level plus the level that
    its stricter neighbour was rejected at. The probability of selecting any threshold wrongly is at
    most the sum of the levels, whatever the dependence between the tests.

    >>> accepted, wrong = np.array([50, 100]), np.array([0, 2])
    >>> fallback_procedure(accepted, wrong, max_error=0.1, levels=np.array([0.025, 0.025]))
    array([ True,  True])
    """
    p_values = binomial_cdf(wrong, accepted, max_error)
    rejected = np.zeros(p_values.shape, dtype=bool)
    carried = np.zeros(p_values.shape[:-1])
    for threshold, level in enumerate(levels):
        carried = carried + level
        rejected[..., threshold] = p_values[..., threshold] <= carried
        carried = np.where(rejected[..., threshold], carried, 0.0)
    return rejected


def fixed_sequence(
    missed: CountsByThreshold,
    cases: Int[np.ndarray, "*draws"] | np.integer | int,
    *,
    rate: float,
    level: float,
) -> Selected:
    """Select the thresholds up to which "more than `rate` of the class is missed" is rejected.

    A fixed sequence from the strictest on, each at the whole level, until the first that fails.

    Args:
        missed: Cases of the class that are accepted as another class.
        cases: All calibration cases of the class.
        rate: The target.
        level: Probability of selecting a threshold wrongly, at most.

    >>> fixed_sequence(np.array([0, 0, 3]), 100, rate=0.05, level=0.05)
    array([ True,  True, False])
    """
    p_values = binomial_cdf(missed, np.asarray(cases)[..., None], rate)
    return np.logical_and.accumulate(p_values <= level, axis=-1)


def loosest(selected: Selected) -> Int[np.ndarray, "*draws"]:
    """Position of the last threshold that is selected, -1 where none is.

    >>> loosest(np.array([[True, True, False], [False, False, False]]))
    array([ 1, -1])
    """
    last = selected.shape[-1] - 1 - np.argmax(selected[..., ::-1], axis=-1)
    return np.where(selected.any(axis=-1), last, -1)


def starting_levels(
    accepted: Int[np.ndarray, " thresholds"],
    wrong: Int[np.ndarray, " thresholds"],
    *,
    cases: int,
    max_error: float,
    level: float,
) -> Float[np.ndarray, " thresholds"]:
    """Share the level among the thresholds: most goes to the most promising one.

    Args:
        accepted: Tuning cases that each threshold accepts; the last accepts all of them.
        wrong: How many of these are wrong.
        cases: Number of calibration cases that will be counted.
        max_error: The target.
        level: Sum of the levels.
    """
    coverages = accepted / max(accepted[-1], 1)
    levels = np.zeros(len(accepted))
    nearest = np.abs(coverages - np.array(SPREAD_STARTS)[:, None]).argmin(axis=1)
    np.add.at(levels, nearest, level * (1 - SHARE_OF_BEST) / len(SPREAD_STARTS))
    expected = np.rint(cases * coverages).astype(int)
    smoothed_risks = (wrong + 1) / (accepted + 2)
    level_of_best = level * SHARE_OF_BEST
    most = most_errors(expected, max_error=max_error, level=level_of_best)
    power = np.where(most >= 0, binomial_cdf(np.maximum(most, 0), expected, smoothed_risks), 0.0)
    levels[np.argmax(power * coverages**WEIGHT_OF_COVERAGE)] += level_of_best
    return levels


def most_errors(
    accepted: Int[np.ndarray, " thresholds"], *, max_error: float, level: float
) -> Int[np.ndarray, " thresholds"]:
    """Highest number of errors with which the test at `level` still rejects; -1 for none.

    >>> most_errors(np.array([59, 58, 93]), max_error=0.05, level=0.05)
    array([ 0, -1,  1])
    """
    passes, fails = np.full_like(accepted, -1), accepted  # p-values rise with the count, up to 1
    while (fails - passes > 1).any():
        middle = (passes + fails) // 2  # where the two are neighbours, the lower one
        passed = (middle < 0) | (binomial_cdf(np.maximum(middle, 0), accepted, max_error) <= level)
        passes, fails = np.where(passed, middle, passes), np.where(passed, fails, middle)
    return passes
