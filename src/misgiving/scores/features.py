"""Scores of features, fitted on a model's predictions for its training set.

To add one, write a function that fits and one that scores, enter both in `FEATURE_SCORES`, and add
the name to `OodDetector` in `cli/options.py`. All compute in float64 on features in principal
coordinates (see `detectors`).

Left out, though they too need only logits or features:

- NNGuide, NCI, fDBD, KL matching and relative Mahalanobis: on no set of the study better by more
  than 0.02 than one of those below, MSP or ODIN (commit 9f824343 has them).
- DICE, ReAct, ASH, SCALE, VRA and LTS act on single units of the last layer, which PCA mixes.
- GMM has a covariance for each class: a rare class has fewer samples than there are directions.
- SHE must have seen every class predicted correctly, which a rare class may never be.
- OpenMax scores a sample differently beside others, and takes a Python loop over samples.
- pNML applies the last layer to normalised features, where its bias has another meaning.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from misgiving.arrays import Classes, Features, Logits, Taps, Values
from misgiving.errors import DataError
from misgiving.registry import Registry
from misgiving.scores.logits import energy, unit_vectors

Reduced = Float[np.ndarray, "n directions"]
Statistics = Mapping[str, Shaped[np.ndarray, "..."]]
"""Arrays that a score keeps of the training set, by name."""

NEIGHBOURS = 50  # of `knn`: the paper's for CIFAR-10
TAP_NEIGHBOURS = 10  # of `knn_taps` and `knn_layers`
LAYER_DIRECTIONS = 128  # of `knn_layers`: more take more time, and gain nothing
RIDGE = 1e-6  # on the diagonal of a scatter matrix
MOST_DIRECTIONS = 256  # a covariance needs many more samples than dimensions
SAMPLES_PER_DIRECTION = 10
LEAST_VARIANCE = 1e-10  # of a direction, as a fraction of the first one's: below is rounding


class Training(NamedTuple):
    """Training predictions in principal coordinates, in float64.

    Attributes:
        features: Along the principal directions, about the features' own origin; or the other
            input that a score reads.
        labels: True classes.
        widths: Columns of each layer in `features`, the last one's at the end; of `layers` alone.
        head: `weight` and `bias` of the last layer in these coordinates; zero for a model without a
            linear head.
    """

    features: Reduced
    labels: Classes
    head: Statistics
    widths: tuple[int, ...] = ()


class FeatureScore(NamedTuple):
    """A score in two halves.

    Attributes:
        fit: From training predictions to the statistics that are kept.
        score: From statistics and what it reads, in float64, to scores.
        needs_head: Uses the weights of the last linear layer.
        reads: Reduced features, features in float64, the averages of the taps, or these and after
            them the reduced features as unit vectors.
    """

    fit: Callable[[Training], Statistics]
    score: Callable[[Statistics, Reduced], Values]
    needs_head: bool = False
    reads: Literal["reduced", "features", "taps", "layers"] = "reduced"


def principal_directions(
    features: Features,
) -> Float[np.ndarray, "directions width"]:
    """Orthonormal directions of the largest variance about the mean (PCA).

    Keeps at most 256 directions and at most a tenth as many as there are samples, but at least one;
    none whose variance is 1e-10 of the first one's or less. The largest entry of each is positive,
    so that they do not depend on the linear algebra library.

    Raises:
        DataError: There are fewer than two samples, or all are the same.
    """
    from scipy.linalg import eigh  # slow to import; deciding does not need it

    samples, width = features.shape
    if samples < 2 or not np.ptp(features, axis=0).any():
        raise DataError(
            f"the features of the {samples} training samples are all alike; "
            "give predictions of a trained model for its whole training set"
        )
    centred = features.astype(np.float64)
    centred -= centred.mean(axis=0)
    products = centred.T @ centred if samples >= width else centred @ centred.T
    most = min(MOST_DIRECTIONS, max(1, samples // SAMPLES_PER_DIRECTION), width)
    first = len(products) - most
    ascending, vectors = eigh(products, subset_by_index=(first, first + most - 1))
    large = ascending > LEAST_VARIANCE * ascending[-1]
    directions = vectors.T[large][::-1]
    if samples < width:
        directions = directions @ centred / np.sqrt(ascending[large][::-1, None])
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    return np.asarray(directions * np.sign(largest))


def _whitening(centred: Reduced) -> Float[np.ndarray, "directions directions"]:
    """W with W W^T = (S + ridge)^-1, S the scatter matrix, not divided by the number of samples.

    Distances are norms of whitened differences, so that rounding cannot make them negative.
    """
    variances, vectors = np.linalg.eigh(centred.T @ centred)
    return np.asarray(vectors / np.sqrt(variances.clip(min=0) + RIDGE))


def fit_mahalanobis(training: Training) -> Statistics:
    """Class means, and the inverse of the covariance that classes share."""
    present = np.unique(training.labels, return_inverse=True)[1]  # a class may be absent
    groups = [training.features[present == label] for label in range(present.max() + 1)]
    means = np.stack([group.mean(axis=0) for group in groups])
    whitening = _whitening(training.features - means[present])
    return {"whitening": whitening, "means": means @ whitening}


def score_mahalanobis(statistics: Statistics, features: Reduced) -> Values:
    """Half the negated squared distance to the nearest class mean (Lee et al., 2018)."""
    whitened = features @ statistics["whitening"]
    distances = [((whitened - mean) ** 2).sum(axis=1) for mean in statistics["means"]]
    return -0.5 * np.asarray(np.min(distances, axis=0))


def fit_normalised(training: Training) -> Statistics:
    """`fit_mahalanobis` of unit features, along principal directions of their own."""
    unit = unit_vectors(training.features)
    directions = principal_directions(unit)
    fitted = fit_mahalanobis(training._replace(features=unit @ directions.T))
    return {"unit_directions": directions, **fitted}


def score_normalised(statistics: Statistics, features: Features) -> Values:
    """Mahalanobis++: features are divided by their norm first (Mueller and Hein, 2025)."""
    unit = unit_vectors(features)
    return score_mahalanobis(statistics, unit @ statistics["unit_directions"].T)


def fit_knn(training: Training) -> Statistics:
    """Unit features of the training set."""
    k = min(NEIGHBOURS, max(1, len(training.features) // 20))
    return {"neighbours": unit_vectors(training.features), "k": np.array(k)}


def score_knn(statistics: Statistics, features: Reduced) -> Values:
    """Negated distance of unit features to the k-th nearest of training (Sun et al., 2022).

    The paper's k grows with the set, from 50 for CIFAR-10; k is 50, or a twentieth of the samples
    where that is less. The neighbour is found by inner products and its distance taken from the
    difference, which rounding does not blur where both nearly agree.
    """
    unit, k = unit_vectors(features), statistics["k"].item()
    nearest = np.argpartition(unit @ statistics["neighbours"].T, -k, axis=1)[:, -k]
    return -np.asarray(np.linalg.norm(unit - statistics["neighbours"][nearest], axis=1))


def fit_knn_taps(training: Training) -> Statistics:
    """Standardised tap averages of the training set."""
    mean, scale = training.features.mean(axis=0), training.features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    neighbours = (training.features - mean) / scale
    return {"mean": mean, "scale": scale, "neighbours": neighbours, "k": _tap_neighbours(training)}


def score_knn_taps(statistics: Statistics, taps: Taps) -> Values:
    """Negated distance of standardised tap averages to the k-th nearest of training.

    Early layers keep what the last one drops, such as colour and texture, so that images of another
    kind are far away there (Lee et al., 2018, also read several layers). k is 10, or a twentieth of
    the samples where that is less.
    """
    standard = (taps - statistics["mean"]) / statistics["scale"]
    return -_distance_to_neighbour(statistics, standard)


def _tap_neighbours(training: Training) -> Int[np.ndarray, ""]:
    return np.array(min(TAP_NEIGHBOURS, max(1, len(training.features) // 20)))


def _distance_to_neighbour(statistics: Statistics, points: Reduced) -> Values:
    """Distance to the k-th nearest of the neighbours."""
    neighbours, k = statistics["neighbours"], statistics["k"].item()
    products = points @ neighbours.T
    products -= np.vecdot(neighbours, neighbours) / 2  # half the negated square, but for a constant
    nearest = np.argpartition(products, -k, axis=1)[:, -k]
    return np.asarray(np.linalg.norm(points - neighbours[nearest], axis=1))


def fit_knn_layers(training: Training) -> Statistics:
    """Principal coordinates of the training set's layers, each of the same total variance.

    Within a tap, each channel has the same variance.
    """
    layers, widths = training.features, training.widths
    variances, rounding = layers.var(axis=0), LEAST_VARIANCE * (layers**2).mean(axis=0)
    of_taps = variances[: -widths[-1]] * np.repeat(widths[:-1], widths[:-1])
    of_features = np.full(widths[-1], variances[-widths[-1] :].sum())
    squares = np.where(variances > rounding, np.concatenate([of_taps, of_features]), 1.0)
    mean, scale = layers.mean(axis=0), np.sqrt(squares)
    directions = principal_directions((layers - mean) / scale)[:LAYER_DIRECTIONS]
    projection = directions.T / scale[:, None]
    neighbours = (layers - mean) @ projection
    fitted = {"mean": mean, "projection": projection, "neighbours": neighbours}
    return {**fitted, "k": _tap_neighbours(training)}


def score_knn_layers(statistics: Statistics, layers: Float[np.ndarray, "n columns"]) -> Values:
    """Negated distance to the k-th nearest of training in all layers, k as of `knn_taps`.

    Each tap counts as much as the features, however many channels it has: the early ones, which
    tell images of another kind best, have few.
    """
    return -_distance_to_neighbour(
        statistics, (layers - statistics["mean"]) @ statistics["projection"]
    )


def _head_logits(head: Statistics, features: Reduced) -> Logits:
    return np.asarray(features @ head["weight"].T + head["bias"])


def _residual_space(centred: Reduced) -> Float[np.ndarray, "directions rest"]:
    """The later half of the principal directions, in which a reconstruction leaves a residual."""
    vectors = np.linalg.eigh(centred.T @ centred)[1]  # in ascending order of variance
    width = centred.shape[1]
    return np.asarray(vectors[:, : width - width // 2])


def _residual_norm(statistics: Statistics, features: Reduced) -> Values:
    residual = (features - statistics["origin"]) @ statistics["residual"]
    return np.asarray(np.linalg.norm(residual, axis=1))


def fit_vim(training: Training) -> Statistics:
    """Residual space about the origin where all logits are 0."""
    features, head = training.features, training.head
    origin = -np.linalg.pinv(head["weight"]) @ head["bias"]
    space = {"origin": origin, "residual": _residual_space(features - origin)}
    norms = _residual_norm(space, features)
    alpha = _head_logits(head, features).max(axis=1).mean() / norms.mean()
    return {**head, "origin": origin, "residual": space["residual"] * alpha}


def score_vim(statistics: Statistics, features: Reduced) -> Values:
    """Virtual-logit matching (Wang et al., 2022); the later half of directions is its residual."""
    logits = _head_logits(statistics, features)
    return np.asarray(energy(logits) - _residual_norm(statistics, features))


FEATURE_SCORES: Registry[FeatureScore] = Registry(
    "score of features",
    mahalanobis=FeatureScore(fit_mahalanobis, score_mahalanobis),
    knn=FeatureScore(fit_knn, score_knn),
    knn_taps=FeatureScore(fit_knn_taps, score_knn_taps, reads="taps"),
    knn_layers=FeatureScore(fit_knn_layers, score_knn_layers, reads="layers"),
    vim=FeatureScore(fit_vim, score_vim, needs_head=True),
)
FEATURE_SCORES["mahalanobis++"] = FeatureScore(fit_normalised, score_normalised, reads="features")
