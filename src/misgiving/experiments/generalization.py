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
    checkpoint: Checkpoint, validation: ImageSet, folder: Path
) -> list[Measurement]:
    """Predict the validation part once, keep the predictions in `folder`, and measure them."""
    predictions = predict(
        checkpoint.model, validation, estimates_losses=checkpoint.estimates_losses
    )
    predictions.save(folder / "predictions" / "validation.safetensors")
    return [
        *measure_classification(predictions, "validation"),
        *measure_loss_estimation(predictions, "validation", class_weights=checkpoint.class_weights),
    ]
