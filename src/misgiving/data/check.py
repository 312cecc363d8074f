"""Check of a labelled image set before training: counts, damage, duplicates and contradictions."""

from collections import Counter, defaultdict
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
from misgiving.files import write_csv, write_json
from misgiving.manifests import sha256_of

Report = Callable[[int, int], None]
"""Called with the number of images that are done, and the total."""

REPORT_FILE, FINDINGS_FILE = "check.json", "findings.csv"
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
        """Write everything to `check.json`, and the findings to `findings.csv`."""
        report = {
            "name": self.name,
            "images": self.images,
            "classes": [
                {"name": name, "images": count, "published": published}
                for name, (count, published) in self.classes.items()
            ],
            "checks": [
                {"check": check.name, "count": check.count, "remark": check.remark}
                for check in self.checks
            ],
            "findings": [finding._asdict() for finding in self.findings],
        }
        write_csv(folder / FINDINGS_FILE, Finding._fields, self.findings)
        write_json(folder / REPORT_FILE, report)


def data_check(
    dataset: Dataset, *, sets: SetNames | None = None, seed: int = 0, report: Report | None = None
) -> DataCheck:
    """Check every image and label of a set; an unreadable image is a finding.

    Only hashes and a thumbnail of each image are kept. `sets` is the split whose sets are compared;
    by default it is the paper's, by image, with this seed.
    """
    split: SetNames | str
    try:
        split = paper_split(dataset.labels, dataset.classes, seed=seed) if sets is None else sets
    except ExplainedError as failure:
        split = f"there is no split: {failure}"
    images: list[_ImageFacts | str] = []
    for facts in in_order(lambda index: _facts_of(dataset, index), len(dataset)):
        images.append(facts)
        if report:
            report(len(images), len(dataset))
    by_id = dict(zip(dataset.ids, images, strict=True))
    unreadable = {name: reason for name, reason in by_id.items() if isinstance(reason, str)}
    readable = {name: facts for name, facts in by_id.items() if not isinstance(facts, str)}
    return DataCheck(
        name=dataset.name,
        images=len(dataset),
        classes=_class_counts(dataset),
        checks=[
            _listed("unreadable files", unreadable, next(iter(unreadable.values()), "")),
            *_duplicates(dataset, _copies(images), split),
            *_odd_images(readable),
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


def _copies(images: Sequence[_ImageFacts | str]) -> list[Copy]:
    """Each image that repeats an earlier one, with the first such; then near duplicates.

    A pair is listed once, by its closest agreement. Unreadable images never count as copies.
    """
    by_content: dict[str, int] = {}
    by_pixels: dict[str, int] = {}
    distinct: dict[int, Hashes] = {}
    exact = []
    for index, image in enumerate(images):
        if isinstance(image, str):
            continue
        if (first := by_content.setdefault(image.content, index)) != index:
            exact.append((first, index, SAME_CONTENT))
        elif (first := by_pixels.setdefault(image.pixels, index)) != index:
            exact.append((first, index, SAME_PIXELS))
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
    names = [*published, *(name for name in present if name not in published)]
    return {name: (present.get(name, 0), published.get(name, 0)) for name in names}


def _listed(name: str, details: Mapping[str, str], remark: str = "") -> Check:
    """A check with a finding for each of these images, given by id."""
    findings = [Finding(name, image, "", detail) for image, detail in details.items()]
    return Check(name=name, findings=findings, count=len(findings), remark=remark)


def _duplicates(dataset: Dataset, copies: Sequence[Copy], split: SetNames | str) -> Iterator[Check]:
    """Checks of copies and groups; `split` is the reason where there is no split."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(dataset.groups):
        members[group].append(index)
    several = [images for images in members.values() if len(images) > 1]
    grouped = [
        (first, other, dataset.groups[first]) for first, *others in several for other in others
    ]

    pairs = partial(_pairs, dataset)
    for name, kind in (
        ("files of the same content", SAME_CONTENT),
        ("files of the same pixels alone", SAME_PIXELS),
        ("near duplicates", NEAR),
    ):
        yield pairs(name, [pair for pair in copies if pair[2] == kind])
    total = f"{sum(map(len, several))} images; {len(members)} groups in all"
    check = pairs("groups with several images", grouped)
    yield replace(check, count=len(several), remark=total)
    split_groups, split_copies = (
        f"{kind} in several sets of the split" for kind in ("groups", "copies")
    )
    if isinstance(split, str):
        yield from (_listed(name, {}, split) for name in (split_groups, split_copies))
    else:
        sets = split.tolist()
        sizes = ", ".join(f"{size} in {name}" for name, size in Counter(sets).most_common())
        shared = count_shared_groups(dataset.groups, split)
        yield replace(pairs(split_groups, grouped, sets), count=shared, remark=sizes)
        yield pairs(split_copies, copies, sets)
    labels = [dataset.classes[label] for label in dataset.labels]
    yield pairs("copies with different labels", copies, labels)
    disputed = count_shared_groups(dataset.groups, dataset.labels)
    check = pairs("groups with different labels", grouped, labels)
    yield replace(check, count=disputed, remark="")


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
    areas = {name: image.height * image.width for name, image in images.items()}
    median = float(np.median([*areas.values()])) if areas else 0.0
    sizes = {name: f"{image.width} x {image.height}" for name, image in images.items()}
    sides = {name: sorted((image.height, image.width)) for name, image in images.items()}

    def matching(matches: Callable[[str], bool]) -> dict[str, str]:
        return {name: size for name, size in sizes.items() if matches(name)}

    def is_unusual(name: str) -> bool:
        usual = median / UNUSUAL_AREA <= areas[name] <= median * UNUSUAL_AREA
        shorter, longer = sides[name]
        return not usual or longer > UNUSUAL_SHAPE * shorter

    distinct = f"{len({*sizes.values()})} sizes; the median has {median:.0f} pixels"
    yield _listed("images of unusual size", matching(is_unusual), distinct)
    yield _listed("grey images", matching(lambda name: images[name].is_grey))
    tiny = matching(lambda name: sides[name][0] < TINY)
    yield _listed("tiny images", tiny, f"shorter side under {TINY} pixels")
    dark = {
        name: f"brightest value {image.brightest} of 255"
        for name, image in images.items()
        if image.brightest <= DARK
    }
    remark = "as 12 bits in 16; save them with the whole range of values" if dark else ""
    yield _listed("nearly black images", dark, remark)
