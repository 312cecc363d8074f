"""The sets on which a policy is fitted, from tables of predictions."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from misgiving.data.splits import QUARTERS, partition_groups
from misgiving.errors import DataError
from misgiving.manifests import sha256_of
from misgiving.predictions.record import Predictions
from misgiving.results.policy_cases import PolicyCases, PolicyImages
from misgiving.scores.detectors import FittedDetectors
from misgiving.workflows.calibration_history import OFFERED, in_named_groups, named_groups

DIGITS = 16  # of a hash
DIFFERENT = 0.9  # share of different rows of logits from which on a row identifies an image
MOST_TUNED = 20_000  # groups to tune on; more would be slow, and bring nothing

Groups = Sequence[str] | Int[np.ndarray, " _"]
Mask = Bool[np.ndarray, " n"]


class Sets(NamedTuple):
    """Tables to fit detectors on, to tune and to calibrate with, and sentences about them."""

    training: Predictions | None
    tuning: Predictions
    calibration: Predictions
    summary: list[str]


def split_table(table: Predictions, *, seed: int) -> Sets:
    """The sets that a table names, or else a quarter of it, by group, to tune on, and the rest.

    Raises:
        DataError: A set or a label is missing, or there are too few groups.
    """
    if table.sets is not None:
        training, tuning, calibration = (
            table.in_set(name) for name in ("train", "tune", "calibrate")
        )
        for name, of in (("tune", tuning), ("calibrate", calibration)):
            if not len(of):
                raise DataError(
                    f"no row is in the set {name!r}; name the set of each row, or leave out the "
                    "column to have the sets drawn"
                )
        source = "the sets tune and calibrate"
    else:
        table.check_labelled()
        groups = table.units
        count = max(QUARTERS, math.ceil(len(np.unique(groups)) / MOST_TUNED))
        drawn = partition_groups(groups, count, seed=seed)[0]
        rest = np.setdiff1d(np.arange(len(table)), drawn)
        training, tuning, calibration = (
            table.select(drawn[:0]),
            table.select(drawn),
            table.select(rest),
        )
        share = "a quarter" if count == QUARTERS else f"1 of {count} parts"
        source = f"{share} of {len(table)} images, drawn by group with seed {seed}, and the rest"
    sizes = sizes_of(tuning.units, calibration.units)
    return Sets(training if len(training) else None, tuning, calibration, [f"{source}: {sizes}"])


def sizes_of(tuning: Groups, calibration: Groups) -> str:
    """Numbers of images and groups of two sets in words, from the group of each image."""
    first, second = (f"{len(of)} images ({len(set(of))} groups)" for of in (tuning, calibration))
    return f"{first} to fit and choose on, {second} to certify with"


def of_model(table: Predictions, name: str) -> Predictions:
    """The table with this name of the model if it has none."""
    if table.model:
        return table
    return replace(table, model=name)


def refuse_other_outputs(
    table: Predictions,
    outputs: str,
    *,
    name: str = "the predictions",
    other: str = "the policy",
) -> None:
    """Refuse probabilities beside logits: scores such as the largest logit cannot be compared.

    Args:
        table: The predictions.
        outputs: Kind of the others.
        name: Of the predictions, for the message.
        other: Name of the others.
    """
    if table.outputs and outputs and table.outputs != outputs:
        raise DataError(
            f"{name}: has {table.outputs}, and {other} {outputs}, with which its scores cannot be "
            f"compared; give {outputs}"
        )


def refuse_other_classes(training: Predictions, tuning: Predictions) -> None:
    """Refuse a training set whose labels mean other classes than those of the tuning set."""
    names, expected = training.classes, tuning.classes
    if names != expected:
        raise DataError(
            f"the training set has the classes {', '.join(names)}, and the tuning set "
            f"{', '.join(expected)}; give the same in the same order"
        )


def refuse_copies(tuning: Predictions, calibration: Predictions) -> None:
    """Refuse a calibration set that has the images of the tuning set under other names.

    An image is known by its logits. Rounded ones are alike for many images, so that only rows that
    occur once count, and more than half of these must occur in both sets.
    """
    first, second = (
        np.unique(np.ascontiguousarray(of.logits), axis=0, return_counts=True)
        for of in (tuning, calibration)
    )
    once = [{row.tobytes() for row in rows[counts == 1]} for rows, counts in (first, second)]
    shared = len(once[0] & once[1])
    if 2 * shared > min(map(len, once)):
        raise DataError(
            f"{shared} rows of the calibration set are also in the tuning set; give images that "
            "nothing was chosen on"
        )


def fit_detectors(training: Predictions | None) -> tuple[FittedDetectors, str]:
    """Detectors fitted on the training images, if there are features; and a sentence on them.

    Raises:
        DataError: An image has no label.
    """
    if training is None or training.features is None:
        return FittedDetectors.none(), (
            "no detector of features is fitted: there are no training images with features"
        )
    training.check_labelled()
    detectors = FittedDetectors.fit(training)
    return detectors, f"detectors are fitted on {len(training)} training images"


def identities(table: Predictions) -> PolicyImages:
    """Images of a table; an image is known by its id, and without one by its logits.

    Rounded logits are alike for many images; where they are, the number of the row counts as well.
    A group that is only the number of a row has another image in the next table.
    """
    predictions = table
    names = [name.encode() for name in predictions.ids]
    if not table.has_ids:
        logits = np.ascontiguousarray(predictions.logits, dtype=np.float64)
        rows = [row.tobytes() for row in logits]
        differ = len(set(rows)) >= DIFFERENT * len(rows)
        names = rows if differ else [name + row for name, row in zip(names, rows, strict=True)]
    hashes = tuple(sha256_of(name)[:DIGITS] for name in names)
    groups = tuple(
        group or f"{OFFERED}{name}"
        for group, name in zip(predictions.groups, predictions.ids, strict=True)
    )
    return PolicyImages(images=predictions.ids, hashes=hashes, groups=groups)


def cases_of_run(cases: PolicyCases) -> bool:
    """True for the policy of a run, which knows its images by their contents."""
    hashes = (*cases.tune.hashes, *cases.calibration.hashes)
    return any(len(content) != DIGITS for content in hashes)


def rows_fitted_on(table: Predictions, cases: PolicyCases) -> tuple[Mask, Mask]:
    """Mark the images that a policy was fitted on, and the others of their groups.

    No table has the contents of images: those of a run's policy are known by id.
    """
    of_run = cases_of_run(cases)
    images = cases.tune.images + cases.calibration.images
    hashes = cases.tune.hashes + cases.calibration.hashes
    known = set(images if of_run else hashes)
    names = table.ids if of_run else identities(table).hashes
    used = np.array([name in known for name in names], dtype=bool)
    return used, ~used & in_named_groups(table.groups, ("",) * len(table), named_groups(cases))
