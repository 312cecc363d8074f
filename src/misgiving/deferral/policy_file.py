"""The two files of a policy: `policy.json`, and `policy.safetensors` with its detectors."""

import json
import os
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from misgiving.calibration.apply import Calibrator
from misgiving.checksums import sha256_of_file, sha256_of_json
from misgiving.deferral.cases import Cases
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.settings import DecisionRule
from misgiving.errors import DataError, UsageError, explain_damage
from misgiving.files import read_json, whole_folder, write_json
from misgiving.scores.detectors import FittedDetectors

POLICY, DETECTORS = "policy.json", "policy.safetensors"
POLICY_FOLDER = "policy"  # in a run
GIVEN = ("max_ood_false_alarms", "ood_detector", "seed")  # beside those of targets and rule
FITTED = ("certificate", "calibration", "rule", "cases", "model", "unit")  # with a `_`
AGAIN = "run `misgiving calibrate` again"


class PolicyFile(BaseModel):
    """Schema of `policy.json`.

    Attributes:
        model: Fingerprint or name of the model that the policy is for.
        unit: The unit of the guarantee: a patient, a lesion, an image, or another group.
        max_ood_false_alarms: As it was asked for; that of the certificate's targets is in force.
        ood_detector: The name that was asked for; None: the default.
        detectors: SHA-256 of `policy.safetensors`.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_inf_nan="strings", allow_inf_nan=False
    )

    format: Literal[1] = 1
    model: str
    unit: str
    rule: DecisionRule
    max_ood_false_alarms: float | None
    ood_detector: str | None
    seed: int
    calibration: Calibrator
    certificate: Certificate
    cases: Cases
    detectors: str = ""

    @model_validator(mode="after")
    def _check_lengths(self) -> "PolicyFile":
        """Check that the columns of each table of cases are of one length."""
        certified = attrgetter("scores", "ood_scores", "errors", "kept", "error_probabilities")
        identified = attrgetter("tuning", "calibration", "earlier")(self.cases)
        for table in (certified(self.certificate), *(vars(each).values() for each in identified)):
            if len({*map(len, table)}) > 1:
                raise ValueError("columns of cases differ in length")
        return self

    @classmethod
    def of(cls, deferral: Any) -> "PolicyFile":
        """The file of a fitted `Deferral`."""
        parts = {name: getattr(deferral, f"{name}_") for name in FITTED}
        return cls(**parts, **{name: getattr(deferral, name) for name in GIVEN})

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the `Deferral`."""
        values = vars(self.certificate.targets) | vars(self.rule)
        values |= {name: values[name] or None for name in ("class_max_miss", "costs")}
        return values | {name: getattr(self, name) for name in GIVEN}

    def write(self, folder: Path, detectors: FittedDetectors) -> None:
        """Write both files into a folder that exists, each whole or not at all."""
        detectors.save(folder / DETECTORS)
        update = {"detectors": sha256_of_file(folder / DETECTORS)}
        # with text for infinity, which JSON lacks
        content = json.loads(self.model_copy(update=update).model_dump_json())
        write_json(folder / POLICY, content | {"checksum": sha256_of_json(content)}, compact=True)

    def save(self, folder: Path, detectors: FittedDetectors) -> Cases:
        """Replace the policy in a folder, whole or not at all, and return the cases as written.

        They tell which are those of the policy that was there; of the same policy, saved again,
        they stay as they are.

        Raises:
            UsageError: The folder has other files than those of a policy.
        """
        if os.path.lexists(folder) and not (
            folder.is_dir() and {path.name for path in folder.iterdir()} <= {POLICY, DETECTORS}
        ):
            raise UsageError(f"{folder}: exists and is not a policy; choose another folder")
        cases = self.cases
        if (folder / POLICY).exists():
            try:
                replaced = PolicyFile.read(folder)
            except DataError:
                cases = cases.after(None)
            else:
                is_same = self.model_copy(update={"detectors": replaced.detectors}) == replaced
                cases = cases if is_same else cases.after(replaced.cases)
        with whole_folder(folder) as partial:
            self.model_copy(update={"cases": cases}).write(partial, detectors)
        return cases

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
                raise ValueError("changed after it was written")
        return policy

    def read_detectors(self, folder: Path) -> FittedDetectors:
        """Read `policy.safetensors`.

        Raises:
            DataError: It is missing, or not the file that was written.
        """
        path = folder / DETECTORS
        with explain_damage(path, remedy=AGAIN):
            if sha256_of_file(path) != self.detectors:
                raise ValueError("changed after it was written")
        return FittedDetectors.load(path)
