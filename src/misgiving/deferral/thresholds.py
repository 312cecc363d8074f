"""Choose thresholds with the tuning set and certify them with the calibration set.

Calibration cases may have leading axes of independent draws: the benchmark draws thousands of
calibration sets and certifies them with this code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from misgiving.deferral.bounds import (
    cases_for_tolerance,
    kth_lowest,
    tolerance_rank,
    upper_bound,
)
from misgiving.deferral.certificate import (
    CalibrationScores,
    CertifiableError,
    Certificate,
    ClassOutcome,
)
from misgiving.deferral.multiple_testing import (
    Thresholds,
    candidate_thresholds,
    counts_by_threshold,
    fallback_procedure,
    fixed_sequence,
    loosest,
    starting_levels,
)
from misgiving.deferral.scored_cases import ScoredCases, check_usable
from misgiving.deferral.targets import Targets
from misgiving.errors import DataError, UsageError

STEPS = 1000  # in which the smallest certifiable error is searched
MOST_TIED = 0.05  # of the calibration cases, exactly at the OOD limit


def certify_thresholds(
    tuning: ScoredCases, calibration: ScoredCases, targets: Targets, *, classes: Sequence[str]
) -> Certificate:
    """Choose thresholds with the tuning set and certify them with the calibration set.

    Args:
        tuning: For all that is chosen; not the images that the model was trained on.
        calibration: For the certification alone, one case for each group.
        targets: Error rates to certify.
        classes: Names of the classes, in the order of the labels.

    Raises:
        DataError: A set has too few cases, a score that is not finite or is the same for all, or an
            unknown label; or the calibration cases cannot certify a target even if none is wrong,
            or have too many ties at the OOD limit.
        UsageError: Columns of a set differ in length, OOD scores are missing, or targets have an
            unknown class.
    """
    check_usable("tuning", tuning, classes=classes)
    check_usable("calibration", calibration, classes=classes)
    plan = CertificationPlan.from_tuning(tuning, targets, classes=classes, cases=len(calibration))
    plan.check_supported(calibration)
    counts = plan.count(calibration)
    position = int(plan.loosest_certified(counts))
    certified = position >= 0
    threshold = float(plan.thresholds[position]) if certified else None
    limit = None if counts.ood_limit is None else float(counts.ood_limit)
    ood_scores = calibration.ood_scores
    return Certificate(
        targets=targets,
        classes=plan.classes,
        cases=len(calibration),
        tuning_cases=len(tuning),
        thresholds_tried=len(plan.thresholds),
        accept_threshold=threshold,
        ood_threshold=limit,
        ood_rank=plan.rank,
        ood_scores=None
        if ood_scores is None
        else tuple(np.sort(ood_scores).astype(float).tolist()),
        accepted=int(counts.accepted[position]) if certified else 0,
        wrong=int(counts.wrong[position]) if certified else 0,
        class_outcomes=_class_outcomes(plan, counts, max(position, 0)),
        smallest_certifiable=None if certified else _smallest_certifiable(plan, counts),
        calibration_scores=CalibrationScores.from_cases(plan.thresholds, calibration, counts.kept),
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

    ood_limit: Float[np.ndarray, "*draws"] | np.floating | None
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
        cases: Number of calibration cases to come.
        thresholds: Candidate thresholds, strictest first.
        rank: Rank of the OOD limit among the calibration cases, lowest first; None: no OOD rule.
        accepted: Tuning cases that each threshold accepts.
        wrong: How many of these are wrong.
        expected: Calibration cases that can be accepted, as expected from the tuning set.
    """

    targets: Targets
    classes: tuple[str, ...]
    cases: int
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
        targets.check_classes(classes)
        rank, limit = None, None
        if targets.max_ood_false_alarms is not None:
            ood_scores = _required_ood_scores(tuning)
            rank = ood_limit_rank(cases, rate=targets.max_ood_false_alarms, level=targets.level)
            same_share = max(1, round(rank / cases * len(tuning)))
            limit = kth_lowest(ood_scores, same_share)
        kept, acceptable = tuning.eligible(limit), tuning.eligible()
        thresholds = candidate_thresholds(tuning.scores[acceptable if acceptable.any() else ...])
        return cls(
            targets=targets,
            classes=tuple(classes),
            cases=cases,
            thresholds=thresholds,
            rank=rank,
            accepted=counts_by_threshold(tuning.scores, kept, thresholds),
            wrong=counts_by_threshold(tuning.scores, kept & tuning.wrong, thresholds),
            expected=round((cases - (rank or 0)) * float(acceptable.mean())),
        )

    def check_supported(self, calibration: ScoredCases) -> None:
        """Refuse targets that these calibration cases cannot certify even if none is wrong."""
        check_counts(self.targets, self.classes, calibration.labels)
        if self.rank is not None:
            ood_scores = _required_ood_scores(calibration)
            _check_ties(ood_scores, float(kth_lowest(ood_scores, self.rank)))

    def count(self, calibration: ScoredCases) -> ThresholdCounts:
        """Count the calibration cases at each threshold."""
        limit = None
        if self.rank is not None:
            limit = kth_lowest(_required_ood_scores(calibration), self.rank)
        kept, acceptable = calibration.eligible(limit), calibration.eligible()
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
            missed=[reaching(members & acceptable & calibration.wrong) for members in of_class],
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


def check_counts(targets: Targets, classes: Sequence[str], labels: Int[np.ndarray, " n"]) -> None:
    """Refuse targets that calibration cases with these labels cannot certify if none is wrong.

    Needs no score, so it can be asked before a model has seen an image.
    """
    counts = np.bincount(labels, minlength=len(classes))
    for name, rate in targets.class_max_miss.items():
        cases = int(counts[classes.index(name)])
        if not cases:
            raise DataError(
                f"`class_max_miss` of {name}: the class has no calibration cases; add some, or "
                "drop the target"
            )
        smallest = 1 - targets.level ** (1 / cases)
        if smallest > rate:
            raise DataError(
                f"`class_max_miss` of {name} is {rate:g}, but {cases} calibration cases "
                f"certify {math.ceil(smallest * 1000) / 1000:g} at best; ask for more, or add "
                "cases"
            )
    if targets.max_ood_false_alarms is not None:
        ood_limit_rank(len(labels), rate=targets.max_ood_false_alarms, level=targets.level)


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


def _required_ood_scores(cases: ScoredCases) -> Float[np.ndarray, "*draws n"]:
    if cases.ood_scores is None:
        raise UsageError(
            "`max_ood_false_alarms` needs ood_scores in the tuning and the calibration set; "
            "give a detector"
        )
    return cases.ood_scores


def _check_ties(ood_scores: Float[np.ndarray, " n"], limit: float) -> None:
    """Refuse a detector that gives many cases the same score as the limit."""
    if np.ptp(ood_scores) == 0:
        raise DataError(
            f"ood_scores of the calibration set are all {ood_scores[0]:g}, so no limit separates "
            "out-of-distribution images; choose another detector"
        )
    tied = int((ood_scores == limit).sum())
    if tied > max(1, MOST_TIED * len(ood_scores)):
        raise DataError(
            f"ood_scores equals the limit {limit:g} in {tied} of {len(ood_scores)} calibration "
            "cases, too many for one limit; choose another detector or `max_ood_false_alarms`"
        )


def _class_outcomes(
    plan: CertificationPlan, counts: ThresholdCounts, position: int
) -> tuple[ClassOutcome, ...]:
    level = plan.targets.level
    return tuple(
        ClassOutcome(
            name=name,
            rate=rate,
            cases=int(cases),
            missed=int(missed[position]),
            smallest_certifiable_rate=float(upper_bound(missed[0], cases, level=level)),
        )
        for (name, rate), missed, cases in zip(
            plan.targets.class_max_miss.items(), counts.missed, counts.class_cases, strict=True
        )
    )


def _smallest_certifiable(
    plan: CertificationPlan, counts: ThresholdCounts
) -> CertifiableError | None:
    """Search in steps of 0.001, one by one, as the levels change with the target.

    A threshold certifies no target below its own bound, so the search starts at the lowest bound
    of those that meet the class targets.
    """
    bounds = upper_bound(counts.wrong, counts.accepted, level=plan.targets.level)
    lowest_bound = float(np.min(bounds, where=plan.meets_class_targets(counts), initial=1.0))
    lowest = max(plan.targets.max_error, lowest_bound - 1 / STEPS)
    for step in range(math.floor(lowest * STEPS) + 1, STEPS):
        position = int(plan.loosest_certified(counts, max_error=step / STEPS))
        if position >= 0:
            return CertifiableError(max_error=step / STEPS, accepted=int(counts.accepted[position]))
    return None
