"""The images that a policy was fitted on, and whether others are among them.

Images are known by digests, so that a policy can be given away without the names of patients.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
from jaxtyping import Bool

from misgiving.manifests import sha256_of
from misgiving.predictions.record import Predictions

DIGITS = 16  # of the digest of a name: of a million, two are the same with a probability of 3e-8
DIFFERENT = 0.9  # share of different rows of logits from which on a row identifies an image

Mask = Bool[np.ndarray, " n"]


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
        return Identities(
            contents=self.contents + others.contents,
            ids=self.ids + others.ids,
            outputs=self.outputs + others.outputs,
            groups=self.groups + others.groups,
        )

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
        grouped_by: Images whose group is named by another than the first of these, by column.
        training_images: Images that the detectors are fitted on; 0: there are no detectors.
        left_out: Images of the data that were not used, by their set.
        sensitivities: Share of each class that is named rightly on the tuning set, by the rule
            that names and by class.
        most_missed: The class of which most calibration images are accepted as another one, with
            the number of these and of all; None: the policy has class targets, or there is none.
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
    grouped_by: Mapping[str, int] = field(default_factory=dict)
    training_images: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    sensitivities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    most_missed: tuple[str, int, int] | None = None
    earlier: Identities = field(default_factory=Identities)
    calibrations: int = 0
    repeated_images: int = 0
    repeated_groups: int = 0
    complete: bool = True

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
