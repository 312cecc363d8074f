"""Compare the error estimator with the calibrated probability, MSP and the predicted loss.

    python benchmarks/error_estimator.py DATA RUN... [--tuning 60,100,250,500] [--out TABLES.md]

Prints Markdown tables: the AURC on the images of test and calibration set, which neither training
nor tuning has seen, with everything fitted on the tuning set, and differences with the t-interval
over the runs; the AURC with random tuning sets, by group, of the images that training has not seen,
on the rest of them; and what the error estimator costs. Errors are those of the largest logit. A
t-interval of runs that were trained on one data set is too narrow, as they share
images: give the number of measured images per training image as --split-ratio.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from misgiving.calibration.fit import Fitted
from misgiving.checkpoint import load
from misgiving.configuration import default_cache
from misgiving.data.cache import prepare
from misgiving.data.datasets import load_dataset
from misgiving.decisions.fit_policy import LOGITS_RULE, calibrator_of
from misgiving.evaluation.inference import predictions_of
from misgiving.files import write_text
from misgiving.metrics.selective import aurc
from misgiving.metrics.trials import t_interval
from misgiving.results.predictions import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores, evidence_of
from misgiving.scores.probes import ClassProbes

SCORES = ("msp", "predicted_loss", "calibrated", "error_estimator")
AGAINST = ("calibrated", "msp")
HEADER = ("images", "runs", *SCORES, "error estimator less calibrated", "preferred")
DETECTORS = ("knn",)  # of a policy without the error estimator
REPEATS = 5
Rows = Int[np.ndarray, " _"]


class Sets(NamedTuple):
    """Predictions of a run, and its detectors.

    Attributes:
        tune: For everything that is fitted.
        unseen: The images for calibration and the test, to measure on.
        new: All that training has not seen, of which tuning sets are drawn.
        detectors: Fitted on the training set.
        seconds: Of a forward pass, for each image.
        probing: Seconds in which the class probes were fitted.
        ratio: Images of `unseen` for each training image.
    """

    tune: Predictions
    unseen: Predictions
    new: Predictions
    detectors: FittedDetectors
    seconds: float
    probing: float
    ratio: float


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--tuning", default="60,100,250,500", help="sizes of random tuning sets")
    parser.add_argument("--draws", type=int, default=20, help="random tuning sets of each size")
    parser.add_argument("--split-ratio", type=float, default=0.0)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--out", type=Path, help="write the tables here")
    asked = parser.parse_args()
    runs = [sets_of(run, asked.data, asked.cache) for run in asked.runs]
    whole = [measured(of, of.tune, of.unseen) for of in runs]
    lines = ["AURC on the images of test and calibration set:", ""]
    lines += comparison(whole, [str(run.name) for run in asked.runs], asked.split_ratio)
    lines += ["", "AURC with random tuning sets, on the other images that are new:", ""]
    lines += [*_row(HEADER), *_row(["---"] * len(HEADER))]
    for size in map(int, asked.tuning.split(",")):
        drawn = [by_size(of, size, asked.draws) for of in runs]
        lines += sized(size, [of for of in drawn if of], asked.split_ratio)
    lines += ["", *cost(runs[0])]
    text = "\n".join(lines) + "\n"
    print(text)
    if asked.out:
        write_text(asked.out, text)


def sets_of(run: Path, data: str, cache: Path) -> Sets:
    """Predict the sets of a run, and fit its detectors."""
    checkpoint = load(run)
    split = checkpoint.split
    images = prepare(load_dataset(data), checkpoint.preprocessing, cache=cache)
    images, _ = images.align(checkpoint.classes)
    set_of = dict(zip(split.hashes, split.sets, strict=True))
    group_of = dict(zip(split.hashes, split.groups, strict=True))
    if missing := [one for one in images.hashes if one not in set_of]:
        raise SystemExit(f"{len(missing)} images of {data} are not those of {run}; give its data")
    images = replace(images, groups=tuple(group_of[one] for one in images.hashes))
    sets = np.array([set_of[one] for one in images.hashes])

    start = perf_counter()
    predictions = predictions_of(checkpoint, images)
    seconds = (perf_counter() - start) / len(images)

    def of(*names: str) -> Predictions:
        return predictions.select(np.flatnonzero(np.isin(sets, names)))

    training, tune, unseen = of("train"), of("tune"), of("calibrate", "test")
    new = of("tune", "calibrate", "test")
    detectors = FittedDetectors.fit(training, DETECTORS)
    start = perf_counter()
    ClassProbes.fit(training)
    probing, ratio = perf_counter() - start, len(unseen) / len(training)
    return Sets(tune, unseen, new, detectors, seconds, probing, ratio)


def fitted_on(tune: Predictions, detectors: FittedDetectors) -> Fitted:
    """A calibrator for the classes of the largest logits."""
    return calibrator_of(tune, detectors, LOGITS_RULE)


def measured(of: Sets, tune: Predictions, test: Predictions) -> dict[str, float]:
    """AURC of each score on a set.

    Where no error estimator can be fitted, it is `calibrated`, to which a policy falls back.
    `preferred` is 1 where cross-validation chose the error estimator.
    """
    calibrator = fitted_on(tune, of.detectors).calibrator
    scores = calibrator.with_learned(
        all_scores(test, of.detectors), test.logits, evidence_of(test, of.detectors)
    )
    found = {name: float(aurc(scores[name], test.errors)) for name in SCORES if name in scores}
    found.setdefault("error_estimator", found["calibrated"])
    return found | {"preferred": float(calibrator.needs_evidence)}


def by_size(of: Sets, size: int, draws: int) -> dict[str, float]:
    """Means over random tuning sets of this size; nothing where there are too few images."""
    if size > len(of.new) / 4 * 3:
        return {}
    found = []
    for seed in range(draws):
        drawn, others = _drawn(of.new, size, seed)
        found.append(measured(of, of.new.select(drawn), of.new.select(others)))
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def _drawn(images: Predictions, size: int, seed: int) -> tuple[Rows, Rows]:
    """Images of random groups, and those of all other groups."""
    names, groups = np.unique(images.groups, return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(names))
    drawn = np.argsort(place[groups], kind="stable")[:size]
    return drawn, np.flatnonzero(~np.isin(groups, groups[drawn]))


def comparison(
    whole: Sequence[Mapping[str, float]], names: Sequence[str], ratio: float
) -> Iterator[str]:
    """A table with a column for each run, and differences over them."""
    yield from _row(["score", *names, "less calibrated", "less MSP"])
    yield from _row(["---"] * (len(names) + 3))
    for name in SCORES:
        if not all(name in one for one in whole):
            continue
        values = [f"{one[name]:.4f}" for one in whole]
        yield from _row([name, *values, *(difference(whole, name, of, ratio) for of in AGAINST)])


def difference(whole: Sequence[Mapping[str, float]], name: str, against: str, ratio: float) -> str:
    """Mean difference with its t-interval over runs."""
    if name == against:
        return ""
    values = [one[name] - one[against] for one in whole]
    if len(values) < 2:
        return f"{values[0]:+.4f}"
    found = t_interval(values, split_ratio=ratio)
    return f"{found.mean:+.4f} ({found.lower:+.4f} to {found.upper:+.4f})"


def sized(size: int, drawn: Sequence[Mapping[str, float]], ratio: float) -> Iterator[str]:
    """A line of the table by size of the tuning set."""
    if not drawn:
        return
    means = [
        f"{np.mean([one[name] for one in drawn]):.4f}" if name in drawn[0] else ""
        for name in SCORES
    ]
    preferred = np.mean([one["preferred"] for one in drawn])
    told = difference(drawn, "error_estimator", "calibrated", ratio)
    yield from _row([str(size), str(len(drawn)), *means, told, f"{100 * preferred:.0f} %"])


def cost(of: Sets) -> Iterator[str]:
    """Lines on seconds and bytes."""
    start = perf_counter()
    fitted = fitted_on(of.tune, of.detectors)
    fitting = perf_counter() - start
    if "error_estimator" not in fitted.candidates:
        yield "The first run has no class probes, or too few groups to fit an error estimator."
        return
    calibrator = fitted.accepting_by("error_estimator").calibrator
    scores = all_scores(of.unseen, of.detectors)
    seconds = []
    for _ in range(REPEATS):
        start = perf_counter()
        evidence = evidence_of(of.unseen, of.detectors)
        calibrator.acceptance_scores(scores, of.unseen.logits, evidence)
        seconds.append((perf_counter() - start) / len(of.unseen))
    with TemporaryDirectory() as folder:
        sizes = [_bytes(of, Path(folder), probes=probes) for probes in (False, True)]
    yield f"Fitting the class probes on the training images: {of.probing:.2f} s."
    yield f"Fitting the calibrator on {len(of.tune)} images: {fitting:.2f} s."
    yield (
        f"Scoring: {1e6 * min(seconds):.1f} microseconds an image, "
        f"{100 * min(seconds) / of.seconds:.2f} % of a forward pass."
    )
    yield f"The detectors of a bundle: {sizes[0]:,} bytes without the probes, {sizes[1]:,} with."


def _bytes(of: Sets, folder: Path, *, probes: bool) -> int:
    of.detectors.only(DETECTORS, probes=probes).save(folder / "detectors.safetensors")
    return (folder / "detectors.safetensors").stat().st_size


def _row(cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


if __name__ == "__main__":
    main()
