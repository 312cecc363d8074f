"""The two files of a policy: `policy.json`, and `policy.safetensors` with its detectors.

The images that it was fitted on are known by digests, so that a policy can be given away without
the names of patients.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from pydantic import BaseModel, ConfigDict

from misgiving.calibration.apply import Calibrator
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.settings import DecisionRule
from misgiving.errors import DataError, UsageError, explain_damage
from misgiving.files import read_json, write_json
from misgiving.manifests import sha256_of, sha256_of_file, sha256_of_json
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors

POLICY, DETECTORS = "policy.json", "policy.safetensors"
POLICY_FOLDER = "policy"  # in a run
FITTED = ("certificate", "calibration", "rule", "cases", "model", "unit")  # with a `_`
AGAIN = "run `misgiving calibrate` again"
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
    training_images: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    sensitivities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    most_missed: tuple[str, int, int] | None = None
    earlier: Identities = field(default_factory=Identities)
    calibrations: int = 0
    repeated_images: int = 0
    repeated_groups: int = 0
    complete: bool = True

    @classmethod
    def of(cls, tuning: Predictions, calibration: Predictions) -> "Cases":
        """The images of both sets."""
        return cls(
            tuning=Identities.of(tuning),
            calibration=Identities.of(calibration),
            outputs=calibration.outputs,
            group_columns=calibration.group_columns,
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


class PolicyFile(BaseModel):
    """Schema of `policy.json`.

    Attributes:
        model: Fingerprint or name of the model that the policy is for.
        unit: The unit of the guarantee: a patient, a lesion, an image, or another group.
        ood_detector: The name that was asked for; None: the default.
        detectors: SHA-256 of `policy.safetensors`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    format: Literal[1] = 1
    model: str
    unit: str
    rule: DecisionRule
    ood_detector: str | None
    seed: int
    calibration: Calibrator
    certificate: Certificate
    cases: Cases
    detectors: str = ""

    @classmethod
    def of(cls, deferral: Any) -> "PolicyFile":
        """The file of a fitted `Deferral`."""
        parts = {name: getattr(deferral, f"{name}_") for name in FITTED}
        return cls(**parts, ood_detector=deferral.ood_detector, seed=deferral.seed)

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the `Deferral`."""
        values = vars(self.certificate.targets) | vars(self.rule)
        values |= {name: values[name] or None for name in ("class_max_miss", "costs")}
        return values | {"ood_detector": self.ood_detector, "seed": self.seed}

    def write(self, folder: Path, detectors: FittedDetectors) -> None:
        """Write both files into a folder that exists, each whole or not at all."""
        detectors.save(folder / DETECTORS)
        update = {"detectors": sha256_of_file(folder / DETECTORS)}
        # with text for infinity, which JSON lacks
        content = json.loads(self.model_copy(update=update).model_dump_json())
        write_json(folder / POLICY, content | {"checksum": sha256_of_json(content)}, compact=True)

    @classmethod
    def read(cls, folder: Path) -> "PolicyFile":
        """Read `policy.json`.

        Raises:
            DataError: It is missing, damaged, of another format, or was changed after it was
                written.
        """
        path = folder / POLICY
        content = read_json(path, remedy=AGAIN)
        checksum = content.pop("checksum", None)
        with explain_damage(path, remedy=AGAIN):
            policy = cls.model_validate(content)
            _check_unchanged(path, sha256_of_json(content) == checksum)
        return policy

    def read_detectors(self, folder: Path) -> FittedDetectors:
        """Read `policy.safetensors`.

        Raises:
            DataError: It is missing, or another file than the one that was written.
        """
        path = folder / DETECTORS
        with explain_damage(path, remedy=AGAIN):
            _check_unchanged(path, sha256_of_file(path) == self.detectors)
        return FittedDetectors.load(path)


def _check_unchanged(path: Path, has_checksum: bool) -> None:
    if not has_checksum:
        raise DataError(f"{path}: was changed after it was written; {AGAIN}")


def check_policy_folder(folder: Path) -> None:
    """Check that a folder can be replaced by a policy: it is empty, or one.

    Raises:
        UsageError: It is something else.
    """
    if os.path.lexists(folder) and not (
        folder.is_dir() and {path.name for path in folder.iterdir()} <= {POLICY, DETECTORS}
    ):
        raise UsageError(f"{folder}: exists and is not a policy; choose another folder")


def cases_after(folder: Path, policy: PolicyFile) -> Cases:
    """The cases of a policy that is to replace the one in a folder, if there is one.

    Of the same policy, saved again, they stay as they are.
    """
    if not (folder / POLICY).exists():
        return policy.cases
    try:
        replaced = PolicyFile.read(folder)
    except DataError:
        return policy.cases.after(None)
    is_same = policy.model_copy(update={"detectors": replaced.detectors}) == replaced
    return policy.cases if is_same else policy.cases.after(replaced.cases)
