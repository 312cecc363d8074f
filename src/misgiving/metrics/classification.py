"""Classification metrics: accuracy, sensitivities, macro AUROC, and agreement of readers."""

import numpy as np
from jaxtyping import Float, Int

from misgiving.arrays import Classes, Probabilities, Weights
from misgiving.errors import UsageError
from misgiving.metrics._weighted import (
    MetricValue,
    auroc,
    checked_arrays,
    checked_weights,
    mean_without_nan,
    metric_value,
    ratio,
)


def sensitivities(
    labels: Classes, predicted: Classes, *, num_classes: int, weights: Weights | None = None
) -> Float[np.ndarray, "*replicates num_classes"]:
    """Sensitivity (recall) of each class; NaN for a class that does not occur.

    >>> sensitivities(np.array([0, 0, 2]), np.array([0, 1, 2]), num_classes=3)
    array([0.5, nan, 1. ])
    """
    check_classes(num_classes, labels=labels, predicted=predicted)
    counts = checked_weights(weights, len(labels))
    members = labels[:, None] == np.arange(num_classes)
    correct = members & (predicted == labels)[:, None]
    return ratio(counts @ correct.astype(np.float64), counts @ members.astype(np.float64))


def accuracy(labels: Classes, predicted: Classes, *, weights: Weights | None = None) -> MetricValue:
    """Share of samples whose predicted class is correct.

    >>> accuracy(np.array([0, 0, 2, 1]), np.array([0, 1, 2, 1]))
    0.75
    """
    checked_arrays(labels=labels, predicted=predicted)
    counts = checked_weights(weights, len(labels))
    correct = (predicted == labels).astype(np.float64)
    return metric_value(ratio(counts @ correct, counts.sum(axis=-1)), weights)


def balanced_accuracy(
    labels: Classes, predicted: Classes, *, num_classes: int, weights: Weights | None = None
) -> MetricValue:
    """Mean sensitivity over the classes that occur.

    >>> balanced_accuracy(np.array([0, 0, 2]), np.array([0, 1, 2]), num_classes=3)
    0.75
    """
    recalls = sensitivities(labels, predicted, num_classes=num_classes, weights=weights)
    return metric_value(mean_without_nan(recalls), weights)


def macro_auroc(labels: Classes, probabilities: Probabilities) -> float:
    """Mean over classes of the AUROC of each class's probability against all other classes.

    A class that does not occur, or is the only one, is left out of the mean.

    >>> macro_auroc(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]]))
    0.75
    """
    _, columns = checked_arrays(labels=labels, probabilities=probabilities)
    check_classes(probabilities.shape[1], labels=labels)
    ones = np.ones(len(labels))
    areas = [auroc(column, labels == k, ones) for k, column in enumerate(columns.T)]
    return float(mean_without_nan(np.stack(areas, axis=-1)))


def krippendorff_alpha(
    answers: Int[np.ndarray, "readers n"], num_classes: int, weights: Weights | None = None
) -> MetricValue:
    """Agreement of readers on nominal classes: 1 is perfect, 0 is that of chance.

    One minus the observed disagreement of two answers to one image over that of two answers to any
    images (Krippendorff, 2011). An image with fewer than two answers does not count.

    Args:
        answers: Classes by reader; negative where one gave no answer.
        num_classes: Number of classes.
        weights: Of the images.

    >>> answers = np.array([[0, 0, 1, 1, -1], [0, 1, 1, 1, 0]])
    >>> round(krippendorff_alpha(answers, num_classes=2), 3)
    0.533
    """
    counts = (answers[..., None] == np.arange(num_classes)).sum(axis=0)
    each = counts.sum(axis=1)
    images = checked_weights(weights, len(each)) * (each > 1)
    pairs = ratio(each**2 - (counts**2).sum(axis=1), np.maximum(each - 1, 1))
    totals = (images @ counts).astype(np.float64)
    total = totals.sum(axis=-1)
    by_chance = ratio(total**2 - (totals**2).sum(axis=-1), total - 1)
    return metric_value(1 - ratio(images @ pairs, by_chance), weights)


def check_classes(num_classes: int, **classes: Int[np.ndarray, "..."]) -> None:
    """Check that classes are positions among `num_classes`."""
    checked_arrays(**classes)
    for name, numbers in classes.items():
        unknown = np.flatnonzero((numbers < 0) | (numbers >= num_classes))
        if len(unknown):
            raise UsageError(
                f"{name} has class {numbers[unknown[0]]} at position {unknown[0]}; with "
                f"{num_classes} classes they must lie between 0 and {num_classes - 1}"
            )
