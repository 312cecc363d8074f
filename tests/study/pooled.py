"""Oracles of measures that pool folds."""

import numpy as np
from scipy import stats


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
