"""The images that a policy is fitted on: chosen, scored as its cases, and recognised later.

They are recognised by digests, so that a policy can be given away without the names of patients.
"""

import math
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
from jaxtyping import Bool

from misgiving.checksums import sha256_of
from misgiving.errors import DataError, UsageError, visible
from misgiving.groups import TUNING_PARTS, partition_groups
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors

MOST_TUNED = 20_000  # groups to tune on; more would be slow, and bring nothing
OWN_SETS = ("tune", "calibrate")
FREE = ("", "validation")
NOT_USED = ("train", "test", "excluded")
DIGITS = 16  # of the digest of a name: of a million, two are the same with a probability of 3e-8
DIFFERENT = 0.9  # share of different rows of logits from which on a row identifies an image
COPIES = 0.25  # share of rows; fewer copies hardly change a bound
ALIKE = 0.9  # share of repeated rows that occur equally often, above that of chance
MOST_NAMED = 5  # classes in a message
DECIMALS, ROUNDING = 4, 1e-6  # of outputs that may be alike by rounding, and of these numbers

Mask = Bool[np.ndarray, " n"]


def fitting_sets(
    tuning: Any, calibration: Any, labels: Any, training: Any, *, classes: Any, seed: int
) -> tuple[Predictions, Predictions, FittedDetectors, dict[str, Any]]:
    """Choose the sets to tune on and to certify with as `Deferral.fit` says, and fit the detectors.

    Also gives facts on the choice, by the field of `Cases`.

    Raises:
        DataError: They cannot support a policy.
        UsageError: There is a classifier without labels, or labels without one.
    """
    facts: dict[str, Any] = {}
    tuning, calibration = given_sets(tuning, calibration, labels)
    if calibration is None:
        data = Predictions.of(tuning, classes=classes)
        tuning, calibration, parts = drawn_sets(data, seed=seed)
        training = data.in_set("train") if training is None else training
        counts = Counter(data.sets or ())
        left_out = {name: counts[name] for name in NOT_USED if name in counts}
        facts |= {"drawn_parts": parts, "left_out": left_out}
    else:
        tuning = Predictions.of(tuning, classes=classes, name="tuning")
        calibration = Predictions.of(calibration, classes=classes, name="calibration")
        check_copies(tuning, calibration)
    check_sets(tuning, calibration)
    detectors = FittedDetectors()
    if training is not None:
        training = Predictions.of(training, classes=classes, name="training")
        if training.features is not None and len(training):
            check_same_model(tuning, training, "training")
            detectors, facts["training_images"] = FittedDetectors.fit(training), len(training)
    warn_of_doubts(tuning, calibration)
    return tuning, calibration, detectors, facts


def given_sets(first: Any, second: Any, labels: Any) -> tuple[Any, Any]:
    """The sets in the arguments of `Deferral.fit`; the second is None where there is one alone."""
    is_classifier = hasattr(first, "predict_proba")
    if is_classifier != (labels is not None):
        raise UsageError("a classifier needs its inputs and their labels; give all three, or sets")
    if is_classifier:
        outputs = {"probabilities": first.predict_proba(second), "classes": first.classes_}
        return (outputs, labels), None
    has_labels = isinstance(second, list) or getattr(second, "ndim", 0) == 1
    return ((first, second), None) if has_labels else (first, second)


def warn_of_doubts(tuning: Predictions, calibration: Predictions) -> None:
    """Warn the caller of `Deferral.fit` of classes without cases, and of possible copies."""
    present = {*calibration.labels.tolist()}
    absent = [visible(name) for at, name in enumerate(calibration.classes) if at not in present]
    if len(absent) > MOST_NAMED:
        absent[MOST_NAMED:] = [f"{len(absent) - MOST_NAMED} others"]
    if absent:
        warnings.warn(
            f"no calibration case is of the class {' or '.join(absent)}; nothing is "
            "known about the errors on such images",
            stacklevel=4,
        )
    can_be_copies = not calibration.group_columns and calibration.hashes is None
    repeated = repeated_outputs(tuning, calibration) if can_be_copies else 0
    if repeated > COPIES * (count := len(tuning) + len(calibration)):
        warnings.warn(
            f"{repeated} of {count} rows have the outputs of another row; copies are not "
            "independent: give those of one image the same value in a column `group`",
            stacklevel=4,
        )


def repeated_outputs(*parts: Predictions) -> int:
    """Number of rows with the outputs of another row, but for rounding; 0 if that may be chance.

    Images of a doubled set occur twice each. Nearest neighbours and trees give the same output to
    some different images, but one more often than another. Outputs in few decimals do not count.
    """
    kinds = []
    for part in parts:
        outputs = part.logits if part.outputs == "logits" else np.exp(part.logits)
        exact = (np.abs(outputs - outputs.round(DECIMALS)) > ROUNDING).any(axis=1)
        kinds.append(part.logits[exact].round(DECIMALS))
    counts = np.unique(np.concatenate(kinds), axis=0, return_counts=True)[1]
    rows = np.bincount(counts[counts > 1], weights=counts[counts > 1])  # by times that each occurs
    return int(rows.sum()) if rows.max(initial=0) >= ALIKE * rows.sum() else 0


def drawn_sets(predictions: Predictions, *, seed: int) -> tuple[Predictions, Predictions, int]:
    """The images to tune on, those to certify with, and the number of parts for the first.

    These are the sets `tune` and `calibrate`, and the number is 0; or else a part, by group, of
    the images in no set or in the validation set, and the others of these. Images of a group that
    is also in another set are left out.

    Raises:
        DataError: There are no such images, or too few groups.
    """
    sets = np.array(predictions.sets or ("",) * len(predictions))
    present = [(sets == name).any() for name in OWN_SETS]
    if all(present):
        tuning, calibration = map(predictions.in_set, OWN_SETS)
        return tuning, calibration, 0
    if any(present):
        raise DataError(
            f"no row is in the set {OWN_SETS[present.index(False)]!r}; name the set of each row, "
            "or leave out the column to have the sets drawn"
        )
    units = predictions.units
    offered = np.isin(sets, FREE)
    free = np.flatnonzero(offered & ~np.isin(units, units[~offered]))
    if not len(free):
        raise DataError(
            "all images were used for training or are only measured; give labelled images that "
            "are new to the model"
        )
    predictions.select(free).check_labelled()  # counts all rows
    parts = max(TUNING_PARTS, math.ceil(len(np.unique(units[free])) / MOST_TUNED))
    drawn = partition_groups(units[free], parts, seed=seed)[0]
    tuning, calibration = (
        predictions.select(rows) for rows in (free[drawn], np.delete(free, drawn))
    )
    return tuning, calibration, parts


def check_sets(tuning: Predictions, calibration: Predictions) -> None:
    """Check that the sets are labelled, of one model, and that they share no images.

    Raises:
        DataError: They are not.
    """
    tuning.check_labelled()
    check_same_model(tuning, calibration, "calibration")
    if tuning.opinions.keys() != calibration.opinions.keys():
        raise DataError(
            f"the tuning set has the opinions of {', '.join(tuning.opinions) or 'none'}, and the "
            f"calibration set of {', '.join(calibration.opinions) or 'none'}; give both the same"
        )
    shared = sorted(set(tuning.groups) & set(calibration.groups) - {""})
    if tuning.has_ids and calibration.has_ids:
        shared += sorted(set(tuning.ids) & set(calibration.ids))
    if shared:
        others = f", as are {len(shared) - 1} others" if len(shared) > 1 else ""
        raise DataError(
            f"group {shared[0]!r} is in both the tuning set and the calibration set{others}; "
            "calibrate on groups that nothing was chosen on"
        )


def check_same_model(tuning: Predictions, other: Predictions, name: str) -> None:
    """Check that another set is labelled, and of the model and classes of the tuning set."""
    other.check_labelled()
    if (other.model, other.classes) != (tuning.model, tuning.classes):
        raise DataError(
            f"the {name} set is of the model {other.model!r} for {', '.join(other.classes)}, and "
            f"the tuning set of {tuning.model!r} for {', '.join(tuning.classes)}; predict both "
            "with one model"
        )


def check_copies(tuning: Predictions, calibration: Predictions) -> None:
    """Check that the calibration set does not have the images of the tuning set by other names.

    An image is known by its logits. Rounded ones are alike for many images, so that only rows that
    occur once count, and more than half of these must occur in both sets.

    Raises:
        DataError: It has them.
    """
    rows = [np.unique(part.logits, axis=0, return_counts=True) for part in (tuning, calibration)]
    once = [{*map(bytes, values[counts == 1])} for values, counts in rows]
    shared = len(once[0] & once[1])
    if 2 * shared > min(map(len, once)):
        raise DataError(
            f"{shared} rows of the calibration set are also in the tuning set; give images that "
            "nothing was chosen on"
        )


@dataclass(frozen=True, kw_only=True)
class Identities:
    """Digests by which images are recognised; empty where an image has none of a kind.

    Attributes:
        contents: SHA-256 of the image file.
        ids: Of the name of the image.
        outputs: Of the logits, for images without a name.
        groups: Of the name of the group; empty where an image is a group of its own.
    """

    contents: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @classmethod
    def of(cls, predictions: Predictions) -> "Identities":
        """Identify the images of predictions."""
        nothing = ("",) * len(predictions)
        return cls(
            contents=predictions.hashes or nothing,
            ids=tuple(map(_digest, predictions.ids)) if predictions.has_ids else nothing,
            outputs=nothing if predictions.has_ids else _digests_of_outputs(predictions),
            groups=tuple(_digest(group) if group else "" for group in predictions.groups),
        )

    def __len__(self) -> int:
        return len(self.groups)

    def __add__(self, others: "Identities") -> "Identities":
        joined = {name: own + getattr(others, name) for name, own in vars(self).items()}
        return Identities(**joined)

    @property
    def group_count(self) -> int:
        """Number of groups; an image without a named one is a group of its own."""
        return len({*self.groups} - {""}) + self.groups.count("")

    def among(self, others: "Identities") -> tuple[Mask, Mask]:
        """Mark the images that are among the others, and those of a named group of the others.

        Images are the same if their contents are. The name decides where one of both contents is
        not known, and the outputs where there is no name.
        """
        contents, outputs = {*others.contents} - {""}, {*others.outputs} - {""}
        ids, groups = {*others.ids} - {""}, {*others.groups} - {""}
        unseen = {
            name for name, content in zip(others.ids, others.contents, strict=True) if not content
        }
        same = [
            content in contents or output in outputs or (name in ids and not content)
            or (name in ids and name in unseen)
            for content, name, output in zip(self.contents, self.ids, self.outputs, strict=True)
        ]  # fmt: skip
        used = np.array(same, dtype=bool)
        groups |= {group for group, seen in zip(self.groups, same, strict=True) if seen} - {""}
        return used, ~used & np.array([group in groups for group in self.groups], dtype=bool)


def _digest(name: str) -> str:
    return sha256_of(name.encode())[:DIGITS]


def _digests_of_outputs(predictions: Predictions) -> tuple[str, ...]:
    """Rounded logits are alike for many images; where they are, the row's number counts as well."""
    logits = np.ascontiguousarray(predictions.logits, dtype=np.float64)
    rows = [row.tobytes() for row in logits]
    if len(set(rows)) < DIFFERENT * len(rows):
        rows = [name.encode() + row for name, row in zip(predictions.ids, rows, strict=True)]
    return tuple(sha256_of(row)[:DIGITS] for row in rows)


@dataclass(frozen=True, kw_only=True)
class Cases:
    """The images that a policy was fitted on, and what was observed on them besides errors.

    Attributes:
        tuning: For all that was chosen.
        calibration: For the certificate alone.
        drawn_parts: Number of parts of the images of which one was drawn for tuning; 0: the data
            name both sets.
        outputs: `logits` or `probabilities`.
        group_columns: Columns of the data that define the groups; none: each image is its own.
        training_images: Images that the detectors are fitted on; 0: there are no detectors.
        left_out: Images of the data that were not used, by their set.
        earlier: Images of the policies that were in the same folder before, for tuning or
            calibration.
        calibrations: Number of these policies.
        repeated_images: Images of this policy that are among the earlier ones.
        repeated_groups: Groups with such an image, or of the name of an earlier group.
        complete: False where an earlier policy could not be read: there may be more such cases.
    """

    tuning: Identities
    calibration: Identities
    drawn_parts: int = 0
    outputs: str = "logits"
    group_columns: tuple[str, ...] = ()
    training_images: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    earlier: Identities = field(default_factory=Identities)
    calibrations: int = 0
    repeated_images: int = 0
    repeated_groups: int = 0
    complete: bool = True

    @classmethod
    def of(cls, tuning: Predictions, calibration: Predictions, **facts: Any) -> "Cases":
        """The images of both sets, with further fields."""
        return cls(
            tuning=Identities.of(tuning),
            calibration=Identities.of(calibration),
            outputs=calibration.outputs,
            group_columns=calibration.group_columns,
            **facts,
        )

    def among(self, predictions: Predictions) -> tuple[Mask, Mask]:
        """Mark the images that the policy was fitted on, and others of their groups."""
        return Identities.of(predictions).among(self.tuning + self.calibration)

    def after(self, previous: "Cases | None") -> "Cases":
        """These cases with the record of the policy that they replace; None: it is not readable."""
        if previous is None:
            return replace(self, complete=False)
        earlier = previous.earlier + previous.tuning + previous.calibration
        images = self.tuning + self.calibration
        used, related = images.among(earlier)
        own = count()
        units = {
            group or next(own)
            for group, repeated in zip(images.groups, used | related, strict=True)
            if repeated
        }
        return replace(
            self,
            earlier=earlier,
            calibrations=previous.calibrations + 1,
            repeated_images=int(used.sum()),
            repeated_groups=len(units),
            complete=previous.complete,
        )
