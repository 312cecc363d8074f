"""The most doubtful labels, judged by a model's predictions.

A model that was trained on an image may have learned its wrong label by heart. So its outputs count
only for the images that it was not trained on. For the others, logistic regressions on the features
are cross-fitted by group. Where there are features, the labels of similar images count as well.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from misgiving.arrays import Classes, Features, Groups, Logits, Mask, Probabilities, Values
from misgiving.csv_tables import write_csv
from misgiving.errors import DataError
from misgiving.predictions.cells import UNKNOWN_CLASS
from misgiving.predictions.record import Predictions
from misgiving.scores.logits import cross_entropy, unit_vectors

Basis = Literal["held-out", "cross-fitted"]
SOURCES = ("the model gives", "of similar images")
SUSPECTS_FILE = "suspect_labels.csv"
SUSPICIOUS = 0.5  # score above which a label is listed


CROSS_FITS = 5
NUM_NEIGHBOURS = 20
MOST_COMPARED = 20_000  # images among which neighbours are sought; more would be slow
BLOCK_ROWS = 1000  # images whose neighbours are sought at a time
LEAST = 1e-12  # probability
LEAST_SHARE = 1e-4  # share of a confusion that has not been seen
MOST_WIDTH = 128  # principal components of features
PRIOR_SCALE = 3.0  # standard deviation of a class's bias, in nats


class SuspectLabel(NamedTuple):
    """An image whose label is doubtful; one row of `suspect_labels.csv`.

    Attributes:
        path: Of the image file; empty where it is not known.
        id: Name of the image.
        label: The given label.
        suggested_class: The most probable other class.
        score: From 0.5 to 1, the higher the more suspect; see `suspicion`.
        basis: `held-out` outputs of the model, or `cross-fitted` ones.
        why: The evidence in words.
    """

    path: str
    id: str
    label: str
    suggested_class: str
    score: float
    basis: str
    why: str


class LabelReview(NamedTuple):
    """Suspect labels, most suspect first, and the numbers of images behind them.

    Attributes:
        suspects: Images whose label is doubtful.
        judged: Images whose label was judged.
        unlabelled: Images without a label.
        not_judged: Images that the model was trained on, and that have no features to cross-fit.
    """

    suspects: list[SuspectLabel]
    judged: int
    unlabelled: int
    not_judged: int

    def write(self, path: Path) -> None:
        """Write the suspects as CSV."""
        write_csv(path, SuspectLabel._fields, self.suspects)


def suspect_labels(predictions: Predictions, *, seed: int = 0) -> LabelReview:
    """Judge labels; images of the set `train` are cross-fitted.

    Args:
        predictions: Of a model; without sets, all are taken as of images that it has not seen.
        seed: Of the folds.

    Raises:
        DataError: There are no labels, or they cannot be judged.
    """
    labelled = predictions.labels != UNKNOWN_CLASS
    sets = np.array(predictions.sets or [""] * len(predictions))
    trained = np.isin(sets, ("train", "excluded"))
    judged = labelled & ~(trained & (predictions.features is None))
    rows = np.flatnonzero(judged)
    if not len(rows):
        raise DataError(
            "no label can be judged: give true classes as the column label, and features "
            "(feature_0, ...) of images that the model was trained on"
        )
    chosen, cross_fitted = predictions.select(rows), trained[rows]
    evidence = _evidence(chosen, cross_fitted, seed=seed)
    suspects: list[SuspectLabel] = []
    bases: dict[Basis, Mask]
    bases = {"held-out": ~cross_fitted, "cross-fitted": cross_fitted}
    for basis, members in bases.items():
        positions = np.flatnonzero(members)
        if len(positions):
            outputs = [kind[positions] for kind in evidence]
            suspects += _listed(chosen.select(positions), outputs, basis)
    return LabelReview(
        sorted(suspects, key=lambda suspect: -suspect.score),
        judged=len(rows),
        unlabelled=int((~labelled).sum()),
        not_judged=int((labelled & ~judged).sum()),
    )


def _evidence(chosen: Predictions, cross_fitted: Mask, *, seed: int) -> list[Logits]:
    """Log-probabilities by the model, and by similar images where there are features."""
    _check_classes(chosen, cross_fitted)
    evidence = [log_softmax(chosen.logits.astype(np.float64), axis=1)]
    if chosen.features is not None:
        features = principal_features(chosen.features.astype(np.float64))
        images = features, chosen.labels, chosen.units, len(chosen.classes)
        if cross_fitted.any():
            evidence[0][cross_fitted] = cross_fitted_outputs(*images, seed=seed)[cross_fitted]
        evidence.append(neighbour_outputs(*images, seed=seed))
    return evidence


def _check_classes(chosen: Predictions, cross_fitted: Mask) -> None:
    """Check that there are two classes, and that no fold leaves one without an image to learn."""
    labels, units = chosen.labels, chosen.units
    counts = [len(np.unique(units[labels == label])) for label in range(len(chosen.classes))]
    single = [name for name, count in zip(chosen.classes, counts, strict=True) if count == 1]
    largest = min(int(np.bincount(labels).max()), len(np.unique(units)))
    if np.ptp(labels) == 0 or (cross_fitted.any() and (single or largest < CROSS_FITS)):
        raise DataError(
            "labels are judged in two classes or more, and cross-fitting needs two groups of each "
            f"(one alone: {', '.join(single) or 'none'}), {CROSS_FITS} groups, and {CROSS_FITS} "
            "images of a class; add images, or leave a class out"
        )


def _listed(judged: Predictions, evidence: Sequence[Logits], basis: Basis) -> list[SuspectLabel]:
    """Suspect labels among images whose evidence has one basis."""
    scores, suggestions = suspicion(evidence, judged.labels)
    suspects = []
    for row in np.flatnonzero(scores > SUSPICIOUS).tolist():
        pair: Int[np.ndarray, " 2"] = np.array([suggestions[row], judged.labels[row]])
        suggested, given = (judged.classes[label] for label in pair)
        shares: list[Float[np.ndarray, " 2"]] = [np.exp(kind[row, pair]) for kind in evidence]
        suspects.append(
            SuspectLabel(
                path=judged.paths[row] if judged.paths else "",
                id=judged.ids[row],
                label=given,
                suggested_class=suggested,
                score=round(float(scores[row]), 4),
                basis=basis,
                why="; ".join(
                    f"{source} {share[0]:.0%} {suggested} and {share[1]:.0%} {given}"
                    for source, share in zip(SOURCES, shares, strict=False)
                ),
            )
        )
    return suspects


def suspicion(outputs: Sequence[Logits], labels: Classes) -> tuple[Values, Classes]:
    """Judge labels by one or several kinds of log-probabilities.

    Returns scores from 0 to 1, the higher the more suspect, and the most probable classes other
    than the given ones.

    The kinds are added up with weights, and with a bias for each class, that make the given labels
    most likely: a multinomial logistic regression with few parameters, which cannot learn a single
    label by heart. With one kind it is a calibration, as by vector scaling with one temperature.

    The score is the mean of two numbers from 0 to 1. One is (1 + p - q) / 2, where p and q are the
    probabilities of the suggested class and of the given one. The other is the probability that the
    label is wrong if labels of each class are confused as often as the confident joint says
    (Northcutt, Jiang and Chuang, 2021): it distrusts labels of classes that many images of another
    class have been given.

    Args:
        outputs: Log-probabilities by a model that has not learned from the image's own label.
        labels: The given labels as positions of the classes.

    The third of these labels contradicts its output:

    >>> outputs = np.log([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])
    >>> suspicion([outputs], np.array([0, 1, 1, 0, 1]))[0].argmax()
    np.int64(2)
    """
    log_probabilities = _combined(outputs, labels)
    probabilities, rows = np.exp(log_probabilities), np.arange(len(labels))
    others = probabilities.copy()
    others[rows, labels] = -1
    suggested = others.argmax(axis=1)
    margin = others[rows, suggested] - probabilities[rows, labels]
    posterior = log_softmax(
        log_probabilities + np.log(_confusion(probabilities, labels)[labels]), axis=1
    )
    wrong = 1 - np.exp(posterior[rows, labels])
    return ((1 + margin) / 2 + wrong) / 2, suggested


def _confusion(probabilities: Probabilities, labels: Classes) -> Float[np.ndarray, "given true"]:
    """Estimated probability of each given label by true class; columns add up to 1.

    An image counts as of the class that is most probable among those whose probability reaches the
    mean over the images with this label. One more image of each class counts as labelled rightly.
    """
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, probabilities[np.arange(len(labels)), labels], minlength=classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1)
    counted = confident.max(axis=1) >= 0
    joint = np.eye(classes)
    np.add.at(joint, (labels[counted], confident[counted].argmax(axis=1)), 1)
    joint *= np.maximum(counts, 1)[:, None] / joint.sum(axis=1, keepdims=True)
    return np.asarray(np.maximum(joint / joint.sum(axis=0), LEAST_SHARE))


def _combined(outputs: Sequence[Logits], labels: Classes) -> Logits:
    """Log-probabilities of the most likely weighted sum, under a weak prior on the biases."""
    kinds = np.stack(outputs).astype(np.float64)
    count, _, classes = kinds.shape

    def objective(parameters: Float[np.ndarray, " _"]) -> tuple[float, Float[np.ndarray, " _"]]:
        weights, biases = parameters[:count], parameters[count:]
        loss, slopes = cross_entropy(np.tensordot(weights, kinds, 1) + biases, labels)
        prior = (biases**2).sum() / 2 / PRIOR_SCALE**2
        of_biases = slopes.sum(axis=0) + biases / PRIOR_SCALE**2
        of_parameters = np.append((kinds * slopes).sum(axis=(1, 2)), of_biases)
        return (prior + loss) / len(labels), of_parameters / len(labels)

    start = np.concatenate([np.full(count, 1 / count), np.zeros(classes)])
    limits = [(0.0, None)] * count + [(None, None)] * classes
    fitted = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=limits).x
    combined = np.tensordot(fitted[:count], kinds, 1) + fitted[count:]
    return np.asarray(log_softmax(combined, axis=1))


def principal_features(features: Features) -> Float[np.ndarray, "n components"]:
    """At most `MOST_WIDTH` principal components, and at most one for each ten images.

    Directions of little variance, in which a model of few images would learn noise, are left out.
    """
    spread = features.std()
    if not spread > 0:
        return np.zeros((len(features), 1))
    width = max(1, min(MOST_WIDTH, len(features) // 10, features.shape[1]))
    return np.asarray(PCA(width, random_state=0).fit_transform(features) / spread)


def cross_fitted_outputs(
    features: Features, labels: Classes, groups: Groups, classes: int, *, seed: int = 0
) -> Logits:
    """Log-probabilities by logistic regressions that were fitted on other groups.

    Args:
        features: See `principal_features`.
        labels: The given labels.
        groups: Images of one group are in one fold.
        classes: Number of classes.
        seed: Of the folds.
    """
    probabilities = np.full((len(labels), classes), LEAST)
    folds = StratifiedGroupKFold(CROSS_FITS, shuffle=True, random_state=seed)
    numbered = np.unique(np.array(groups), return_inverse=True)[1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")
        for fitted, left_out in folds.split(features, labels, numbered):
            model = LogisticRegression(max_iter=300).fit(features[fitted], labels[fitted])
            columns = np.ix_(left_out, model.classes_)
            probabilities[columns] = model.predict_proba(features[left_out])
    return np.asarray(np.log(np.maximum(probabilities, LEAST)))


def neighbour_outputs(
    features: Features, labels: Classes, groups: Groups, classes: int, *, seed: int = 0
) -> Logits:
    """Logarithms of the shares of the classes among the nearest neighbours of other groups.

    The distance is the angle of the features. One imaginary neighbour has all classes in the shares
    that they have overall. Of very many images, neighbours are sought among a random part.

    Args:
        features: See `principal_features`.
        labels: The given labels.
        groups: Images of the same group are not neighbours of each other.
        classes: Number of classes.
        seed: Of the random part.
    """
    units = unit_vectors(features).astype(np.float32)
    numbered = np.unique(np.array(groups), return_inverse=True)[1]
    compared = np.random.default_rng(seed).permutation(len(labels))[:MOST_COMPARED]
    truth = np.eye(classes)[labels[compared]]
    number = min(NUM_NEIGHBOURS, len(compared) - 1)
    shares = np.empty((len(labels), classes))
    for start in range(0, len(labels), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        cosines = units[block] @ units[compared].T
        cosines[numbered[block, None] == numbered[compared]] = -np.inf
        nearest = np.argpartition(-cosines, number - 1, axis=1)[:, :number]
        other = np.isfinite(np.take_along_axis(cosines, nearest, axis=1))
        shares[block] = (truth[nearest] * other[..., None]).sum(axis=1)
    prior = np.bincount(labels, minlength=classes) / len(labels)
    shares = (shares + prior) / (shares.sum(axis=1, keepdims=True) + 1)
    return np.asarray(np.log(np.maximum(shares, LEAST)))
