"""Operating points: coverage and error at every threshold that the calibration set can judge."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from misgiving.deferral.bounds import BinomialInterval, two_sided_interval, upper_bound
from misgiving.deferral.multiple_testing import Thresholds, counts_by_threshold
from misgiving.deferral.scored_cases import ScoredCases


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
