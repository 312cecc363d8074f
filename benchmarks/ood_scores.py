"""AUROC of scores of features on the study's OOD sets, over several trainings.

    python benchmarks/ood_scores.py RUN... --data isic2019:FOLDER --ood FOLDER

RUN are runs of `misgiving train` on DATA with a split by group and different seeds. `--ood` is the
folder of the given sets, as in study/study.py; the others are made of each run's test images.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from misgiving.checkpoint import Checkpoint, load
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset
from misgiving.files import default_cache
from misgiving.metrics.ood import ood_metrics
from misgiving.predictions.inference import predictions_of
from misgiving.predictions.record import Predictions
from misgiving.reproduction.ood_sets import build
from misgiving.scores.detectors import FittedDetectors

SCORES = (
    *("mahalanobis", "mahalanobis++", "relative_mahalanobis", "residual_mahalanobis"),
    *("vim", "knn", "knn_taps"),
)
GIVEN = {
    "histology": "nct_crc_he",
    "colon": "lc25000_colon",
    "clinical_skin": "clinical_skin",
    "photographs": None,
}
DERIVED = ("b_box", "b_box_70", "b_box_70_image", "derm_skin")
TEST = "test"


def predicted(checkpoint: Checkpoint, data: str, ood: Path, cache: Path) -> dict[str, Predictions]:
    """Predictions for the training set, the test set and each OOD set, by name."""
    dataset, split = load_dataset(data), checkpoint.split
    seed = checkpoint.settings["training"]["seed"]
    sets = dict(zip(split.ids, split.sets, strict=True))
    names = np.array([sets.get(identity, "") for identity in dataset.ids])
    parts = {name: dataset.select(np.flatnonzero(names == name)) for name in ("train", TEST)}
    held_out = parts[TEST]
    for name, folder in GIVEN.items():
        place = str(ood / folder) if folder else "scikit-image"
        parts[name] = build(name, held_out, seed=seed, place=place)
    parts |= {name: build(name, held_out, seed=seed) for name in DERIVED}

    def prepared(part: str) -> ImageSet:
        images = prepare(parts[part], checkpoint.preprocessing, cache=cache)
        return images.align(checkpoint.classes)[0] if part in ("train", TEST) else images

    return {part: predictions_of(checkpoint, prepared(part)) for part in parts}


def aurocs(predictions: Mapping[str, Predictions]) -> dict[tuple[str, str], float]:
    """AUROC of each score for each OOD set."""
    detectors = FittedDetectors.fit(predictions["train"], SCORES)
    scores = {
        part: detectors(some.logits, some.features, some.taps)
        for part, some in predictions.items()
        if part != "train"
    }
    inliers = scores.pop(TEST)
    return {
        (part, name): float(ood_metrics(inliers[name], scores[part][name])["auroc"])
        for part in scores
        for name in SCORES
    }


def main() -> None:
    """Print the mean of each AUROC over the runs, and the lowest and highest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", required=True)
    parser.add_argument("--ood", type=Path, required=True, help="folder of the given OOD sets")
    parser.add_argument("--cache", type=Path, default=default_cache())
    options = parser.parse_args()
    trials = []
    for run in options.runs:
        trials.append(aurocs(predicted(load(run), options.data, options.ood, options.cache)))
        print(f"measured {run}", flush=True)
    print(f"| set | {' | '.join(SCORES)} |")
    print("|---" * (len(SCORES) + 1) + "|")
    for part in (*GIVEN, *DERIVED):
        cells = []
        for name in SCORES:
            values = [trial[part, name] for trial in trials]
            cells.append(f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})")
        print(f"| {part} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
