"""A calibrated policy: it decides, explains itself, and is kept in a file that cannot be edited."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from misgiving.deferral import decisions
from misgiving.deferral.cases import Targets
from misgiving.deferral.decisions import Decision
from misgiving.deferral.ood_limit import conformal_p_values, no_higher
from misgiving.deferral.sentences import sentences
from misgiving.deferral.storage import decode, encode, read, write
from misgiving.deferral.thresholds import Calibration
from misgiving.errors import DataError, UsageError

Scores = Float[np.ndarray, " n"]


@dataclass(frozen=True, kw_only=True)
class DeferralPolicy:
    """Accept, defer or call out-of-distribution, as calibrated for one model.

    Attributes:
        calibration: Thresholds, targets and what was observed.
        score: Name of the score that accepts.
        ood_detector: Name of the detector of OOD images; None: there is none.
        model_fingerprint: The model that the thresholds belong to.
        calibration_fingerprint: The cases that certified them.
        seed: Which image of each lesion was drawn.
        error_limit: The threshold as a probability of error; None: the score is no function of it.
    """

    calibration: Calibration
    score: str
    ood_detector: str | None = None
    model_fingerprint: str
    calibration_fingerprint: str
    seed: int
    error_limit: float | None = None

    @property
    def accept_threshold(self) -> float | None:
        """The lowest score that is accepted; -inf: all; None: nothing is accepted."""
        return self.calibration.accept_threshold

    @property
    def ood_threshold(self) -> float | None:
        """The limit below which an image is out-of-distribution; None: there is no such rule."""
        return self.calibration.ood_threshold

    @property
    def calibration_ood_scores(self) -> Scores | None:
        """Confidences of the calibration cases, sorted; None without a detector."""
        kept = self.calibration.ood_scores
        return None if kept is None else np.array(kept, dtype=float)

    @property
    def targets(self) -> Targets:
        """What is promised."""
        return self.calibration.targets

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self.calibration.classes

    def decide(
        self,
        scores: Scores,
        ood_scores: Scores | None = None,
        expected_errors: Scores | None = None,
    ) -> list[Decision]:
        """Decide image by image.

        Args:
            scores: Higher where the answer should rather be accepted, as in the calibration.
            ood_scores: Higher where the image is more like the training images.
            expected_errors: Probabilities that the answers are wrong, only for the reasons.
        """
        self._refuse_lengths(scores, ood_scores, expected_errors)
        missing = np.full(len(scores), np.nan)
        likeness = missing if ood_scores is None else np.asarray(ood_scores, dtype=float)
        errors = missing if expected_errors is None else np.asarray(expected_errors, dtype=float)
        shares, p_values = self._unusual(likeness)
        columns = zip(
            np.asarray(scores, dtype=float).tolist(),
            likeness.tolist(),
            errors.tolist(),
            shares.tolist(),
            p_values.tolist(),
            strict=True,
        )
        return [self._decide(*image) for image in columns]

    def _decide(
        self, score: float, likeness: float, error: float, share: float, p_value: float
    ) -> Decision:
        p = None if math.isnan(p_value) else p_value
        limit, threshold = self.ood_threshold, self.accept_threshold
        if limit is not None and likeness < limit:
            return Decision("ood", decisions.why_ood(share, p_value), p)
        if not math.isfinite(score) or (limit is not None and not math.isfinite(likeness)):
            return Decision("defer", decisions.NOT_FINITE, p)
        if threshold is None:
            return Decision("defer", decisions.NOTHING_KEEPS, p)
        if likeness == limit:
            return Decision("defer", decisions.AT_LIMIT, p)
        accepted = score >= threshold
        return Decision("accept" if accepted else "defer", self._why(score, threshold, error), p)

    def _why(self, score: float, threshold: float, error: float) -> str:
        """In terms of the error, unless that would say otherwise than the score that decides."""
        accepted, highest = score >= threshold, self.error_limit
        if threshold == -math.inf:
            return decisions.ALL_ACCEPTED
        if highest is None or math.isnan(error) or accepted != (error <= highest):
            return decisions.why_by_score(score, threshold, accepted=accepted)
        return decisions.why_by_error(error, highest, accepted=accepted)

    def _unusual(self, likeness: Scores) -> tuple[Scores, Scores]:
        """Share of calibration cases that look no more familiar, and the conformal p-value."""
        calibration = self.calibration_ood_scores
        if calibration is None:
            return likeness, np.full(len(likeness), np.nan)
        p_values = conformal_p_values(likeness, calibration)
        return no_higher(likeness, calibration) / len(calibration), p_values

    def _refuse_lengths(
        self, scores: Scores, ood_scores: Scores | None, expected_errors: Scores | None
    ) -> None:
        if self.ood_threshold is not None and ood_scores is None:
            raise UsageError(f"ood_scores is missing; give the confidences of {self.ood_detector}")
        named = {"ood_scores": ood_scores, "expected_errors": expected_errors}
        for name, values in named.items():
            if values is not None and len(values) != len(scores):
                raise UsageError(
                    f"{name} has length {len(values)} but scores has length {len(scores)}; "
                    "give one entry for each image"
                )

    def sentences(self) -> list[str]:
        """The policy in plain words."""
        return sentences(self.calibration)

    def refuse_other_model(self, fingerprint: str) -> None:
        """Refuse to decide for another model than the one that was calibrated."""
        if fingerprint != self.model_fingerprint:
            raise DataError(
                f"the policy was calibrated for the model {self.model_fingerprint[:12]}, not for "
                f"{fingerprint[:12]}; run `misgiving calibrate` for this model"
            )

    def to_dict(self) -> dict[str, Any]:
        """The policy as JSON values, with a format number and a checksum."""
        return encode(self)

    @classmethod
    def from_dict(cls, content: Any, *, name: str = "policy") -> "DeferralPolicy":
        """The policy of `to_dict`, refused unless it is as it was written; `name` tells which."""
        return cls(**decode(content, name=name))

    def save(self, path: Path) -> None:
        """Write the policy as JSON, whole or not at all."""
        write(path, self.to_dict())

    @classmethod
    def load(cls, path: Path) -> "DeferralPolicy":
        """Read a policy, refused unless it is as it was written."""
        return cls.from_dict(read(path), name=str(path))
