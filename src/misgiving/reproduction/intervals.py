"""Bootstrap intervals: of every result, of paired differences, and of risk over coverage.

A sample is one model of one trial on one set; its metrics are computed under the weights of a
resampling, from the scores and predictions in the folder of its unit.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Real, Shaped

from misgiving.evaluation.measures import POLICY_SET, failure_measures
from misgiving.files import read_json
from misgiving.metrics.classification import accuracy, balanced_accuracy, sensitivities
from misgiving.metrics.loss_estimation import spearman
from misgiving.metrics.ood import ood_metrics
from misgiving.metrics.selective import ACCEPTED_ERRORS, RiskCoverage, accepted_errors
from misgiving.metrics.uncertainty import bootstrap, percentile_interval, t_interval
from misgiving.predictions.record import Predictions
from misgiving.reproduction.config import CHOSEN, FAILURES, MSP, Protocol
from misgiving.reproduction.tables import (
    RUN_AGAIN,
    Folders,
    ValuesByTrial,
    group_names,
    load_scores,
    predictions_path,
    scores_path,
    table_of,
)

Weights = Real[np.ndarray, "replicates _"]  # sets differ in size
Replicates = Float[np.ndarray, " replicates"]
Key = tuple[str, str]  # detector and metric
Trials = tuple[int, ...]

CURVE_COVERAGES = tuple(round(0.05 * step, 2) for step in range(1, 21))


@dataclass(frozen=True, eq=False)
class Sample:
    """One model of one trial on one set: its metrics under weights, and its groups."""

    statistic: Callable[..., dict[Key, Replicates]]
    groups: tuple[Shaped[np.ndarray, " _"], ...]
    sizes: Mapping[Key, int]  # groups behind a metric, where those are fewer than all

    def size_of(self, key: Key) -> int:
        """The number of groups behind a metric of a detector."""
        return self.sizes.get(key, self._size)

    @cached_property
    def _size(self) -> int:
        return min(len(np.unique(groups)) for groups in self.groups)


@dataclass(frozen=True, kw_only=True)
class MeasuredSet:
    """One set of one experiment, in all models and trials.

    Attributes:
        experiment: Its name in the results.
        dataset: Name of the set.
        measured: Name of the set with the in-distribution images.
        protocol: Of the reproduction.
        folders: Of the units that measured it, by model and trial.
        values: All results of the reproduction.
        split_ratio: Measured images for each training image.
        seed: The same seed and trials meet the same resampled sets, which makes differences paired.
    """

    experiment: str
    dataset: str
    measured: str
    protocol: Protocol
    folders: Folders
    values: ValuesByTrial
    split_ratio: float
    seed: int
    _drawn: dict[tuple[str, Trials], Mapping[Key, Replicates]] = field(
        default_factory=dict, init=False, repr=False
    )

    def intervals(self) -> pd.DataFrame:
        """All intervals on the set; a difference is over the trials that both models have."""
        return table_of(self._rows(), "intervals.csv")

    @cached_property
    def _samples(self) -> dict[str, dict[int, Sample]]:
        """The units that have the arrays by which the set is measured, by model and trial."""
        samples: dict[str, dict[int, Sample]] = {}
        for model, folders in self.folders.items():
            for trial, folder in folders.items():
                if sample := _sample(self.experiment, folder, self.measured, self.dataset):
                    samples.setdefault(model, {})[trial] = sample
        return samples

    def _rows(self) -> Iterator[tuple[object, ...]]:
        models = list(self._samples)
        challengers = [name for name in models if name in ("proposed", self.protocol.challenger)]
        pairs = [(name, other) for name in challengers for other in models if other != name]
        for model, baseline in [*((model, "") for model in models), *pairs]:
            shared = self._samples[baseline or model]
            trials = tuple(trial for trial in self._samples[model] if trial in shared)
            for key in self._replicates(model, trials):
                sides = [(model, key), (baseline, key)][: 2 if baseline else 1]
                yield from self._row(trials, baseline, sides)
        for model in models if self.dataset == self.measured else ():
            trials = tuple(self._samples[model])
            for detector, metric in self._replicates(model, trials):
                if detector not in ("", MSP):
                    sides = [(model, (detector, metric)), (model, (MSP, metric))]
                    yield from self._row(trials, MSP, sides)

    def _row(
        self, trials: Trials, baseline: str, sides: Sequence[tuple[str, Key]]
    ) -> Iterator[tuple[object, ...]]:
        """One interval, of one side or of the difference of two.

        There is none where a side was not measured in every trial: it may have no such detector.
        """
        (model, key), *_ = sides
        place = self.experiment, self.dataset
        measured = [self.values.get((*place, *k, name), {}) for name, k in sides]
        if not all(of_side.keys() >= {*trials} for of_side in measured):
            return
        values = [np.array([of_side[trial] for trial in trials]) for of_side in measured]
        drawn = [self._replicates(name, trials)[k] for name, k in sides]
        differences, replicates = (
            np.subtract(*pair) if baseline else pair[0] for pair in (values, drawn)
        )
        tuned = self.experiment == "ood_detection" and self.dataset == self.protocol.odin.tuning_set
        n = min(self._samples[name][trial].size_of(k) for name, k in sides for trial in trials)
        t_values: tuple[float | None, ...] = (None, None, None)  # ends and p-value
        if len(trials) > 1:
            t_values = t_interval(differences, split_ratio=self.split_ratio)[1:]
        yield (
            *(self.experiment, model, baseline, self.dataset, *key),
            *(float(differences.mean()), *_bounds(replicates, n)),
            *(n, len(trials), tuned and key[0] in ("odin", CHOSEN)),
            *t_values,
        )

    def _replicates(self, model: str, trials: Trials) -> Mapping[Key, Replicates]:
        if trials and (model, trials) not in self._drawn:
            samples = [self._samples[model][trial] for trial in trials]
            self._drawn[model, trials] = _resampled(samples, self.protocol.replicates, self.seed)
        return self._drawn.get((model, trials), {})


def _resampled(samples: Sequence[Sample], replicates: int, seed: int) -> Mapping[Key, Replicates]:
    """Bootstrap replicates of the mean of each metric over these trials."""
    statistics, groups = [s.statistic for s in samples], [s.groups for s in samples]
    return bootstrap(statistics, groups, replicates=replicates, seed=seed)


def _bounds(replicates: Replicates, n: int) -> tuple[float | None, float | None]:
    """An interval; None where it would rest on one group, or where nothing varies."""
    lower, upper = percentile_interval(replicates)
    return (None, None) if n < 2 or math.isnan(lower) or lower == upper else (lower, upper)


def _sample(experiment: str, folder: Path, measured: str, dataset: str) -> Sample | None:
    """The arrays of a unit by which a set is measured; none where its training diverged."""
    if dataset == POLICY_SET:
        return _policies(folder) if scores_path(folder, POLICY_SET).is_file() else None
    if not (folder / "predictions").is_dir():
        return None
    if dataset == measured:
        return _in_distribution(experiment, folder, measured)
    return _detection(folder, measured, dataset)


def _in_distribution(experiment: str, folder: Path, measured: str) -> Sample:
    predictions = Predictions.read(predictions_path(folder, measured))
    config = read_json(folder / "run" / "config.json", remedy=RUN_AGAIN)
    losses = predictions.true_losses(config["class_weights"])
    predictions = replace(predictions, features=None, taps=None)
    scores = load_scores(folder, FAILURES)[0] if experiment == "generalization" else {}

    def statistic(weights: Weights) -> dict[Key, Replicates]:
        values = _classification(predictions, weights)
        for name in ("predicted_loss", MSP):
            if name in scores:
                ranks = spearman(-scores[name], losses, weights=weights)
                values[name, "spearman"] = np.asarray(ranks)
        for name, confidences in scores.items():
            measures = failure_measures(confidences, predictions, weights=weights)
            values |= {(name, metric): np.asarray(it) for metric, it in measures.items()}
        return values

    groups = group_names(predictions)
    sizes = {
        ("", f"sensitivity/{name}"): len(np.unique(groups[predictions.labels == label]))
        for label, name in enumerate(predictions.classes)
    }
    return Sample(statistic, (groups,), sizes)


def _classification(predictions: Predictions, weights: Weights) -> dict[Key, Replicates]:
    labels, choices, classes = predictions.labels, predictions.choices, predictions.classes
    per_class = sensitivities(labels, choices, num_classes=len(classes), weights=weights)
    balanced = balanced_accuracy(labels, choices, num_classes=len(classes), weights=weights)
    return {
        ("", "accuracy"): np.asarray(accuracy(labels, choices, weights=weights)),
        ("", "balanced_accuracy"): np.asarray(balanced),
        **{
            ("", f"sensitivity/{name}"): values
            for name, values in zip(classes, np.moveaxis(per_class, -1, 0), strict=True)
        },
    }


def _policies(folder: Path) -> Sample:
    """Share accepted, share called OOD, and error among the accepted, for each policy."""
    columns, groups = load_scores(folder, POLICY_SET)
    accepting = {
        f"policy/{name.removesuffix('/accept')}": accepted > 0
        for name, accepted in columns.items()
        if name.endswith("/accept")
    }

    def statistic(weights: Weights) -> dict[Key, Replicates]:
        total, values = weights.sum(axis=-1), {}
        for policy, accepted in accepting.items():
            ood = columns[f"{policy.removeprefix('policy/')}/ood"]
            values[policy, "coverage"] = weights @ accepted / total
            values[policy, "ood_share"] = weights @ ood / total
            errors = accepted_errors(accepted, columns["wrong"] > 0, groups, weights=weights)
            values |= {(policy, name): np.asarray(error) for name, error in errors.items()}
        return values

    names = np.array(groups)
    sizes = {
        (policy, error): len(np.unique(names[accepted]))
        for policy, accepted in accepting.items()
        for error in ACCEPTED_ERRORS
    }
    return Sample(statistic, (names,), sizes)


def _detection(folder: Path, measured: str, dataset: str) -> Sample:
    (inliers, inlier_groups), (outliers, outlier_groups) = (
        load_scores(folder, name) for name in (measured, dataset)
    )

    def statistic(inlier_weights: Weights, outlier_weights: Weights) -> dict[Key, Replicates]:
        weights = {"inlier_weights": inlier_weights, "outlier_weights": outlier_weights}
        return {
            (detector, metric): np.asarray(values)
            for detector in inliers
            for metric, values in ood_metrics(
                inliers[detector], outliers[detector], **weights
            ).items()
        }

    return Sample(statistic, (np.array(inlier_groups), np.array(outlier_groups)), {})


def risk_curves(folders: Folders, measured: str, protocol: Protocol) -> pd.DataFrame:
    """The error among the accepted in 4.1 by acceptance score, at every twentieth of coverage.

    `folders` are those of the units, and `measured` is the name of the set.
    """
    rows = []
    for model, trials in folders.items():
        samples = [
            _risks(folder, measured)
            for folder in trials.values()
            if scores_path(folder, FAILURES).is_file()
        ]
        if not samples:
            continue
        means = [sample.statistic() for sample in samples]
        for key, values in _resampled(samples, protocol.replicates, protocol.seed).items():
            mean = float(np.mean([of_trial[key] for of_trial in means]))
            lower, upper = _bounds(values, min(sample.size_of(key) for sample in samples))
            if not math.isnan(mean):
                rows.append((model, key[0], float(key[1]), mean, lower, upper))
    return table_of(rows, "risk_coverage.csv")


def _risks(folder: Path, measured: str) -> Sample:
    predictions = Predictions.read(predictions_path(folder, measured))
    errors, (scores, _) = predictions.errors, load_scores(folder, FAILURES)

    def statistic(weights: Weights | None = None) -> dict[Key, Float[np.ndarray, "*replicates"]]:
        curves = {name: RiskCoverage(values, errors, weights) for name, values in scores.items()}
        return {
            (name, str(coverage)): np.asarray(curve.risk_at_coverage(coverage))
            for name, curve in curves.items()
            for coverage in CURVE_COVERAGES
        }

    return Sample(statistic, (group_names(predictions),), {})
