"""The outputs of a model for a set of cases, from which all scores are computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from misgiving.arrays import (
    ByClass,
    Classes,
    Features,
    Logits,
    Mask,
    Probabilities,
    Rows,
    Taps,
    Values,
)

CONFIDENCE = "confidence"  # kind of outputs: of the answer alone
LEAST_PROBABILITY = 1e-12  # so that logarithms are finite
OutputsT = TypeVar("OutputsT", bound="Outputs")


class Head(NamedTuple):
    """The last linear layer of a model."""

    weight: Float[np.ndarray, "classes width"]
    bias: ByClass


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Outputs:
    """All that a model says of N cases, a row for each.

    Attributes:
        logits: Class scores before the softmax.
        features: Input of the last linear layer; None where it is not known.
        taps: Averages of the activations that the loss estimator reads, side by side; None where
            there are none.
        tap_widths: Columns of each tap; empty where unknown.
        predicted_losses: Higher means more likely wrong; None where the estimator was not trained.
        opinions: Probabilities of the classes by other models, by the names of these: second
            opinions.
        kind: `logits`; or `probabilities`, of which the logits are then the logarithms, also with
            `confidence`, where only that of the answer is known, and the others share the rest.
    """

    BY_ROW: ClassVar[tuple[str, ...]] = (
        "logits", "features", "taps", "predicted_losses", "opinions",
    )  # fmt: skip
    """Fields with a value for each case."""

    logits: Logits
    features: Features | None = None
    taps: Taps | None = None
    tap_widths: tuple[int, ...] = ()
    predicted_losses: Values | None = None
    opinions: Mapping[str, Probabilities] = field(default_factory=dict)
    kind: str = "logits"

    def __len__(self) -> int:
        return len(self.logits)

    def __repr__(self) -> str:
        return f"{type(self).__name__} for {len(self)} rows, {self.logits.shape[1]} classes"

    def select(self: OutputsT, rows: Rows) -> OutputsT:
        """The same of these cases alone, in this order."""
        positions = rows.tolist()

        def chosen(values: Any) -> Any:
            if isinstance(values, Mapping):
                return {name: chosen(column) for name, column in values.items()}
            if isinstance(values, tuple):
                return tuple([values[row] for row in positions])
            return values if values is None else values[rows]

        return replace(self, **{name: chosen(getattr(self, name)) for name in self.BY_ROW})

    @property
    def finite(self) -> Mask:
        """Mark the cases of which logits, features and taps are finite, where they are known."""
        given = [x for x in (self.logits, self.features, self.taps) if x is not None]
        return np.asarray(np.all([np.isfinite(values).all(axis=1) for values in given], axis=0))


def concatenated(parts: Sequence[OutputsT]) -> OutputsT:
    """Outputs or predictions of one model for the images of all parts, with the same fields."""

    def together(columns: Sequence[Any]) -> Any:
        if any(values is None for values in columns):
            return None
        if isinstance(columns[0], Mapping):
            return {name: together([values[name] for values in columns]) for name in columns[0]}
        if isinstance(columns[0], tuple):
            return tuple(value for values in columns for value in values)
        return np.concatenate(columns)

    joined = {name: together([getattr(part, name) for part in parts]) for name in parts[0].BY_ROW}
    return replace(parts[0], **joined)


def logarithms_of(probabilities: Probabilities) -> Logits:
    """Finite logarithms, in the precision that is given."""
    return np.asarray(np.log(np.maximum(probabilities, LEAST_PROBABILITY)))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TrainingOutputs(Outputs):
    """Outputs for labelled images, on which detectors are fitted.

    Attributes:
        labels: True classes as positions.
        head: The last linear layer; None where the model has none of that kind.
    """

    labels: Classes
    head: Head | None = None
