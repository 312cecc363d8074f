"""Train the predictor and the loss estimator together; `loop` has the equations on one screen."""

from misgiving.training.config import TrainingConfig, Weighting
from misgiving.training.devices import device_named, start_processes
from misgiving.training.loop import class_weights, seeded, train
from misgiving.training.records import EpochRecord, Step, unheard
from misgiving.training.resume import Unfinished, beside, stop_asked_by_system

__all__ = [
    "EpochRecord",
    "Step",
    "TrainingConfig",
    "Unfinished",
    "Weighting",
    "beside",
    "class_weights",
    "device_named",
    "seeded",
    "start_processes",
    "stop_asked_by_system",
    "train",
    "unheard",
]
