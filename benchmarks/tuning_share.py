"""Compare shares of the tuning set, where it also has to teach the calibrator and the score.

    python benchmarks/tuning_share.py RUN DATA [--divisions 40] [--out TABLE.md]

The images of DATA that RUN was not trained on are divided by group, stratified by class: a third
measures, and of the other two thirds a half or a quarter tunes and the rest calibrates. Everything
that `calibrate` fits is fitted anew for each division. Prints a Markdown table of means over the
divisions, with one image of each group that measures; a refusal has coverage 0. Divisions share
their images, so that the standard error of a mean is larger than for independent data.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int
from sklearn.model_selection import StratifiedGroupKFold

from misgiving.checkpoint import load
from misgiving.configuration import default_cache
from misgiving.data.cache import prepare
from misgiving.data.datasets import load_dataset
from misgiving.decisions.engine import DecisionEngine
from misgiving.decisions.fit_policy import calibrator_of, fit_policies
from misgiving.deferral.scored_cases import one_per_group
from misgiving.deferral.targets import Targets
from misgiving.evaluation.inference import predictions_of
from misgiving.files import write_text
from misgiving.metrics.selective import aurc
from misgiving.results.predictions import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores, evidence_of

TARGETS = (0.05, 0.1, 0.15, 0.2)
FOLDS = {"half": 2, "quarter": 4}  # one of them tunes
HEADER = ("tuning set", "AURC", *(f"coverage, error for {target:g}" for target in TARGETS))


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("data")
    parser.add_argument("--divisions", type=int, default=40)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", type=Path, help="write the table here")
    asked = parser.parse_args()
    new, detectors = predicted(asked.run, asked.data, asked.cache)
    found = {name: np.empty((asked.divisions, len(HEADER[1:]), 2)) for name in FOLDS}
    for seed in range(asked.divisions):
        third = folds_of(new, 3, seed)
        measuring = new.select(np.flatnonzero(third == 0))
        measuring = measuring.select(one_per_group(measuring.groups, seed=seed))
        others = new.select(np.flatnonzero(third != 0))
        for name, count in FOLDS.items():
            tuned = folds_of(others, count, seed) == 0
            sets = (others.select(np.flatnonzero(rows)) for rows in (tuned, ~tuned))
            found[name][seed] = [*measures(*sets, measuring, detectors, seed=seed)]
    lines = [HEADER, ("---",) * len(HEADER), *(row(name, of) for name, of in found.items())]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    print(text)
    if asked.out:
        write_text(asked.out, text)


def predicted(run: Path, data: str, cache: Path) -> tuple[Predictions, FittedDetectors]:
    """Predictions for the images that the run was not trained on, and its fitted detectors."""
    checkpoint = load(run)
    split = checkpoint.split
    images = prepare(load_dataset(data), checkpoint.preprocessing, cache=cache)
    if images.ids != split.ids:
        raise SystemExit(f"{data} is not the data that {run} was trained on; give these")
    images = replace(images, groups=split.groups)
    trained = np.array(split.sets) == "train"
    of_training, new = (
        predictions_of(checkpoint, images.select(np.flatnonzero(rows)))
        for rows in (trained, ~trained)
    )
    return new, FittedDetectors.fit(of_training)


def folds_of(images: Predictions, count: int, seed: int) -> Int[np.ndarray, " n"]:
    """The fold of each image, drawn by group and stratified by class."""
    folds = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
    drawn = np.empty(len(images.labels), dtype=np.int64)
    for number, (_, members) in enumerate(folds.split(drawn, images.labels, images.groups)):
        drawn[members] = number
    return drawn


def measures(
    tune: Predictions,
    calibration: Predictions,
    measuring: Predictions,
    detectors: FittedDetectors,
    *,
    seed: int,
) -> Iterator[tuple[float, float]]:
    """AURC of the acceptance score, then coverage and error of a policy for each target."""
    fitted = calibrator_of(tune, detectors)
    calibrator = fitted.calibrator
    wrong = calibrator.named(measuring.logits) != measuring.labels
    scores = calibrator.acceptance_scores(
        all_scores(measuring, detectors), measuring.logits, evidence_of(measuring, detectors)
    )
    yield float(aurc(scores, wrong)), np.nan
    targets = [Targets(max_error=target) for target in TARGETS]
    for policy in fit_policies(
        tune, calibration, detectors, fitted, targets, seed=seed, calibration_fingerprint="drawn"
    ):
        engine = DecisionEngine(
            classes=policy.classes, policy=policy, calibrator=calibrator, detectors=detectors
        )
        accepted = np.array(
            [one.decision == "accept" for one in engine.decide_predictions(measuring)]
        )
        yield float(accepted.mean()), float(wrong[accepted].mean()) if accepted.any() else np.nan


def row(name: str, found: np.ndarray) -> tuple[str, ...]:
    """Cells of a tuning set: means over the divisions, of errors over those that accept any."""
    (ranked, *coverages), errors = found[..., 0].mean(axis=0), np.nanmean(found[:, 1:, 1], axis=0)
    pairs = zip(coverages, errors, strict=True)
    return name, f"{ranked:.4f}", *(f"{coverage:.3f}, {error:.3f}" for coverage, error in pairs)


if __name__ == "__main__":
    main()
