"""Choose thresholds with the tuning set and certify them with the calibration set.

Cases may have leading axes of independent draws: the benchmark draws thousands of calibration sets
and certifies them with this code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from misgiving.deferral.bounds import (
    Thresholds,
    candidate_thresholds,
    cases_for_tolerance,
    counts_by_threshold,
    fallback_procedure,
    fixed_sequence,
    kth_lowest,
    loosest,
    starting_levels,
    tolerance_rank,
    upper_bound,
)
from misgiving.deferral.certificate import CertifiableError, Certificate, ClassOutcome
from misgiving.deferral.settings import Targets
from misgiving.errors import DataError

STEPS = 1000  # in which the smallest certifiable error is searched
MOST_TIED = 0.05  # of the calibration cases, exactly at the OOD limit
FEWEST_CASES = 5

Scores = Float[np.ndarray, "*draws n"]
Limit = Float[np.ndarray, "*draws"] | np.floating | None


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
        DataError: A set cannot be used, or the calibration cases cannot certify a target even if
            none is wrong, or have too many ties at the OOD limit.
    """
    for name, cases in (("tuning", tuning), ("calibration", calibration)):
        cases.check_usable(name)
    plan = CertificationPlan.from_tuning(tuning, targets, classes=classes, cases=len(calibration))
    plan.check_class_targets(calibration)
    counts = plan.count(calibration)
    limit = None if counts.ood_limit is None else float(counts.ood_limit)
    if limit is not None:
        _check_ties(calibration.ood_scores, limit)
    position = int(plan.loosest_certified(counts))
    certified = position >= 0
    # Sorted, so that the order in which the cases came leaves no trace.
    order = np.lexsort((counts.kept, calibration.wrong, -calibration.scores))
    return Certificate(
        targets=targets,
        classes=plan.classes,
        cases=len(calibration),
        tuning_cases=len(tuning),
        thresholds_tried=len(plan.thresholds),
        accept_threshold=float(plan.thresholds[position]) if certified else None,
        ood_threshold=limit,
        ood_rank=plan.rank,
        ood_scores=tuple(np.sort(calibration.ood_scores).astype(float).tolist()),
        accepted=int(counts.accepted[position]) if certified else 0,
        wrong=int(counts.wrong[position]) if certified else 0,
        class_outcomes=_class_outcomes(plan, counts, max(position, 0)),
        smallest_certifiable=None if certified else _smallest_certifiable(plan, counts),
        thresholds=tuple(plan.thresholds.tolist()),
        scores=tuple(calibration.scores[order].astype(float).tolist()),
        errors=tuple(calibration.wrong[order].tolist()),
        kept=tuple(counts.kept[order].tolist()),
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


def _check_ties(ood_scores: Float[np.ndarray, " n"], limit: float) -> None:
    """Check that a detector does not give many cases the same score as the limit."""
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
