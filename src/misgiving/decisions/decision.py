"""From a model's outputs to what is said of each image; training and serving share this code.

Nothing here needs torch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from misgiving.calibrators import Confidences, Estimate, Scaling
from misgiving.deferral import DeferralPolicy

Logits = Float[np.ndarray, "n classes"]
Features = Float[np.ndarray, "n width"]
ConfidencesOf = Callable[[Int[np.ndarray, " _"]], Confidences]
"""From positions of images to their confidences, by name."""

OOD_DETECTOR = "knn"  # needs no OOD image to be tuned on, and no gradient


class Verdict(NamedTuple):
    """What is said of one image.

    Attributes:
        predicted_class: Of the largest logit.
        probability: Of that class, calibrated for the mix of classes of the tune part.
        error_probability: That the predicted class is wrong.
        expected_loss: Cross-entropy in nats; None where no loss is estimated.
        p_value: Share of images like the calibration cases that look as unusual or more so.
        decision: `accept`, `defer` or `ood`.
        reason: Why, in words.
        score: What is accepted by; higher = rather right.
        ood_score: What OOD images are told by; lower = more likely out-of-distribution.
    """

    predicted_class: str
    probability: float
    error_probability: float
    expected_loss: float | None
    p_value: float | None
    decision: str
    reason: str
    score: float
    ood_score: float


def ood_detector_of(policy: DeferralPolicy) -> str:
    """Name of what tells OOD images."""
    return policy.ood_detector or OOD_DETECTOR


def verdicts(
    logits: Logits,
    features: Features,
    confidences_of: ConfidencesOf,
    *,
    policy: DeferralPolicy,
    estimate: Estimate,
) -> list[Verdict]:
    """Decide image by image; one whose outputs are not finite is deferred.

    Args:
        logits: In the order of the policy's classes.
        features: Input of the last linear layer.
        confidences_of: Asked for images with finite outputs alone, and only if there are any.
        policy: Decides.
        estimate: What the confidences mean.
    """
    columns = np.full((4, len(logits)), np.nan)
    finite = np.flatnonzero(np.isfinite(logits).all(axis=1) & np.isfinite(features).all(axis=1))
    if len(finite):
        columns[:, finite] = _columns(
            confidences_of(finite), logits[finite], policy=policy, estimate=estimate
        )
    scores, ood_scores, errors, losses = columns
    decisions = policy.decide(scores, ood_scores, errors)
    probabilities = class_probabilities(logits, estimate.scaling)
    return [
        Verdict(
            predicted_class=policy.classes[choice],
            probability=float(probabilities[row, choice]),
            error_probability=float(errors[row]),
            expected_loss=None if estimate.loss is None else float(losses[row]),
            p_value=decisions[row].p_value,
            decision=decisions[row].decision,
            reason=decisions[row].reason,
            score=float(scores[row]),
            ood_score=float(ood_scores[row]),
        )
        for row, choice in enumerate(choices_of(logits))
    ]


def choices_of(logits: Logits) -> Sequence[int]:
    """Position of the predicted class of each image: that of the largest logit."""
    return [int(choice) for choice in logits.argmax(axis=1)]


def class_probabilities(logits: Logits, scaling: Scaling) -> Logits:
    """Calibrated, in float64; NaN where a logit is not finite."""
    probabilities = np.full(logits.shape, np.nan)
    finite = np.isfinite(logits).all(axis=1)
    probabilities[finite] = scaling(logits[finite])
    return probabilities


def _columns(
    confidences: Confidences, logits: Logits, *, policy: DeferralPolicy, estimate: Estimate
) -> Float[np.ndarray, "4 n"]:
    """Score, OOD score, probability of error and expected loss (NaN for none)."""
    losses = estimate.expected_losses(confidences)
    return np.stack(
        [
            estimate.scores(confidences, logits),
            confidences[ood_detector_of(policy)],
            estimate.error_probabilities(confidences, logits),
            np.full(len(logits), np.nan) if losses is None else losses,
        ]
    )
