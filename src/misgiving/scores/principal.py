"""Principal directions of features: a covariance needs many more samples than dimensions."""

import numpy as np
from jaxtyping import Float

from misgiving.errors import DataError

MOST_DIRECTIONS = 256
SAMPLES_PER_DIRECTION = 10
LEAST_VARIANCE = 1e-10  # of a direction, as a fraction of the first one's: below is rounding


def principal_directions(
    features: Float[np.ndarray, "n width"],
) -> Float[np.ndarray, "directions width"]:
    """Orthonormal directions of the largest variance about the mean (PCA).

    Keeps at most 256 directions and at most a tenth as many as there are samples, but at least one;
    none whose variance is 1e-10 of the first one's or less. The largest entry of each is positive,
    so that they do not depend on the linear algebra library.

    Raises:
        DataError: There are fewer than two samples, or all are the same.
    """
    samples, width = features.shape
    if samples < 2 or not np.ptp(features, axis=0).any():
        raise DataError(
            f"the features of the {samples} training samples are all alike; "
            "give predictions of a trained model for its whole training set"
        )
    centred = features.astype(np.float64)
    centred -= centred.mean(axis=0)
    if samples >= width:
        ascending, vectors = np.linalg.eigh(centred.T @ centred)
        variances, directions = ascending[::-1], vectors.T[::-1]
    else:
        _, singular, directions = np.linalg.svd(centred, full_matrices=False)
        variances = singular**2
    most = min(MOST_DIRECTIONS, max(1, samples // SAMPLES_PER_DIRECTION), width)
    kept = directions[:most][variances[:most] > LEAST_VARIANCE * variances[0]]
    largest = np.take_along_axis(kept, np.abs(kept).argmax(axis=1)[:, None], axis=1)
    return np.asarray(kept * np.sign(largest))
