"""The two files of a policy: `policy.json`, and `policy.safetensors` with its detectors."""

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from misgiving.calibration.apply import Calibrator
from misgiving.deferral.cases import Cases
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.rules import DecisionRule
from misgiving.errors import DataError, UsageError, explain_damage
from misgiving.files import read_json, write_json
from misgiving.manifests import sha256_of_file, sha256_of_json
from misgiving.scores.detectors import FittedDetectors

POLICY, DETECTORS = "policy.json", "policy.safetensors"
POLICY_FOLDER = "policy"  # in a run
AGAIN = "run `misgiving calibrate` again"


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
    detectors: str

    def write(self, folder: Path) -> None:
        """Write `policy.json`, with its checksum, whole or not at all."""
        content = json.loads(self.model_dump_json())  # with text for infinity, which JSON lacks
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
            if sha256_of_json(content) != checksum:
                raise DataError(f"{path}: was changed after it was calibrated; {AGAIN}")
        return policy

    def read_detectors(self, folder: Path) -> FittedDetectors:
        """Read `policy.safetensors`.

        Raises:
            DataError: It is missing, or another file than the one that was written.
        """
        path = folder / DETECTORS
        with explain_damage(path, remedy=AGAIN):
            if sha256_of_file(path) != self.detectors:
                raise DataError(f"{path}: damaged or changed after it was written; {AGAIN}")
        return FittedDetectors.load(path)


def check_policy_folder(folder: Path) -> None:
    """Check that a folder can be replaced by a policy: it is empty, or one.

    Raises:
        UsageError: It is something else.
    """
    if os.path.lexists(folder) and not (
        folder.is_dir() and {path.name for path in folder.iterdir()} <= {POLICY, DETECTORS}
    ):
        raise UsageError(f"{folder}: exists and is not a policy; choose another folder")


def policy_folder(path: Path) -> Path:
    """The policy's folder, given that folder or a run.

    Raises:
        DataError: There is no policy.
    """
    folder = path if (path / POLICY).exists() else path / POLICY_FOLDER
    if not (folder / POLICY).exists():
        raise DataError(f"{path}: contains no policy; give a folder that `calibrate` wrote")
    return folder
