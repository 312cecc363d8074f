"""Audit of a labelled image set before training: counts, damage, duplicates and contradictions."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misgiving.data.datasets.dataset import Dataset
from misgiving.data.datasets.dermoscopy import published_counts
from misgiving.data.decoding import in_order
from misgiving.data.duplicates import Hashes, concatenated, near_duplicates, picture_hash
from misgiving.data.splits import SetNames, count_shared_groups, paper_split
from misgiving.errors import ExplainedError, reason_of
from misgiving.files import write_csv, write_json
from misgiving.manifests import sha256_of

Report = Callable[[int, int], None]
"""Called with the number of images that are done, and the total."""

TINY = 32  # pixels of the shorter side
UNUSUAL_AREA = 4  # times more or fewer pixels than the median
UNUSUAL_SHAPE = 2.5  # times as long as wide
DARK = 16  # of 255: the brightest value of 12 bits that are stored as 16


class Finding(NamedTuple):
    """An image with a problem, and the image that it is compared with, if any, by id."""

    check: str
    image: str
    other: str
    detail: str


class Row(NamedTuple):
    """One line of the summary."""

    check: str
    count: int  # type: ignore[assignment]  # hides a method of tuples that no one needs
    remark: str


class ClassCount(NamedTuple):
    """Number of images of a class, and the published number, where it is known."""

    name: str
    images: int
    published: int | None

    @property
    def remark(self) -> str:
        if self.published is None:
            return ""
        if self.images == self.published:
            return "as published"
        return f"published: {self.published}"


def folder_of_report(place: Path) -> Path:
    """The folder of all that an audit writes: `place`, or that of the file which `place` names."""
    return place.parent if place.suffix in (".json", ".csv") else place


class AuditFiles(NamedTuple):
    """Files that an audit writes; `suspects` only where labels are judged."""

    report: Path
    findings: Path
    suspects: Path


def files_of_audit(place: Path) -> AuditFiles:
    """The files in a folder, or beside the file, `.json` or `.csv`, that `place` names."""
    folder = folder_of_report(place)
    report, findings = folder / "audit.json", folder / "findings.csv"
    if folder != place:
        report, findings = place.with_suffix(".json"), place.with_suffix(".csv")
    return AuditFiles(report, findings, folder / "suspect_labels.csv")


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Result of an audit.

    Attributes:
        name: The set as it was asked for.
        images: Number of images.
        classes: All classes of the set, and published classes that are missing.
        checks: A row for each check.
        findings: All images with problems.
    """

    name: str
    images: int
    classes: tuple[ClassCount, ...]
    checks: tuple[Row, ...]
    findings: tuple[Finding, ...]

    def summary(self) -> list[Row]:
        """Counts of images, by class and beside the published counts, and of findings."""
        rows = [Row(f"images of {of.name}", of.images, of.remark) for of in self.classes]
        return [Row("images", self.images, f"in {len(self.classes)} classes"), *rows, *self.checks]

    def write(self, place: Path) -> Path:
        """Write everything as JSON, and the findings as CSV.

        `place` is a folder, for `audit.json` and `findings.csv`, or one of two files, `.json` or
        `.csv`, next to which the other is written.
        """
        files = files_of_audit(place)
        lists = {
            name: [row._asdict() for row in getattr(self, name)]
            for name in ("classes", "checks", "findings")
        }
        write_csv(files.findings, Finding._fields, self.findings)
        write_json(files.report, {"name": self.name, "images": self.images, **lists})
        return place


def audit(
    dataset: Dataset, *, sets: SetNames | None = None, seed: int = 0, report: Report | None = None
) -> Audit:
    """Check every image and label of a set; an unreadable image is a finding.

    Only hashes and a thumbnail of each image are kept. `sets` is the split whose sets are compared;
    by default it is the paper's, by image, with this seed.
    """
    split: SetNames | str
    try:
        split = paper_split(dataset.labels, dataset.classes, seed=seed) if sets is None else sets
    except ExplainedError as failure:
        split = f"there is no split: {failure}"
    looks: list[_Look | str] = []
    for look in in_order(lambda index: _look(dataset, index), len(dataset)):
        looks.append(look)
        if report:
            report(len(looks), len(dataset))
    checks = [
        _unreadable(dataset, looks),
        *_duplicates(dataset, _copies(looks), split),
        *_sizes(dataset, looks),
        _nearly_black(dataset, looks),
    ]
    return Audit(
        name=dataset.name,
        images=len(dataset),
        classes=_class_counts(dataset),
        checks=tuple(check.row for check in checks),
        findings=tuple(finding for check in checks for finding in check.findings),
    )


SAME_CONTENT, SAME_PIXELS, NEAR = "same content", "same pixels", "near duplicates"


class Copy(NamedTuple):
    """Two images, by position, that show the same, and the kind of agreement."""

    first: int
    second: int
    kind: str


class _Look(NamedTuple):
    """Hashes and size of an image that was read; `content` is the SHA-256 of its file."""

    content: str
    pixels: str
    picture: Hashes
    height: int
    width: int
    is_grey: bool
    brightest: int


def _look(dataset: Dataset, index: int) -> _Look | str:
    """Hashes and size of an image, or in one line the reason why it cannot be read."""
    try:
        content, image = dataset.images.read(index)
        height, width, _ = image.shape
        is_grey = bool((image == image[..., :1]).all())
        pixels = sha256_of(f"{image.shape}".encode() + image.tobytes())
        brightest = int(image.max())
        return _Look(content, pixels, picture_hash(image), height, width, is_grey, brightest)
    except Exception as failure:  # whatever happens, the other images are still audited
        reason = reason_of(failure)
        return reason.encode(errors="backslashreplace").decode()


def _copies(looks: Sequence[_Look | str]) -> list[Copy]:
    """Each image that repeats an earlier one, with the first such; then near duplicates.

    A pair is listed once, by its closest agreement. Unreadable images never count as copies.
    """
    by_content: dict[str, int] = {}
    by_pixels: dict[str, int] = {}
    distinct: dict[int, Hashes] = {}
    found = []
    for index, image in enumerate(looks):
        if isinstance(image, str):
            continue
        if (first := by_content.setdefault(image.content, index)) != index:
            found.append(Copy(first, index, SAME_CONTENT))
        elif (first := by_pixels.setdefault(image.pixels, index)) != index:
            found.append(Copy(first, index, SAME_PIXELS))
        else:
            distinct[index] = image.picture
    positions = list(distinct)
    near = near_duplicates(concatenated(distinct.values()))
    return found + [Copy(positions[first], positions[second], NEAR) for first, second in near]


def _class_counts(dataset: Dataset) -> tuple[ClassCount, ...]:
    published = published_counts(dataset.name) or {}
    found = np.bincount(dataset.labels, minlength=len(dataset.classes)).tolist()
    counts = dict.fromkeys(published, 0) | dict(zip(dataset.classes, found, strict=True))
    default = 0 if published else None
    return tuple(
        ClassCount(name, count, published.get(name, default)) for name, count in counts.items()
    )


class _Check(NamedTuple):
    """A line of the summary, and the findings behind it."""

    row: Row
    findings: list[Finding]

    def summarised(self, count: int, remark: str) -> "_Check":
        """The same findings under another count and remark."""
        return self._replace(row=Row(self.row.check, count, remark))


def _unreadable(dataset: Dataset, looks: Sequence[_Look | str]) -> _Check:
    name = "unreadable files"
    findings = [
        Finding(name, identity, "", look)
        for identity, look in zip(dataset.ids, looks, strict=True)
        if isinstance(look, str)
    ]
    return _Check(Row(name, len(findings), findings[0].detail if findings else ""), findings)


def _duplicates(dataset: Dataset, found: Sequence[Copy], split: SetNames | str) -> Iterator[_Check]:
    """Checks of copies and groups; `split` is the reason where there is no split."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(dataset.groups):
        members[group].append(index)
    several = [images for images in members.values() if len(images) > 1]
    grouped = [
        Copy(first, other, dataset.groups[first]) for first, *others in several for other in others
    ]

    check = partial(_pairs, dataset)
    for name, kind in (
        ("files of the same content", SAME_CONTENT),
        ("files of the same pixels alone", SAME_PIXELS),
        ("near duplicates", NEAR),
    ):
        yield check(name, [pair for pair in found if pair.kind == kind])
    total = sum(map(len, several))
    yield check("groups with several images", grouped).summarised(
        len(several), f"{total} images; {len(members)} groups in all"
    )
    groups, pairs = "groups in several sets of the split", "copies in several sets of the split"
    if isinstance(split, str):
        yield from (_Check(Row(name, 0, split), []) for name in (groups, pairs))
    else:
        sets = split.tolist()
        sizes = ", ".join(f"{size} in {name}" for name, size in Counter(sets).most_common())
        shared = count_shared_groups(dataset.groups, split)
        yield check(groups, grouped, sets).summarised(shared, sizes)
        yield check(pairs, found, sets)
    labels = [dataset.classes[label] for label in dataset.labels]
    yield check("copies with different labels", found, labels)
    disputed = count_shared_groups(dataset.groups, dataset.labels)
    yield check("groups with different labels", grouped, labels).summarised(disputed, "")


def _pairs(
    dataset: Dataset, name: str, pairs: Iterable[Copy], values: Sequence[str] | None = None
) -> _Check:
    """A finding for each pair, or only for those whose `values` differ."""
    findings, of_different_groups = [], 0
    for first, second, detail in pairs:
        if values is not None:
            if values[first] == values[second]:
                continue
            detail = f"{detail}: {values[second]}, {values[first]}"
        findings.append(Finding(name, dataset.ids[second], dataset.ids[first], detail))
        of_different_groups += dataset.groups[first] != dataset.groups[second]
    remark = f"{of_different_groups} of different groups" if findings else ""
    return _Check(Row(name, len(findings), remark), findings)


def _sizes(dataset: Dataset, looks: Sequence[_Look | str]) -> list[_Check]:
    read = {
        identity: look
        for identity, look in zip(dataset.ids, looks, strict=True)
        if not isinstance(look, str)
    }
    median = float(np.median([look.height * look.width for look in read.values()])) if read else 0.0
    sizes = len({(look.width, look.height) for look in read.values()})

    def is_unusual(look: _Look) -> bool:
        usual = median / UNUSUAL_AREA <= look.height * look.width <= median * UNUSUAL_AREA
        shorter, longer = sorted((look.height, look.width))
        return not usual or longer > UNUSUAL_SHAPE * shorter

    def check(name: str, matches: Callable[[_Look], bool], remark: str) -> _Check:
        findings = [
            Finding(name, identity, "", f"{look.width} x {look.height}")
            for identity, look in read.items()
            if matches(look)
        ]
        return _Check(Row(name, len(findings), remark), findings)

    sides = f"{sizes} sizes; the median has {median:.0f} pixels"
    return [
        check("images of unusual size", is_unusual, sides),
        check("grey images", lambda look: look.is_grey, ""),
        check(
            "tiny images",
            lambda look: min(look.height, look.width) < TINY,
            f"shorter side under {TINY} pixels",
        ),
    ]


def _nearly_black(dataset: Dataset, looks: Sequence[_Look | str]) -> _Check:
    name = "nearly black images"
    findings = [
        Finding(name, identity, "", f"brightest value {look.brightest} of 255")
        for identity, look in zip(dataset.ids, looks, strict=True)
        if not isinstance(look, str) and look.brightest <= DARK
    ]
    remark = "as 12 bits in 16; save them with the whole range of values" if findings else ""
    return _Check(Row(name, len(findings), remark), findings)
