"""Calibration of probabilities and predicted losses: reliability curve, ECE, Brier score, NLL.

A calibration error depends on its bins: report their number and scheme with it. The Brier score and
the NLL need no bins, but mix calibration with discrimination between the classes.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from misgiving.arrays import Classes, Errors, Probabilities, Values
from misgiving.errors import UsageError
from misgiving.metrics._weighted import checked_arrays
from misgiving.metrics.classification import check_classes

Scheme = Literal["mass", "width"]

ROW_SUM_TOLERANCE = 1e-6  # what a softmax in single precision stays well within


class Reliability(NamedTuple):
    """Mean prediction and mean observation of each non-empty bin, lowest first."""

    predicted: Float[np.ndarray, " bins"]
    """Mean prediction."""
    observed: Float[np.ndarray, " bins"]
    """Mean observation: the share of outcomes, or the mean true loss."""
    counts: Int[np.ndarray, " bins"]
    """Number of samples."""

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of prediction and observation, over samples.

        For the largest probability and the correctness of the class, in bins of equal width, it is
        the ECE of Guo et al. (ICML 2017); for predicted and true losses it is in units of the loss.
        """
        return float(self.counts @ np.abs(self.predicted - self.observed) / self.counts.sum())


def reliability(
    predicted: Values,
    observed: Errors,
    *,
    bins: int = 15,
    scheme: Scheme = "mass",
) -> Reliability:
    """Reliability curve: of probabilities and outcomes, or of predicted and true losses.

    Args:
        predicted: Probabilities of an outcome, or predicted losses.
        observed: 1 where the outcome occurred and 0 elsewhere, or the true losses.
        bins: Number of bins; empty ones are left out.
        scheme: `"mass"` puts the same number of samples into each bin, except that equal
            predictions stay together, in the bin of the first of them. `"width"` cuts [0, 1] into
            bins of equal width, each with its upper end (Guo et al., ICML 2017); losses, which may
            lie elsewhere, need bins of equal mass.

    >>> reliability(np.array([0.1, 0.2, 0.2, 0.9]), np.array([0, 0, 1, 1]), bins=2).observed
    array([0.33333333, 1.        ])
    """
    predicted, values = checked_arrays(predicted=predicted, observed=observed)
    uniform = np.linspace(0, 1, bins + 1)[1:-1]
    edges = uniform if scheme == "width" else _edges_of_mass(predicted, bins)
    numbers = np.searchsorted(edges, predicted)  # an edge belongs to the bin below it
    counts = np.bincount(numbers)
    filled = counts > 0
    mean_predicted, mean_observed = (
        np.bincount(numbers, sums)[filled] / counts[filled] for sums in (predicted, values)
    )
    return Reliability(mean_predicted, mean_observed, counts[filled])


def classwise_calibration_error(
    probabilities: Probabilities, labels: Classes, *, bins: int = 15, scheme: Scheme = "mass"
) -> float:
    """Mean over classes of the calibration error of the class's probability.

    The observation is 1 where the label is that class. Bins of equal width give the classwise ECE
    of Kull et al. (NeurIPS 2019) and the SCE of Nixon et al. (CVPR workshops 2019), bins of equal
    mass the latter's ACE up to ties.

    >>> classwise_calibration_error(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0, 0]), bins=2)
    0.25
    """
    columns = _checked(probabilities, labels).T
    errors = [
        reliability(column, labels == k, bins=bins, scheme=scheme).error
        for k, column in enumerate(columns)
    ]
    return float(np.mean(errors))


def brier_score(probabilities: Probabilities, labels: Classes) -> float:
    """Brier score: mean squared distance of the probabilities from the one-hot label.

    Summed over the classes (Brier, 1950): from 0 to 2. With two classes it is twice the score of
    one of them.

    >>> brier_score(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([0, 0]))
    0.25
    """
    distances = _checked(probabilities, labels)
    distances[np.arange(len(labels)), labels] -= 1.0
    return float((distances**2).sum(axis=1).mean())


def negative_log_likelihood(probabilities: Probabilities, labels: Classes) -> float:
    """Cross-entropy: mean negative natural logarithm of the true class's probability.

    Infinite where a sample has a probability of 0 for its true class: nothing is clipped.

    >>> negative_log_likelihood(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0]))
    inf
    """
    of_true = _checked(probabilities, labels)[np.arange(len(labels)), labels]
    with np.errstate(divide="ignore"):
        return float(-np.log(of_true).mean())


def _edges_of_mass(predicted: Values, bins: int) -> Float[np.ndarray, " edges"]:
    """Upper edges of bins of equal mass, without the last.

    The i-th of n predictions in ascending order, i from 0, is in bin floor(i bins / n), so that bin
    b begins at i = ceil(b n / bins); whatever equals the prediction before that is below.

    >>> _edges_of_mass(np.array([0.3, 0.1, 0.2, 0.4]), 2)
    array([0.2])
    """
    begins = -(np.arange(1, bins) * -len(predicted) // bins)
    return np.sort(predicted)[begins - 1]


def _checked(probabilities: Probabilities, labels: Classes) -> Probabilities:
    """Copy the probabilities in float64, after a check that each row is a distribution."""
    _, rows = checked_arrays(labels=labels, probabilities=probabilities)
    check_classes(rows.shape[1], labels=labels)
    off = (np.abs(rows.sum(axis=1) - 1.0) > ROW_SUM_TOLERANCE) | (rows < 0).any(axis=1)
    if off.any():
        raise UsageError(
            f"probabilities are {rows[off][0]} at position {off.argmax()}; give a softmax, whose "
            "rows are from 0 to 1 and sum to 1"
        )
    return rows
