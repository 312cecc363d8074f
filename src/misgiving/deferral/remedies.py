"""Remedies for a policy that accepts nothing: more cases, other targets, a better model."""

from typing import Literal

import numpy as np

from misgiving.deferral.certificate import Certificate
from misgiving.deferral.guarantees import GUARANTEES

MOST_CASES = 100_000  # up to which enough cases are searched
SHARE_OF_RANK = 0.5  # of the level, that the test of a promising rank has
PRIOR_WRONG = 0.5  # wrong cases more than observed, as one among 100 ranks is chosen

Remedy = Literal["fewest_cases", "more_cases", "higher_target", "better_model", "average_guarantee"]


def find_remedies(certificate: Certificate) -> dict[Remedy, int | float]:
    """Numbers of the remedies that apply; none where a threshold is certified.

    These are further cases, if as many of them are wrong as of these, and a likelier number; the
    error among the most confident half, where it is not below `max_error`; the smallest certifiable
    error; and the number of cases that the average guarantee accepts.
    """
    if certificate.accepted:
        return {}
    targets, smallest = certificate.targets, certificate.smallest_certifiable
    errors = [(abs(at.coverage - 0.5), at.error or 0.0) for at in certificate.operating_points]
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
    targets, fewest = certificate.targets, []
    rate = GUARANTEES[certificate.guarantee].smallest_rate
    level_of_error = SHARE_OF_RANK * targets.level_of_error
    sizes = np.unique(np.geomspace(certificate.cases, MOST_CASES, 400).astype(int))
    for point in certificate.operating_points:
        accepted = point.coverage * sizes
        wrong = accepted * (point.wrong + prior) / (point.accepted + prior)
        silent = sizes * point.wrong / certificate.cases
        error = rate(
            wrong, accepted, level=level_of_error, accepted=point.coverage, parts=targets.parts
        )
        silent_error = rate(silent, sizes, level=targets.level_of_misses)
        meets = error <= (targets.max_error or 1.0)
        meets &= silent_error <= (targets.max_silent_error or 1.0)
        fewest += sizes[meets][:1].tolist()
    return min(fewest) - certificate.cases if fewest else None
