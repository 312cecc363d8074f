"""Check of a labelled image set before training: damage, duplicates and contradictions."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misgiving.data.cache import Report
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.decoding import in_order
from misgiving.data.duplicates import PICTURE_HASH, Hashes, near_duplicates, picture_hash
from misgiving.data.splits import paper_split
from misgiving.errors import ExplainedError, reason_of
from misgiving.files import write_csv
from misgiving.manifests import sha256_of

FINDINGS_FILE = "findings.csv"
DARK = 16  # of 255: the brightest value of 12 bits that are stored as 16
SEVERAL_SETS = "in several sets of the split"

SAME_CONTENT, SAME_PIXELS, NEAR = "same content", "same pixels", "near duplicates"
Pair = tuple[int, int, str]
"""Positions of two copies or of two images of a group, the earlier first, and the kind or group."""

Facts = tuple[tuple[str, str], Hashes, int]
"""SHA-256 of an image's content and of its pixels, its picture hash and its brightest value."""


class Finding(NamedTuple):
    """An image with a problem, and the image that it is compared with, if any, by id."""

    check: str
    image: str
    other: str
    detail: str


@dataclass(frozen=True)
class DataCheck:
    """Result of all checks of a set.

    Attributes:
        summary: Name, count and remark of the images, of each class and of each check. The count of
            a check is the number of images, pairs or groups concerned.
        findings: All images with problems.
    """

    summary: list[tuple[str, int, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(
        self,
        name: str,
        rows: Iterable[tuple[str, str, str]] = (),
        *,
        count: int | None = None,
        remark: str = "",
    ) -> None:
        """Add a check with its findings: image, other image and detail of each."""
        findings = [Finding(name, *row) for row in rows]
        self.summary.append((name, len(findings) if count is None else count, remark))
        self.findings.extend(findings)

    def write(self, folder: Path) -> None:
        """Write the findings to `findings.csv`."""
        write_csv(folder / FINDINGS_FILE, Finding._fields, self.findings)


def data_check(dataset: Dataset, *, seed: int = 0, report: Report | None = None) -> DataCheck:
    """Check every image and label of a set; an unreadable image is a finding.

    Only hashes and a thumbnail of each image are kept. The sets that are compared are those of the
    paper's split, by image, with this seed.
    """
    images: dict[int, Facts] = {}
    unreadable: list[tuple[str, str, str]] = []
    for index, facts in enumerate(in_order(partial(_facts_of, dataset), len(dataset))):
        if isinstance(facts, str):
            unreadable.append((dataset.ids[index], "", facts))
        else:
            images[index] = facts
        if report:
            report(index + 1, len(dataset))
    result = DataCheck()
    result.add("images", count=len(dataset), remark=f"in {len(dataset.classes)} classes")
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes)).tolist()
    for name, count in zip(dataset.classes, counts, strict=True):
        result.add(f"images of {name}", count=count)
    result.add("unreadable files", unreadable, remark=unreadable[0][2] if unreadable else "")
    _add_relations(result, dataset, _copies(images), seed)
    dark = [
        (dataset.ids[index], "", f"brightest value {brightest} of 255")
        for index, (*_, brightest) in images.items()
        if brightest <= DARK
    ]
    remark = "as 12 bits in 16; save them with the whole range of values" if dark else ""
    result.add("nearly black images", dark, remark=remark)
    return result


def _facts_of(dataset: Dataset, index: int) -> Facts | str:
    """Facts of an image, or in one line the reason why it cannot be read."""
    try:
        content, image = dataset.images.read(index)
        pixels = sha256_of(f"{image.shape}".encode() + image.tobytes())
        return (content, pixels), picture_hash(image), int(image.max())
    except Exception as failure:  # whatever happens, the other images are still checked
        return reason_of(failure).encode(errors="backslashreplace").decode()


def _copies(images: Mapping[int, Facts]) -> list[Pair]:
    """Each image that repeats an earlier one, with the first such; then near duplicates.

    A pair is listed once, by its closest agreement.
    """
    first_with: dict[tuple[str, str], int] = {}
    distinct: dict[int, Hashes] = {}
    exact: list[Pair] = []
    for index, (hashes, picture, _) in images.items():
        for key in zip((SAME_CONTENT, SAME_PIXELS), hashes, strict=True):
            if (first := first_with.setdefault(key, index)) != index:
                exact.append((first, index, key[0]))
                break
        else:
            distinct[index] = picture
    positions = list(distinct)
    near = near_duplicates(np.array([*distinct.values()], dtype=PICTURE_HASH))
    return exact + [(positions[first], positions[second], NEAR) for first, second in near]


def _add_relations(result: DataCheck, dataset: Dataset, copies: Sequence[Pair], seed: int) -> None:
    """Add the checks of copies and of groups, each image of which is compared with the first."""
    add_copies = partial(_add_copies, result, dataset)
    add_groups = partial(_add_groups, result, dataset)
    for name, kind in (
        ("files of the same content", SAME_CONTENT),
        ("files of the same pixels alone", SAME_PIXELS),
        ("near duplicates", NEAR),
    ):
        add_copies(name, [pair for pair in copies if pair[2] == kind])
    first: dict[str, int] = {}
    members = [
        (first.setdefault(group, index), index, group) for index, group in enumerate(dataset.groups)
    ]
    groups = sorted(pair for pair in members if pair[0] != pair[1])
    images = len(groups) + len({earliest for earliest, *_ in groups})
    add_groups("groups with several images", groups, f"{images} images; {len(first)} groups in all")
    try:
        sets = paper_split(dataset.labels, dataset.classes, seed=seed).tolist()
    except ExplainedError as failure:
        for kind in ("groups", "copies"):
            result.add(f"{kind} {SEVERAL_SETS}", remark=f"there is no split: {failure}")
    else:
        sizes = ", ".join(f"{size} in {name}" for name, size in Counter(sets).most_common())
        add_groups(f"groups {SEVERAL_SETS}", _differing(groups, sets), sizes)
        add_copies(f"copies {SEVERAL_SETS}", _differing(copies, sets))
    labels = [dataset.classes[label] for label in dataset.labels]
    add_copies("copies with different labels", _differing(copies, labels))
    add_groups("groups with different labels", _differing(groups, labels))


def _differing(pairs: Sequence[Pair], values: Sequence[str]) -> list[Pair]:
    """The pairs of images whose values differ, which are added to the detail."""
    return [
        (first, second, f"{detail}: {values[second]}, {values[first]}")
        for first, second, detail in pairs
        if values[first] != values[second]
    ]


def _add_copies(result: DataCheck, dataset: Dataset, name: str, pairs: Sequence[Pair]) -> None:
    between_groups = sum(
        dataset.groups[first] != dataset.groups[second] for first, second, _ in pairs
    )
    remark = f"{between_groups} of different groups" if pairs else ""
    result.add(name, _rows(dataset, pairs), remark=remark)


def _add_groups(
    result: DataCheck, dataset: Dataset, name: str, pairs: Sequence[Pair], remark: str = ""
) -> None:
    """Add a check that counts groups."""
    groups = {first for first, *_ in pairs}
    result.add(name, _rows(dataset, pairs), count=len(groups), remark=remark)


def _rows(dataset: Dataset, pairs: Sequence[Pair]) -> list[tuple[str, str, str]]:
    return [(dataset.ids[second], dataset.ids[first], detail) for first, second, detail in pairs]
