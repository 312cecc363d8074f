"""Section 4.2 of the paper: telling images of other kinds by ODIN, and by simpler confidences."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from safetensors import safe_open
from safetensors.numpy import save_file

from misgiving.checkpoint import Checkpoint
from misgiving.data.loading import ImageSet
from misgiving.detectors import (
    EPSILONS,
    TEMPERATURES,
    GridScores,
    Odin,
    Tuning,
    best_of_grid,
    odin_grid,
    score_grid,
)
from misgiving.evaluation import Measurement, device_of, image_batches, measure_ood, predict
from misgiving.files import whole_file

Scores = Mapping[str, Float[np.ndarray, " _"]]  # sets differ in size


@dataclass(frozen=True, kw_only=True)
class OdinSearch:
    """The grid over which ODIN is tuned, and the set it is tuned on (the paper's: NCT)."""

    tuning_set: str
    temperatures: Sequence[float] = TEMPERATURES
    epsilons: Sequence[float] = EPSILONS

    def grid(self) -> list[Odin]:
        """The points among which the best is looked for."""
        return odin_grid(self.temperatures, self.epsilons)


class Detection(NamedTuple):
    """Confidences of the inliers and of every outlier set, and what ODIN's tuning chose."""

    inliers: Scores
    outliers: Mapping[str, Scores]
    tuning: Tuning


def detect(
    checkpoint: Checkpoint,
    inliers: ImageSet,
    outliers: Mapping[str, ImageSet],
    search: OdinSearch,
) -> Detection:
    """Tune ODIN on the named set, and score every set by every detector.

    The scores of the whole grid on the inliers and on the tuning set are used again for the tables.
    """
    grid = list(dict.fromkeys([*search.grid(), Odin()]))
    inlier_grid = _odin_scores(checkpoint, inliers, grid)
    tuning_grid = _odin_scores(checkpoint, outliers[search.tuning_set], grid)
    tuning = best_of_grid(inlier_grid, tuning_grid, search.grid())
    points = list(dict.fromkeys([tuning.best, Odin()]))
    scores = {
        name: _scores(
            checkpoint,
            images,
            tuning_grid if name == search.tuning_set else _odin_scores(checkpoint, images, points),
            tuning.best,
        )
        for name, images in outliers.items()
    }
    return Detection(_scores(checkpoint, inliers, inlier_grid, tuning.best), scores, tuning)


def score(checkpoint: Checkpoint, images: ImageSet) -> Scores:
    """Confidences by the detectors that need no tuning: ODIN's default and those of the logits."""
    untuned = dict(_scores(checkpoint, images, _odin_scores(checkpoint, images, [Odin()]), Odin()))
    del untuned["odin"]
    return untuned


def _odin_scores(checkpoint: Checkpoint, images: ImageSet, grid: Sequence[Odin]) -> GridScores:
    device = device_of(checkpoint.model)
    return score_grid(checkpoint.model.classify, image_batches(images, device=device), grid)


def _scores(
    checkpoint: Checkpoint, images: ImageSet, odin_scores: GridScores, tuned: Odin
) -> Scores:
    predictions = predict(checkpoint.model, images, estimates_losses=checkpoint.estimates_losses)
    return {
        "odin": odin_scores[tuned],
        "odin_default": odin_scores[Odin()],
        **predictions.confidences(),
    }


def chosen_point(tuning: Tuning, tuning_set: str) -> list[Measurement]:
    """Temperature and epsilon that the tuning chose, as rows of the results."""
    chosen = {"temperature": tuning.best.temperature, "epsilon": tuning.best.epsilon}
    return [Measurement(tuning_set, "odin", name, value) for name, value in chosen.items()]


def grid_table(
    tuning: Tuning,
) -> tuple[tuple[str, str, str], list[tuple[float, float, float]]]:
    """Header and rows of `odin_grid.csv`: the whole grid with its AUROC on the tuning set."""
    rows = [(point.temperature, point.epsilon, auroc) for point, auroc in tuning.grid]
    return ("temperature", "epsilon", "auroc"), rows


class ScoredSet(NamedTuple):
    """The confidences of a set by detector, and the group of each image."""

    scores: Scores
    groups: tuple[str, ...]


def save_scores(folder: Path, name: str, scores: Scores, groups: tuple[str, ...]) -> None:
    """Keep the confidences of one set, so that intervals need no model."""
    arrays = {detector: np.ascontiguousarray(values) for detector, values in scores.items()}
    with whole_file(_scores_path(folder, name)) as partial:
        save_file(arrays, partial, {"groups": json.dumps(groups)})


def load_scores(folder: Path, name: str) -> ScoredSet:
    """Read what `save_scores` kept."""
    with safe_open(_scores_path(folder, name), framework="np") as file:
        scores = {detector: file.get_tensor(detector) for detector in file.keys()}  # noqa: SIM118  # not a dict
        return ScoredSet(scores, tuple(json.loads(file.metadata()["groups"])))


def _scores_path(folder: Path, name: str) -> Path:
    return folder / "scores" / f"{name.replace('/', '-')}.safetensors"


def measure_detection(inliers: Scores, outliers: Scores, dataset: str) -> list[Measurement]:
    """The OOD metrics of every detector on one set."""
    return [
        measurement
        for detector in inliers
        for measurement in measure_ood(
            inliers[detector], outliers[detector], dataset=dataset, detector=detector
        )
    ]
