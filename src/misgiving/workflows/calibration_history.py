"""Cases that earlier calibrations of a run have used.

Choosing the best of several calibrations voids the confidence also where their cases only overlap,
as sets do that are drawn with other seeds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from misgiving.checkpoint import POLICY_FOLDER
from misgiving.data.cache import ImageSet
from misgiving.decisions.engine import CASES
from misgiving.deferral.policy import RepeatedCases
from misgiving.errors import DataError
from misgiving.results.formats import read_document
from misgiving.results.schema import PolicyCases, PolicyImages, RecordedCalibration

OFFERED = "offered "  # before the group of an image that is only its own name in its data


class History(NamedTuple):
    """Earlier calibrations of a run, and all images that they used, for tuning or calibration."""

    calibrations: tuple[RecordedCalibration, ...] = ()
    images: PolicyImages = PolicyImages((), (), ())

    def repeated(self, sets: Sequence[ImageSet]) -> RepeatedCases | None:
        """Cases of these sets that earlier calibrations used; None if there are none.

        An image is known by its content, and a group also by its name.
        """
        hashes = set(self.images.hashes)
        named = {group for group in self.images.groups if not group.startswith(OFFERED)}
        cases = [
            (content in hashes, group)
            for images in sets
            for content, group in zip(images.hashes, images.groups, strict=True)
        ]
        groups = {group for used, group in cases if used or group in named}
        if not groups:
            return None
        return RepeatedCases(
            calibrations=len(self.calibrations),
            images=sum(used for used, _ in cases),
            groups=len(groups),
        )


def read_history(run: Path) -> tuple[History, list[str]]:
    """The earlier calibrations of a run; also a warning where their record cannot be read."""
    if not (run / POLICY_FOLDER).exists():
        return History(), []
    try:
        cases = read_document(run / POLICY_FOLDER / CASES, PolicyCases)
    except DataError:
        return History(), [
            "Warning: the record of earlier calibrations cannot be read, so it is not known "
            "whether they used these cases."
        ]
    used = {
        content: (image, content, group)
        for images in (cases.earlier, cases.tune, cases.calibration)
        for image, content, group in zip(*images, strict=True)
    }
    return History(cases.calibrations, PolicyImages(*zip(*used.values(), strict=True))), []
