"""Run a model once over a set into `Predictions`; all that is measured is a function of those."""

from misgiving.evaluation.measurements import (
    FAILURE_SCORES,
    Measurement,
    failure_measures,
    measure_calibration,
    measure_classification,
    measure_failures,
    measure_loss_estimation,
    measure_ood,
)
from misgiving.evaluation.predictions import (
    Predictions,
    device_of,
    image_batches,
    model_fingerprint,
    predict,
)

__all__ = [
    "FAILURE_SCORES",
    "Measurement",
    "Predictions",
    "device_of",
    "failure_measures",
    "image_batches",
    "measure_calibration",
    "measure_classification",
    "measure_failures",
    "measure_loss_estimation",
    "measure_ood",
    "model_fingerprint",
    "predict",
]
