"""OOD scores of a model for a set of images."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float

from misgiving import distributed
from misgiving.checkpoint import Checkpoint
from misgiving.data.cache import ImageSet
from misgiving.evaluation.inference import device_of, image_batches, predict
from misgiving.scores.detectors import FittedDetectors, all_scores
from misgiving.scores.odin import Odin
from misgiving.scores.odin_tuning import GridScores, score_grid

Scores = Mapping[str, Float[np.ndarray, " _"]]  # sets differ in size


def score(
    checkpoint: Checkpoint, images: ImageSet, detectors: FittedDetectors | None = None
) -> Scores:
    """Confidences by the detectors that need no tuning: ODIN's default, of logits, and fitted."""
    untuned = {"odin_default": odin_scores(checkpoint, images, [Odin()])[Odin()]}
    return untuned | plain_scores(checkpoint, images, detectors)


def odin_scores(checkpoint: Checkpoint, images: ImageSet, grid: Sequence[Odin]) -> GridScores:
    """Several processes share the set, and each has the scores of all of it."""
    device = device_of(checkpoint.model)
    ours = images.select(distributed.share_of(len(images)))
    shares = score_grid(checkpoint.model.classify, image_batches(ours, device=device), grid)
    return {
        point: distributed.gathered(torch.from_numpy(share), len(images)).numpy()
        for point, share in shares.items()
    }


def plain_scores(
    checkpoint: Checkpoint, images: ImageSet, detectors: FittedDetectors | None
) -> dict[str, Float[np.ndarray, " _"]]:
    """Confidences that need no gradient: of logits, predicted loss, and fitted detectors."""
    predictions = predict(checkpoint.model, images, estimates_losses=checkpoint.estimates_losses)
    return all_scores(predictions, detectors)
