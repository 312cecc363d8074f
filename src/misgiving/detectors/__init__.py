"""Out-of-distribution scores as callables.

Every score is a confidence: higher means more in-distribution.
"""

from misgiving.detectors.fitted import FITTED, FittedDetectors, Reduced, fit_detectors
from misgiving.detectors.logits import (
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
from misgiving.detectors.odin import (
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
from misgiving.detectors.reduction import Head, TrainingOutputs

__all__ = [
    "EPSILONS",
    "FITTED",
    "LOGIT_SCORES",
    "TEMPERATURES",
    "Classifier",
    "FittedDetectors",
    "GridScores",
    "Head",
    "Images",
    "Logits",
    "Odin",
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
