"""Check of a labelled image set before training: counts, damage, duplicates and contradictions."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misgiving.data.datasets.dataset import Dataset
from misgiving.data.datasets.dermoscopy import published_counts
from misgiving.data.decoding import in_order
from misgiving.data.duplicates import Hashes, concatenated, near_duplicates, picture_hash
from misgiving.data.splits import SetNames, count_shared_groups, paper_split
from misgiving.errors import ExplainedError, reason_of
from misgiving.files import write_csv
from misgiving.manifests import sha256_of

Report = Callable[[int, int], None]
"""Called with the number of images that are done, and the total."""

FINDINGS_FILE = "findings.csv"
TINY = 32  # pixels of the shorter side
UNUSUAL_AREA = 4  # times more or fewer pixels than the median
UNUSUAL_SHAPE = 2.5  # times as long as wide
DARK = 16  # of 255: the brightest value of 12 bits that are stored as 16

SAME_CONTENT, SAME_PIXELS, NEAR = "same content", "same pixels", "near duplicates"
Copy = tuple[int, int, str]
"""Positions of two images that show the same, and the kind of agreement."""


class Finding(NamedTuple):
    """An image with a problem, and the image that it is compared with, if any, by id."""

    check: str
    image: str
    other: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check of all images, its findings, and the number of images, pairs or groups concerned."""

    name: str
    findings: Sequence[Finding]
    count: int
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """Result of all checks of a set.

    Attributes:
        name: The set as it was asked for.
        images: Number of images.
        classes: Number of images of each class, and the published number where it is known; with
            published classes that are missing.
        checks: All checks.
    """

    name: str
    images: int
    classes: Mapping[str, tuple[int, int | None]]
    checks: Sequence[Check]

    @property
    def findings(self) -> list[Finding]:
        """All images with problems."""
        return [*chain.from_iterable(check.findings for check in self.checks)]

    def summary(self) -> Iterator[tuple[str, int, str]]:
        """Counts of images, by class and beside the published counts, and of findings."""
        yield "images", self.images, f"in {len(self.classes)} classes"
        for name, (count, published) in self.classes.items():
            remark = "as published" if count == published else f"published: {published}"
            yield f"images of {name}", count, "" if published is None else remark
        for check in self.checks:
            yield check.name, check.count, check.remark

    def write(self, folder: Path) -> None:
        """Write the findings to `findings.csv`."""
        write_csv(folder / FINDINGS_FILE, Finding._fields, self.findings)


def data_check(
    dataset: Dataset, *, sets: SetNames | None = None, seed: int = 0, report: Report | None = None
) -> DataCheck:
    """Check every image and label of a set; an unreadable image is a finding.

    Only hashes and a thumbnail of each image are kept. `sets` is the split whose sets are compared;
    by default it is the paper's, by image, with this seed.
    """
    no_split = ""
    if sets is None:
        try:
            sets = paper_split(dataset.labels, dataset.classes, seed=seed)
        except ExplainedError as failure:
            no_split = f"there is no split: {failure}"
    images: dict[int, _ImageFacts] = {}
    unreadable: dict[str, str] = {}
    for index, facts in enumerate(in_order(partial(_facts_of, dataset), len(dataset))):
        if isinstance(facts, str):
            unreadable[dataset.ids[index]] = facts
        else:
            images[index] = facts
        if report:
            report(index + 1, len(dataset))
    return DataCheck(
        name=dataset.name,
        images=len(dataset),
        classes=_class_counts(dataset),
        checks=[
            _listed("unreadable files", unreadable, next(iter(unreadable.values()), "")),
            *_relations(dataset, _copies(images), sets, no_split),
            *_odd_images({dataset.ids[index]: facts for index, facts in images.items()}),
        ],
    )


class _ImageFacts(NamedTuple):
    """Hashes and size of an image that was read; `content` is the SHA-256 of its file."""

    content: str
    pixels: str
    picture: Hashes
    height: int
    width: int
    is_grey: bool
    brightest: int


def _facts_of(dataset: Dataset, index: int) -> _ImageFacts | str:
    """Hashes and size of an image, or in one line the reason why it cannot be read."""
    try:
        content, image = dataset.images.read(index)
        height, width, _ = image.shape
        is_grey = bool((image == image[..., :1]).all())
        pixels = sha256_of(f"{image.shape}".encode() + image.tobytes())
        picture, brightest = picture_hash(image), int(image.max())
        return _ImageFacts(content, pixels, picture, height, width, is_grey, brightest)
    except Exception as failure:  # whatever happens, the other images are still checked
        return reason_of(failure).encode(errors="backslashreplace").decode()


def _copies(images: Mapping[int, _ImageFacts]) -> list[Copy]:
    """Each image that repeats an earlier one, with the first such; then near duplicates.

    A pair is listed once, by its closest agreement.
    """
    first_with: dict[str, int] = {}
    distinct: dict[int, Hashes] = {}
    exact: list[Copy] = []
    for index, image in images.items():
        for kind, key in ((SAME_CONTENT, image.content), (SAME_PIXELS, f"pixels {image.pixels}")):
            if (first := first_with.setdefault(key, index)) != index:
                exact.append((first, index, kind))
                break
        else:
            distinct[index] = image.picture
    positions = list(distinct)
    near = near_duplicates(concatenated(distinct.values()))
    return exact + [(positions[first], positions[second], NEAR) for first, second in near]


def _class_counts(dataset: Dataset) -> dict[str, tuple[int, int | None]]:
    published = published_counts(dataset.name)
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes)).tolist()
    present = dict(zip(dataset.classes, counts, strict=True))
    if published is None:
        return {name: (count, None) for name, count in present.items()}
    names = dict.fromkeys([*published, *present])
    return {name: (present.get(name, 0), published.get(name, 0)) for name in names}


def _listed(name: str, details: Mapping[str, str], remark: str = "") -> Check:
    """A check with a finding for each of these images, given by id."""
    findings = [Finding(name, image, "", detail) for image, detail in details.items()]
    return Check(name=name, findings=findings, count=len(findings), remark=remark)


def _relations(
    dataset: Dataset, copies: Sequence[Copy], sets: SetNames | None, no_split: str
) -> Iterator[Check]:
    """Checks of copies and of groups; `no_split` is the reason where there are no sets."""
    pairs = partial(_pairs, dataset)
    for name, kind in (
        ("files of the same content", SAME_CONTENT),
        ("files of the same pixels alone", SAME_PIXELS),
        ("near duplicates", NEAR),
    ):
        yield pairs(name, [pair for pair in copies if pair[2] == kind])
    first: dict[str, int] = {}
    members = [
        (first.setdefault(group, index), index, group) for index, group in enumerate(dataset.groups)
    ]
    groups = sorted(pair for pair in members if pair[0] != pair[1])
    several = len({earliest for earliest, *_ in groups})
    total = f"{several + len(groups)} images; {len(first)} groups in all"
    yield replace(pairs("groups with several images", groups), count=several, remark=total)
    if sets is None:
        for kind in ("groups", "copies"):
            yield _listed(f"{kind} in several sets of the split", {}, no_split)
    else:
        names = sets.tolist()
        sizes = ", ".join(f"{size} in {name}" for name, size in Counter(names).most_common())
        check = pairs("groups in several sets of the split", groups, names)
        count = count_shared_groups(dataset.groups, sets)
        yield replace(check, count=count, remark=sizes)
        yield pairs("copies in several sets of the split", copies, names)
    labels = [dataset.classes[label] for label in dataset.labels]
    yield pairs("copies with different labels", copies, labels)
    check = pairs("groups with different labels", groups, labels)
    yield replace(check, count=count_shared_groups(dataset.groups, dataset.labels), remark="")


def _pairs(
    dataset: Dataset, name: str, pairs: Iterable[Copy], values: Sequence[str] | None = None
) -> Check:
    """A finding for each pair, or only for those whose `values` differ."""
    findings, between_groups = [], 0
    for first, second, detail in pairs:
        if values is not None:
            if values[first] == values[second]:
                continue
            detail = f"{detail}: {values[second]}, {values[first]}"
        findings.append(Finding(name, dataset.ids[second], dataset.ids[first], detail))
        between_groups += dataset.groups[first] != dataset.groups[second]
    remark = f"{between_groups} of different groups" if findings else ""
    return Check(name=name, findings=findings, count=len(findings), remark=remark)


def _odd_images(images: Mapping[str, _ImageFacts]) -> Iterator[Check]:
    """Checks of sizes, of images without colours and of those that are nearly black."""
    sizes = {name: f"{image.width} x {image.height}" for name, image in images.items()}
    areas = [image.height * image.width for image in images.values()]
    median = float(np.median(areas)) if areas else 0.0

    def matching(name: str, matches: Callable[[_ImageFacts], bool], remark: str = "") -> Check:
        details = {key: sizes[key] for key, image in images.items() if matches(image)}
        return _listed(name, details, remark)

    def is_unusual(image: _ImageFacts) -> bool:
        shorter, longer = sorted((image.height, image.width))
        usual = median / UNUSUAL_AREA <= shorter * longer <= median * UNUSUAL_AREA
        return not usual or longer > UNUSUAL_SHAPE * shorter

    distinct = f"{len({*sizes.values()})} sizes; the median has {median:.0f} pixels"
    yield matching("images of unusual size", is_unusual, distinct)
    yield matching("grey images", lambda image: image.is_grey)
    tiny = f"shorter side under {TINY} pixels"
    yield matching("tiny images", lambda image: min(image.height, image.width) < TINY, tiny)
    dark = {
        name: f"brightest value {image.brightest} of 255"
        for name, image in images.items()
        if image.brightest <= DARK
    }
    remark = "as 12 bits in 16; save them with the whole range of values" if dark else ""
    yield _listed("nearly black images", dark, remark)
