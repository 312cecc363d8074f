"""Expected errors of images without labels, if these are drawn like the calibration cases."""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import kolmogorov

from misgiving.calibration.apply import Calibrator
from misgiving.decisions.engine import DecisionEngine
from misgiving.deferral.drift import DriftMonitor
from misgiving.deferral.policy import DeferralPolicy
from misgiving.results.decision_tables import DecisionRow

Values = Float[np.ndarray, " n"]

FEWEST_CASES = 20  # calibration cases from which an estimate is corrected
DRAWS = 10_000
MOST_TESTED = 5000  # images that are tested for drift, drawn at random
LEVEL = 0.05
DIFFERENT = 0.02  # probability that equal distributions are found to differ
NUMBERS = ("error_probability", "acceptance_score", "ood_score")
DISTRUST = "Do not trust this: the images differ from the calibration cases."


def trust(unit: str) -> str:
    """Sentences on what an estimate holds for, where no difference was found.

    Args:
        unit: What a case is: a patient, a lesion, an image, or another group.
    """
    one = "" if unit == "image" else f" one of each {unit},"
    return (
        f"This holds for images drawn like the calibration cases,{one} from which no difference "
        "was found. A change that leaves the scores alone, such as another mix of classes, is not "
        "seen."
    )


class ExpectedError(NamedTuple):
    """The share of wrong answers that is expected, with an interval for the share in this set."""

    images: int
    error: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return (
            f"{100 * (1 - self.error):.1f} % right ({100 * (1 - self.upper):.1f} to "
            f"{100 * (1 - self.lower):.1f} %) of {self.images}"
        )


class ExpectedErrors(NamedTuple):
    """Expected errors of all images whose outputs are finite, and of the accepted ones.

    `accepted` is None where no image is, or too few calibration cases are.
    """

    everything: ExpectedError
    accepted: ExpectedError | None

    @property
    def sentences(self) -> list[str]:
        """Both in words."""
        found = [f"Expected without labels: {self.everything} images."]
        return found if self.accepted is None else [*found, f"Of those accepted: {self.accepted}."]


class ExpectedPerformance(NamedTuple):
    """Expected errors of a set of images without labels, and whether to trust them.

    Attributes:
        errors: Of all images, and of the accepted ones.
        drift: Sentences of the tests that found the images to differ from the calibration cases.
        unit: What a calibration case is: a patient, a lesion, an image, or another group.
    """

    errors: ExpectedErrors
    drift: tuple[str, ...]
    unit: str

    @property
    def summary(self) -> list[str]:
        """Sentences for people."""
        differ = [f"{DISTRUST} {' '.join(self.drift)}"]
        return [*self.errors.sentences, *(differ if self.drift else [trust(self.unit)])]


def expected_performance(
    engine: DecisionEngine,
    *,
    errors: Values,
    scores: Values,
    ood_scores: Values,
    accepted: Bool[np.ndarray, " n"],
    names: Sequence[str],
) -> ExpectedPerformance | None:
    """Estimate the errors of images without labels, and test whether the estimate may hold.

    Args:
        engine: With the policy by which the images were decided.
        errors: Error probabilities; images where one is not finite are left out.
        scores: Acceptance scores.
        ood_scores: OOD scores; NaN without a detector.
        accepted: True for the accepted images.
        names: Of the images, to break ties in the tests for drift.

    Returns:
        None without a policy, or where `expected_errors` is None.
    """
    if engine.policy is None or engine.calibrator is None:
        return None
    found = expected_errors(engine.policy, engine.calibrator, errors, accepted)
    if found is None:
        return None
    known = np.isfinite(errors)
    drift = _drift(
        engine.policy,
        scores=scores[known],
        ood_scores=ood_scores[known],
        accepted=accepted[known],
        names=[name for name, one in zip(names, known, strict=True) if one],
    )
    return ExpectedPerformance(found, tuple(drift), engine.policy.unit)


def _drift(
    policy: DeferralPolicy,
    *,
    scores: Values,
    ood_scores: Values,
    accepted: Bool[np.ndarray, " n"],
    names: Sequence[str],
) -> Iterator[str]:
    """Sentences of the tests that find images to differ from the calibration cases."""
    monitor, certificate = DriftMonitor(policy), policy.certificate
    # in a random order, since the images may be sorted
    for row in np.random.default_rng(0).permutation(len(scores))[:MOST_TESTED]:
        monitor.update(
            score=float(scores[row]),
            ood_score=float(ood_scores[row]),
            accepted=bool(accepted[row]),
            content=names[row],
        )
    yield from (test.alarmed_with for test in monitor.tests if test.alarmed_with)
    compared = {"acceptance scores": (scores, certificate.calibration_scores.scores)}
    if certificate.ood_scores is not None:
        compared["OOD scores"] = (ood_scores, certificate.ood_scores)
    for name, (new, calibration) in compared.items():
        gap, p_value = compare_distributions(new, np.array(calibration))
        if p_value <= DIFFERENT / len(compared):
            yield (
                f"The distribution of their {name} differs from that of the calibration cases by "
                f"up to {100 * gap:.0f} percentage points."
            )


def compare_distributions(first: Values, second: Float[np.ndarray, " m"]) -> tuple[float, float]:
    """Kolmogorov and Smirnov's test: the largest difference of two distributions, and its p-value.

    For a set that is complete it finds smaller changes than the tests of `DriftMonitor`, which hold
    at any time. The p-value is that for large sets, and too high where values are equal.
    """
    values = np.concatenate([first, second])
    below = (np.searchsorted(np.sort(of), values, side="right") / len(of) for of in (first, second))
    gap = float(np.abs(np.subtract(*below)).max())
    effective = len(first) * len(second) / len(values)
    return gap, float(kolmogorov(math.sqrt(effective) * gap))


def expected_errors(
    policy: DeferralPolicy,
    calibrator: Calibrator,
    errors: Values,
    accepted: Bool[np.ndarray, " n"],
) -> ExpectedErrors | None:
    """Estimate the errors of images that are drawn like the calibration cases.

    The mean error probability is corrected by the mean difference between errors and error
    probabilities of the calibration cases, which the calibrator has not seen. The interval has 95 %
    of a predictive distribution: the correction is drawn from a normal distribution, and the number
    of errors, given the corrected mean, from a binomial one, which is a little too wide. Images of
    one group count as independent, so that it is too narrow where there are many of each group.

    Args:
        policy: By which the images were decided.
        calibrator: That of the policy.
        errors: Error probabilities; images where one is not finite are left out.
        accepted: True for the accepted images.

    Returns:
        None with fewer than 20 calibration cases, or without an image.
    """
    known = np.isfinite(errors)
    cases = policy.certificate.calibration_scores
    scores = np.array(cases.scores)
    residuals = np.array(cases.wrong) - calibrator.error(scores)
    if len(residuals) < FEWEST_CASES or not known.any():
        return None
    threshold = np.inf if policy.accept_threshold is None else policy.accept_threshold
    taken, both = np.array(cases.kept) & (scores >= threshold), known & accepted
    return ExpectedErrors(
        _expected(errors[known], residuals),
        _expected(errors[both], residuals[taken])
        if both.any() and taken.sum() >= FEWEST_CASES
        else None,
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


class DecidedNumbers:
    """The numbers of decisions, kept while their rows pass, for the performance to expect."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._numbers = {name: array("d") for name in NUMBERS}
        self._accepted = array("b")

    def through(self, rows: Iterable[DecisionRow]) -> Iterator[DecisionRow]:
        """Pass rows on, and keep their numbers; rows of unreadable images have none."""
        for row in rows:
            if row.decision is not None:
                self._names.append(row.path)
                self._accepted.append(row.decision == "accept")
                for name, values in self._numbers.items():
                    number = getattr(row, name)
                    values.append(math.nan if number is None else number)
            yield row

    def expected(self, engine: DecisionEngine) -> ExpectedPerformance | None:
        """The performance to expect of all rows that have passed."""
        errors, scores, ood_scores = map(np.array, self._numbers.values())
        return expected_performance(
            engine,
            errors=errors,
            scores=scores,
            ood_scores=ood_scores,
            accepted=np.array(self._accepted, dtype=bool),
            names=self._names,
        )
