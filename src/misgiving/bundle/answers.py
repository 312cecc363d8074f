"""What a bundle answers for one image, and by which rules."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misgiving.bundle.network import Outputs
from misgiving.bundle.storage import damage_explained, read_json
from misgiving.calibrators import Confidences, Estimate, Scaling
from misgiving.decisions.decision import Verdict, choices_of, class_probabilities, verdicts
from misgiving.deferral import DeferralPolicy
from misgiving.files import write_json
from misgiving.scores.features import PortableDetectors

POLICY, ESTIMATE, DETECTORS = "policy.json", "estimate.json", "detectors.safetensors"
NO_POLICY = "no policy is calibrated for this model, so every answer is deferred"


class Answer(NamedTuple):
    """What is said of one image; a number that is not there or not defined is None.

    Attributes:
        predicted_class: Of the largest logit.
        probabilities: Of all classes, in their order; calibrated where there is a policy, and NaN
            where the model's output is not finite.
        probability: Of the predicted class.
        error_probability: That the predicted class is wrong.
        expected_loss: Cross-entropy in nats.
        predicted_loss: Of the loss estimator; higher = rather wrong. It has no unit.
        ood_p_value: Share of images like the calibration cases that look as unusual or more so.
        decision: `accept`, `defer` or `ood`; without a policy always `defer`.
        reason: Why, in words.
        score: What is accepted by; higher = rather right.
        ood_score: What OOD images are told by; lower = more likely out-of-distribution.
    """

    predicted_class: str
    probabilities: tuple[float, ...]
    probability: float
    error_probability: float | None
    expected_loss: float | None
    predicted_loss: float | None
    ood_p_value: float | None
    decision: str
    reason: str
    score: float | None
    ood_score: float | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Rules:
    """All that turns the outputs of one model into decisions."""

    policy: DeferralPolicy
    estimate: Estimate
    detectors: PortableDetectors

    def __call__(self, outputs: Outputs) -> list[Verdict]:
        """Decide image by image; one whose outputs are not finite is deferred."""
        return verdicts(
            outputs.logits,
            outputs.features,
            lambda rows: self._confidences(outputs.select(rows)),
            policy=self.policy,
            estimate=self.estimate,
        )

    def _confidences(self, outputs: Outputs) -> Confidences:
        scores = self.detectors(outputs.logits, outputs.features)
        if outputs.predicted_losses is None:
            return scores
        return {**scores, "predicted_loss": -outputs.predicted_losses.astype(np.float64)}

    def save(self, folder: Path) -> None:
        """Write three files into a folder that exists."""
        self.policy.save(folder / POLICY)
        write_json(folder / ESTIMATE, self.estimate.to_dict())
        self.detectors.save(folder / DETECTORS)

    @classmethod
    def load(cls, folder: Path) -> "Rules | None":
        """Read what `save` wrote; None where there is no policy.

        Raises:
            DataError: A file is missing or damaged.
        """
        if not (folder / POLICY).is_file():
            return None
        estimate = read_json(folder / ESTIMATE)
        with damage_explained(folder / ESTIMATE):
            made = Estimate.from_dict(estimate)
        return cls(
            policy=DeferralPolicy.load(folder / POLICY),
            estimate=made,
            detectors=PortableDetectors.load(folder / DETECTORS),
        )


def answers_of(
    outputs: Outputs,
    classes: Sequence[str],
    verdicts: Sequence[Verdict] | None,
    scaling: Scaling | None,
) -> list[Answer]:
    """An answer for each image, by a policy's verdicts and scaling where there is a policy."""
    given = _plain(len(classes)) if scaling is None else scaling
    probabilities = class_probabilities(outputs.logits, given).tolist()
    losses = outputs.predicted_losses
    predicted = [None] * len(probabilities) if losses is None else losses.tolist()
    if verdicts is not None:
        return [_decided(*row) for row in zip(verdicts, probabilities, predicted, strict=True)]
    return [
        _undecided(classes[choice], choice, *row)
        for choice, *row in zip(choices_of(outputs.logits), probabilities, predicted, strict=True)
    ]


def _plain(num_classes: int) -> Scaling:
    """The softmax as it is."""
    return Scaling(temperature=1.0, biases=(0.0,) * num_classes)


def _undecided(name: str, choice: int, probabilities: list[float], loss: float | None) -> Answer:
    return Answer(
        predicted_class=name,
        probabilities=tuple(probabilities),
        probability=probabilities[choice],
        error_probability=None,
        expected_loss=None,
        predicted_loss=_defined(loss),
        ood_p_value=None,
        decision="defer",
        reason=NO_POLICY,
        score=None,
        ood_score=None,
    )


def _decided(verdict: Verdict, probabilities: list[float], loss: float | None) -> Answer:
    return Answer(
        predicted_class=verdict.predicted_class,
        probabilities=tuple(probabilities),
        probability=verdict.probability,
        error_probability=_defined(verdict.error_probability),
        expected_loss=_defined(verdict.expected_loss),
        predicted_loss=_defined(loss),
        ood_p_value=verdict.p_value,
        decision=verdict.decision,
        reason=verdict.reason,
        score=_defined(verdict.score),
        ood_score=_defined(verdict.ood_score),
    )


def _defined(value: float | None) -> float | None:
    """None for what is not a finite number, which JSON has no word for."""
    return value if value is not None and math.isfinite(value) else None
