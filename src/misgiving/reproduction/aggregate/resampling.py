"""Samples for the bootstrap: one model of one trial on one set, measured under weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real, Shaped

from misgiving.evaluation.evaluate import POLICY_SET
from misgiving.evaluation.measures import failure_measures
from misgiving.files import read_json
from misgiving.metrics.bootstrap import bootstrap
from misgiving.metrics.classification import accuracy, balanced_accuracy, sensitivities
from misgiving.metrics.loss_estimation import spearman
from misgiving.metrics.ood import ood_metrics
from misgiving.metrics.selective import ACCEPTED_ERRORS, accepted_errors
from misgiving.predictions.record import Predictions
from misgiving.reproduction.config import FAILURES
from misgiving.reproduction.score_files import (
    ScoredSet,
    group_names,
    load_scores,
    predictions_path,
    scores_path,
)
from misgiving.reproduction.tables import REMEDY

Weights = Real[np.ndarray, "replicates _"]  # sets differ in size
Replicates = Float[np.ndarray, " replicates"]
Confidences = Float[np.ndarray, " _"]
Key = tuple[str, str]  # detector and metric
Statistic = Callable[..., dict[Key, Replicates]]


class ComparedSet(NamedTuple):
    """One set of one experiment, and the experiment whose units hold its predictions or scores."""

    experiment: str
    dataset: str
    units: str


@dataclass(frozen=True, eq=False)
class Sample:
    """One model of one trial on one set: its metrics under weights, and its groups."""

    statistic: Statistic
    groups: tuple[Shaped[np.ndarray, " _"], ...]
    sizes: Mapping[Key, int]  # groups behind a metric, where those are fewer than all

    def size_of(self, key: Key) -> int:
        """The number of groups behind a metric of a detector."""
        return self.sizes.get(key, self._size)

    @cached_property
    def _size(self) -> int:
        return min(len(np.unique(groups)) for groups in self.groups)


def resampled(samples: Sequence[Sample], *, replicates: int, seed: int) -> Mapping[Key, Replicates]:
    """Bootstrap replicates of the mean of each metric over these trials."""
    return bootstrap(
        [sample.statistic for sample in samples],
        [sample.groups for sample in samples],
        replicates=replicates,
        seed=seed,
    )


def has_sample(compared: ComparedSet, folder: Path) -> bool:
    """True if a unit has the arrays that a set is measured by; false if its training diverged."""
    if compared.dataset == POLICY_SET:
        return scores_path(folder, POLICY_SET).is_file()
    return (folder / "predictions").is_dir()


def sample_of(compared: ComparedSet, folder: Path, measured: str) -> Sample:
    """The sample of one unit; `measured` is the set with the in-distribution images."""
    if compared.dataset == POLICY_SET:
        return _policies(folder)
    if compared.dataset == measured:
        return _in_distribution(compared.experiment, folder, measured)
    return _detection(load_scores(folder, measured), load_scores(folder, compared.dataset))


def _in_distribution(experiment: str, folder: Path, measured: str) -> Sample:
    predictions = Predictions.read(predictions_path(folder, measured))
    config = read_json(folder / "run" / "config.json", remedy=REMEDY)
    losses = predictions.true_losses(config["class_weights"])
    predictions = replace(predictions, features=None, taps=None)
    estimates = experiment == "generalization"
    scores = load_scores(folder, FAILURES).scores if estimates else {}

    def statistic(weights: Weights) -> dict[Key, Replicates]:
        values = _classification(predictions, weights)
        if scores:
            values |= _loss_estimation(predictions, scores, losses, weights)
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
    predictions: Predictions,
    scores: Mapping[str, Confidences],
    losses: Float[np.ndarray, " n"],
    weights: Weights,
) -> dict[Key, Replicates]:
    """Rank correlations with the losses, and every measure of every acceptance score."""
    ordered = {
        (name, "spearman"): np.asarray(spearman(-scores[name], losses, weights=weights))
        for name in ("predicted_loss", "msp")
        if name in scores
    }
    return ordered | {
        (name, metric): np.asarray(values)
        for name, confidences in scores.items()
        for metric, values in failure_measures(confidences, predictions, weights=weights).items()
    }


def _policies(folder: Path) -> Sample:
    """Share accepted, share called OOD, and error among the accepted, for each policy."""
    decided = load_scores(folder, POLICY_SET)
    wrong = decided.scores["wrong"] > 0
    targets = [name.partition("/")[0] for name in decided.scores if name.endswith("/accept")]

    def statistic(weights: Weights) -> dict[Key, Replicates]:
        total = weights.sum(axis=-1)
        values: dict[Key, Replicates] = {}
        for target in targets:
            accepted = decided.scores[f"{target}/accept"] > 0
            detector = f"policy/{target}"
            values[detector, "coverage"] = weights @ accepted / total
            values[detector, "ood_share"] = weights @ decided.scores[f"{target}/ood"] / total
            errors = accepted_errors(accepted, wrong, decided.groups, weights=weights)
            values |= {(detector, name): np.asarray(error) for name, error in errors.items()}
        return values

    groups = np.array(decided.groups)
    sizes = {
        (f"policy/{target}", error): len(np.unique(groups[decided.scores[f"{target}/accept"] > 0]))
        for target in targets
        for error in ACCEPTED_ERRORS
    }
    return Sample(statistic, (groups,), sizes)


def _detection(inliers: ScoredSet, outliers: ScoredSet) -> Sample:
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

    return Sample(statistic, (np.array(inliers.groups), np.array(outliers.groups)), {})
