"""How well predicted classes and probabilities agree with the labels."""

import numpy as np
from jaxtyping import Float, Int

from misgiving.errors import UsageError
from misgiving.metrics._weighted import (
    Measured,
    Weights,
    auroc,
    mean_of_defined,
    measured,
    ratio,
    sample_weights,
    samples,
)

Classes = Int[np.ndarray, " n"]


def sensitivities(
    labels: Classes, predicted: Classes, *, num_classes: int, weights: Weights | None = None
) -> Float[np.ndarray, "*replicates num_classes"]:
    """Share of each class that is recognised (its recall); NaN for a class that does not occur.

    >>> sensitivities(np.array([0, 0, 2]), np.array([0, 1, 2]), num_classes=3)
    array([0.5, nan, 1. ])
    """
    check_classes(num_classes, labels=labels, predicted=predicted)
    counts = sample_weights(weights, len(labels))
    members = labels[:, None] == np.arange(num_classes)
    recognised = members & (predicted == labels)[:, None]
    return ratio(counts @ recognised.astype(np.float64), counts @ members.astype(np.float64))


def accuracy(labels: Classes, predicted: Classes, *, weights: Weights | None = None) -> Measured:
    """Share of samples whose class is recognised.

    >>> accuracy(np.array([0, 0, 2, 1]), np.array([0, 1, 2, 1]))
    0.75
    """
    samples(labels=labels, predicted=predicted)
    counts = sample_weights(weights, len(labels))
    correct = (predicted == labels).astype(np.float64)
    return measured(ratio(counts @ correct, counts.sum(axis=-1)), weights)


def balanced_accuracy(
    labels: Classes, predicted: Classes, *, num_classes: int, weights: Weights | None = None
) -> Measured:
    """Mean sensitivity over the classes that occur.

    >>> balanced_accuracy(np.array([0, 0, 2]), np.array([0, 1, 2]), num_classes=3)
    0.75
    """
    recalls = sensitivities(labels, predicted, num_classes=num_classes, weights=weights)
    return measured(mean_of_defined(recalls), weights)


def confusion_matrix(
    labels: Classes, predicted: Classes, *, num_classes: int
) -> Int[np.ndarray, "num_classes num_classes"]:
    """Numbers of samples: a row for each true class, a column for each predicted one.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), num_classes=2)
    array([[1, 1],
           [0, 1]])
    """
    check_classes(num_classes, labels=labels, predicted=predicted)
    cells = np.ravel_multi_index((labels, predicted), (num_classes, num_classes))
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def macro_auroc(
    labels: Classes,
    probabilities: Float[np.ndarray, "n classes"],
    *,
    weights: Weights | None = None,
) -> Measured:
    """Mean over classes of how well a class's probability separates it from all others (AUROC).

    A class that does not occur, or that is all that occurs, is left out of the mean.

    >>> macro_auroc(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]]))
    0.75
    """
    _, columns = samples(labels=labels, probabilities=probabilities)
    check_classes(probabilities.shape[1], labels=labels)
    counts = sample_weights(weights, len(labels))
    areas = [auroc(column, labels == k, counts) for k, column in enumerate(columns.T)]
    return measured(mean_of_defined(np.stack(areas, axis=-1)), weights)


def check_classes(num_classes: int, **named: Int[np.ndarray, "..."]) -> None:
    """Refuse classes that are not positions among `num_classes`; the array is named."""
    samples(**named)
    for name, classes in named.items():
        unknown = np.flatnonzero((classes < 0) | (classes >= num_classes))
        if len(unknown):
            raise UsageError(
                f"{name} has class {classes[unknown[0]]} at position {unknown[0]}; with "
                f"{num_classes} classes they must lie between 0 and {num_classes - 1}"
            )
