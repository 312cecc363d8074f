"""Image classifiers that know when they may be wrong: trained jointly with a loss estimator."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from misgiving.bundle.bundle import Bundle
    from misgiving.checkpoint import load, save
    from misgiving.data.datasets import load_dataset
    from misgiving.deferral.decisions import Decision
    from misgiving.deferral.deferral import Deferral
    from misgiving.evaluation.evaluate import evaluate
    from misgiving.losses import joint_objective, ranking_loss
    from misgiving.metrics.ood import ood_metrics
    from misgiving.models.joint import JointClassifier, LossEstimator, Output
    from misgiving.predictions.predict import predict
    from misgiving.predictions.record import Predictions
    from misgiving.scores.odin import Odin, tune_odin
    from misgiving.training.attach import attach
    from misgiving.training.config import TrainingConfig
    from misgiving.training.loop import train

# Imported when first used, so that measuring and `misgiving --help` do not import torch.
_HOMES = {
    "Bundle": "bundle.bundle",
    "Decision": "deferral.decisions",
    "Deferral": "deferral.deferral",
    "JointClassifier": "models.joint",
    "LossEstimator": "models.joint",
    "Odin": "scores.odin",
    "Output": "models.joint",
    "Predictions": "predictions.record",
    "TrainingConfig": "training.config",
    "attach": "training.attach",
    "evaluate": "evaluation.evaluate",
    "joint_objective": "losses",
    "load": "checkpoint",
    "load_dataset": "data.datasets",
    "ood_metrics": "metrics.ood",
    "predict": "predictions.predict",
    "ranking_loss": "losses",
    "save": "checkpoint",
    "train": "training.loop",
    "tune_odin": "scores.odin",
}

__all__ = [
    "Bundle",
    "Decision",
    "Deferral",
    "JointClassifier",
    "LossEstimator",
    "Odin",
    "Output",
    "Predictions",
    "TrainingConfig",
    "attach",
    "evaluate",
    "joint_objective",
    "load",
    "load_dataset",
    "ood_metrics",
    "predict",
    "ranking_loss",
    "save",
    "train",
    "tune_odin",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'misgiving' has no attribute {name!r}")
    try:
        return getattr(import_module(f"misgiving.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        error.add_note("It comes with: pip install 'misgiving[train]'")
        raise


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
