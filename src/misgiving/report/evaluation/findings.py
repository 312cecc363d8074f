"""The findings of an evaluation in five sentences, and the subgroups in the order of harm."""

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np

from misgiving.metrics.selective import coverage_at_risk
from misgiving.metrics.subgroups import Subgroup
from misgiving.report.evaluation import Answers, Evaluated
from misgiving.report.evaluation.shares import (
    Separation,
    Share,
    percent,
    separation,
    shares,
    shares_of_decisions,
)
from misgiving.report.names import count, detector_name

ERRORS = 0.05, 0.1, 0.2  # at which the share that can be accepted is stated
ONE_OF_EACH = "error of one image of each group"
NAMED = 3  # groups and OOD sets in a sentence
QUANTITIES = {
    "coverage": ("accepted", "accepted", "cases"),
    "error": ("wrong among accepted", "errors", "accepted"),
    "deferral": ("deferred", "deferred", "cases"),
}


class Finding(NamedTuple):
    """A sentence or two on one topic."""

    topic: str
    text: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.text}"


class Harm(NamedTuple):
    """A subgroup: its errors if all were accepted, and the policy's decisions, if any."""

    errors: Subgroup
    decisions: Subgroup | None

    @property
    def worse(self) -> list[str]:
        """Quantities that are significantly worse than elsewhere, in words."""
        of_policy = self.decisions.worse if self.decisions else ()
        return ["wrong"] * bool(self.errors.worse) + [QUANTITIES[name][0] for name in of_policy]

    @property
    def name(self) -> str:
        """The column and its value."""
        return f"{self.errors.name} {self.errors.value}"


class OodResult(NamedTuple):
    """Separation of an OOD set, and the shares of the policy's decisions on it, if any."""

    images: int
    separation: Separation
    decided: Mapping[str, Share]


class Findings(NamedTuple):
    """The findings in sentences, and the numbers behind them.

    Attributes:
        sentences: On accuracy, acceptance, the certificate, subgroups and OOD detection.
        decided: Shares of each decision, and of `error` among the accepted; none without a policy.
        harms: Subgroups, those that fare worse first, and then by the lower bound of their errors.
        ood: By set.
    """

    sentences: list[Finding]
    decided: Mapping[str, Share]
    harms: list[Harm]
    ood: Mapping[str, OodResult]


def findings_of(evaluated: Evaluated) -> Findings:
    """Measure what the report begins with."""
    decided = _decided(evaluated.answers)
    subgroups, ood = harms(evaluated), _ood_results(evaluated)
    sentences = [
        _accuracy(evaluated),
        _acceptance(evaluated, decided),
        _certified(evaluated),
        _groups(subgroups, evaluated.units),
        _ood(evaluated, ood),
    ]
    return Findings(sentences, decided, subgroups, ood)


def harms(evaluated: Evaluated) -> list[Harm]:
    """Subgroups, those that fare worse first, and then by the lower bound of their errors."""
    decisions = evaluated.decisions or repeat(None, len(evaluated.errors))
    found = [Harm(*pair) for pair in zip(evaluated.errors, decisions, strict=True)]
    return sorted(found, key=lambda one: (not one.worse, -one.errors.error_lower))


def _decided(answers: Answers) -> dict[str, Share]:
    if answers.outcomes is None:
        return {}
    found = shares_of_decisions(answers.outcomes, answers.groups)
    errors = [(answers.wrong, answers.outcomes == "accept")]
    (error,) = shares(errors, answers.groups)
    found |= {"error": error}
    if answers.num_groups < len(answers):
        (found[ONE_OF_EACH],) = shares(errors, answers.groups, one_of_each=True)
    return found


def _ood_results(evaluated: Evaluated) -> dict[str, OodResult]:
    detection = evaluated.detection
    if detection is None:
        return {}
    found = {}
    for name, of in detection.outliers.items():
        decided = {} if of.outcomes is None else shares_of_decisions(of.outcomes, of.groups)
        separated = separation(detection, name, seed=evaluated.seed)
        found[name] = OodResult(len(of.scores), separated, decided)
    return found


def _accuracy(evaluated: Evaluated) -> Finding:
    answers = evaluated.answers
    everything = np.ones(len(answers), dtype=bool)
    (right,) = shares([(~answers.wrong, everything)], answers.groups)
    groups = answers.num_groups
    of = f" ({count(groups, evaluated.units)})" if groups < len(answers) else ""
    named = "is" if len(answers) == 1 else "are"
    images = count(len(answers), "images")
    return Finding("Accuracy", f"{right} of {images}{of} {named} named correctly.")


def _acceptance(evaluated: Evaluated, decided: Mapping[str, Share]) -> Finding:
    answers = evaluated.answers
    if not decided:
        return Finding("Acceptance", _in_hindsight(answers))
    if not decided["accept"].events:
        text = f"the policy accepts none of the {count(len(answers), 'images')}"
    else:
        text = f"the policy accepts {decided['accept']} of the images"
        text += f"; of these, {decided['error']} are wrong"
        if drawn := decided.get(ONE_OF_EACH):
            text += f"; of one image of each {evaluated.one_unit}, as a policy certifies, {drawn}"
    deferral = evaluated.deferral
    ood_rule = deferral is not None and deferral.certificate_.ood_threshold is not None
    rest = f"It defers {percent(decided['defer'].value)}"
    if ood_rule and answers.classes is None:  # of calibration cases it is not known which
        rest += " or calls them out-of-distribution"
    elif ood_rule:
        rest += f" and calls {percent(decided['ood'].value)} out-of-distribution"
    return Finding("Acceptance", f"{text}. {rest}.")


def _in_hindsight(answers: Answers) -> str:
    """The share that can be accepted at some errors, by a threshold chosen on these images."""
    scores = np.where(np.isfinite(answers.scores), answers.scores, np.finfo(float).min)
    if not answers.wrong.any():
        return "no answer is wrong, so any share can be accepted."
    limits = [limit for limit in ERRORS if limit < answers.wrong.mean()]
    if not limits:
        return f"all images can be accepted: at most {_exact(ERRORS[0])} are wrong."
    coverages = [float(coverage_at_risk(scores, answers.wrong, limit)) for limit in limits]
    counts = [round(coverage * len(scores)) for coverage in coverages]
    ordered = -np.sort(-scores)
    masks = [scores >= ordered[n - 1] if n else np.zeros(len(scores), bool) for n in counts]
    found = shares([(answers.wrong, mask) for mask in masks], answers.groups)
    parts = [
        f"{percent(coverage)} with {of} wrong" if n else f"none with at most {_exact(limit)} wrong"
        for limit, coverage, n, of in zip(limits, coverages, counts, found, strict=True)
    ]
    return (
        f"with the most confident images first, by {detector_name(answers.score)}, one can accept "
        f"{'; '.join(parts)}. These thresholds are chosen in hindsight."
    )


def _certified(evaluated: Evaluated) -> Finding:
    if evaluated.deferral is None:
        return Finding("Certified", "nothing, because there is no policy.")
    certificate, unit = evaluated.deferral.certificate_, evaluated.deferral.unit_
    targets, parts = certificate.targets, []
    if certificate.accept_threshold is not None:
        parts = [
            f"at most {_exact(targets.max_error)} of the accepted answers are wrong",
            *(
                f"at most {_exact(rate)} of {name} are accepted as another class"
                for name, rate in targets.class_max_miss.items()
            ),
        ]
    if targets.max_ood_false_alarms is not None:
        rate = _exact(targets.max_ood_false_alarms)
        parts.append(f"at most {rate} of ordinary images are called out-of-distribution")
    each = "" if targets.simultaneous or len(parts) == 1 else "each "
    images = "images" if unit == "image" else f"one image of each {unit},"
    text = (
        f"{each}with {_exact(targets.confidence)} confidence, {'; '.join(parts)}; for {images} "
        f"drawn like the {count(certificate.cases, 'calibration cases')}."
    )
    if certificate.accept_threshold is None:
        failed = (
            f"no threshold certifies at most {_exact(targets.max_error)} errors among the "
            "accepted, so every image is deferred."
        )
        text = f"{failed} But {text}" if parts else f"nothing: {failed}"
    return Finding("Certified", text)


def _exact(share: float) -> str:
    return f"{100 * share:.6g} %"


def _groups(found: Sequence[Harm], units: str) -> Finding:
    """Sentence on what fares worse; one image of each group counts, so the cases are groups."""
    counted = units if units == "images" else f"{units}, one image of each"
    if not found:
        return Finding("Groups", "not measured: classes and metadata of the cases are not known.")
    worse = [one for one in found if one.worse]
    if worse:
        more = len(worse) - NAMED
        listed = "; ".join(_harm(one, counted) for one in worse[:NAMED])
        rest = f"; and {more} more" if more > 0 else ""
        return Finding("Groups", f"significantly worse than the others: {listed}{rest}.")
    return Finding(
        "Groups",
        "none is significantly worse than the others. The highest error, by its lower bound, is "
        f"that of {found[0].name}: wrong {_share(found[0].errors, 'error')} {counted}.",
    )


def _harm(harm: Harm, counted: str) -> str:
    """The first quantity that is worse, with its interval, and the names of the others."""
    words, *others = harm.worse
    group, quantity = harm.errors, "error"
    if not harm.errors.worse and harm.decisions:
        group, quantity = harm.decisions, harm.decisions.worse[0]
    also = f", also worse: {', '.join(others)}" if others else ""
    return f"{harm.name}: {words} {_share(group, quantity)} {counted}{also}"


def _share(group: Subgroup, quantity: str) -> str:
    _, events, cases = QUANTITIES[quantity]
    ends = [getattr(group, f"{quantity}_{end}") for end in ("lower", "upper")]
    share = Share(getattr(group, events), getattr(group, cases), *ends)
    return f"{share} of {share.cases}"


def _ood(evaluated: Evaluated, results: Mapping[str, OodResult]) -> Finding:
    if evaluated.detection is None or not results:
        return Finding("OOD", "not measured: no out-of-distribution images were given.")
    parts = []
    for name, (images, of, decided) in [*results.items()][:NAMED]:
        text = str(of)
        if decided:
            accepted = percent(decided["accept"].value)
            text = f"{decided['ood']} called out-of-distribution, {accepted} accepted; {text}"
        parts.append(f"{name} ({count(images, 'images')}): {text}")
    more = len(results) - NAMED
    rest = f"; and {count(more, 'more sets')}" if more > 0 else ""
    detector = detector_name(evaluated.detection.detector)
    return Finding("OOD", f"{'; '.join(parts)}{rest}. The score is {detector}.")
