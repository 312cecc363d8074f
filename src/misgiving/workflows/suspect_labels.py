"""`misgiving data check` with a run or predictions: images whose label is probably wrong.

A model that was trained on an image may have learned its wrong label by heart. So its outputs count
only for the images that it was not trained on. For the others, logistic regressions on the features
are cross-fitted by group. Where there are features, the labels of similar images count as well.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import log_softmax

from misgiving.data.bad_images import FAIL, SKIP
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
from misgiving.results.review_lists import SUSPECTS_FILE, SuspectLabel

if TYPE_CHECKING:
    from misgiving.checkpoint import Checkpoint

HELD_OUT, CROSS_FITTED = "held-out", "cross-fitted"

Mask = Bool[np.ndarray, " n"]


class LabelAudit(NamedTuple):
    """Images whose label is probably wrong, most suspect first, and sentences about them."""

    suspects: list[SuspectLabel]
    summary: list[str]

    def write(self, folder: Path) -> Path:
        """Write `suspect_labels.csv`, and name it."""
        path = folder / SUSPECTS_FILE
        write_csv(path, SuspectLabel._fields, self.suspects)
        return path


def audit_table(path: Path, *, seed: int = 0) -> LabelAudit:
    """Suspect labels of a file of predictions; images of its set `train` are cross-fitted.

    Raises:
        DataError: There are no labels, or they cannot be judged.
    """
    table = Predictions.read(path)
    paths = table.paths or ("",) * len(table)
    summary = []
    if table.sets is None:
        summary.append(
            "there is no column set: all predictions are taken as of images that the model was not "
            "trained on"
        )
    found = audit_labels(table, paths, name=str(path), seed=seed)
    return LabelAudit(found.suspects, summary + found.summary)


def audit_run(
    checkpoint: "Checkpoint",
    data: str,
    *,
    cache: Path,
    device: str = "auto",
    seed: int = 0,
    on_image: Callable[[int, int], None] | None = None,
    on_predicted: Callable[[int, int], None] | None = None,
    on_bad_image: str = FAIL,
) -> LabelAudit:
    """Suspect labels of a data set, by a run; images that it was trained on are cross-fitted.

    Args:
        checkpoint: A loaded run.
        data: The data as the user names it.
        cache: Folder for prepared images.
        device: Where to compute.
        seed: Of the folds.
        on_image: Called with the number of prepared images and of all.
        on_predicted: Called with the number of predicted images and of all of a set.
        on_bad_image: `fail`, or `skip` to leave out images that cannot be read.
    """
    from misgiving.data.cache import prepare
    from misgiving.data.datasets import load_dataset
    from misgiving.data.datasets.dataset import ImageFiles
    from misgiving.predictions.graphs import cached_network
    from misgiving.predictions.inference import predictions_of
    from misgiving.training.devices import start_processes
    from misgiving.workflows.related_images import of_training_groups, related_to_training

    source = load_dataset(data)
    checkpoint.model.to(start_processes(device))
    prepared = partial(
        prepare,
        preprocessing=checkpoint.preprocessing,
        cache=cache,
        report=on_image,
        on_bad_image=on_bad_image,
    )
    everything, trained_groups, summary = related_to_training(
        checkpoint, prepared(source), partial(prepared, on_bad_image=SKIP)
    )
    images, unknown = everything.align(checkpoint.classes)
    known = checkpoint.split.hashes_of("train")
    related = of_training_groups(images, checkpoint.split, trained_groups)
    trained = related | np.array([content in known for content in images.hashes], dtype=bool)
    table = replace(
        predictions_of(
            checkpoint,
            images,
            on_image=on_predicted,
            network=cached_network(checkpoint, len(images), cache),
        ),
        sets=tuple(np.where(trained, "train", "test").tolist()),
    )
    files = source.images.paths if isinstance(source.images, ImageFiles) else ()
    path_of = dict(zip(source.ids, files, strict=False))
    paths = [str(path_of.get(identity, "")) for identity in images.ids]
    if unknown:
        summary.append(f"left out: {unknown} images of classes that the model does not know")
    found = audit_labels(table, paths, name=data, seed=seed)
    return LabelAudit(found.suspects, summary + found.summary)


def audit_labels(
    table: Predictions, paths: Sequence[str], *, name: str, seed: int = 0
) -> LabelAudit:
    """Judge the labels of a table.

    Args:
        table: Predictions; those of the set `train` are of images that the model was trained on.
        paths: Of the image files; empty where they are not known.
        name: Of the table, for failures.
        seed: Of the folds.
    """
    rows = np.flatnonzero(table.labels != UNKNOWN)
    if not len(rows):
        raise DataError(f"{name}: no row has a label; give the true classes as the column label")
    summary = [f"left out: {len(table) - len(rows)} images without a label"]
    summary *= len(rows) < len(table)
    trained = np.array([set_name == "train" for set_name in table.sets or ("",) * len(table)])
    if table.features is None and trained[rows].any():
        reason = "the model was trained on them, and there are no features to cross-fit"
        summary.append(f"left out: {trained[rows].sum()} images, because {reason}")
        rows = rows[~trained[rows]]
        if not len(rows):
            raise DataError(
                f"{name}: no label can be judged: the model was trained on all images, and there "
                "are no features to cross-fit; add features (feature_0, ...)"
            )
    suspects = _suspects(
        table.select(rows), [paths[row] for row in rows.tolist()], trained[rows], name, seed
    )
    summary.append(f"{len(suspects)} of {len(rows)} labels are suspect")
    return LabelAudit(suspects, summary)


def _suspects(
    table: Predictions, paths: Sequence[str], trained: Mask, name: str, seed: int
) -> list[SuspectLabel]:
    """Suspect labels among images that all have a label and an honest output."""
    of = table
    if len(np.unique(of.labels)) < 2:
        only = of.classes[of.labels[0]]
        raise DataError(f"{name}: every label is {only!r}; give images of another class as well")
    evidence = [log_softmax(of.logits.astype(np.float64), axis=1)]
    if of.features is not None:
        features = principal_features(of.features.astype(np.float64))
        known = features, of.labels, of.units, len(of.classes)
        if trained.any():
            _refuse_few(of, name)
            evidence[0][trained] = cross_fitted_outputs(*known, seed=seed)[trained]
        evidence.append(neighbour_outputs(*known, seed=seed))
    found = []
    for basis, members in (HELD_OUT, ~trained), (CROSS_FITTED, trained):
        if members.any():
            outputs = [kind[members] for kind in evidence]
            names = [path for path, member in zip(paths, members, strict=True) if member]
            found += _listed(of.select(np.flatnonzero(members)), outputs, names, basis)
    return sorted(found, key=lambda one: -one.score)


def _listed(
    of: Predictions, evidence: Sequence[LogProbabilities], paths: Sequence[str], basis: str
) -> list[SuspectLabel]:
    """Suspect labels among images whose evidence has one basis."""
    judged = suspicion(evidence, of.labels)
    found = []
    for row in np.flatnonzero(judged.scores > 0.5).tolist():
        pair = [int(judged.suggested[row]), int(of.labels[row])]
        suggested, given = (of.classes[label] for label in pair)
        why = _why([np.exp(kind[row, pair]) for kind in evidence], suggested, given)
        score = round(float(judged.scores[row]), 4)
        found.append(SuspectLabel(paths[row], of.ids[row], given, suggested, score, basis, why))
    return found


def _refuse_few(of: Predictions, name: str) -> None:
    """Refuse a class of which a fold could leave no image to learn from."""
    for label in np.unique(of.labels):
        groups = len(np.unique(of.units[of.labels == label]))
        if groups < 2:
            raise DataError(
                f"{name}: class {of.classes[label]!r} has images of one group alone, and "
                "cross-fitting needs two; add images, or leave the class out"
            )
    if min(int(np.bincount(of.labels).max()), len(np.unique(of.units))) < FOLDS:
        raise DataError(
            f"{name}: cross-fitting needs a class of {FOLDS} images, and {FOLDS} groups; add images"
        )


def _why(shares: Sequence[Float[np.ndarray, " 2"]], suggested: str, given: str) -> str:
    """The evidence for the suggested class against the label, in words."""
    sources = ("the model gives", "of similar images")
    return "; ".join(
        f"{source} {pair[0]:.0%} {suggested} and {pair[1]:.0%} {given}"
        for source, pair in zip(sources, shares, strict=False)
    )
