"""Every confidence that is computed from saved predictions, without the images."""

import numpy as np
import torch
from jaxtyping import Float

from misgiving.results.predictions import Predictions
from misgiving.scores.fitted import FittedDetectors
from misgiving.scores.logits import LOGIT_SCORES


def all_confidences(
    predictions: Predictions, detectors: FittedDetectors | None = None
) -> dict[str, Float[np.ndarray, " n"]]:
    """Confidences of the logits, the negated predicted loss, and of detectors where given."""
    logits = torch.from_numpy(predictions.logits).double()
    scores = {name: score(logits).numpy() for name, score in LOGIT_SCORES.items()}
    if predictions.predicted_losses is not None:
        scores["predicted_loss"] = -predictions.predicted_losses.astype(np.float64)
    if detectors is None:
        return scores
    return scores | detectors(predictions.logits, predictions.features)
