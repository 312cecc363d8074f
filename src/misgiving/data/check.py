"""Check of a labelled image set before training: damage, duplicates and contradictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from misgiving.csv_tables import write_csv
from misgiving.data.cache import Report
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.decoding import in_order
from misgiving.data.duplicates import PICTURE_HASH, Hashes, near_duplicates, picture_hash
from misgiving.errors import reason_of
from misgiving.files import sha256_of

FINDINGS_FILE = "findings.csv"
FINDING_COLUMNS = ("check", "image", "other", "detail")  # of that file
DARK_LEVEL = 16  # of 255: the brightest value of 12 bits that are stored as 16

SAME_CONTENT, SAME_PIXELS, NEAR_DUPLICATES = "same content", "same pixels", "near duplicates"
COPY_KINDS = {
    "files of the same content": SAME_CONTENT,
    "files of the same pixels alone": SAME_PIXELS,
    "near duplicates": NEAR_DUPLICATES,
}
Pair = tuple[int, int, str]
"""Position of an image, of the earlier one it is compared with or else its own, and the detail."""

Facts = tuple[tuple[str, str], Hashes, int]
"""SHA-256 of an image's content and of its pixels, its picture hash and its brightest value."""


@dataclass(frozen=True)
class DataCheck:
    """Result of all checks of a set.

    Attributes:
        dataset: The set.
        summary: Name, count and remark of the images, of each class and of each check. The count of
            a check is the number of images, pairs or groups concerned.
        findings: Each image with a problem: check, its id, that of the image it is compared with,
            if any, and detail.
    """

    dataset: Dataset
    summary: list[tuple[str, int, str]] = field(default_factory=list)
    findings: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(
        self, name: str, pairs: Sequence[Pair] = (), *, count: int | None = None, remark: str = ""
    ) -> None:
        """Add a check with its findings."""
        self.summary.append((name, len(pairs) if count is None else count, remark))
        ids = self.dataset.ids
        self.findings.extend(
            (name, ids[index], "" if other == index else ids[other], detail)
            for index, other, detail in pairs
        )

    def add_copies(self, name: str, pairs: Sequence[Pair]) -> None:
        """Add a check of copies, each with the image that it repeats."""
        groups = self.dataset.groups
        apart = sum(groups[index] != groups[other] for index, other, _ in pairs)
        self.add(name, pairs, remark=f"{apart} of different groups" if pairs else "")

    def add_groups(self, name: str, pairs: Sequence[Pair], remark: str = "") -> None:
        """Add a check that counts groups; each image is compared with the first of its group."""
        self.add(name, pairs, count=len({first for _, first, _ in pairs}), remark=remark)

    def write(self, folder: Path) -> None:
        """Write the findings to `findings.csv`."""
        write_csv(folder / FINDINGS_FILE, FINDING_COLUMNS, self.findings)


def data_check(dataset: Dataset, *, report: Report | None = None) -> DataCheck:
    """Check every image and label of a set; an unreadable image is a finding.

    Only hashes and a thumbnail of each image are kept.
    """
    images: dict[int, Facts] = {}
    unreadable: list[Pair] = []
    for index, facts in enumerate(in_order(partial(_facts_of, dataset), len(dataset))):
        if isinstance(facts, str):
            unreadable.append((index, index, facts))
        else:
            images[index] = facts
        if report:
            report(index + 1, len(dataset))
    result = DataCheck(dataset)
    result.add("images", count=len(dataset), remark=f"in {len(dataset.classes)} classes")
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes)).tolist()
    for name, count in zip(dataset.classes, counts, strict=True):
        result.add(f"images of {name}", count=count)
    result.add("unreadable files", unreadable, remark=unreadable[0][2] if unreadable else "")
    _add_relations(result, _copies(images))
    dark = [
        (index, index, f"brightest value {brightest} of 255")
        for index, (*_, brightest) in images.items()
        if brightest <= DARK_LEVEL
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
                exact.append((index, first, key[0]))
                break
        else:
            distinct[index] = picture
    positions = list(distinct)
    near = near_duplicates(np.array([*distinct.values()], dtype=PICTURE_HASH))
    pairs = [(positions[second], positions[first]) for first, second in near]
    return exact + [(*pair, NEAR_DUPLICATES) for pair in pairs]


def _add_relations(result: DataCheck, copies: Sequence[Pair]) -> None:
    """Add the checks of copies and of groups."""
    dataset = result.dataset
    for name, kind in COPY_KINDS.items():
        result.add_copies(name, [pair for pair in copies if pair[2] == kind])
    first: dict[str, int] = {}
    members = [
        (index, first.setdefault(group, index), group) for index, group in enumerate(dataset.groups)
    ]
    groups = sorted((pair for pair in members if pair[0] != pair[1]), key=lambda pair: pair[1])
    images = len(groups) + len({earliest for _, earliest, _ in groups})
    remark = f"{images} images; {len(first)} groups in all"
    result.add_groups("groups with several images", groups, remark)
    labels = [dataset.classes[label] for label in dataset.labels]
    result.add_copies("copies with different labels", _differing(copies, labels))
    result.add_groups("groups with different labels", _differing(groups, labels))


def _differing(pairs: Sequence[Pair], values: Sequence[str]) -> list[Pair]:
    """The pairs of images whose values differ, which are added to the detail."""
    return [
        (index, other, f"{detail}: {values[index]}, {values[other]}")
        for index, other, detail in pairs
        if values[index] != values[other]
    ]
