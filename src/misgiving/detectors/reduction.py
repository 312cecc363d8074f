"""Predictions for the training set, and their features in fewer dimensions.

A covariance needs many more samples than dimensions: in 1280, with 600 samples, pytorch-ood's
Mahalanobis distances come out negative. So there is at most one direction for ten samples.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from misgiving.errors import DataError, UsageError

MOST_DIRECTIONS = 256
SAMPLES_PER_DIRECTION = 10
NEIGHBOURS = 50  # of `knn`: the paper's for CIFAR-10
LEAST_VARIANCE = 1e-10  # of a direction, as a fraction of the first one's: below is rounding


class Head(NamedTuple):
    """The last linear layer of a model."""

    weight: Float[np.ndarray, "classes width"]
    bias: Float[np.ndarray, " classes"]


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


def principal_directions(
    features: Float[np.ndarray, "n width"],
) -> Float[np.ndarray, "directions width"]:
    """Orthonormal directions of the largest variance about the mean, each with a settled sign."""
    from sklearn.decomposition import PCA

    features = features.astype(np.float64)
    samples, width = features.shape
    if samples < 2 or not np.ptp(features, axis=0).any():
        raise DataError(
            f"the features of the {samples} training samples are all alike; "
            "give predictions of a trained model for its whole training part"
        )
    most = min(MOST_DIRECTIONS, max(1, samples // SAMPLES_PER_DIRECTION), width)
    solver = "covariance_eigh" if samples >= width else "full"
    pca = PCA(most, svd_solver=solver).fit(features - features.mean(axis=0))
    variances = pca.explained_variance_
    directions: Float[np.ndarray, "directions width"] = pca.components_[
        variances > LEAST_VARIANCE * variances[0]
    ]
    return directions


def reduce(
    training: TrainingOutputs, directions: Float[np.ndarray, "directions width"]
) -> TrainingOutputs:
    """The same predictions in coordinates along `directions`, about the features' own origin.

    Angles (knn, nnguide) are measured at that origin; the other detectors do not depend on it. The
    head's bias takes up what the head makes of the mean feature outside the directions.
    """
    features = training.features.astype(np.float64)
    weight, bias = (values.astype(np.float64) for values in training.head)
    mean = features.mean(axis=0)
    outside = mean - mean @ directions.T @ directions
    return TrainingOutputs(
        logits=training.logits.astype(np.float64),
        features=features @ directions.T,
        labels=training.labels.astype(np.int64),
        head=Head(weight @ directions.T, bias + weight @ outside),
    )


def neighbours_of(samples: int) -> int:
    """Which of the nearest training samples `knn` measures the distance to."""
    return min(NEIGHBOURS, max(1, samples // 20))
