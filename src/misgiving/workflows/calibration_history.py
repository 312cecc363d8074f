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
from misgiving.files import read_json
from misgiving.results.formats import read_document
from misgiving.results.schema import PolicyCases, PolicyImages, RecordedCalibration

OFFERED = "offered "  # before the group of an image that is only its own name in its data


class History(NamedTuple):
    """Earlier calibrations of a run, and all images that they used, for tuning or calibration.

    It is not complete where the record of one could not be read.
    """

    calibrations: tuple[RecordedCalibration, ...] = ()
    images: PolicyImages = PolicyImages((), (), ())
    complete: bool = True

    def repeated(self, sets: Sequence[ImageSet]) -> RepeatedCases | None:
        """Cases of these sets that earlier calibrations used; None if it is known of none.

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
        if not groups and self.complete:
            return None
        return RepeatedCases(
            calibrations=len(self.calibrations),
            images=sum(used for used, _ in cases),
            groups=len(groups),
            complete=self.complete,
        )


def read_history(run: Path) -> History:
    """The earlier calibrations of a run."""
    path = run / POLICY_FOLDER / CASES
    if not path.parent.exists():
        return History()
    try:
        cases = read_document(path, PolicyCases)
    except DataError:
        return History(images=_merged(_readable_sets(path)), complete=False)
    images = _merged([cases.earlier, cases.tune, cases.calibration])
    return History(cases.calibrations, images, cases.complete)


def _merged(sets: Sequence[PolicyImages]) -> PolicyImages:
    """The images of all sets, each content once."""
    used = {
        content: (image, content, group)
        for images in sets
        for image, content, group in zip(*images, strict=True)
    }
    return PolicyImages(*zip(*used.values(), strict=True)) if used else PolicyImages((), (), ())


def _readable_sets(path: Path) -> list[PolicyImages]:
    """The sets of images in a record of another format, as far as they can be read."""
    try:
        content = read_json(path, remedy="")
    except DataError:
        return []
    sets = [content.get(name) for name in ("earlier", "tune", "calibration")]
    columns = [[of.get(name) for name in PolicyImages._fields] for of in sets if type(of) is dict]
    return [
        PolicyImages(*zip(*rows, strict=True))
        for lists in columns
        if all(type(one) is list for one in lists) and (rows := [*zip(*lists, strict=False)])
    ]
