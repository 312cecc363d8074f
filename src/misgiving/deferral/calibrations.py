"""The record of the calibrations that were made with one set of predictions.

It lies beside the predictions, whatever folder a policy is written to: a guarantee holds for one
calibration that was chosen beforehand, not for the best of several with the same cases.
"""

from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from misgiving.deferral.deferral import Deferral
from misgiving.deferral.identities import Cases, Identities
from misgiving.errors import explain_damage
from misgiving.files import read_json, write_json

CALIBRATIONS = "calibrations.json"


class Repeated(NamedTuple):
    """Images of a policy that earlier calibrations have used, their groups, and how many those are.

    A group counts if it has such an image, or the name of a group of an earlier calibration.
    """

    images: int
    groups: int
    calibrations: int


class Calibration(BaseModel):
    """One calibration: the fingerprint of the policy, and its images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: str
    images: Identities


class Calibrations(BaseModel):
    """All calibrations with one set of predictions, oldest first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    calibrations: tuple[Calibration, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Calibrations":
        """Read the record, which is empty where there is no file.

        Raises:
            DataError: The file is damaged.
        """
        if not path.exists():
            return cls()
        remedy = "remove it to begin a new record; which cases were used before is then not known"
        content = read_json(path, remedy=remedy)
        with explain_damage(path, remedy=remedy):
            return cls.model_validate(content)

    def added(self, deferral: Deferral) -> "Calibrations":
        """The record with this policy's calibration; the same if it has it."""
        fingerprint = deferral.policy_.fingerprint
        if fingerprint in [each.policy for each in self.calibrations]:
            return self
        new = Calibration(policy=fingerprint, images=deferral.cases_.images)
        return Calibrations(calibrations=(*self.calibrations, new))

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        write_json(path, self.model_dump(mode="json"), compact=True)

    def repeated(self, cases: Cases) -> Repeated:
        """Count the images of a policy that are among those of these calibrations."""
        earlier = sum((each.images for each in self.calibrations), Identities())
        used, related = cases.images.among(earlier)
        own = count()
        groups = {
            group or next(own)
            for group, is_repeated in zip(cases.images.groups, used | related, strict=True)
            if is_repeated
        }
        return Repeated(int(used.sum()), len(groups), len(self.calibrations))


def record_of(predictions: Path) -> Path:
    """The place of the record: in a run, or beside a file of predictions."""
    if predictions.is_dir():
        return predictions / CALIBRATIONS
    return predictions.with_name(f"{predictions.name}.{CALIBRATIONS}")
