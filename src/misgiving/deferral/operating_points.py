"""The calibration cases that a policy keeps, and what they say of every threshold at once."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from misgiving.deferral.bounds import Interval, two_sided, upper_bound
from misgiving.deferral.cases import Cases
from misgiving.deferral.multiple_testing import Thresholds, accepted_by_candidate


class Setting(NamedTuple):
    """What happens among the calibration cases where answers are accepted from a threshold on.

    Attributes:
        threshold: Lowest score that is accepted; -inf: all.
        accepted: Calibration cases that are accepted.
        wrong: How many of these are wrong.
        coverage: Share of all calibration cases that is accepted.
        error: Share of the accepted that is wrong; None where none is accepted.
        bound: Error among the accepted that no setting exceeds, with the confidence, at once.
    """

    threshold: float
    accepted: int
    wrong: int
    coverage: float
    error: float | None
    bound: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Scores and errors of the calibration cases, highest score first, one case per lesion.

    Attributes:
        thresholds: The candidates that the tune part has fixed, strictest first.
        scores: Higher where the answer should rather be accepted.
        wrong: Whether the answer is wrong.
        kept: Whether the case lies above the OOD limit: only then can it be accepted.
    """

    thresholds: tuple[float, ...]
    scores: tuple[float, ...]
    wrong: tuple[bool, ...]
    kept: tuple[bool, ...]

    @classmethod
    def of(
        cls, thresholds: Thresholds, calibration: Cases, kept: Bool[np.ndarray, " n"]
    ) -> "Evidence":
        """What is kept of the calibration cases."""
        order = np.lexsort((kept, calibration.wrong, -calibration.scores))  # whatever theirs was
        return cls(
            thresholds=tuple(thresholds.tolist()),
            scores=tuple(calibration.scores[order].astype(float).tolist()),
            wrong=tuple(calibration.wrong[order].tolist()),
            kept=tuple(kept[order].tolist()),
        )

    def settings(self, *, confidence: float) -> list[Setting]:
        """Every candidate with bounds that hold for all of them together (Bonferroni)."""
        each = (1 - confidence) / len(self.thresholds)
        kept, wrong = np.array(self.kept), np.array(self.wrong)
        accepted, mistaken = self._reaching(kept), self._reaching(kept & wrong)
        bounds = upper_bound(mistaken, accepted, level=each)
        return [
            Setting(
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

    def acceptance(self, threshold: float, *, ood_rule: bool, level: float) -> Interval:
        """The share of all images that is accepted, missed with a probability of at most `level`.

        It holds for every candidate and, with a OOD rule, whichever case is the limit: were it
        chosen beforehand, the others would be a plain random sample. So also for those in use.

        Args:
            threshold: One of the candidates.
            ood_rule: Whether one of the cases has set the OOD limit.
            level: Of the interval.
        """
        accepted = int((np.array(self.kept) & (np.array(self.scores) >= threshold)).sum())
        limits = len(self.scores) if ood_rule else 1
        each = level / (len(self.thresholds) * limits)
        return two_sided(accepted, len(self.scores) - ood_rule, level=each)

    def _reaching(self, counted: Bool[np.ndarray, " n"]) -> np.ndarray:
        return accepted_by_candidate(np.array(self.scores), counted, np.array(self.thresholds))
