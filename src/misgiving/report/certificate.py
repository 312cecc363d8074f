"""A policy in words: what it certifies, how it was fitted, and what weakens the guarantee."""

import math
from collections.abc import Iterator, Mapping, Sequence

from misgiving.deferral.certificate import Certificate
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.policy_file import Cases
from misgiving.deferral.rules import DecisionRule
from misgiving.groups import QUARTERS, UNITS

LEFT_OUT = {
    "train": "on which the model was trained",
    "test": "of the test set, which is only measured",
    "excluded": "of groups on which the model was trained, or on which it was chosen",
}


def summarize(deferral: Deferral) -> list[str]:
    """Sentences on how a policy was fitted, and on what it certifies."""
    return [*fitting_sentences(deferral), *certificate_sentences(deferral)]


def certificate_sentences(deferral: Deferral) -> list[str]:
    """Sentences on targets, observations and limits of the guarantee."""
    certificate, rule = deferral.certificate_, deferral.rule_
    accepting = certificate.accept_threshold is not None
    return [
        *(_accepting(certificate) if accepting else _deferring_everything(certificate)),
        *_ood_rule(certificate),
        _scope(certificate, deferral.unit_),
        naming_sentence(rule, deferral.classes_),
        "The error is that of all accepted answers together, not of each one. An answer is "
        f"never accepted with an error probability above {rule.max_error_probability:g}.",
        *warnings(deferral),
    ]


def naming_sentence(rule: DecisionRule, classes: tuple[str, ...]) -> str:
    """Sentence on the class that is named, with the costs that decide it, if any."""
    costs = ", ".join(f"missing {name} costs {cost:g}" for name, cost in rule.costs.items())
    others = " and missing any other class costs 1" * (len(rule.costs) < len(classes))
    words = {
        "most_probable": "the class with the highest calibrated probability is named",
        "balanced": "the class with the highest probability relative to its share of the tuning "
        "set is named",
        "costs": f"the class with the least expected cost is named, where {costs}{others}",
        "logits": "the class with the largest logit is named",
    }
    return f"Rule {rule.rule}: {words[rule.rule]}."


def warnings(deferral: Deferral) -> list[str]:
    """Sentences on what weakens the guarantee."""
    rule, warned = deferral.rule_, []
    if rule.max_error_probability > 0.5:
        weighs = rule.rule in ("balanced", "costs")
        surpassed = ", although another class is more probable" if weighs else ""
        warned = [
            "Warning: answers that are more likely wrong than right can be accepted"
            f"{surpassed}; up to a `max_error_probability` of 0.5 none is."
        ]
    return [*warned, *_repetition(deferral.cases_)]


def _repetition(cases: Cases) -> Iterator[str]:
    """Warnings about cases that were used before, or may have been."""
    if not cases.complete:
        yield (
            "Warning: the record of an earlier calibration of this run could not be read, so it is "
            "not known which cases it used."
        )
    if cases.repeated_groups:
        several = "s" * (cases.calibrations != 1)
        counted = f"{cases.calibrations} earlier calibration{several}"
        earlier = counted if cases.complete else "earlier calibrations"
        yield (
            f"Warning: calibrated before with {cases.repeated_images} of these images "
            f"({cases.repeated_groups} groups), in {earlier} of this run. The confidence holds for "
            "one calibration that was chosen beforehand, and not for the best-looking of several."
        )


def fitting_sentences(deferral: Deferral) -> list[str]:
    """Sentences on the images and the scores that a policy was fitted with."""
    cases, calibration = deferral.cases_, deferral.calibration_
    images = len(cases.tuning) + len(cases.calibration)
    ungrouped = cases.tuning.groups.count("") + cases.calibration.groups.count("")
    tried = ", ".join(f"{name} {value:.4f}" for name, value in calibration.tried.items())
    why = (
        "whose log-loss on images that it was not fitted on is lower than that of calibrated"
        if calibration.needs_evidence
        else "with the lowest AURC of those without class probes"
    )
    return [
        *unit_sentences(cases.group_columns, images, ungrouped, cases.grouped_by),
        *(f"left out: {count} images {LEFT_OUT[name]}" for name, count in cases.left_out.items()),
        _sets(cases, images, deferral.seed),
        f"detectors are fitted on {cases.training_images} training images"
        if cases.training_images
        else "no detector of features is fitted: there are no training images with features",
        "sensitivities on the tuning set, by the rule that names the class:",
        *(
            f"  {rule}: {', '.join(f'{name}: {100 * of:.0f} %' for name, of in shares.items())}"
            for rule, shares in cases.sensitivities.items()
        ),
        f"the acceptance score is {calibration.score}, {why}; AURC on the tuning set: {tried}",
        *_most_missed(cases),
    ]


def unit_sentences(
    columns: Sequence[str], images: int, ungrouped: int, grouped_by: Mapping[str, int]
) -> list[str]:
    """Sentences on the unit of a guarantee, and on what it leaves dependent.

    Args:
        columns: Those that define the groups.
        images: Number of all.
        ungrouped: Number of those that are a group of their own.
        grouped_by: Number of those whose group is named by another than the first column.
    """
    if not columns:
        return [
            "unit: image. The data name no patients, lesions or groups; images of one patient are "
            "not independent."
        ]
    listed = f"column{'s' * (len(columns) > 1)} {', '.join(columns)}"
    dependent = "Lesions of one patient are not independent."
    unit, unknown = UNITS[columns[0]], f"The data name no patients. {dependent}"
    return [
        f"unit: {unit} ({listed}). {unknown if unit == 'lesion' else ''}".rstrip(),
        *(
            f"Warning: {count} of {images} images have no value in the column {columns[0]}, and "
            f"count by {UNITS[column]}. {dependent if UNITS[column] == 'lesion' else ''}".rstrip()
            for column, count in grouped_by.items()
        ),
        *[
            f"Warning: {ungrouped} of {images} images have no value in the {listed}; each counts "
            f"as a {unit} of its own."
        ]
        * bool(ungrouped),
    ]


def _sets(cases: Cases, images: int, seed: int) -> str:
    parts = cases.drawn_parts
    share = "a quarter" if parts == QUARTERS else f"1 of {parts} parts"
    source = f"{share} of {images} images, drawn by group with seed {seed}, and the rest"
    tuning, calibration = (
        f"{len(of)} images ({of.group_count} groups)" for of in (cases.tuning, cases.calibration)
    )
    return (
        f"{source if parts else 'the sets tune and calibrate'}: {tuning} to fit and choose on, "
        f"{calibration} to certify with"
    )


def _most_missed(cases: Cases) -> Iterator[str]:
    if cases.most_missed is not None:
        name, missed, count = cases.most_missed
        yield (
            f"Warning: no class has a target. {missed} of {count} calibration images of {name} are "
            "accepted as another class; bound this by `class_max_miss`."
        )


def _accepting(certificate: Certificate) -> list[str]:
    targets, cases, accepted = certificate.targets, certificate.cases, certificate.accepted
    low, high = certificate.coverage_interval
    lines = [
        f"Certified: at most {_percent(targets.max_error)} of the accepted predictions are wrong.",
        f"{accepted} of {cases} calibration cases are accepted ({_percent(accepted / cases)}; "
        f"{_percent(targets.confidence)} interval {_percent(low)} to {_percent(high)}); "
        f"{certificate.wrong} of these are wrong ({_percent(certificate.wrong / accepted)}).",
        *(
            f"Certified: at most {_percent(of.rate)} of {of.name} cases are accepted as another "
            f"class ({of.missed} of {of.cases} calibration cases)."
            for of in certificate.class_outcomes
        ),
    ]
    if certificate.accept_threshold == -math.inf:
        lines.append(
            "The score defers nothing: the target is met with every acceptable prediction accepted."
        )
    return lines


def _deferring_everything(certificate: Certificate) -> list[str]:
    if not any(certificate.calibration_scores.kept):
        return [
            f"Every prediction is deferred: none of the {certificate.cases} calibration cases can "
            "be accepted at any threshold. Each has too high an error probability, a class that is "
            "more probable than the one named, or too low an OOD score."
        ]
    together = " together with the class targets" if certificate.class_outcomes else ""
    first = (
        "Every prediction is deferred: no threshold certifies at most "
        f"{_percent(certificate.targets.max_error)} errors{together}."
    )
    failing = [
        f"No threshold certifies a miss rate of {_percent(of.rate)} for {of.name}; the smallest "
        f"certifiable rate is {_percent(of.smallest_certifiable_rate, up=True)}."
        for of in certificate.class_outcomes
        if of.smallest_certifiable_rate > of.rate
    ]
    return [first, *(failing or _smallest_certifiable(certificate))]


def _smallest_certifiable(certificate: Certificate) -> list[str]:
    smallest, cases = certificate.smallest_certifiable, certificate.cases
    if smallest is None:
        return ["With these cases no error rate below 100 % can be certified."]
    met = " with the class targets met" if certificate.class_outcomes else ""
    return [
        f"The smallest certifiable error{met} is {_percent(smallest.max_error)}, with "
        f"{smallest.accepted} of {cases} cases accepted ({_percent(smallest.accepted / cases)}).",
        "A target chosen after looking at these cases is not certified: certify it with new cases.",
    ]


def _ood_rule(certificate: Certificate) -> list[str]:
    rate, rank = certificate.targets.max_ood_false_alarms, certificate.ood_rank
    if rate is None or rank is None:
        return []
    return [
        f"At most {_percent(rate)} of images like the calibration cases are called "
        f"out-of-distribution: those less familiar than all but {rank - 1} of {certificate.cases} "
        "calibration cases. How many OOD images are found is not certified."
    ]


def _scope(certificate: Certificate, unit: str) -> str:
    targets = certificate.targets
    several = targets.class_max_miss or targets.max_ood_false_alarms is not None
    together = (
        "all targets together hold" if targets.simultaneous else "each target by itself holds"
    )
    cases = "images" if unit == "image" else f"one image of each {unit}"
    return (
        f"For {cases}, drawn from the population of the {certificate.cases} calibration cases, "
        f"{together if several else 'the target holds'} with a confidence of "
        f"{_percent(targets.confidence)}. This does not extend to other devices, other populations "
        "or a retrained model."
    )


def _percent(share: float, *, up: bool = False) -> str:
    """Percentage with three digits; rounded up where it is a bound; only 1 gives 100 %.

    >>> _percent(0.0512), _percent(0.05), _percent(0.22061, up=True), _percent(0.9999)
    ('5.12 %', '5 %', '22.1 %', '99.99 %')
    """
    percent = math.ceil(share * 1000 - 1e-9) / 10 if up else share * 100
    digits = next(d for d in range(3, 17) if share >= 1 or float(f"{percent:.{d}g}") < 100 or up)
    return f"{percent:.{digits}g} %"
