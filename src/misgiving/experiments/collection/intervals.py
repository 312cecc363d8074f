"""Every value of the tables with its interval, and the paired differences between models."""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real, Shaped

from misgiving.evaluation import Predictions
from misgiving.experiments.bench import Bench
from misgiving.experiments.new_classes import TOGETHER
from misgiving.experiments.ood_detection import ScoredSet, load_scores
from misgiving.experiments.protocol import Unit, sweep_name
from misgiving.metrics.classification import accuracy, balanced_accuracy, sensitivities
from misgiving.metrics.loss_estimation import error_auroc, spearman
from misgiving.metrics.ood import ood_metrics
from misgiving.metrics.selective import aurc
from misgiving.metrics.statistics import bootstrap, interval

Weights = Real[np.ndarray, "replicates _"]  # sets differ in size
Replicates = Float[np.ndarray, " replicates"]
Key = tuple[str, str]  # detector and metric
Trials = tuple[int, ...]
Statistic = Callable[..., dict[Key, Replicates]]


class Interval(NamedTuple):
    """One row of `intervals.csv`; with a baseline it is the difference model - baseline, paired.

    `n` counts independent groups (lesions, source pictures): of the smaller of two sets, and for a
    sensitivity those of its class.
    """

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


def intervals(
    bench: Bench, finished: Sequence[Unit], out: Path, results: Sequence[tuple[str, ...]]
) -> list[Interval]:
    """All intervals; a difference is taken over the trials in which both models are finished."""
    values = _values(results)
    makers = [
        _SetIntervals(bench, compared, finished, out, values, bench.protocol.seed + number)
        for number, compared in enumerate(_compared_sets(bench))
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy lets go of the interpreter's lock
        made = pool.map(lambda maker: list(maker.rows()), makers)
        return [row for rows in made for row in rows]


class _ComparedSet(NamedTuple):
    """One set of one experiment, and the experiment whose units hold its predictions or scores."""

    experiment: str
    dataset: str
    units: str


class _Sample(NamedTuple):
    """One model of one trial on one set: how to measure it under weights, and what to resample."""

    statistic: Statistic
    groups: tuple[Shaped[np.ndarray, " _"], ...]
    sizes: Mapping[str, int]  # groups behind a metric, where those are fewer than all


def _compared_sets(bench: Bench) -> list[_ComparedSet]:
    protocol, measured = bench.protocol, bench.roles.measured
    unseen = (TOGETHER, *(f"unseen/{name}" for name in protocol.unseen))
    rates = [sweep_name(rate) for rate in protocol.learning_rates]
    return [
        *(_ComparedSet(name, measured, name) for name in ("generalization", "ood_detection")),
        *(_ComparedSet("ood_detection", name, "ood_detection") for name in protocol.ood_sets),
        *(_ComparedSet("new_classes", name, "ood_detection") for name in unseen),
        *(_ComparedSet(name, measured, name) for name in rates),
    ]


class _SetIntervals:
    """The intervals on one set, of each model and of the differences from `proposed`."""

    def __init__(
        self,
        bench: Bench,
        compared: _ComparedSet,
        finished: Sequence[Unit],
        out: Path,
        values: Mapping[tuple[str, ...], Mapping[int, float]],
        seed: int,
    ) -> None:
        self._bench, self._compared, self._out = bench, compared, out
        self._values, self._seed = values, seed
        self._available = _trials_of(compared, finished, out)
        self._samples: dict[tuple[int, str], _Sample] = {}
        self._drawn: dict[tuple[str, Trials], Mapping[Key, Replicates]] = {}

    def rows(self) -> Iterator[Interval]:
        for model, baseline in _pairs(list(self._available)):
            shared = self._available[baseline or model]
            trials = tuple(trial for trial in self._available[model] if trial in shared)
            if trials:
                yield from self._pair(model, baseline, trials)

    def _pair(self, model: str, baseline: str, trials: Trials) -> Iterator[Interval]:
        """The same seed and trials meet the same resampled sets, so that differences are paired."""
        ours = self._replicates(model, trials)
        theirs = self._replicates(baseline, trials) if baseline else {}
        for key, replicates in ours.items():
            mean = self._mean(model, key, trials)
            other = self._mean(baseline, key, trials) if baseline else 0.0
            if mean is None or other is None:  # the baseline has no such detector, for one
                continue
            n = min(_size(self._sample(trial, model), key[1]) for trial in trials)
            lower, upper = _bounds(replicates - theirs[key] if baseline else replicates, n)
            yield Interval(
                experiment=self._compared.experiment,
                model=model,
                baseline=baseline,
                dataset=self._compared.dataset,
                detector=key[0],
                metric=key[1],
                estimate=mean - other,
                lower=lower,
                upper=upper,
                n=n,
                trials=len(trials),
                tuned="tuned" if self._is_tuned(key[0]) else "",
            )

    def _is_tuned(self, detector: str) -> bool:
        here = (self._compared.experiment, self._compared.dataset, detector)
        return here == ("ood_detection", self._bench.protocol.search.tuning_set, "odin")

    def _replicates(self, model: str, trials: Trials) -> Mapping[Key, Replicates]:
        if (model, trials) not in self._drawn:
            samples = [self._sample(trial, model) for trial in trials]
            replicates = self._bench.protocol.replicates
            self._drawn[model, trials] = _replicates(samples, replicates, seed=self._seed)
        return self._drawn[model, trials]

    def _sample(self, trial: int, model: str) -> _Sample:
        if (trial, model) not in self._samples:
            folder = self._out / Unit(self._compared.units, trial, model).folder
            part = self._bench.roles.measured
            self._samples[trial, model] = _sample(self._compared, folder, part)
        return self._samples[trial, model]

    def _mean(self, model: str, key: Key, trials: Trials) -> float | None:
        compared = self._compared
        values = self._values.get((compared.experiment, model, compared.dataset, *key), {})
        found = [values[trial] for trial in trials if trial in values]
        return float(np.mean(found)) if len(found) == len(trials) else None


def _trials_of(compared: _ComparedSet, finished: Sequence[Unit], out: Path) -> dict[str, list[int]]:
    """By model the trials that are finished, less those that diverged."""
    found: dict[str, list[int]] = {}
    for unit in finished:
        if unit.experiment == compared.units and (out / unit.folder / "predictions").is_dir():
            found.setdefault(unit.model, []).append(unit.trial)
    return found


def _pairs(models: Sequence[str]) -> list[tuple[str, str]]:
    alone = [(model, "") for model in models]
    if "proposed" not in models:
        return alone
    return alone + [("proposed", model) for model in models if model != "proposed"]


def _values(results: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], dict[int, float]]:
    """Values by trial, by (experiment, model, dataset, detector, metric)."""
    values: dict[tuple[str, ...], dict[int, float]] = {}
    for experiment, trial, model, dataset, detector, metric, value in results:
        key = (experiment, model, dataset, detector, metric)
        values.setdefault(key, {})[int(trial)] = float(value)
    return values


def _replicates(
    samples: Sequence[_Sample], replicates: int, *, seed: int
) -> Mapping[Key, Replicates]:
    drawn = bootstrap(
        [_named(sample.statistic) for sample in samples],
        [sample.groups for sample in samples],
        replicates=replicates,
        seed=seed,
    )
    return {_key(name): values for name, values in drawn.items()}


def _named(statistic: Statistic) -> Callable[..., Mapping[str, Replicates]]:
    return lambda *weights: {
        f"{detector}\t{metric}": values
        for (detector, metric), values in statistic(*weights).items()
    }


def _key(name: str) -> Key:
    detector, metric = name.split("\t")
    return detector, metric


def _size(sample: _Sample, metric: str) -> int:
    """How many groups there are behind a metric."""
    everything = min(len(np.unique(groups)) for groups in sample.groups)
    return sample.sizes.get(metric, everything)


def _bounds(replicates: Replicates, n: int) -> tuple[float | str, float | str]:
    """An interval; empty cells where it would rest on one group, or where none is defined."""
    lower, upper = interval(replicates)
    return ("", "") if n < 2 or math.isnan(lower) else (lower, upper)


def _sample(compared: _ComparedSet, folder: Path, measured: str) -> _Sample:
    if compared.dataset == measured:
        return _in_distribution(compared.experiment, folder, measured)
    return _detection(load_scores(folder, measured), load_scores(folder, compared.dataset))


def _in_distribution(experiment: str, folder: Path, part: str) -> _Sample:
    predictions = Predictions.load(folder / "predictions" / f"{part}.safetensors")
    config = json.loads((folder / "run" / "config.json").read_text(encoding="utf-8"))
    losses = predictions.true_losses(config["class_weights"])
    predictions = replace(predictions, features=predictions.features[:, :0].copy())

    def statistic(weights: Weights) -> dict[Key, Replicates]:
        values = _classification(predictions, weights)
        if experiment == "generalization":
            values |= _loss_estimation(predictions, losses, weights)
        return values

    groups = np.array(predictions.groups)
    sizes = {
        f"sensitivity/{name}": len(np.unique(groups[predictions.labels == label]))
        for label, name in enumerate(predictions.classes)
    }
    return _Sample(statistic, (groups,), sizes)


def _classification(predictions: Predictions, weights: Weights) -> dict[Key, Replicates]:
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
) -> dict[Key, Replicates]:
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


def _detection(inliers: ScoredSet, outliers: ScoredSet) -> _Sample:
    def statistic(inlier_weights: Weights, outlier_weights: Weights) -> dict[Key, Replicates]:
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

    return _Sample(statistic, (np.array(inliers.groups), np.array(outliers.groups)), {})
