"""Class probes: linear classifiers that read a network's layers, fitted on its training images.

The last layer keeps only part of what the earlier ones hold: a class that these also see is more
likely the true one.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax

from misgiving.arrays import ByClass, Classes, Evidence, Features, Logits, Taps
from misgiving.errors import DataError
from misgiving.scores.features import principal_directions
from misgiving.scores.logits import cross_entropy
from misgiving.scores.outputs import TrainingOutputs

PROBE_DIRECTIONS = 60
INVERSE_STRENGTH = 0.05  # C of scikit-learn's penalised logistic regression
BIAS_SCALE = 3.0  # standard deviation of the prior of a bias: finite for a class without images
FEATURES, TOGETHER = "features", "together"


class Probe(NamedTuple):
    """A linear classifier of some columns.

    Attributes:
        first: The first column that it reads.
        weight: From these columns to logits.
        bias: Of the logits.
    """

    first: int
    weight: Float[np.ndarray, "width classes"]
    bias: ByClass

    def __call__(self, inputs: Float[np.ndarray, "n columns"]) -> Logits:
        read = inputs[:, self.first : self.first + len(self.weight)].astype(np.float64)
        return np.asarray(log_softmax(read @ self.weight + self.bias, axis=1))


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassProbes:
    """Probes of each tap and of all together; of the features for a model without taps.

    Attributes:
        probes: By name, in the order of their log-probabilities.
    """

    probes: Mapping[str, Probe]

    @classmethod
    def fit(cls, training: TrainingOutputs) -> "ClassProbes | None":
        """Fit probes on the training images; None where the model shows neither taps nor features.

        A tap that is the same for all images has no probe.
        """
        inputs = training.features if training.taps is None else training.taps
        if inputs is None:
            return None
        probes, classes = {}, training.logits.shape[1]
        for name, first, width in _columns(training, inputs.shape[1]):
            with suppress(DataError):
                read = inputs[:, first : first + width]
                probes[name] = _fit(read, training.labels, classes=classes, first=first)
        return cls(probes=probes) if probes else None

    @property
    def reads_taps(self) -> bool:
        """True where they read taps, False for features."""
        return FEATURES not in self.probes

    @property
    def width(self) -> int:
        """Columns of what they read."""
        return max(probe.first + len(probe.weight) for probe in self.probes.values())

    def __call__(self, features: Features | None, taps: Taps | None) -> Evidence:
        """Log-probabilities by each probe, in float64; what they read must be given."""
        inputs = np.asarray(taps if self.reads_taps else features)
        return np.stack([probe(inputs) for probe in self.probes.values()], axis=1)


def _columns(training: TrainingOutputs, width: int) -> Iterator[tuple[str, int, int]]:
    """Name, first column and number of columns of each probe of inputs of this width."""
    if training.taps is None:
        yield FEATURES, 0, width
        return
    widths = training.tap_widths or (width,)
    firsts = np.cumsum([0, *widths])
    for number, width in enumerate(widths):
        yield f"tap_{number}", int(firsts[number]), width
    if len(widths) > 1:
        yield TOGETHER, 0, int(firsts[-1])


def _fit(inputs: Features, labels: Classes, *, classes: int, first: int) -> Probe:
    """Penalised multinomial logistic regression on principal directions of standardised inputs."""
    wide = inputs.astype(np.float64)
    mean, scale = wide.mean(axis=0), wide.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    standard = (wide - mean) / scale
    directions = principal_directions(standard)[:PROBE_DIRECTIONS]
    weight, bias = fit_multinomial(standard @ directions.T, labels, classes=classes)
    of_inputs = directions.T @ weight / scale[:, None]
    return Probe(first, of_inputs, bias - mean @ of_inputs)


def fit_multinomial(
    inputs: Features, labels: Classes, *, classes: int
) -> tuple[Float[np.ndarray, "width classes"], ByClass]:
    """Weights and biases with the least sum of cross-entropies and penalties.

    The penalty of the weights is half their squares over `INVERSE_STRENGTH`.
    """
    from scipy.optimize import minimize  # slow to import; deciding does not need it

    count, width = inputs.shape
    strengths = np.repeat([1 / INVERSE_STRENGTH, 1 / BIAS_SCALE**2], [width * classes, classes])
    extended = np.hstack([inputs, np.ones((count, 1))])

    def objective(parameters: Float[np.ndarray, " _"]) -> tuple[float, Float[np.ndarray, " _"]]:
        loss, slopes = cross_entropy(extended @ parameters.reshape(-1, classes), labels)
        prior = (strengths * parameters**2).sum() / 2
        of_weights = (extended.T @ slopes).ravel() + strengths * parameters
        return (prior + loss) / count, of_weights / count

    start = np.zeros((width + 1) * classes)
    solution = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    weights = solution.reshape(-1, classes)
    return weights[:-1], weights[-1]
