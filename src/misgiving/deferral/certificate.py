"""Certificate of a policy: certified thresholds, and what was observed on the calibration set."""

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
from misgiving.deferral.multiple_testing import Thresholds, counts_by_threshold
from misgiving.deferral.scored_cases import ScoredCases
from misgiving.deferral.targets import Targets
from misgiving.errors import UsageError

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
class CalibrationScores:
    """Scores and errors of the calibration cases, highest score first, one case per group.

    Attributes:
        thresholds: Candidate thresholds, fixed by the tuning set, strictest first.
        scores: Acceptance scores.
        wrong: True where the predicted class is wrong.
        kept: True where the case is acceptable and above the OOD limit: else it is never accepted.
    """

    thresholds: tuple[float, ...]
    scores: tuple[float, ...]
    wrong: tuple[bool, ...]
    kept: tuple[bool, ...]

    @classmethod
    def from_cases(
        cls, thresholds: Thresholds, calibration: ScoredCases, kept: Bool[np.ndarray, " n"]
    ) -> "CalibrationScores":
        """Sort the cases, so that the order in which they came leaves no trace."""
        order = np.lexsort((kept, calibration.wrong, -calibration.scores))
        return cls(
            thresholds=tuple(thresholds.tolist()),
            scores=tuple(calibration.scores[order].astype(float).tolist()),
            wrong=tuple(calibration.wrong[order].tolist()),
            kept=tuple(kept[order].tolist()),
        )

    def operating_points(self, *, confidence: float) -> list[OperatingPoint]:
        """Every candidate threshold, with bounds that hold together (Bonferroni)."""
        scores, thresholds = np.array(self.scores), np.array(self.thresholds)
        kept, wrong = np.array(self.kept), np.array(self.wrong)
        accepted = counts_by_threshold(scores, kept, thresholds)
        mistaken = counts_by_threshold(scores, kept & wrong, thresholds)
        bounds = simultaneous_bounds(mistaken, accepted, confidence=confidence)
        return [
            OperatingPoint(
                threshold=threshold,
                accepted=int(n),
                wrong=int(k),
                coverage=int(n) / len(self.scores),
                error=int(k) / int(n) if n else None,
                bound=float(bound),
            )
            for threshold, n, k, bound in zip(
                self.thresholds, accepted, mistaken, bounds, strict=True
            )
        ]

    def acceptance_interval(
        self, threshold: float, *, ood_rule: bool, level: float
    ) -> BinomialInterval:
        """Interval of the share of all images that is accepted, at one candidate threshold.

        It holds for every candidate and, with an OOD rule, whichever case is the limit: if that
        case had been chosen beforehand, the others would be a simple random sample. So it also
        holds for the threshold and the limit that were chosen.

        Args:
            threshold: One of the candidates.
            ood_rule: True where one of the cases has set the OOD limit.
            level: Probability with which the interval may miss.
        """
        accepted = int((np.array(self.kept) & (np.array(self.scores) >= threshold)).sum())
        limits = len(self.scores) if ood_rule else 1
        each = level / (len(self.thresholds) * limits)
        return two_sided_interval(accepted, len(self.scores) - ood_rule, level=each)


def simultaneous_bounds(
    wrong: Int[np.ndarray, "*draws thresholds"],
    accepted: Int[np.ndarray, "*draws thresholds"],
    *,
    confidence: float,
) -> np.ndarray:
    """Upper bounds on the error at each threshold, which hold together (Bonferroni)."""
    return upper_bound(wrong, accepted, level=(1 - confidence) / accepted.shape[-1])


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

    def decide(
        self,
        scores: Scores,
        ood_scores: Scores | None = None,
        *,
        acceptable: Bool[np.ndarray, " n"] | None = None,
    ) -> tuple[Shaped[np.ndarray, " n"], Scores]:
        """Accept, defer or call out-of-distribution, image by image.

        Args:
            scores: Acceptance scores, as in the calibration.
            ood_scores: Higher means more in-distribution.
            acceptable: False where an image is deferred whatever its score, as in the calibration;
                None: all are acceptable.

        Returns:
            "accept", "defer" or "ood" for each image, and the conformal p-value that it is
            in-distribution; NaN without a detector.
        """
        limit, threshold = self.ood_threshold, self.accept_threshold
        if limit is not None and ood_scores is None:
            raise UsageError("ood_scores is missing; give the scores of the OOD detector")
        if ood_scores is not None and len(ood_scores) != len(scores):
            raise UsageError(
                f"ood_scores has length {len(ood_scores)} but scores has length {len(scores)}; "
                "give one entry for each image"
            )
        scores = np.asarray(scores, dtype=float)
        missing = np.full(len(scores), np.nan)
        ood_scores = missing if ood_scores is None else np.asarray(ood_scores, dtype=float)
        ood = np.zeros(len(scores), dtype=bool)
        accepted = np.isfinite(scores) & (scores >= (np.inf if threshold is None else threshold))
        if acceptable is not None:
            accepted &= acceptable
        if limit is not None:
            ood = ood_scores < limit
            accepted &= np.isfinite(ood_scores) & (ood_scores > limit)
        calibration = self.ood_scores
        return (
            np.select([ood, accepted], ["ood", "accept"], "defer"),
            missing
            if calibration is None
            else conformal_p_values(ood_scores, np.array(calibration)),
        )
