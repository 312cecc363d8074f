"""From cases and targets to thresholds, with all that was observed on the way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from misgiving.deferral.bounds import Interval, lower_bound, two_sided, upper_bound
from misgiving.deferral.cases import Cases, Scores, Targets, refuse_unusable
from misgiving.deferral.operating_points import Evidence
from misgiving.deferral.plan import Counts, Plan, refuse_unsupported
from misgiving.deferral.prevalence import (
    Mix,
    PrevalenceOutcome,
    bounded_error,
    completed,
    estimated_error,
)

STEPS = 1000  # in which the best attainable error is looked for


@dataclass(frozen=True, kw_only=True)
class Attainable:
    """The smallest error that these cases would certify, and how many cases it would accept."""

    max_error: float
    accepted: int


@dataclass(frozen=True, kw_only=True)
class ClassOutcome:
    """A class promise and what was observed.

    Attributes:
        name: The class.
        rate: The promise.
        cases: Calibration cases of the class.
        missed: How many are accepted as another class, by the score alone; at the strictest
            candidate where no threshold keeps all targets.
        smallest_rate: The smallest rate that some candidate would have kept.
    """

    name: str
    rate: float
    cases: int
    missed: int
    smallest_rate: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Thresholds that keep the targets, and the facts about them.

    Attributes:
        targets: What was asked for.
        classes: Names of the classes, in the order of the labels.
        cases: Number of calibration cases.
        tune_cases: Number of cases that the candidates were chosen with.
        candidates: Number of thresholds that were tried.
        accept_threshold: Lowest score that is accepted; -inf: all; None: nothing keeps them all.
        ood_threshold: Limit below which an image is out-of-distribution; None: none is.
        ood_rank: Which of the lowest calibration confidences the limit is; None: no rule.
        ood_scores: Confidences of the calibration cases, sorted; None: no detector.
        accepted: Calibration cases that are accepted.
        wrong: How many of these are wrong.
        coverage: Two-sided interval of the share that is accepted, for the threshold as it is.
        class_outcomes: One for each class promise.
        prevalence: The error in another mix of classes, where one was given.
        best: What would have been attainable, where the targets are not; None: nothing.
        evidence: The calibration cases; None in a policy of before they were kept.
    """

    targets: Targets
    classes: tuple[str, ...]
    cases: int
    tune_cases: int
    candidates: int
    accept_threshold: float | None
    ood_threshold: float | None
    ood_rank: int | None
    ood_scores: tuple[float, ...] | None
    accepted: int
    wrong: int
    coverage: Interval
    class_outcomes: tuple[ClassOutcome, ...]
    prevalence: PrevalenceOutcome | None
    best: Attainable | None
    evidence: Evidence | None = None


def calibrate(
    tune: Cases, calibration: Cases, targets: Targets, *, classes: Sequence[str]
) -> Calibration:
    """Choose thresholds with the tune part and certify them with the calibration part.

    Args:
        tune: Cases for all that is chosen; not those that the model was trained on.
        calibration: Cases for nothing but the certification, one for each lesion.
        targets: What the accepted answers must keep.
        classes: Names of the classes, in the order of the labels.
    """
    refuse_unusable("tune", tune, classes=classes)
    refuse_unusable("calibration", calibration, classes=classes)
    plan = Plan.of(tune, targets, classes=classes, cases=len(calibration))
    refuse_unsupported(plan, calibration)
    counts = plan.count(calibration)
    position = int(plan.position(counts))
    accepted, wrong = _at(position, counts)
    return Calibration(
        targets=targets,
        classes=plan.classes,
        cases=len(calibration),
        tune_cases=len(tune),
        candidates=len(plan.thresholds),
        accept_threshold=float(plan.thresholds[position]) if position >= 0 else None,
        ood_threshold=None if counts.limit is None else float(counts.limit),
        ood_rank=plan.rank,
        ood_scores=_sorted(calibration.ood_scores),
        accepted=accepted,
        wrong=wrong,
        coverage=_coverage(accepted, len(calibration), level=1 - targets.confidence),
        class_outcomes=_class_outcomes(plan, counts, position),
        prevalence=_under_prevalence(plan, calibration, counts, position),
        best=None if position >= 0 else _best(plan, counts),
        evidence=Evidence.of(plan.thresholds, calibration, counts.kept),
    )


def _at(position: int, counts: Counts) -> tuple[int, int]:
    if position < 0:
        return 0, 0
    return int(counts.accepted[position]), int(counts.wrong[position])


def _sorted(scores: Scores | None) -> tuple[float, ...] | None:
    return None if scores is None else tuple(np.sort(scores).astype(float).tolist())


def _coverage(accepted: int, cases: int, *, level: float) -> Interval:
    return two_sided(accepted, cases, level=level) if accepted else Interval(0.0, 0.0)


def _class_outcomes(plan: Plan, counts: Counts, position: int) -> tuple[ClassOutcome, ...]:
    return tuple(
        ClassOutcome(
            name=name,
            rate=rate,
            cases=int(cases),
            missed=int(missed[max(position, 0)]),
            smallest_rate=float(upper_bound(missed[0], cases, level=plan.targets.level)),
        )
        for (name, rate), missed, cases in zip(
            plan.targets.class_max_miss.items(), counts.missed, counts.class_cases, strict=True
        )
    )


def _best(plan: Plan, counts: Counts) -> Attainable | None:
    """The smallest in steps of 0.001: tried one by one, as levels change with the target.

    None below every candidate's own bound can be certified, so that the trials start there.
    """
    bounds = upper_bound(counts.wrong, counts.accepted, level=plan.targets.level)
    lowest = max(plan.targets.max_error, float(np.min(bounds)) - 1 / STEPS)
    for step in range(math.floor(lowest * STEPS) + 1, STEPS):
        position = int(plan.position(counts, max_error=step / STEPS))
        if position >= 0:
            return Attainable(max_error=step / STEPS, accepted=int(counts.accepted[position]))
    return None


def _under_prevalence(
    plan: Plan, cases: Cases, counts: Counts, position: int
) -> PrevalenceOutcome | None:
    if plan.targets.prevalence is None:
        return None
    of_classes = _by_class(plan, cases)
    mix = completed(plan.targets.prevalence, plan.classes, cases=of_classes)
    if position < 0:
        return PrevalenceOutcome(mix=tuple(mix.tolist()), estimate=None, bound=None)
    accepted = counts.kept & (cases.scores >= plan.thresholds[position])
    wrong, right = (
        _by_class(plan, cases[accepted & chosen]) for chosen in (cases.wrong, ~cases.wrong)
    )
    return PrevalenceOutcome(
        mix=tuple(mix.tolist()),
        estimate=estimated_error(wrong, right, of_classes, mix),
        bound=_bound(plan, cases, counts, position, mix=mix),
    )


def _bound(plan: Plan, cases: Cases, counts: Counts, position: int, *, mix: Mix) -> float:
    """Valid for every candidate and every OOD limit, so also for those that were chosen.

    "Accepted and wrong" is counted by the score alone. "Accepted and right" depends on the limit:
    were it one case's confidence, chosen beforehand, the other cases would be a plain random
    sample. So the case that is the limit does not count, and the level is shared among all cases.
    """
    reached = cases.scores >= plan.thresholds[position]
    each = (1 - plan.targets.confidence) / (2 * np.count_nonzero(mix) * len(plan.thresholds))
    wrong = _by_class(plan, cases[reached & cases.wrong])
    most_wrong = upper_bound(wrong, _by_class(plan, cases), level=each)
    right = _by_class(plan, cases[reached & counts.kept & ~cases.wrong])
    others = np.ones(len(cases), dtype=bool)
    if cases.ood_scores is not None and counts.limit is not None:
        others[np.argmax(cases.ood_scores == counts.limit)] = False
        each /= len(cases)
    least_right = lower_bound(right, _by_class(plan, cases[others]), level=each)
    return bounded_error(most_wrong, least_right, mix=mix)


def _by_class(plan: Plan, cases: Cases) -> Int[np.ndarray, " classes"]:
    return np.bincount(cases.labels, minlength=len(plan.classes))
