"""Oracles of measures that pool folds, and a training of digits that gives rows."""

from argparse import Namespace
from dataclasses import replace

import numpy as np
import study_hypotheses
from scipy import stats

import study
from misgiving.reproduction.protocol import DIGITS
from misgiving.training.config import DataConfig


def pooled_mean(rows, model, dataset, metric, classes, folds):
    """Mean over classes of a sum over the images of each class, for each of its images."""

    def total(name, metric):
        return sum(
            row.value
            for row in rows
            if (row.experiment, row.model, row.dataset, row.detector, row.metric)
            == ("generalization", model, dataset, name, metric)
            and row.trial in folds
        )

    return np.mean([total(name, metric) / total(name, "images") for name in classes])


def pseudo_values(gain):
    """Of a function of the folds, for each of ten that is left out."""
    everything = set(range(10))
    return [10 * gain(everything) - 9 * gain(everything - {fold}) for fold in range(10)]


def half_width(values, ratio):
    """Of the interval of Nadeau and Bengio for the mean of trials, at 95 %."""
    scale = np.sqrt(1 / len(values) + ratio)
    return stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) * scale


def run(tables, part_name, *, trial=0, model="proposed", **training):
    """Rows of one training of digits, whose tables this folder gets."""
    experiments = frozenset({"generalization"})
    part = study.Part((), {}, {}, {}, trials=trial + 1, experiments=experiments)
    protocol = replace(
        DIGITS,
        trials=part.trials,
        models=(model,),
        images=DataConfig(split="folds"),
        training=replace(DIGITS.training, **training),
    )
    tables.mkdir()
    options = Namespace(
        part=part_name, out=tables / "runs", tables=tables, cache=tables.parent / "cache",
        trial=trial, again=False, collect=False, ray=None, jobs=1,
    )  # fmt: skip
    study.run_setting(part, protocol, "", options)
    return study_hypotheses.read_results(tables / f"{part_name}.csv")
