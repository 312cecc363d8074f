"""The record of the calibrations that were made with one set of predictions.

It lies beside the predictions, whatever folder a policy is written to: a guarantee holds for one
calibration that was chosen beforehand, not for the best of several with the same cases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from misgiving.deferral.deferral import Deferral
from misgiving.deferral.identities import Cases, Identities
from misgiving.errors import DataError, Parameter, UsageError, explain_damage
from misgiving.files import read_json, sha256_of, write_json

CALIBRATIONS = "calibrations.json"


@dataclass(frozen=True, kw_only=True)
class EarlierCalibration:
    """A calibration: digests of the parameters, planned looks and scores, and the cases."""

    plan: str
    cases: Cases

    @classmethod
    def of(cls, deferral: Deferral) -> "EarlierCalibration":
        """The calibration of a fitted policy."""
        plan = f"({deferral}, {deferral.certificate_.looks}, {deferral.policy_.scorer!r})"
        return cls(plan=sha256_of(plan.encode()), cases=deferral.cases_)

    def continues(self, before: "EarlierCalibration") -> bool:
        """True if this and an earlier one are of one plan: one has the cases of the other."""
        mine, others = self.cases.calibration, before.cases.calibration
        nested = mine.among(others)[0].all() or others.among(mine)[0].all()
        return self.plan == before.plan and bool(nested)


class Calibrations(BaseModel):
    """All calibrations with one set of predictions, oldest first.

    Attributes:
        made: By the fingerprint of the policy.
        looks: Numbers of cases of the calibrations that were planned before the first; none: no
            plan.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    made: Mapping[str, EarlierCalibration] = {}
    looks: tuple[int, ...] = ()

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

    def planned(self, looks: Sequence[int]) -> "Calibrations":
        """The record with a plan of several calibrations.

        Raises:
            UsageError: There was a calibration before.
        """
        if self.made:
            raise UsageError(
                *("these predictions were calibrated before; plan ", Parameter("looks")),
                " before the first calibration, with new cases",
            )
        return self.model_copy(update={"looks": tuple(looks)})

    def added(self, deferral: Deferral) -> "Calibrations":
        """The record with the calibration of a fitted policy.

        Raises:
            DataError: Several were planned, and this one has other parameters, scores or cases.
        """
        this = EarlierCalibration.of(deferral)
        if self.looks and not all(map(this.continues, self.made.values())):
            raise DataError(
                "the planned calibrations have the same targets, tuning set and model, and all "
                "earlier cases; give these and further ones"
            )
        made = {**self.made, deferral.policy_.fingerprint: this}
        return self.model_copy(update={"made": made})

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        write_json(path, self.model_dump(mode="json"), compact=True)

    def repeated(self, deferral: Deferral) -> tuple[int, int]:
        """Number of the cases of a policy that these calibrations have used, and of their groups.

        A group counts if it has such a case, or the name of a group of a calibration. Earlier
        looks of the same plan do not count.
        """
        this, images = EarlierCalibration.of(deferral), deferral.cases_.images
        planned = bool(deferral.certificate_.looks)
        others = [x for x in self.made.values() if not (planned and this.continues(x))]
        earlier = sum((each.cases.images for each in others), Identities())
        used, related = images.among(earlier)
        own = count()
        groups = {
            group or next(own)
            for group, is_repeated in zip(images.groups, used | related, strict=True)
            if is_repeated
        }
        return int(used.sum()), len(groups)


def record_of(predictions: Path) -> Path:
    """The place of the record: in a run, or beside a file of predictions."""
    if predictions.is_dir():
        return predictions / CALIBRATIONS
    return predictions.with_name(f"{predictions.name}.{CALIBRATIONS}")
