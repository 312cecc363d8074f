"""What detectors are fitted on: a model's predictions for its training images."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from misgiving.errors import UsageError
from misgiving.results.predictions import Head

NEIGHBOURS = 50  # of `knn`: the paper's for CIFAR-10


@dataclass(frozen=True, kw_only=True)
class TrainingOutputs:
    """What a model says about its training images, and its last layer.

    Attributes:
        logits: Class scores before the softmax.
        features: Input of the last linear layer.
        labels: True classes as positions in the logits; a class may be absent.
        head: The last linear layer: `logits` are `features @ weight.T + bias`.
    """

    logits: Float[np.ndarray, "n classes"]
    features: Float[np.ndarray, "n width"]
    labels: Int[np.ndarray, " n"]
    head: Head

    def __post_init__(self) -> None:
        samples, classes = self.logits.shape
        if classes < 2:
            raise UsageError(f"detectors need logits of two classes or more, got {classes}")
        if not samples == len(self.features) == len(self.labels):
            raise UsageError(
                f"{samples} logits, {len(self.features)} features and {len(self.labels)} labels; "
                "give one of each per training sample"
            )
        self._check_head((classes, self.features.shape[1]))
        self._check_values(classes)

    def _check_head(self, expected: tuple[int, int]) -> None:
        if self.head.weight.shape != expected or self.head.bias.shape != expected[:1]:
            raise UsageError(
                f"the head's weight is {self.head.weight.shape} and its bias "
                f"{self.head.bias.shape}; give the last layer, whose weight is {expected}"
            )

    def _check_values(self, classes: int) -> None:
        for name, values in (("logits", self.logits), ("features", self.features)):
            if not np.isfinite(values).all():
                raise UsageError(f"training {name} hold NaN or infinity; train and predict again")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < classes:
            raise UsageError(f"training labels must be 0 to {classes - 1}, the logits' positions")


def neighbours_of(samples: int) -> int:
    """Which of the nearest training samples `knn` measures the distance to."""
    return min(NEIGHBOURS, max(1, samples // 20))
