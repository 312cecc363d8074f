"""Classifiers that know when they may be wrong, and their training with a loss estimator."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "1.0.0rc1"

if TYPE_CHECKING:
    from misgiving.bundle.bundle import Bundle as Bundle
    from misgiving.checkpoint import load as load
    from misgiving.checkpoint import save as save
    from misgiving.data.datasets import load_dataset as load_dataset
    from misgiving.deferral.decisions import Decision as Decision
    from misgiving.deferral.deferral import Deferral as Deferral
    from misgiving.deferral.draw import draw as draw
    from misgiving.deferral.selective_classifier import SelectiveClassifier as SelectiveClassifier
    from misgiving.evaluation.evaluate import evaluate as evaluate
    from misgiving.losses import joint_objective as joint_objective
    from misgiving.losses import ranking_loss as ranking_loss
    from misgiving.metrics.ood import ood_metrics as ood_metrics
    from misgiving.models.joint import JointClassifier as JointClassifier
    from misgiving.models.joint import LossEstimator as LossEstimator
    from misgiving.models.joint import Output as Output
    from misgiving.predictions.predict import predict as predict
    from misgiving.predictions.record import Predictions as Predictions
    from misgiving.scores.odin import Odin as Odin
    from misgiving.scores.odin import tune_odin as tune_odin
    from misgiving.training.attach import attach as attach
    from misgiving.training.config import TrainingConfig as TrainingConfig
    from misgiving.training.loop import train as train

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
    "SelectiveClassifier": "deferral.selective_classifier",
    "TrainingConfig": "training.config",
    "attach": "training.attach",
    "draw": "deferral.draw",
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

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'misgiving' has no attribute {name!r}")
    try:
        return getattr(import_module(f"misgiving.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        error.add_note("It comes with the extra `train`, as: pip install -e '.[train]'")
        raise


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
