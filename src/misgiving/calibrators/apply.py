"""Maps from logits and confidences to probabilities and expected losses, as they are applied."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp, softmax

from misgiving.errors import DataError

Values = Float[np.ndarray, " n"]
Confidences = Mapping[str, Values]
"""By the score's name; higher = rather right."""

CALIBRATED, COMBINATION = "calibrated", "combination"
"""Confidences that are learned on the tune part: see `learned_confidences`."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Class probabilities softmax(z / T + b) from logits z (Guo et al., 2017, with biases).

    Balanced sampling and class weights shift what the softmax takes for the classes' shares; the
    biases b shift it back. They change probabilities alone: the predicted class stays that of the
    largest logit, for which training has weighed the classes.
    """

    temperature: float
    biases: tuple[float, ...]

    def __call__(self, logits: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, "n classes"]:
        return np.asarray(softmax(self._scaled(logits), axis=1))

    def log_odds(self, logits: Float[np.ndarray, "n classes"]) -> Values:
        """Of the predicted class, that of the largest logit, against all others together.

        The order is that of its probability, without the ties of probabilities that round to 1.
        """
        scaled, chosen = self._scaled(logits), logits.argmax(axis=1)[:, None]
        of_chosen = np.take_along_axis(scaled, chosen, axis=1)[:, 0]
        np.put_along_axis(scaled, chosen, -np.inf, axis=1)
        return np.asarray(of_chosen - logsumexp(scaled, axis=1))

    def _scaled(self, logits: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, "n classes"]:
        return np.asarray(logits / np.float64(self.temperature) + np.asarray(self.biases))


@dataclass(frozen=True, kw_only=True)
class Isotonic:
    """A monotone map, linear between its knots and constant beyond them."""

    knots: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, inputs: Values) -> Values:
        return np.asarray(np.interp(inputs, self.knots, self.values))


@dataclass(frozen=True, kw_only=True)
class Combination:
    """Probability of error as a logistic function of standardised confidences."""

    names: tuple[str, ...]
    centres: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float

    def __call__(self, confidences: Confidences) -> Values:
        """Minus the log-odds of an error: a confidence, of which no two differ by rounding only."""
        table = table_of(confidences, self.names)
        standard = (table - np.asarray(self.centres)) / np.asarray(self.scales)
        return np.asarray(-(standard @ np.asarray(self.weights) + self.intercept))


def learned_confidences(
    scaling: Scaling,
    combination: Combination | None,
    confidences: Confidences,
    logits: Float[np.ndarray, "n classes"],
) -> dict[str, Values]:
    """`calibrated`: the log-odds that the predicted class is right; `combination`, if learned."""
    found = {CALIBRATED: scaling.log_odds(logits)}
    if combination is not None:
        found[COMBINATION] = combination({**confidences, **found})
    return found


def table_of(confidences: Confidences, names: Sequence[str]) -> Float[np.ndarray, "n columns"]:
    """The named confidences as columns.

    Raises:
        DataError: One is missing.
    """
    missing = [name for name in names if name not in confidences]
    if missing:
        raise DataError(f"the scores lack {', '.join(missing)}; predict with the model's estimator")
    return np.column_stack([confidences[name] for name in names]).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the scores of one model mean, learned on its tune part.

    Attributes:
        scaling: Class probabilities from logits.
        score: The confidence that the policy accepts by.
        combination: Learned; None where there was too little to learn from.
        error: From the chosen confidence to the probability of error.
        loss: From the negated predicted loss to the expected cross-entropy in nats; None without.
        tried: AURC of every score on the tune part, out of fold for what is learned.
        samples: Size of the tune part.
    """

    scaling: Scaling
    score: str
    combination: Combination | None
    error: Isotonic
    loss: Isotonic | None
    tried: Mapping[str, float]
    samples: int

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the confidences that must be given."""
        combined = () if self.combination is None else self.combination.names
        given = (self.score, *combined, *(() if self.loss is None else ("predicted_loss",)))
        return tuple(name for name in given if name not in (CALIBRATED, COMBINATION))

    def scores(self, confidences: Confidences, logits: Float[np.ndarray, "n classes"]) -> Values:
        """The confidence that the policy accepts by: higher = rather right."""
        return self.with_learned(confidences, logits)[self.score].astype(np.float64)

    def with_learned(
        self, confidences: Confidences, logits: Float[np.ndarray, "n classes"]
    ) -> Confidences:
        """The confidences, and those that were learned."""
        learned = learned_confidences(self.scaling, self.combination, confidences, logits)
        return {**confidences, **learned}

    def error_probabilities(
        self, confidences: Confidences, logits: Float[np.ndarray, "n classes"]
    ) -> Values:
        """Probability that the answer is wrong."""
        return self.error(self.scores(confidences, logits))

    def expected_losses(self, confidences: Confidences) -> Values | None:
        """Expected cross-entropy in nats; None for a model without a trained estimator."""
        return None if self.loss is None else self.loss(confidences["predicted_loss"])

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Estimate":
        """Inverse of `to_dict`.

        Raises:
            KeyError, TypeError: It is not what `to_dict` gave.
        """
        parts = {"scaling": Scaling, "combination": Combination, "error": Isotonic}
        parts["loss"] = Isotonic
        made = {
            name: None if values[name] is None else kind(**_tuples(values[name]))
            for name, kind in parts.items()
        }
        return cls(**{**values, **made})


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
