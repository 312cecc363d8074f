"""Cases that earlier calibrations for a model have used.

Choosing the best of several calibrations voids the confidence also where their cases only overlap,
as sets do that are drawn with other seeds.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from misgiving.bundle.bundle import is_bundle
from misgiving.decisions.engine import CASES, POLICY, POLICY_FOLDER
from misgiving.deferral.policy import RepeatedCases
from misgiving.errors import DataError, UsageError
from misgiving.files import read_json
from misgiving.results.formats import read_document
from misgiving.results.policy_cases import PolicyCases, PolicyImages, RecordedCalibration
from misgiving.results.schema import SkippedImage

OFFERED = "offered "  # before the group of an image that is only its own name in its data


class History(NamedTuple):
    """Earlier calibrations, and all images that they used, for tuning or calibration.

    It is not complete where the record of one could not be read.
    """

    calibrations: tuple[RecordedCalibration, ...] = ()
    images: PolicyImages = PolicyImages((), (), ())
    complete: bool = True

    def repeated(self, sets: Sequence[PolicyImages]) -> RepeatedCases | None:
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

    def with_calibration(
        self,
        tune: PolicyImages,
        calibration: PolicyImages,
        *,
        data: str,
        seed: int,
        group_columns: tuple[str, ...],
        fingerprint: str,
        max_error: float,
        notes: Sequence[str],
        outputs: str = "logits",
        skipped: Sequence[SkippedImage] = (),
    ) -> PolicyCases:
        """The record of one more calibration.

        Args:
            tune: Its tuning set.
            calibration: Its calibration set.
            data: Its data, as the user names them.
            seed: Of its draws.
            group_columns: Columns of the data that define the groups.
            fingerprint: Identifies the calibration set.
            max_error: Its target.
            notes: Sentences on how it was fitted.
            outputs: `logits` or `probabilities`.
            skipped: Images that cannot be read.
        """
        return self.followed_by(
            PolicyCases(
                data=data,
                seed=seed,
                outputs=outputs,
                notes=tuple(notes),
                group_columns=group_columns,
                calibrations=(RecordedCalibration(fingerprint, max_error, 0, 0),),
                earlier=PolicyImages((), (), ()),
                complete=True,
                tune=tune,
                calibration=calibration,
                skipped=tuple(skipped),
            )
        )

    def followed_by(self, cases: PolicyCases) -> PolicyCases:
        """The record of a calibration as the last after these."""
        repeated = self.repeated((cases.tune, cases.calibration))
        counts = (repeated.images, repeated.groups) if repeated else (0, 0)
        last = cases.calibrations[-1]
        own = RecordedCalibration(last.fingerprint, last.max_error, *counts)
        return replace(
            cases,
            calibrations=(*self.calibrations, own),
            earlier=self.images,
            complete=self.complete,
        )


def refuse_other_folder(folder: Path) -> None:
    """Refuse to replace anything but a policy or an empty folder."""
    is_policy = (folder / POLICY).is_file() and not is_bundle(folder)  # a bundle has one inside
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if os.path.lexists(folder) and not (is_policy or is_empty):
        raise UsageError(f"{folder}: exists and is not a policy; choose another folder")


def refuse_folder_of_run(folder: Path) -> None:
    """Refuse a policy of predictions where a run has its own, whose cases it knows by content."""
    if folder.name == POLICY_FOLDER and (folder.parent / "split.csv").is_file():
        raise UsageError(f"{folder}: is for the policy of the run itself; choose another folder")


def read_history(policy: Path) -> History:
    """The earlier calibrations, from a policy's folder."""
    path = policy / CASES
    if not policy.exists():
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


def fitted_on(policy: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Hashes of the images that a policy was fitted on, and names of their groups."""
    cases = read_document(policy / CASES, PolicyCases)
    return frozenset(cases.tune.hashes + cases.calibration.hashes), named_groups(cases)


def named_groups(cases: PolicyCases) -> frozenset[str]:
    """Groups that a policy was fitted on; an image's own name is no group."""
    groups = cases.tune.groups + cases.calibration.groups
    return frozenset(group for group in groups if not group.startswith(OFFERED))


def in_named_groups(
    groups: Sequence[str], own: Sequence[str], named: Collection[str]
) -> Bool[np.ndarray, " n"]:
    """True for images of named groups; a group that is only the image's own is none.

    >>> in_named_groups(["ann", "b.png"], ["a.png", "b.png"], {"ann", "b.png"})
    array([ True, False])
    """
    pairs = zip(groups, own, strict=True)
    return np.array([group != name and group in named for group, name in pairs], dtype=bool)


def count_fitted_on(
    used: Bool[np.ndarray, " n"], related: Bool[np.ndarray, " n"], noun: str
) -> str:
    """The beginning of a sentence on images that a policy was fitted on, or others of their groups.

    >>> count_fitted_on(np.array([True, False, False]), np.array([False, True, False]), "rows")
    'the policy was fitted on 1 of these 3 rows, and on others of the groups of 1'
    """
    counted = f"the policy was fitted on {used.sum()} of these {len(used)} {noun}"
    if related.any():
        counted += f", and on others of the groups of {related.sum()}"
    return counted
