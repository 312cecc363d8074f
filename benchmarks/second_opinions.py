"""Measure what a second model's opinion is worth.

    python benchmarks/second_opinions.py PREDICTIONS [--draws 3] [--images 5000] [--workers 2]

PREDICTIONS has the folders imagenet and cifar10h. For each ordered pair of the models in a folder,
1,000 images drawn at random tune the first one's calibration with and without the second one's
opinion, and other images, drawn at random, measure both. Of ImageNet's classes only the five most
probable are given; a tenth of what these leave is spread evenly over the others, for most of it
belongs to a few classes that are not known. Prints Markdown tables: for each pair the medians over
the draws of the AURC and of the largest coverage at an error of 5 %, alone and with each opinion.
"""

import argparse
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from misgiving.calibration.apply import SECOND_OPINION, Calibrator
from misgiving.calibration.fit import Fitted, aurc, fit_calibrator, fit_opinions
from misgiving.calibration.maps import group_folds
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores

FOLDERS = ("imagenet", "cifar10h")
TUNED = 1000
MAX_ERROR = 0.05
BLOCK = 2000
SHARE_OF_REST = 0.1
Arrays = Mapping[str, np.ndarray]


class Row(NamedTuple):
    """AURC and the largest coverage at the error in one draw, without and with the opinion."""

    pair: tuple[str, str]
    areas: tuple[float, float]
    coverages: tuple[float, float]
    used: bool


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    for name in FOLDERS:
        paths = sorted((asked.predictions / name).glob("*.npz"))
        measure = partial(measured, paths, asked.images)
        tasks = [*product(range(asked.draws), paths)]
        with ProcessPoolExecutor(asked.workers) as pool:
            rows = [*chain(*pool.map(measure, tasks))]
        print_table(name, rows)


def print_table(title: str, rows: list[Row]) -> None:
    """Print AURC and coverage, medians over the draws, and the change by the opinions."""
    draws: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        draws.setdefault(row.pair, []).append(row)
    others = sorted({second for _, second in draws})
    print(f"\n| {title} | alone | {' | '.join(others)} |\n{'|---' * (2 + len(others))}|")
    for first in others:
        pairs = {second: draws[first, second] for second in others if second != first}
        alone = median(next(iter(pairs.values())), 0)
        joint = [median(pairs[second], 1) if second in pairs else "" for second in others]
        print(f"| {first} | {alone} | {' | '.join(joint)} |")
    lower = [[row.areas[0] - row.areas[1] for row in each] for each in draws.values()]
    wider = [[row.coverages[1] - row.coverages[0] for row in each] for each in draws.values()]
    used = sum(row.used for row in rows)
    print(
        f"\nAURC lower by {np.median(np.median(lower, axis=1)):.4f} (median of {len(lower)} pairs),"
        f" least {np.median(lower, axis=1).min():.4f}, in any draw {np.min(lower):.4f}; coverage "
        f"higher by {np.median(np.median(wider, axis=1)):.3f}; used in {used} of {len(rows)} cases"
    )


def median(draws: list[Row], which: int) -> str:
    """Medians of AURC and coverage, without (0) or with the opinion (1)."""
    area, coverage = (np.median([row[at][which] for row in draws]) for at in (1, 2))
    return f"{area:.4f}, {coverage:.3f}"


def measured(paths: list[Path], images: int, task: tuple[int, Path]) -> list[Row]:
    """Judge one model's answers in one draw, alone and with the opinion of each other model."""
    seed, first = task
    arrays = dict(np.load(first))
    draw = np.random.default_rng(seed).permutation(len(next(iter(arrays.values()))))
    tuned, others = draw[:TUNED], draw[TUNED : TUNED + images]
    tuning = predicted(arrays, tuned)
    even = np.ones(tuning.logits.shape[1])
    alone = fit_calibrator(tuning, FittedDetectors(), lambda _: even)
    without = judged(alone.calibrator, arrays, others, {})
    rows = []
    for second in [path for path in paths if path != first]:
        name, opinion = name_of(second), dict(np.load(second))
        both = with_opinion(alone, tuning, {name: predicted(opinion, tuned).probabilities})
        using = {name: opinion} if both.needs_opinions else {}
        joint = judged(both, arrays, others, using) if using else without
        pair = [*zip(without, joint, strict=True)]
        rows.append(Row((name_of(first), name), *pair, used=bool(using)))
        print(seed, *rows[-1], file=sys.stderr, flush=True)
    return rows


def with_opinion(alone: Fitted, tuning: Predictions, opinions: Mapping[str, Any]) -> Calibrator:
    """The calibration with an opinion, as `fit_calibrator` makes it, from the one without."""
    pool, _ = fit_opinions(alone.vectors, opinions, tuning.labels, group_folds(tuning.units))
    if pool is None:
        return alone.calibrator
    return replace(alone.calibrator, opinions=pool, score=SECOND_OPINION)


def judged(
    calibrator: Calibrator, arrays: Arrays, rows: np.ndarray, opinions: Mapping[str, Arrays]
) -> tuple[float, float]:
    """AURC of the answers, and the largest coverage at the error."""
    scores, wrong = [], []
    for at in range(0, len(rows), BLOCK):
        block = predicted(arrays, rows[at : at + BLOCK])
        given = {name: outputs(other, rows[at : at + BLOCK]) for name, other in opinions.items()}
        judgement = calibrator.judge(all_scores(block), block.logits, None, given)
        scores.append(judgement[2])
        wrong.append(judgement[1] != block.labels)
    score, errors = np.concatenate(scores), np.concatenate(wrong)
    accepted = np.cumsum(errors[np.argsort(-score)]) <= MAX_ERROR * np.arange(1, len(errors) + 1)
    coverage = (np.flatnonzero(accepted)[-1] + 1) / len(errors) if accepted.any() else 0.0
    return aurc(score, errors), float(coverage)


def predicted(arrays: Arrays, rows: np.ndarray) -> Predictions:
    """Predictions for these images."""
    labels = arrays["label" if "label" in arrays else "labels"][rows]
    return Predictions.of({"probabilities": outputs(arrays, rows), "label": labels, "id": rows})


def outputs(arrays: Arrays, rows: np.ndarray) -> np.ndarray:
    """Probabilities of all classes; where only the five most probable are known, from these."""
    if "probabilities" in arrays:
        probabilities = arrays["probabilities"][rows]
    else:
        top, classes = arrays["top5_probabilities"][rows], int(arrays["labels"].max()) + 1
        rest = SHARE_OF_REST * np.maximum(1 - top.sum(axis=1), 0) / (classes - top.shape[1])
        probabilities = np.repeat(rest[:, None], classes, axis=1)
        np.put_along_axis(probabilities, arrays["top5_classes"][rows].astype(int), top, axis=1)
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def name_of(path: Path) -> str:
    """Name of a model, without that of its framework."""
    return path.stem.partition("_")[0]


if __name__ == "__main__":
    main()
