"""Deferral policy: certified thresholds applied to one model, with its file format."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from misgiving.deferral.bounds import conformal_p_values
from misgiving.deferral.certificate import (
    CertifiableError,
    Certificate,
    ClassOutcome,
    summarize,
)
from misgiving.deferral.operating_points import CalibrationScores
from misgiving.deferral.targets import Targets
from misgiving.errors import DataError, UsageError, explain_damage
from misgiving.files import read_json, write_json
from misgiving.manifests import sha256_of_json
from misgiving.results.formats import encoded

Scores = Float[np.ndarray, " n"]

FORMAT = 9
AGAIN = "run `misgiving calibrate` again"


@dataclass(frozen=True, kw_only=True)
class RepeatedCases:
    """Cases, for tuning or calibration, that earlier calibrations of the same run had used.

    Attributes:
        calibrations: Number of earlier calibrations.
        images: Images that they had used.
        groups: Groups of which they had used an image.
        complete: False where the record of one could not be read: there may be more.
    """

    calibrations: int
    images: int
    groups: int
    complete: bool


class Outcomes(NamedTuple):
    """Decisions of a policy for a set of images.

    Attributes:
        decisions: "accept", "defer" or "ood".
        p_values: Conformal p-value that the image is in-distribution; NaN without a detector.
    """

    decisions: Shaped[np.ndarray, " n"]
    p_values: Scores


@dataclass(frozen=True, kw_only=True)
class DeferralPolicy:
    """Accept, defer or call out-of-distribution, as certified for one model.

    Attributes:
        certificate: Thresholds, targets and what was observed on the calibration set.
        score: Name of the acceptance score.
        ood_detector: Name of the OOD score; None: there is none.
        model_fingerprint: The model that the thresholds belong to.
        calibration_fingerprint: The images of the calibration set.
        seed: Of the draw of one image from each group.
        error_limit: The threshold as an error probability; None: the score is no function of it.
        rule: Name of the rule by which classes are named.
        costs: Costs of missing a class, by its name, where the rule has costs.
        max_error_probability: Highest error probability of an answer that can be accepted.
        unit: The unit of the guarantee: a patient, a lesion, an image, or another group.
        repeated: Cases that earlier calibrations had used; None: it is known that there are none.
    """

    certificate: Certificate
    score: str
    ood_detector: str | None = None
    model_fingerprint: str
    calibration_fingerprint: str
    seed: int
    error_limit: float | None = None
    rule: str = "most_probable"
    costs: Mapping[str, float] = field(default_factory=dict)
    max_error_probability: float = 0.5
    unit: str = "group"
    repeated: RepeatedCases | None = None

    @property
    def accept_threshold(self) -> float | None:
        """Lowest accepted score; -inf: all; None: nothing is accepted."""
        return self.certificate.accept_threshold

    @property
    def ood_threshold(self) -> float | None:
        """Limit below which an image is out-of-distribution; None: no OOD rule."""
        return self.certificate.ood_threshold

    @property
    def targets(self) -> Targets:
        """Error rates that were asked for."""
        return self.certificate.targets

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self.certificate.classes

    @property
    def naming(self) -> str:
        """Sentence on the class that is named, with the costs that decide it, if any."""
        costs = ", ".join(f"missing {name} costs {cost:g}" for name, cost in self.costs.items())
        others = " and missing any other class costs 1" * (len(self.costs) < len(self.classes))
        words = {
            "most_probable": "the class with the highest calibrated probability is named",
            "balanced": "the class with the highest probability relative to its share of the "
            "tuning set is named",
            "costs": f"the class with the least expected cost is named, where {costs}{others}",
            "logits": "the class with the largest logit is named",
        }
        return f"Rule {self.rule}: {words[self.rule]}."

    def decide(
        self,
        scores: Scores,
        ood_scores: Scores | None = None,
        *,
        acceptable: Bool[np.ndarray, " n"] | None = None,
    ) -> Outcomes:
        """Accept, defer or call out-of-distribution, image by image.

        Args:
            scores: Acceptance scores, as in the calibration.
            ood_scores: Higher means more in-distribution.
            acceptable: False where an image is deferred whatever its score, as in the calibration;
                None: all are acceptable.
        """
        limit, threshold = self.ood_threshold, self.accept_threshold
        if limit is not None and ood_scores is None:
            raise UsageError(f"ood_scores is missing; give the scores of {self.ood_detector}")
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
        calibration = self.certificate.ood_scores
        return Outcomes(
            np.select([ood, accepted], ["ood", "accept"], "defer"),
            missing
            if calibration is None
            else conformal_p_values(ood_scores, np.array(calibration)),
        )

    def summary(self) -> list[str]:
        """Sentences for people: targets, observations and limits of the guarantee."""
        return [
            *summarize(self.certificate, unit=self.unit),
            self.naming,
            "The error is that of all accepted answers together, not of each one. An answer is "
            f"never accepted with an error probability above {self.max_error_probability:g}.",
            *self.warnings,
        ]

    @property
    def warnings(self) -> list[str]:
        """Sentences on what weakens the guarantee."""
        return [
            *([] if self.max_error_probability <= 0.5 else [self._more_likely_wrong]),
            *([] if self.repeated is None else _repetition(self.repeated)),
        ]

    def settings(self) -> dict[str, Any]:
        """Settings that decide, as JSON values: thresholds, scores, the rule and its targets."""
        return {
            "accept_threshold": _to_json(self.accept_threshold),
            "ood_threshold": _to_json(self.ood_threshold),
            "score": self.score,
            "ood_detector": self.ood_detector,
            "rule": self.rule,
            "costs": dict(self.costs),
            "max_error_probability": self.max_error_probability,
            "targets": dict(vars(self.targets)),
        }

    @property
    def _more_likely_wrong(self) -> str:
        weighs = self.rule in ("balanced", "costs")
        surpassed = ", although another class is more probable" if weighs else ""
        return (
            "Warning: answers that are more likely wrong than right can be accepted"
            f"{surpassed}; up to a `max_error_probability` of 0.5 none is."
        )

    def refuse_other_model(self, fingerprint: str) -> None:
        """Refuse to decide for another model than the one that was calibrated."""
        if fingerprint != self.model_fingerprint:
            raise DataError(
                f"the policy was calibrated for the model {self.model_fingerprint[:12]}, not for "
                f"{fingerprint[:12]}; run `misgiving calibrate` for this model"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON values with a format number and a checksum."""
        fields = encoded(self)
        certificate = fields["certificate"]
        certificate["accept_threshold"] = _to_json(self.accept_threshold)
        scores = certificate["calibration_scores"]
        scores["thresholds"] = [_to_json(threshold) for threshold in scores["thresholds"]]
        content = {"format": FORMAT, **fields}
        return {**content, "checksum": sha256_of_json(content)}

    def save(self, path: Path) -> None:
        """Write the policy as JSON, whole or not at all."""
        write_json(path, self.to_dict(), compact=True)

    @classmethod
    def load(cls, path: Path) -> "DeferralPolicy":
        """Read a policy, refused if it was changed after it was written."""
        fields = read_json(path, remedy=AGAIN, version=FORMAT)
        checksum = fields.pop("checksum", None)
        with explain_damage(path, remedy=AGAIN):
            if sha256_of_json(fields) != checksum:
                raise DataError(f"{path}: was changed after it was calibrated; {AGAIN}")
            del fields["format"]
            fields["certificate"] = _certificate(fields["certificate"])
            if fields["repeated"] is not None:
                fields["repeated"] = RepeatedCases(**fields["repeated"])
            return cls(**fields)


def _repetition(repeated: RepeatedCases) -> Iterator[str]:
    """Warnings about cases that were used before, or may have been."""
    if not repeated.complete:
        yield (
            "Warning: the record of an earlier calibration of this run could not be read, so it is "
            "not known which cases it used."
        )
    if repeated.groups:
        several = "s" * (repeated.calibrations != 1)
        counted = f"{repeated.calibrations} earlier calibration{several}"
        earlier = counted if repeated.complete else "earlier calibrations"
        yield (
            f"Warning: calibrated before with {repeated.images} of these images "
            f"({repeated.groups} groups), in {earlier} of this run. The confidence holds for one "
            "calibration that was chosen beforehand, and not for the best-looking of several."
        )


def _to_json(threshold: float | None) -> float | str | None:
    return "-inf" if threshold == -math.inf else threshold  # JSON has no infinity


def _certificate(fields: Mapping[str, Any]) -> Certificate:
    threshold, ood_scores = fields["accept_threshold"], fields["ood_scores"]
    smallest, scores = fields["smallest_certifiable"], fields["calibration_scores"]
    decoded = {
        "targets": Targets(**fields["targets"]),
        "classes": tuple(fields["classes"]),
        "accept_threshold": None if threshold is None else float(threshold),
        "ood_scores": None if ood_scores is None else tuple(ood_scores),
        "class_outcomes": tuple(ClassOutcome(**of) for of in fields["class_outcomes"]),
        "smallest_certifiable": None if smallest is None else CertifiableError(**smallest),
        "calibration_scores": CalibrationScores(
            thresholds=tuple(float(one) for one in scores["thresholds"]),
            **{name: tuple(scores[name]) for name in ("scores", "wrong", "kept")},
        ),
    }
    return Certificate(**{**fields, **decoded})
