"""Training features in fewer dimensions.

A covariance needs many more samples than dimensions: in 1280, with 600 samples, pytorch-ood's
Mahalanobis distances come out negative. So there is at most one direction for ten samples.
"""

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import PCA

from misgiving.errors import DataError
from misgiving.results.predictions import Head
from misgiving.scores.training_outputs import TrainingOutputs

MOST_DIRECTIONS = 256
SAMPLES_PER_DIRECTION = 10
LEAST_VARIANCE = 1e-10  # of a direction, as a fraction of the first one's: below is rounding


def principal_directions(
    features: Float[np.ndarray, "n width"],
) -> Float[np.ndarray, "directions width"]:
    """Orthonormal directions of the largest variance about the mean, each with a settled sign."""
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
