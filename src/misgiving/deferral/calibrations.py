"""The record of the calibrations that were made with one set of predictions.

It lies beside the predictions, whatever folder a policy is written to: a guarantee holds for one
calibration that was chosen beforehand, not for the best of several with the same cases.
"""

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from misgiving.deferral.identities import Cases, Identities
from misgiving.errors import explain_damage
from misgiving.files import read_json, write_json

CALIBRATIONS = "calibrations.json"


class Calibrations(BaseModel):
    """All calibrations with one set of predictions, oldest first.

    Attributes:
        images: Of each calibration, by the fingerprint of its policy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    images: Mapping[str, Identities] = {}

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

    def added(self, policy: str, cases: Cases) -> "Calibrations":
        """The record with the calibration of the policy with this fingerprint."""
        return Calibrations(images={**self.images, policy: cases.images})

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        write_json(path, self.model_dump(mode="json"), compact=True)

    def repeated(self, cases: Cases) -> tuple[int, int]:
        """Number of the images of a policy that these calibrations have used, and of their groups.

        A group counts if it has such an image, or the name of a group of a calibration.
        """
        earlier = sum(self.images.values(), Identities())
        used, related = cases.images.among(earlier)
        own = count()
        groups = {
            group or next(own)
            for group, is_repeated in zip(cases.images.groups, used | related, strict=True)
            if is_repeated
        }
        return int(used.sum()), len(groups)


def record_of(predictions: Path) -> Path:
    """The place of the record: in a run, or beside a file of predictions."""
    if predictions.is_dir():
        return predictions / CALIBRATIONS
    return predictions.with_name(f"{predictions.name}.{CALIBRATIONS}")
