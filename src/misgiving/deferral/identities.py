"""Identities of the cases that a policy was fitted on.

They are digests, so that a policy can be given away without the names of patients.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from misgiving.arrays import Mask
from misgiving.files import sha256_of
from misgiving.predictions.record import Predictions

DIGEST_DIGITS = 16  # of a million names, two are the same with a probability of 3e-8
DIFFERENT_ROWS = 0.9  # share of different rows of logits from which on a row identifies a case
NUMBERED = "#"  # begins the digest of an output with the number of its row


@dataclass(frozen=True, kw_only=True)
class Identities:
    """Digests by which cases are recognised; empty where a case has none of a kind.

    Attributes:
        contents: SHA-256 of the image file.
        ids: Of the name of the case.
        outputs: Of the logits, for cases without a name.
        groups: Of the name of the group; empty where a case is a group of its own.
    """

    contents: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @classmethod
    def of(cls, predictions: Predictions) -> "Identities":
        """Identify the cases of predictions."""
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
        """Number of groups; a case without a named one is a group of its own."""
        return len({*self.groups} - {""}) + self.groups.count("")

    def among(self, others: "Identities") -> tuple[Mask, Mask]:
        """Mark the cases that are among the others, and those of a named group of the others.

        Cases are the same if their contents are. The name decides where one of both contents is
        not known, and the outputs where there is no name; coarse ones only where more than half of
        one set is the same in the same rows.
        """
        contents, outputs = {*others.contents} - {""}, {*others.outputs} - {""}
        numbered = {each for each in {*self.outputs} & outputs if each.startswith(NUMBERED)}
        if 2 * len(numbered) <= min(len(self), len(others)):
            outputs -= numbered
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
    return sha256_of(name.encode())[:DIGEST_DIGITS]


def _digests_of_outputs(predictions: Predictions) -> tuple[str, ...]:
    """Rounded logits are alike for many cases; where they are, the row's number counts as well."""
    logits = np.ascontiguousarray(predictions.logits, dtype=np.float64)
    rows = [row.tobytes() for row in logits]
    if len(set(rows)) >= DIFFERENT_ROWS * len(rows):
        return tuple(sha256_of(row)[:DIGEST_DIGITS] for row in rows)
    rows = [name.encode() + row for name, row in zip(predictions.ids, rows, strict=True)]
    return tuple(NUMBERED + sha256_of(row)[:DIGEST_DIGITS] for row in rows)


@dataclass(frozen=True, kw_only=True)
class Cases:
    """The cases that a policy was fitted on, and what was observed on them besides errors.

    Attributes:
        tuning: For all that was chosen.
        calibration: For the certificate alone.
        drawn_parts: Number of parts of the cases of which one was drawn for tuning; 0: the data
            name both sets.
        group_columns: Columns of the data that define the groups; none: each case is its own.
        training_images: Images that the detectors are fitted on; 0: there are no detectors.
        left_out: Cases of the data that were not used, by their set.
        tuning_labels: Positions of the true classes of the tuning set of a draw.
    """

    tuning: Identities
    calibration: Identities
    drawn_parts: int = 0
    group_columns: tuple[str, ...] = ()
    training_images: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    tuning_labels: tuple[int, ...] = ()

    def among(self, predictions: Predictions) -> tuple[Mask, Mask]:
        """Mark the cases that the policy was fitted on, and others of their groups."""
        return Identities.of(predictions).among(self.images)

    @property
    def images(self) -> Identities:
        """Cases of both sets."""
        return self.tuning + self.calibration
