"""Certify thresholds with the cases of a policy, and find remedies if none is."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from misgiving.arrays import Mask, Values
from misgiving.calibration.apply import answers_of
from misgiving.deferral.bounds import upper_bound
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.guarantees import GUARANTEES, Guarantee, fit_selection
from misgiving.deferral.outcomes import (
    Capacity,
    CertifiableError,
    ClassErrors,
    ClassOutcome,
)
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import RankCounts, ScoredCases, count_ranks

ERROR_STEPS = 1000  # in which the smallest certifiable error is searched
MOST_CASES = 100_000  # up to which enough cases are searched
SHARE_OF_RANK = 0.5  # of the level, that the test of a promising rank has
PRIOR_WRONG = 0.5  # wrong cases more than observed, as one among 100 ranks is chosen

Remedy = Literal["fewest_cases", "more_cases", "higher_target", "better_model", "average_guarantee"]


def certify_thresholds(
    blank: Certificate,
    tuning: ScoredCases | None,
    calibration: ScoredCases,
    guarantee: Guarantee,
    values: Sequence[str] = (),
) -> Certificate:
    """Certify thresholds with the calibration set.

    Args:
        blank: The certificate before, with targets, classes, and planned looks; that of a draw has
            the pool, and its OOD limit.
        tuning: Divides `max_error` among classes, on average; not the cases of the training. None
            where no class has a target.
        calibration: For the certification alone, one case for each group.
        guarantee: Under which the targets hold.
        values: Of `for_each`, by case; none without it. A case without a value is not acceptable.

    Raises:
        DataError: A set cannot be used.
    """
    for name, cases in (("tuning", tuning), ("calibration", calibration)):
        if cases is not None:
            cases.check_usable(name)
    targets = blank.targets.at_look(len(calibration), blank.looks)
    if blank.pool is None:
        blank = with_ood_limit(blank, calibration.ood_scores, guarantee, targets)
    calibration, names, groups = sorted_by_value(calibration, values)
    counts = [count_cases(cases, blank, targets) for cases in groups]
    blanks, selected = [], []
    for cases, each in zip(groups, counts, strict=True):
        selection = fit_selection(tuning, cases, each, targets, classes=blank.answers)
        lowest = selection.threshold(cases.scores[each.kept], each.above)
        # the loosest tested threshold that is not below this score
        at = max(np.flatnonzero(each.thresholds >= lowest).tolist(), default=-1)
        own = selection if guarantee.by_batch and selection.rates else None
        rank = int(each.ranks[at]) if at >= 0 else 0
        blanks.append(replace(blank, selection=own, accepted_on_average=rank))
        selected.append(at)
    positions = guarantee.loosest_ranks(counts, targets, selected)
    parts = [
        certificate_at(part, cases, each, guarantee, targets, position)
        for part, cases, each, position in zip(blanks, groups, counts, positions, strict=True)
    ]
    whole = _together(blank, dict(zip(names, parts, strict=True))) if values else parts[0]
    accepted, tests = whole.accepted_cases, sum(len(each.ranks) for each in counts)
    level = targets.level / max(1, tests)
    errors = (
        class_errors(cases, accepted, answers, level=level, drawn=blank.pool is not None)
        for cases, answers in levels_of(calibration, targets, blank.classes)
    )
    return replace(
        whole,
        class_errors=next(errors) if accepted.any() else (),
        superclass_errors=next(errors) if accepted.any() and targets.superclasses else (),
    )


def sorted_by_value(
    cases: ScoredCases, values: Sequence[str] = ()
) -> tuple[ScoredCases, list[str], list[ScoredCases]]:
    """The cases sorted, so that the order in which they came leaves no trace, and by value."""
    of_each = np.array(values or [""] * len(cases))
    if values:
        cases = replace(cases, acceptable=cases.acceptable & (of_each != ""))
    keys = cases.wrong, cases.error_probabilities, -cases.scores, of_each
    order = np.lexsort((cases.acceptable, cases.ood_scores, *keys))
    names, starts = np.unique(of_each[order], return_index=True)
    rows = np.split(order, starts[1:])
    return cases[order], names.tolist(), [cases[each] for each in rows]


def count_cases(cases: ScoredCases, blank: Certificate, targets: Targets) -> RankCounts:
    """Count these cases at each rank, by the limits that a certificate has already."""
    limit, floor = blank.ood_threshold, -math.inf if blank.pool is None else blank.pool.limit
    return count_ranks(cases, targets, classes=blank.answers, ood_limit=limit, floor=floor)


def certificate_at(
    blank: Certificate,
    cases: ScoredCases,
    counts: RankCounts,
    guarantee: Guarantee,
    targets: Targets,
    position: int,
) -> Certificate:
    """The certificate of these cases, at a position of the ranks; -1: no rank is certified."""
    capacity = find_capacity(cases, counts.kept, guarantee, targets)
    if position >= 0 and targets.limits_errors:
        threshold = float(counts.thresholds[position])
    else:
        threshold = math.inf if targets.review_cost is None or targets.limits_errors else -math.inf
        if capacity is not None and not targets.limits_errors:
            threshold = capacity.threshold
    accepted = counts.kept & (cases.scores >= threshold)
    return replace(
        blank,
        cases=len(cases),
        accept_threshold=threshold,
        accepted=int(accepted.sum()),
        wrong=int((accepted & cases.wrong).sum()),
        capacity=capacity,
        class_outcomes=class_outcomes(targets, guarantee, counts, position),
        smallest_certifiable=None
        if accepted.any()
        else _smallest_error(counts, targets, guarantee),
        thresholds=tuple(counts.thresholds[~np.isnan(counts.thresholds)].tolist()),
        scores=tuple(cases.scores.astype(float).tolist()),
        errors=tuple(cases.wrong.tolist()),
        kept=tuple(counts.kept.tolist()),
        error_probabilities=tuple(cases.error_probabilities.tolist()),
    )


def _together(blank: Certificate, parts: Mapping[str, Certificate]) -> Certificate:
    """The certificate of all values, from that of each."""
    columns: dict[str, Any] = {}
    for name in ("scores", "errors", "kept", "error_probabilities"):
        columns[name] = tuple(x for part in parts.values() for x in getattr(part, name))
    for name in ("cases", "accepted", "wrong", "accepted_on_average"):
        columns[name] = sum(getattr(part, name) for part in parts.values())
    lowest = min(part.accept_threshold for part in parts.values())
    return replace(blank, **columns, accept_threshold=lowest, by_value=parts)


def find_capacity(
    calibration: ScoredCases, kept: Mask, guarantee: Guarantee, targets: Targets
) -> Capacity | None:
    """Find the threshold that defers at most `max_deferred`; without the target, None.

    A case that is never accepted is deferred at any threshold. Labels decide nothing, and the cases
    above the threshold are, given it, a simple random sample: so the error there has a bound that
    nothing was chosen by.
    """
    most = guarantee.most_deferred(len(kept), targets)
    if most is None:
        return None
    scores = np.where(kept, calibration.scores, -math.inf)
    distinct, counts = np.unique(scores, return_counts=True)
    deferred = distinct[counts.cumsum() <= most]  # of equal scores all are, or none is
    last = deferred[-1] if len(deferred) else -math.inf
    threshold = -math.inf if last == -math.inf else float(np.nextafter(last, math.inf))
    accepted = kept & (calibration.scores >= threshold)
    return Capacity(most, threshold, int(accepted.sum()), int((accepted & calibration.wrong).sum()))


def with_ood_limit(
    blank: Certificate, ood_scores: Values, guarantee: Guarantee, targets: Targets
) -> Certificate:
    """The certificate with the OOD limit by the scores of cases, which need no labels."""
    rank = guarantee.ood_rank(len(ood_scores), targets)
    scores = np.sort(ood_scores).astype(float).tolist()
    limit = None if rank is None else scores[rank - 1]
    return replace(blank, ood_threshold=limit, ood_rank=rank, ood_scores=tuple(scores))


def _smallest_error(
    counts: RankCounts, targets: Targets, guarantee: Guarantee
) -> CertifiableError | None:
    """Search for the smallest `max_error` in steps of 0.001, by halving; None with `for_each`."""
    if targets.max_error is None or targets.for_each is not None:
        return None
    low, high, smallest = math.floor(targets.max_error * ERROR_STEPS), ERROR_STEPS, None
    while high - low > 1:
        middle = (low + high) // 2
        changed = replace(targets, max_error=middle / ERROR_STEPS)
        position = guarantee.loosest_ranks([counts], changed, [-1])[0]
        if position < 0:
            low = middle
        else:
            high, accepted = middle, int(counts.ranks[position])
            smallest = CertifiableError(max_error=middle / ERROR_STEPS, accepted=accepted)
    return smallest


def class_outcomes(
    targets: Targets, guarantee: Guarantee, counts: RankCounts, position: int
) -> tuple[ClassOutcome, ...]:
    """Misses of each class with a target, at this position of the ranks; -1: at the strictest."""
    usable, outcomes = ~np.isnan(counts.thresholds), []
    for name, (rate, missed, cases) in zip(targets.class_max_miss, counts.limited, strict=False):
        least = int(missed[usable][:1].sum())
        smallest = guarantee.smallest_rate(least, cases, level=targets.level_of_misses)
        outcomes.append(
            ClassOutcome(
                name=name,
                rate=rate,
                cases=cases,
                missed=int(missed[position]) if position >= 0 else least,
                smallest_certifiable_rate=float(smallest),
            )
        )
    return tuple(outcomes)


def levels_of(
    cases: ScoredCases, targets: Targets, classes: Sequence[str]
) -> Iterator[tuple[ScoredCases, tuple[str, ...]]]:
    """Answers with their names, and then, if there are superclasses, those that they belong to."""
    yield cases, targets.answers(classes)
    if targets.superclasses:
        of_each = targets.superclass_of_each(classes) if targets.answer_level == "class" else None
        predicted, labels = (answers_of(x, of_each) for x in (cases.predicted, cases.labels))
        yield replace(cases, predicted=predicted, labels=labels), tuple(targets.superclasses)


def class_errors(
    calibration: ScoredCases,
    accepted: Mask,
    classes: Sequence[str],
    *,
    level: float,
    drawn: bool,
) -> tuple[ClassErrors, ...]:
    """Accepted answers of each class; `level` of each bound.

    Of `drawn` cases, none counts as a case of its class: the others of the class were not drawn.
    """
    errors = []
    for label, name in enumerate(classes):
        of_class = (calibration.labels == label) & (not drawn)
        answers = accepted & (calibration.predicted == label)
        cases, missed = int(of_class.sum()), int((accepted & of_class & calibration.wrong).sum())
        predicted, wrong = int(answers.sum()), int((answers & calibration.wrong).sum())
        true_classes = calibration.labels[answers & calibration.wrong & (calibration.labels >= 0)]
        if cases or predicted:
            errors.append(
                ClassErrors(
                    name=name,
                    cases=cases,
                    missed=missed,
                    missed_bound=float(upper_bound(missed, cases, level=level)),
                    predicted=predicted,
                    wrong=wrong,
                    wrong_bound=float(upper_bound(wrong, predicted, level=level)),
                    confused_with=classes[int(np.bincount(true_classes).argmax())]
                    if len(true_classes)
                    else None,
                )
            )
    return tuple(sorted(errors, key=lambda each: (each.cases > 0, each.missed_bound), reverse=True))


def find_remedies(certificate: Certificate) -> dict[Remedy, int | float]:
    """Numbers of the remedies that apply; none where a threshold is certified.

    These are further cases, if as many of them are wrong as of these, and a likelier number; the
    error among the most confident half, where it is not below `max_error`; the smallest certifiable
    error; and the number of cases that the average guarantee accepts.
    """
    if certificate.accepted or certificate.by_value or not certificate.cases:
        return {}  # of a draw there are no cases yet
    targets, smallest = certificate.targets, certificate.smallest_certifiable
    middle, points = certificate.cases / 2, certificate.operating_points
    errors = [(abs(at.accepted - middle), at.error or 0.0) for at in points]
    _, of_half = min(errors, default=(0.0, 0.0))
    numbers: dict[Remedy, int | float | None] = {
        "fewest_cases": _more_cases(certificate, prior=0.0),
        "more_cases": _more_cases(certificate, prior=PRIOR_WRONG),
        "better_model": of_half if of_half >= (targets.max_error or 1.0) else None,
        "higher_target": None if smallest is None else smallest.max_error,
        "average_guarantee": certificate.accepted_on_average,
    }
    return {remedy: number for remedy, number in numbers.items() if number}


def _more_cases(certificate: Certificate, *, prior: float) -> int | None:
    """The fewest further cases with which some threshold would be certified, if any number does."""
    targets, fewest = certificate.targets.at_look(certificate.cases, certificate.looks), []
    rate = GUARANTEES[certificate.guarantee].smallest_rate
    level_of_error = SHARE_OF_RANK * targets.level_of_error
    sizes = np.unique(np.geomspace(certificate.cases, MOST_CASES, 400).astype(int))
    for point in certificate.operating_points:
        share = point.accepted / certificate.cases
        accepted = share * sizes
        wrong = accepted * (point.wrong + prior) / (point.accepted + prior)
        silent = sizes * point.wrong / certificate.cases
        error = rate(wrong, accepted, level=level_of_error, accepted=share, parts=targets.parts)
        silent_error = rate(silent, sizes, level=targets.level_of_misses)
        meets = error <= (targets.max_error or 1.0)
        meets &= silent_error <= (targets.max_silent_error or 1.0)
        fewest += sizes[meets][:1].tolist()
    return min(fewest) - certificate.cases if fewest else None
