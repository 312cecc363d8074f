"""Run a model once over a set into `Predictions`, and measure."""

from misgiving.evaluation.inference import (
    device_of,
    fingerprint_of,
    image_batches,
    model_fingerprint,
    predict,
    predictions_of,
)
from misgiving.evaluation.measures import (
    FAILURE_SCORES,
    failure_measures,
    measure_calibration,
    measure_classification,
    measure_detection,
    measure_failures,
    measure_loss_estimation,
    measure_ood,
    measure_scaling,
)

__all__ = [
    "FAILURE_SCORES",
    "device_of",
    "failure_measures",
    "fingerprint_of",
    "image_batches",
    "measure_calibration",
    "measure_classification",
    "measure_detection",
    "measure_failures",
    "measure_loss_estimation",
    "measure_ood",
    "measure_scaling",
    "model_fingerprint",
    "predict",
    "predictions_of",
]
