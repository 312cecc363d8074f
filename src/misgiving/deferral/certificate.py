"""Certificate of a deferral policy: certified thresholds, observations and a summary of them."""

import math
from dataclasses import dataclass

from misgiving.deferral.bounds import BinomialInterval, two_sided_interval
from misgiving.deferral.operating_points import CalibrationScores
from misgiving.deferral.targets import Targets


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
        ood_scores: OOD scores of the calibration cases, sorted; None: no detector.
        accepted: Calibration cases that are accepted.
        wrong: How many of these are wrong.
        class_outcomes: One for each class with a target.
        smallest_certifiable: Smallest certifiable error where the target is not met; None: none is.
        calibration_scores: Scores and errors of the calibration cases.
    """

    targets: Targets
    classes: tuple[str, ...]
    cases: int
    tuning_cases: int
    thresholds_tried: int
    accept_threshold: float | None
    ood_threshold: float | None
    ood_rank: int | None
    ood_scores: tuple[float, ...] | None
    accepted: int
    wrong: int
    class_outcomes: tuple[ClassOutcome, ...]
    smallest_certifiable: CertifiableError | None
    calibration_scores: CalibrationScores

    @property
    def coverage_interval(self) -> BinomialInterval:
        """Two-sided interval of the accepted share, for the threshold as it is."""
        if not self.accepted:
            return BinomialInterval(0.0, 0.0)
        return two_sided_interval(self.accepted, self.cases, level=1 - self.targets.confidence)


def summarize(certificate: Certificate, *, unit: str) -> list[str]:
    """Sentences on what is certified, what was observed, and what the guarantee leaves open.

    Args:
        certificate: To describe.
        unit: The word for a group: a patient, a lesion, an image, or another group.
    """
    accepting = certificate.accept_threshold is not None
    return [
        *(_accepting(certificate) if accepting else _deferring_everything(certificate)),
        *_ood_rule(certificate),
        _scope(certificate, unit),
    ]


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
