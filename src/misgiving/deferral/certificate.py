"""Certificate of a policy: certified thresholds, and what was observed on the calibration set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from misgiving.deferral.bounds import (
    BinomialInterval,
    conformal_p_values,
    two_sided_interval,
    upper_bound,
)
from misgiving.deferral.settings import DecisionRule, Targets
from misgiving.deferral.thresholds import (
    CertificationPlan,
    ScoredCases,
    ThresholdCounts,
    counts_by_threshold,
)
from misgiving.errors import DataError

STEPS = 1000  # in which the smallest certifiable error is searched
MOST_TIED = 0.05  # of the calibration cases, exactly at the OOD limit

Scores = Float[np.ndarray, " n"]


class OperatingPoint(NamedTuple):
    """Calibration cases that a threshold accepts.

    Attributes:
        threshold: Lowest accepted score; -inf: all.
        accepted: Number of accepted cases.
        wrong: How many of these are wrong.
        coverage: Share of all calibration cases that is accepted.
        error: Share of the accepted that is wrong; None where none is accepted.
        bound: Upper bound on the error; holds for all operating points at once.
    """

    threshold: float
    accepted: int
    wrong: int
    coverage: float
    error: float | None
    bound: float


@dataclass(frozen=True, kw_only=True)
class CertifiableError:
    """Smallest target error rate that these cases certify, and the number of cases accepted."""

    max_error: float
    accepted: int


@dataclass(frozen=True, kw_only=True)
class ClassOutcome:
    """Observed misses of a class with a target.

    Attributes:
        name: The class.
        rate: The target.
        cases: Calibration cases of the class.
        missed: How many are accepted as another class, without the OOD limit; at the strictest
            threshold where none meets all targets.
        smallest_certifiable_rate: Smallest target that some threshold would meet.
    """

    name: str
    rate: float
    cases: int
    missed: int
    smallest_certifiable_rate: float


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Certified thresholds, and what was observed on the calibration set.

    Attributes:
        targets: The error rates that were asked for.
        classes: Names of the classes, in the order of the labels.
        cases: Number of calibration cases.
        tuning_cases: Number of cases with which the candidate thresholds were chosen.
        thresholds_tried: Number of candidate thresholds.
        accept_threshold: Lowest accepted score; -inf: all; None: no threshold meets all targets.
        ood_threshold: Limit below which an image is out-of-distribution; None: no OOD rule.
        ood_rank: Rank of the limit among the calibration cases, lowest first; None: no OOD rule.
        ood_scores: OOD scores of the calibration cases, sorted.
        accepted: Calibration cases that are accepted.
        wrong: How many of these are wrong.
        class_outcomes: One for each class with a target.
        smallest_certifiable: Smallest certifiable error where the target is not met; None: none is.
        thresholds: Candidate thresholds, fixed by the tuning set, strictest first.
        scores: Acceptance scores of the calibration cases, highest first.
        errors: For each of these scores, True where the predicted class is wrong.
        kept: For each, True where the case is acceptable and above the OOD limit: else it is never
            accepted.
    """

    targets: Targets
    classes: tuple[str, ...]
    cases: int
    tuning_cases: int
    thresholds_tried: int
    accept_threshold: float | None
    ood_threshold: float | None
    ood_rank: int | None
    ood_scores: tuple[float, ...]
    accepted: int
    wrong: int
    class_outcomes: tuple[ClassOutcome, ...]
    smallest_certifiable: CertifiableError | None
    thresholds: tuple[float, ...]
    scores: tuple[float, ...]
    errors: tuple[bool, ...]
    kept: tuple[bool, ...]

    @property
    def coverage_interval(self) -> BinomialInterval:
        """Two-sided interval of the accepted share, for the threshold as it is."""
        if not self.accepted:
            return BinomialInterval(0.0, 0.0)
        return two_sided_interval(self.accepted, self.cases, level=1 - self.targets.confidence)

    @property
    def operating_points(self) -> list[OperatingPoint]:
        """Every candidate threshold, with bounds that hold together, with the same confidence."""
        scores, thresholds = np.array(self.scores), np.array(self.thresholds)
        kept, wrong = np.array(self.kept), np.array(self.errors)
        accepted = counts_by_threshold(scores, kept, thresholds)
        mistaken = counts_by_threshold(scores, kept & wrong, thresholds)
        bounds = simultaneous_bounds(mistaken, accepted, confidence=self.targets.confidence)
        columns = (values.tolist() for values in (thresholds, accepted, mistaken, bounds))
        return [
            OperatingPoint(threshold, n, k, n / len(scores), k / n if n else None, bound)
            for threshold, n, k, bound in zip(*columns, strict=True)
        ]

    def acceptance_interval(self, *, level: float) -> BinomialInterval:
        """Interval of the share of all images that is accepted; misses with at most this level.

        It holds for every candidate threshold and, with an OOD rule, whichever case is the limit:
        if that case had been chosen beforehand, the others would be a simple random sample. So it
        also holds for the threshold and the limit that were chosen.
        """
        threshold = np.inf if self.accept_threshold is None else self.accept_threshold
        accepted = int((np.array(self.kept) & (np.array(self.scores) >= threshold)).sum())
        ood_rule = self.ood_threshold is not None
        limits = len(self.scores) if ood_rule else 1
        each = level / (len(self.thresholds) * limits)
        return two_sided_interval(accepted, len(self.scores) - ood_rule, level=each)

    def decide(
        self, scores: Scores, ood_scores: Scores, acceptable: Bool[np.ndarray, " n"]
    ) -> tuple[Shaped[np.ndarray, " n"], Scores]:
        """Accept, defer or call out-of-distribution, image by image.

        Args:
            scores: Acceptance scores, as in the calibration.
            ood_scores: Higher means more in-distribution.
            acceptable: False where an image is deferred whatever its score, as in the calibration.

        Returns:
            "accept", "defer" or "ood" for each image, and the conformal p-value that it is
            in-distribution.
        """
        limit, threshold = self.ood_threshold, self.accept_threshold
        scores, ood_scores = (np.asarray(values, dtype=float) for values in (scores, ood_scores))
        reached = np.isfinite(scores) & (scores >= (np.inf if threshold is None else threshold))
        accepted, ood = reached & acceptable, np.zeros(len(scores), dtype=bool)
        if limit is not None:
            ood = ood_scores < limit
            accepted &= np.isfinite(ood_scores) & (ood_scores > limit)
        p_values = conformal_p_values(ood_scores, np.array(self.ood_scores))
        return np.select([ood, accepted], ["ood", "accept"], "defer"), p_values


def mark_acceptable(
    rule: DecisionRule,
    errors: Scores,
    probabilities: Float[np.ndarray, "n classes"],
    predicted: Int[np.ndarray, " n"],
) -> Bool[np.ndarray, " n"]:
    """Mark the answers that can be accepted: their error probability is not too high.

    Nor may another class have a higher probability, unless the rule weighs classes.
    """
    of_predicted = np.take_along_axis(probabilities, predicted[:, None], axis=1)[:, 0]
    unsurpassed = probabilities.max(axis=1) <= of_predicted
    if rule.rule in ("balanced", "costs"):
        unsurpassed[:] = True
    return np.asarray((errors <= rule.max_error_probability) & unsurpassed)


def simultaneous_bounds(
    wrong: Int[np.ndarray, "*draws thresholds"],
    accepted: Int[np.ndarray, "*draws thresholds"],
    *,
    confidence: float,
) -> Float[np.ndarray, "*draws thresholds"]:
    """Upper bounds on the error at each threshold, which hold together (Bonferroni)."""
    return upper_bound(wrong, accepted, level=(1 - confidence) / accepted.shape[-1])


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
