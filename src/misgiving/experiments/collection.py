"""From finished units to the files that the report is made of: results, intervals, histories."""

import csv
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Real, Shaped, UInt8
from PIL import Image

from misgiving.checkpoint import versions
from misgiving.data.loading import ImageSet
from misgiving.evaluation import Predictions
from misgiving.experiments.new_classes import TOGETHER, unseen_images, unseen_sets
from misgiving.experiments.ood_detection import ScoredSet, load_scores
from misgiving.experiments.protocol import RESULT_COLUMNS, Bench, Protocol, Unit, units
from misgiving.files import whole_folder, write_csv, write_json
from misgiving.metrics.classification import accuracy, balanced_accuracy, sensitivities
from misgiving.metrics.loss_estimation import error_auroc, spearman
from misgiving.metrics.ood import ood_metrics
from misgiving.metrics.selective import aurc
from misgiving.metrics.statistics import bootstrap, interval
from misgiving.training import EpochRecord

EXAMPLES = 6

Weights = Real[np.ndarray, "replicates _"]  # sets differ in size
Measures = Mapping[str, Float[np.ndarray, " replicates"]]
Key = tuple[str, str]  # detector and metric


class Interval(NamedTuple):
    """One row of `intervals.csv`; with a baseline it is the difference model - baseline, paired."""

    experiment: str
    model: str
    baseline: str
    dataset: str
    detector: str
    metric: str
    estimate: float
    lower: float | str
    upper: float | str
    n: int
    trials: int
    tuned: str


def collect(bench: Bench, out: Path) -> None:
    """Write results, intervals, histories, the account of the data sets, examples and settings.

    Does nothing where all of that has been made of the same units.
    """
    protocol = bench.protocol
    made_of = {"protocol": repr(protocol), "units": [bench.record(u) for u in units(protocol)]}
    if _is_collected(out, made_of):
        return
    (out / COLLECTED).unlink(missing_ok=True)
    results = list(_results(protocol, out))
    write_csv(out / "results.csv", RESULT_COLUMNS, results)
    write_csv(out / "histories.csv", _HISTORY_COLUMNS, _histories(protocol, out))
    write_csv(out / "intervals.csv", Interval._fields, _intervals(protocol, out, results))
    shown = _shown_sets(bench)
    write_json(out / "datasets.json", _account(shown))
    _write_examples(out / "examples", shown)
    write_json(out / "settings.json", _settings(bench))
    write_json(out / COLLECTED, made_of)


COLLECTED = "collected.json"
_COLLECTION = (
    "results.csv",
    "histories.csv",
    "intervals.csv",
    "datasets.json",
    "examples",
    "settings.json",
)


def _is_collected(out: Path, made_of: dict[str, Any]) -> bool:
    if not all((out / name).exists() for name in _COLLECTION):
        return False
    try:
        return bool(json.loads((out / COLLECTED).read_text(encoding="utf-8")) == made_of)
    except (OSError, ValueError):
        return False


_HISTORY_COLUMNS = ("experiment", "trial", "model", *EpochRecord._fields)


def _results(protocol: Protocol, out: Path) -> Iterator[tuple[str, ...]]:
    for unit in units(protocol):
        yield from _rows(out / unit.folder / "results.csv")


def _histories(protocol: Protocol, out: Path) -> Iterator[tuple[object, ...]]:
    for unit in units(protocol):
        for row in _rows(out / unit.folder / "run" / "history.csv"):
            yield (unit.experiment, unit.trial, unit.model, *row)


def _rows(path: Path) -> list[tuple[str, ...]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


class _Comparison(NamedTuple):
    """One set of one experiment: how to resample it, for each model and trial."""

    experiment: str
    dataset: str
    statistic: Callable[..., Mapping[Key, Float[np.ndarray, " replicates"]]]
    groups: tuple[Shaped[np.ndarray, " _"], ...]


def _intervals(protocol: Protocol, out: Path, results: Sequence[tuple[str, ...]]) -> list[Interval]:
    means = _means(results)
    rows: list[Interval] = []
    per_model = {
        model: [list(_comparisons(protocol, out, trial, model)) for trial in range(protocol.trials)]
        for model in protocol.models
    }
    example = per_model[protocol.models[0]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy lets go of the interpreter's lock
        for number in range(len(example[0])):
            drawn = pool.map(
                lambda trials, number=number: _replicates(
                    [trial[number] for trial in trials], protocol, seed=protocol.seed + number
                ),
                per_model.values(),
            )
            by_model = dict(zip(per_model, drawn, strict=True))
            rows += _rows_of(protocol, [trial[number] for trial in example], by_model, means)
    return rows


def _replicates(
    comparisons: Sequence[_Comparison], protocol: Protocol, *, seed: int
) -> Mapping[Key, Float[np.ndarray, " replicates"]]:
    drawn = bootstrap(
        [_named(comparison.statistic) for comparison in comparisons],
        [comparison.groups for comparison in comparisons],
        replicates=protocol.replicates,
        seed=seed,
    )
    return {_key(name): values for name, values in drawn.items()}


def _named(
    statistic: Callable[..., Mapping[Key, Float[np.ndarray, " replicates"]]],
) -> Callable[..., Measures]:
    return lambda *weights: {
        f"{detector}\t{metric}": values
        for (detector, metric), values in statistic(*weights).items()
    }


def _key(name: str) -> Key:
    detector, metric = name.split("\t")
    return detector, metric


def _rows_of(
    protocol: Protocol,
    trials: Sequence[_Comparison],
    drawn: Mapping[str, Mapping[Key, Float[np.ndarray, " replicates"]]],
    means: Mapping[tuple[str, ...], float],
) -> Iterator[Interval]:
    """The interval of each value of each model, and of its difference from `proposed`."""
    first = trials[0]
    n = min(len(np.unique(groups)) for trial in trials for groups in trial.groups)
    is_tuned = first.experiment == "ood_detection" and first.dataset == protocol.search.tuning_set
    for model, baseline in _compared(protocol.models):
        for key, values in drawn[model].items():
            if baseline and key not in drawn[baseline]:
                continue
            where = (first.dataset, *key)
            mean = means.get((first.experiment, model, *where))
            other = means.get((first.experiment, baseline, *where)) if baseline else 0.0
            if mean is None or other is None:
                continue
            differences = values - drawn[baseline][key] if baseline else values
            lower, upper = _bounds(differences, n)
            yield Interval(
                experiment=first.experiment,
                model=model,
                baseline=baseline,
                dataset=first.dataset,
                detector=key[0],
                metric=key[1],
                estimate=mean - other,
                lower=lower,
                upper=upper,
                n=n,
                trials=protocol.trials,
                tuned="tuned" if is_tuned and key[0] == "odin" else "",
            )


def _bounds(
    replicates: Float[np.ndarray, " replicates"], n: int
) -> tuple[float | str, float | str]:
    """An interval; empty cells where it would rest on one group, or where none is defined."""
    lower, upper = interval(replicates)
    return ("", "") if n < 2 or math.isnan(lower) else (lower, upper)


def _compared(models: Sequence[str]) -> list[tuple[str, str]]:
    values = [(model, "") for model in models]
    if "proposed" not in models:
        return values
    return values + [("proposed", model) for model in models if model != "proposed"]


def _means(results: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
    """Mean over trials by (experiment, model, dataset, detector, metric)."""
    values: dict[tuple[str, ...], list[float]] = {}
    for experiment, _, model, dataset, detector, metric, value in results:
        values.setdefault((experiment, model, dataset, detector, metric), []).append(float(value))
    return {key: float(np.mean(found)) for key, found in values.items()}


def _comparisons(protocol: Protocol, out: Path, trial: int, model: str) -> Iterator[_Comparison]:
    for experiment in ("generalization", "ood_detection"):
        folder = out / Unit(experiment, trial, model).folder
        yield _in_distribution(experiment, folder)
    inliers = load_scores(folder, "validation")
    unseen = (TOGETHER, *(f"unseen/{name}" for name in protocol.unseen))
    for experiment, names in (("ood_detection", protocol.ood_sets), ("new_classes", unseen)):
        for name in names:
            yield _detection(experiment, name, inliers, load_scores(folder, name))


def _in_distribution(experiment: str, folder: Path) -> _Comparison:
    predictions = Predictions.load(folder / "predictions" / "validation.safetensors")
    config = json.loads((folder / "run" / "config.json").read_text(encoding="utf-8"))
    losses = predictions.true_losses(config["class_weights"])
    predictions = replace(predictions, features=predictions.features[:, :0].copy())

    def statistic(weights: Weights) -> dict[Key, Float[np.ndarray, " replicates"]]:
        values = _classification(predictions, weights)
        if experiment == "generalization":
            values |= _loss_estimation(predictions, losses, weights)
        return values

    return _Comparison(experiment, "validation", statistic, (np.array(predictions.groups),))


def _classification(
    predictions: Predictions, weights: Weights
) -> dict[Key, Float[np.ndarray, " replicates"]]:
    labels, choices, classes = predictions.labels, predictions.choices, predictions.classes
    per_class = sensitivities(labels, choices, num_classes=len(classes), weights=weights)
    return {
        ("", "accuracy"): np.asarray(accuracy(labels, choices, weights=weights)),
        ("", "balanced_accuracy"): np.asarray(
            balanced_accuracy(labels, choices, num_classes=len(classes), weights=weights)
        ),
        **{
            ("", f"sensitivity/{name}"): values
            for name, values in zip(classes, np.moveaxis(per_class, -1, 0), strict=True)
        },
    }


def _loss_estimation(
    predictions: Predictions, losses: Float[np.ndarray, " n"], weights: Weights
) -> dict[Key, Float[np.ndarray, " replicates"]]:
    confidences, errors = predictions.confidences(), predictions.errors
    measures = {
        "spearman": lambda scores: spearman(-scores, losses, weights=weights),
        "error_auroc": lambda scores: error_auroc(scores, errors, weights=weights),
        "aurc": lambda scores: aurc(scores, errors, weights=weights),
    }
    detectors = [name for name in ("predicted_loss", "msp") if name in confidences]
    return {
        (detector, metric): np.asarray(measure(confidences[detector]))
        for detector, (metric, measure) in product(detectors, measures.items())
    }


def _detection(
    experiment: str, dataset: str, inliers: ScoredSet, outliers: ScoredSet
) -> _Comparison:
    def statistic(
        inlier_weights: Weights, outlier_weights: Weights
    ) -> dict[Key, Float[np.ndarray, " replicates"]]:
        return {
            (detector, metric): np.asarray(values)
            for detector, scores in inliers.scores.items()
            for metric, values in ood_metrics(
                scores,
                outliers.scores[detector],
                inlier_weights=inlier_weights,
                outlier_weights=outlier_weights,
            ).items()
        }

    groups = (np.array(inliers.groups), np.array(outliers.groups))
    return _Comparison(experiment, dataset, statistic, groups)


class _Shown(NamedTuple):
    """A data set as the report shows it; of the first trial where it differs between trials."""

    images: ImageSet
    contents: str


def _shown_sets(bench: Bench) -> dict[str, _Shown]:
    unit = Unit("ood_detection", 0, bench.protocol.models[0])
    all_classes = bench.run(unit._replace(experiment="generalization")).part("validation")
    inliers = bench.run(unit).part("validation")
    shown = {
        "validation": _Shown(all_classes, "held-out images of all classes (4.1)"),
        "validation (in-distribution classes)": _Shown(
            inliers,
            f"held-out images of the classes {', '.join(bench.protocol.in_distribution)} "
            "(in-distribution in 4.2 and 4.3)",
        ),
    }
    for name, images in bench.outliers(0):
        shown[name] = _Shown(images, bench.ood_dataset(name, 0).contents)
    together = unseen_images(bench.images, bench.protocol.unseen)
    for name, rows in unseen_sets(together, bench.protocol.unseen).items():
        contents = f"images of {_spelled_out(name)}, on which no model of 4.3 was trained"
        shown[name] = _Shown(together.select(rows), contents)
    return shown


def _spelled_out(name: str) -> str:
    return "all unseen classes" if name == TOGETHER else f"class {name.removeprefix('unseen/')}"


def _account(shown: Mapping[str, _Shown]) -> dict[str, Any]:
    return {
        name: {
            "contents": set_.contents,
            "images": len(set_.images),
            "sources": len(set(set_.images.groups)),
        }
        for name, set_ in shown.items()
    }


def _write_examples(folder: Path, shown: Mapping[str, _Shown]) -> None:
    with whole_folder(folder) as partial:
        for name, set_ in shown.items():
            examples = partial / name.replace("/", "-")
            examples.mkdir()
            for number, pixels in enumerate(_spread(set_.images)):
                Image.fromarray(pixels).save(examples / f"{number}.png")


def _spread(images: ImageSet) -> UInt8[np.ndarray, "n size size 3"]:
    """A few images at even distances, so that several classes or source pictures are among them."""
    positions = np.linspace(0, len(images) - 1, min(EXAMPLES, len(images)))
    return images.read(positions.round().astype(np.int64))


def _settings(bench: Bench) -> dict[str, Any]:
    protocol, unit = bench.protocol, Unit("generalization", 0, bench.protocol.models[0])
    run = bench.run(unit)
    training = protocol.training
    return {
        "title": "Loss Estimators Improve Model Generalization: a reproduction",
        "data": protocol.data,
        "backbone": protocol.model.backbone,
        "pretrained": protocol.model.weights.name
        if protocol.model.weights
        else "ImageNet weights of timm"
        if protocol.model.pretrained
        else "no",
        "image_size": bench.preprocessing.image_size,
        "epochs": training.epochs,
        "trials": protocol.trials,
        "models": list(protocol.models),
        "seed": protocol.seed,
        "classes": list(bench.images.classes),
        "in_distribution": list(protocol.in_distribution),
        "unseen": list(protocol.unseen),
        "tuning_set": protocol.search.tuning_set,
        "odin_temperatures": list(protocol.search.temperatures),
        "odin_epsilons": list(protocol.search.epsilons),
        "open_choices": _open_choices(protocol),
        "training": _training_settings(bench),
        "versions": versions(),
        "fingerprint": run.images.fingerprint,
        "notes": [*protocol.notes, *_notes(bench)],
    }


def _open_choices(protocol: Protocol) -> dict[str, str]:
    """What the paper does not say, and what this run does."""
    training = protocol.training
    return {
        "margin of Eq. 1": f"{training.margin:g}",
        "pairs of Eq. 1": {"all": "all ordered pairs of the batch", "halves": "halves"}[
            training.pairs
        ],
        "reduction of Eq. 1": training.reduction,
        "ties of true losses": "count as -1, as Eq. 1 says",
        "gradient of the estimator into the backbone": "always; never in detached"
        if training.joint_epochs is None
        else f"in {training.joint_epochs} epochs; never in detached",
        "target of the estimator": f"the {training.target} loss",
        "mean of the weighted cross-entropy": training.primary_mean,
        "class weights of the loss": training.class_weights,
        "class weights of the sampler": training.sampling,
        "estimator's learning rate": f"{training.estimator_rate:g} x the classifier's",
        "pooling before the 128-unit layers": "global average",
        "checkpoint": f"{training.keep} epoch",
        "ODIN's perturbed image": "not clipped to [0, 1]",
        "AUPR": "count-based precision, trapezoid; average precision beside it in results.csv",
    }


def _training_settings(bench: Bench) -> dict[str, str]:
    training = bench.protocol.training
    crop, constancy = bench.preprocessing.crop, bench.preprocessing.color_constancy
    return {
        "optimiser": f"Adam, beta1 {training.beta1:g}, weight decay {training.weight_decay:g}",
        "learning rate": f"{training.learning_rate:g}, times {training.decay_factor:g} "
        f"every {training.decay_every} epochs",
        "epochs": str(training.epochs),
        "batch size": str(training.batch_size),
        "dropout": f"{bench.protocol.model.dropout:g}",
        "auxiliary weight (Eq. 2)": f"{training.auxiliary_weight:g}",
        "validation share": f"{bench.protocol.validation_share:.0%}",
        "crop": f"{crop:g}",
        "colour constancy": constancy,
        "augmentation": ", ".join(
            f"{name} {value}" for name, value in bench.augmentation.to_dict().items()
        ),
        "device and precision": f"{training.device}, {training.precision}",
    }


def _notes(bench: Bench) -> list[str]:
    """Facts of this run that a reader must know."""
    notes = [
        "ODIN is tuned on the held-out in-distribution images and the tuning set, as in the paper. "
        "The same held-out images are the in-distribution side of every other row, so that these "
        "are a little optimistic too; odin_default is not tuned at all.",
        "Intervals resample groups of images that trials share together, and trials with "
        "replacement; with few trials the variation between trials is drawn too small.",
    ]
    for experiment, images in (("4.1", bench.images), ("4.2 and 4.3", bench.inliers)):
        run = bench.run(
            Unit(
                "generalization" if experiment == "4.1" else "ood_detection",
                0,
                bench.protocol.models[0],
            )
        )
        train, validation = (len(run.part(part)) for part in ("train", "validation"))
        notes.append(
            f"{experiment}: {train} of {len(images)} images are trained on and {validation} are "
            "held out in each trial."
        )
    return notes
