"""Out-of-distribution scores as callables.

Every score is a confidence: higher means more in-distribution.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from misgiving.scores.features import PORTABLE, PortableDetectors
    from misgiving.scores.fitted import FITTED, FittedDetectors, Reduced, fit_detectors
    from misgiving.scores.logits import (
        LOGIT_SCORES,
        Logits,
        Scores,
        confidence,
        energy,
        gen,
        max_logit,
        max_logit_norm,
        max_softmax,
        negative_entropy,
    )
    from misgiving.scores.odin import (
        EPSILONS,
        TEMPERATURES,
        Classifier,
        GridScores,
        Images,
        Odin,
        Trial,
        Tuning,
        best_of_grid,
        id_only_odin,
        odin_grid,
        score_grid,
        tune_odin,
    )
    from misgiving.scores.training_outputs import TrainingOutputs

# Imported when first used, so that a bundle's detectors do not import torch.
_HOMES = {
    "EPSILONS": "odin",
    "FITTED": "fitted",
    "LOGIT_SCORES": "logits",
    "PORTABLE": "features",
    "TEMPERATURES": "odin",
    "Classifier": "odin",
    "FittedDetectors": "fitted",
    "GridScores": "odin",
    "Images": "odin",
    "Logits": "logits",
    "Odin": "odin",
    "PortableDetectors": "features",
    "Reduced": "fitted",
    "Scores": "logits",
    "TrainingOutputs": "training_outputs",
    "Trial": "odin",
    "Tuning": "odin",
    "best_of_grid": "odin",
    "confidence": "logits",
    "energy": "logits",
    "fit_detectors": "fitted",
    "gen": "logits",
    "id_only_odin": "odin",
    "max_logit": "logits",
    "max_logit_norm": "logits",
    "max_softmax": "logits",
    "negative_entropy": "logits",
    "odin_grid": "odin",
    "score_grid": "odin",
    "tune_odin": "odin",
}

__all__ = [
    "EPSILONS",
    "FITTED",
    "LOGIT_SCORES",
    "PORTABLE",
    "TEMPERATURES",
    "Classifier",
    "FittedDetectors",
    "GridScores",
    "Images",
    "Logits",
    "Odin",
    "PortableDetectors",
    "Reduced",
    "Scores",
    "TrainingOutputs",
    "Trial",
    "Tuning",
    "best_of_grid",
    "confidence",
    "energy",
    "fit_detectors",
    "gen",
    "id_only_odin",
    "max_logit",
    "max_logit_norm",
    "max_softmax",
    "negative_entropy",
    "odin_grid",
    "score_grid",
    "tune_odin",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'misgiving.scores' has no attribute {name!r}")
    return getattr(import_module(f"misgiving.scores.{_HOMES[name]}"), name)
