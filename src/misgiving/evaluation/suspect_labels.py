"""The most doubtful labels, judged by a model's predictions.

A model that was trained on an image may have learned its wrong label by heart. So its outputs count
only for the images that it was not trained on. For the others, logistic regressions on the features
are cross-fitted by group. Where there are features, the labels of similar images count as well.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import log_softmax

from misgiving.errors import DataError
from misgiving.files import write_csv
from misgiving.metrics.label_errors import (
    FOLDS,
    LogProbabilities,
    cross_fitted_outputs,
    neighbour_outputs,
    principal_features,
    suspicion,
)
from misgiving.predictions.record import Predictions
from misgiving.predictions.schema import UNKNOWN

Basis = Literal["held-out", "cross-fitted"]
EVIDENCE = ("the model gives", "of similar images")
SUSPECTS_FILE = "suspect_labels.csv"
SUSPICIOUS = 0.5  # score above which a label is listed


class SuspectLabel(NamedTuple):
    """An image whose label is doubtful; one row of `suspect_labels.csv`.

    Attributes:
        path: Of the image file; empty where it is not known.
        id: Name of the image.
        label: The given label.
        suggested_class: The most probable other class.
        score: From 0.5 to 1, the higher the more suspect; see `metrics.label_errors.suspicion`.
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
    labelled = predictions.labels != UNKNOWN
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
    bases: dict[Basis, Bool[np.ndarray, " n"]]
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


def _evidence(
    chosen: Predictions, cross_fitted: Bool[np.ndarray, " n"], *, seed: int
) -> list[LogProbabilities]:
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


def _check_classes(chosen: Predictions, cross_fitted: Bool[np.ndarray, " n"]) -> None:
    """Check that there are two classes, and that no fold leaves one without an image to learn."""
    labels, units = chosen.labels, chosen.units
    counts = [len(np.unique(units[labels == label])) for label in range(len(chosen.classes))]
    single = [name for name, count in zip(chosen.classes, counts, strict=True) if count == 1]
    largest = min(int(np.bincount(labels).max()), len(np.unique(units)))
    if np.ptp(labels) == 0 or (cross_fitted.any() and (single or largest < FOLDS)):
        raise DataError(
            "labels are judged in two classes or more, and cross-fitting needs two groups of each "
            f"(one alone: {', '.join(single) or 'none'}), {FOLDS} groups, and {FOLDS} images of a "
            "class; add images, or leave a class out"
        )


def _listed(
    judged: Predictions, evidence: Sequence[LogProbabilities], basis: Basis
) -> list[SuspectLabel]:
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
                    for source, share in zip(EVIDENCE, shares, strict=False)
                ),
            )
        )
    return suspects
