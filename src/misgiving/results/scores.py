"""Confidences of a set by detector, for intervals without the model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from safetensors import safe_open
from safetensors.numpy import save_file

from misgiving.files import whole_file

Scores = Mapping[str, Float[np.ndarray, " _"]]  # sets differ in size


class ScoredSet(NamedTuple):
    """The confidences of a set by detector, and the group of each image."""

    scores: Scores
    groups: tuple[str, ...]


def save_scores(folder: Path, name: str, scores: Scores, groups: tuple[str, ...]) -> None:
    """Keep the confidences of one set, so that intervals need no model."""
    arrays = {detector: np.ascontiguousarray(values) for detector, values in scores.items()}
    with whole_file(scores_path(folder, name)) as partial:
        save_file(arrays, partial, {"groups": json.dumps(groups)})


def load_scores(folder: Path, name: str) -> ScoredSet:
    """Read what `save_scores` kept."""
    with safe_open(scores_path(folder, name), framework="np") as file:
        scores = {detector: file.get_tensor(detector) for detector in file.keys()}  # noqa: SIM118  # not a dict
        return ScoredSet(scores, tuple(json.loads(file.metadata()["groups"])))


def scores_path(folder: Path, name: str) -> Path:
    """The file of a set's confidences."""
    return folder / "scores" / f"{name.replace('/', '-')}.safetensors"
