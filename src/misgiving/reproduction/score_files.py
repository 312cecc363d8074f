"""Confidences of a set by detector, and predictions, in the folder of a unit."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from safetensors import safe_open
from safetensors.numpy import save_file

from misgiving.errors import explain_damage
from misgiving.files import whole_file
from misgiving.predictions.record import Predictions
from misgiving.scores.outputs import Scores


class ScoredSet(NamedTuple):
    """The confidences of a set by detector, and the group of each image."""

    scores: Scores
    groups: tuple[str, ...]


def predictions_path(folder: Path, name: str) -> Path:
    """The file of a unit's predictions for a set."""
    return folder / "predictions" / f"{name}.npz"


def group_names(predictions: Predictions) -> Shaped[np.ndarray, " n"]:
    """Name of the group of each image, and its own id where it has none, as in all trials."""
    pairs = zip(predictions.groups, predictions.ids, strict=True)
    return np.array([group or name for group, name in pairs])


def save_scores(folder: Path, name: str, scores: Scores, groups: tuple[str, ...]) -> None:
    """Keep the confidences of one set, so that intervals need no model."""
    arrays = {detector: np.ascontiguousarray(values) for detector, values in scores.items()}
    with whole_file(scores_path(folder, name)) as partial:
        save_file(arrays, partial, {"groups": json.dumps(groups)})


def load_scores(folder: Path, name: str) -> ScoredSet:
    """Read what `save_scores` kept.

    Raises:
        DataError: The file is missing or damaged.
    """
    path = scores_path(folder, name)
    with (
        explain_damage(path, remedy="delete the folder of this unit and run it again"),
        safe_open(path, framework="np") as file,
    ):
        scores = {detector: file.get_tensor(detector) for detector in file.keys()}  # noqa: SIM118  # not a dict
        return ScoredSet(scores, tuple(json.loads(file.metadata()["groups"])))


def scores_path(folder: Path, name: str) -> Path:
    """The file of a set's confidences."""
    return folder / "scores" / f"{name.replace('/', '-')}.safetensors"
