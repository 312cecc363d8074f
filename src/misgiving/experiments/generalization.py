"""Section 4.1 of the paper: is the classifier better, and does the estimate follow the loss?"""

from pathlib import Path

from misgiving.checkpoint import Checkpoint
from misgiving.data.loading import ImageSet
from misgiving.evaluation import (
    Measurement,
    measure_classification,
    measure_loss_estimation,
    predict,
)


def measure_generalization(
    checkpoint: Checkpoint, images: ImageSet, part: str, folder: Path
) -> list[Measurement]:
    """Predict the held-out part once, keep the predictions in `folder`, and measure them."""
    predictions = predict(checkpoint.model, images, estimates_losses=checkpoint.estimates_losses)
    predictions.save(folder / "predictions" / f"{part}.safetensors")
    return [
        *measure_classification(predictions, part),
        *measure_loss_estimation(predictions, part, class_weights=checkpoint.class_weights),
    ]
