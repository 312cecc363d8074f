"""A calibration in plain words."""

import math

from misgiving.deferral.thresholds import Calibration, ClassOutcome


def sentences(found: Calibration) -> list[str]:
    """What is promised, what was observed, and what it does not say."""
    outcome = _nothing(found) if found.accept_threshold is None else _accepting(found)
    return [*outcome, *_ood(found), *_prevalence(found), _unit(found)]


def _accepting(found: Calibration) -> list[str]:
    of = found.targets
    low, high = found.coverage
    observed = found.wrong / found.accepted
    lines = [
        f"Of the answers that are accepted, at most {_percent(of.max_error)} are wrong.",
        f"{found.accepted} of {found.cases} calibration cases are accepted "
        f"({_percent(found.accepted / found.cases)}; {_percent(of.confidence)} interval "
        f"{_percent(low)} to {_percent(high)}); wrong of these: {found.wrong} "
        f"({_percent(observed)}).",
        *map(_class_line, found.class_outcomes),
    ]
    if found.accept_threshold == -math.inf:
        lines.append("The score defers nothing: all answers together keep the promise.")
    return lines


def _class_line(of: ClassOutcome) -> str:
    return (
        f"Of cases of {of.name}, at most {_percent(of.rate)} are accepted as another class "
        f"({of.missed} of {of.cases} calibration cases)."
    )


def _nothing(found: Calibration) -> list[str]:
    error = _percent(found.targets.max_error)
    lines = [f"Every answer is deferred: no threshold keeps what was asked for ({error} errors)."]
    lines += [
        f"Of cases of {of.name}, {_percent(of.rate)} cannot be promised at any threshold; the "
        f"smallest rate would have been {_percent(of.smallest_rate, up=True)}."
        for of in found.class_outcomes
        if of.smallest_rate > of.rate
    ]
    of_class = any(of.smallest_rate > of.rate for of in found.class_outcomes)
    return lines if of_class else [*lines, *_best(found)]


def _best(found: Calibration) -> list[str]:
    best = found.best
    if best is None:
        return ["With these cases no share of errors below 100 % could be promised."]
    kept = " with the targets for classes kept" if found.class_outcomes else ""
    return [
        f"The smallest share of errors that these cases would certify{kept} is "
        f"{_percent(best.max_error)}, with {best.accepted} of {found.cases} cases accepted "
        f"({_percent(best.accepted / found.cases)}).",
        "A target that is chosen after looking at these cases is no promise: certify it with "
        "other cases.",
    ]


def _ood(found: Calibration) -> list[str]:
    rate, rank = found.targets.max_ood_false_alarms, found.ood_rank
    if rate is None or rank is None:
        return []
    return [
        f"Of images like the calibration cases, at most {_percent(rate)} are called OOD: those "
        f"that look less familiar than all but {rank - 1} of {found.cases} calibration cases. "
        "How many OOD images are found is not promised."
    ]


def _prevalence(found: Calibration) -> list[str]:
    outcome = found.prevalence
    if outcome is None:
        return []
    if outcome.estimate is None or outcome.bound is None:
        return ["Under the mix of classes that was given nothing is said: nothing is accepted."]
    mix = ", ".join(
        f"{name} {_percent(share)}" for name, share in zip(found.classes, outcome.mix, strict=True)
    )
    return [
        f"With {mix}, the errors among the accepted are estimated at {_percent(outcome.estimate)} "
        f"and are at most {_percent(outcome.bound, up=True)}, by itself with a confidence of "
        f"{_percent(found.targets.confidence)}, if nothing but the mix of classes changes."
    ]


def _unit(found: Calibration) -> str:
    of = found.targets
    several = of.class_max_miss or of.max_ood_false_alarms is not None
    together = "all targets together hold" if of.simultaneous else "each promise by itself holds"
    held = together if several else "the promise holds"
    return (
        f"For one image of each lesion, drawn from where the {found.cases} calibration cases come "
        f"from, {held} with a confidence of {_percent(of.confidence)}. This does not extend to "
        "other devices, other patients or a model that was trained again."
    )


def _percent(share: float, *, up: bool = False) -> str:
    """In percent, to three digits; rounded up where it is a bound. Only all is 100 %.

    >>> _percent(0.0512), _percent(0.05), _percent(0.22061, up=True), _percent(0.9999)
    ('5.12 %', '5 %', '22.1 %', '99.99 %')
    """
    percent = math.ceil(share * 1000 - 1e-9) / 10 if up else share * 100
    digits = next(d for d in range(3, 17) if share >= 1 or float(f"{percent:.{d}g}") < 100 or up)
    return f"{percent:.{digits}g} %"
