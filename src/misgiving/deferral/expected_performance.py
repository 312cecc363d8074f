"""Expected errors of images without labels, if these are drawn like the calibration cases."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import kolmogorov

from misgiving.deferral.decision_tables import DecisionRow
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.drift import DriftMonitor, DriftTest

Values = Float[np.ndarray, " n"]

FEWEST_CASES = 20  # calibration cases from which an estimate is corrected
DRAWS = 10_000
MOST_TESTED = 5000  # images that are tested for drift, drawn at random
LEVEL = 0.05
DIFFERENT = 0.02  # probability that equal distributions are found to differ


class ExpectedError(NamedTuple):
    """The share of wrong answers that is expected, with an interval for the share in this set."""

    images: int
    error: float
    lower: float
    upper: float


Expected = tuple[ExpectedError, ExpectedError | None]
"""Of all images whose outputs are finite, and of the accepted ones.

None where no image is accepted, or too few calibration cases are.
"""


class ExpectedPerformance(NamedTuple):
    """Expected errors of a set of images without labels, and whether to trust them.

    Attributes:
        errors: Of all images, and of the accepted ones.
        alarms: The tests for drift that found the images to differ from the calibration cases.
        gaps: Largest difference between the distributions of the images and of the calibration
            cases, by score, where these differ; `acceptance` or `ood`.
    """

    errors: Expected
    alarms: tuple[DriftTest, ...]
    gaps: Mapping[str, float]


def expected_performance(
    deferral: Deferral, decisions: Iterable[DecisionRow]
) -> ExpectedPerformance | None:
    """Estimate the errors of images without labels, and test whether the estimate may hold.

    Args:
        deferral: The policy by which the images were decided.
        decisions: Images without a finite error probability are left out; the paths break ties in
            the tests for drift.

    Returns:
        None where `expected_errors` is None.
    """
    judged = [
        (row.path, (row.error_probability, row.acceptance_score, row.ood_score), row.decision)
        for row in decisions
        if row.error_probability is not None
    ]
    names = [name for name, _, _ in judged]
    numbers = np.array([numbers for _, numbers, _ in judged], dtype=float)
    errors, scores, ood_scores = numbers.reshape(-1, 3).T
    accepted = np.array([decision == "accept" for _, _, decision in judged], dtype=bool)
    expected = expected_errors(deferral, errors, accepted)
    if expected is None:
        return None
    certificate, monitor = deferral.certificate_, DriftMonitor(deferral.certificate_)
    # in a random order, since the images may be sorted
    for row in np.random.default_rng(0).permutation(len(names))[:MOST_TESTED]:
        monitor.update(
            score=float(scores[row]),
            ood_score=float(ood_scores[row]),
            accepted=bool(accepted[row]),
            content=names[row],
        )
    compared = {
        "acceptance": (scores, certificate.scores),
        "ood": (ood_scores, certificate.ood_scores),
    }
    gaps = {}
    for name, (new, calibration) in compared.items():
        gap, p_value = compare_distributions(new, np.array(calibration))
        if p_value <= DIFFERENT / len(compared):
            gaps[name] = gap
    alarms = (test for test in monitor.tests if test.alarmed_with is not None)
    return ExpectedPerformance(expected, tuple(alarms), gaps)


def compare_distributions(first: Values, second: Float[np.ndarray, " m"]) -> tuple[float, float]:
    """Kolmogorov and Smirnov's test: the largest difference of two distributions, and its p-value.

    For a set that is complete it finds smaller changes than the tests of `DriftMonitor`, which hold
    at any time. The p-value is that for large sets, and too high where values are equal.
    """
    values = np.concatenate([first, second])
    below = (
        np.searchsorted(np.sort(part), values, side="right") / len(part) for part in (first, second)
    )
    gap = float(np.abs(np.subtract(*below)).max())
    effective = len(first) * len(second) / len(values)
    return gap, float(kolmogorov(math.sqrt(effective) * gap))


def expected_errors(
    deferral: Deferral, errors: Values, accepted: Bool[np.ndarray, " n"]
) -> Expected | None:
    """Estimate the errors of images that are drawn like the calibration cases.

    The mean error probability is corrected by the mean difference between errors and error
    probabilities of the calibration cases, which the calibrator has not seen. The interval has 95 %
    of a predictive distribution: the correction is drawn from a normal distribution, and the number
    of errors, given the corrected mean, from a binomial one, which is a little too wide. Images of
    one group count as independent, so that it is too narrow where there are many of each group.

    Args:
        deferral: The policy by which the images were decided.
        errors: Error probabilities; images where one is not finite are left out.
        accepted: True for the accepted images.

    Returns:
        None with fewer than 20 calibration cases, or without an image.
    """
    finite = np.isfinite(errors)
    certificate, lowest = deferral.certificate_, deferral.certificate_.accept_threshold
    scores = np.array(certificate.scores)
    residuals = np.array(certificate.errors) - deferral.calibration_.error(scores)
    if len(residuals) < FEWEST_CASES or not finite.any():
        return None
    threshold = np.inf if lowest is None else lowest
    taken, both = np.array(certificate.kept) & (scores >= threshold), finite & accepted
    enough = both.any() and taken.sum() >= FEWEST_CASES
    return (
        _expected(errors[finite], residuals),
        _expected(errors[both], residuals[taken]) if enough else None,
    )


def _expected(errors: Values, residuals: Float[np.ndarray, " cases"]) -> ExpectedError:
    mean, correction = float(errors.mean()), float(residuals.mean())
    # one right and one wrong case more: that none was wrong does not mean that none can be
    widened = np.concatenate([residuals, [1 - mean, -mean]])
    spread = widened.std(ddof=1) / np.sqrt(len(residuals))
    random = np.random.default_rng(0)
    means = (mean + correction + spread * random.standard_normal(DRAWS)).clip(0, 1)
    shares = random.binomial(len(errors), means) / len(errors)
    lower, upper = np.quantile(shares, [LEVEL / 2, 1 - LEVEL / 2])
    return ExpectedError(
        len(errors), min(max(mean + correction, 0.0), 1.0), float(lower), float(upper)
    )
