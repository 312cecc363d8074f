"""Audit of a labelled image set before training: counts, damage, duplicates and contradictions."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misgiving.data.datasets import Dataset, published_counts
from misgiving.data.decoding import in_order
from misgiving.data.duplicates import (
    NEAR,
    SAME_CONTENT,
    SAME_PIXELS,
    Copy,
    Traits,
    copies,
    traits_of,
)
from misgiving.data.splits import SetNames, count_shared_groups, paper_split
from misgiving.errors import ExplainedError
from misgiving.files import write_csv, write_json

Report = Callable[[int, int], None]
"""Called with the number of images that are done, and the total."""

TINY = 32  # pixels of the shorter side
UNUSUAL_AREA = 4  # times more or fewer pixels than the median
UNUSUAL_SHAPE = 2.5  # times as long as wide


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

        Args:
            place: A folder, for `audit.json` and `findings.csv`; or a `.json` or `.csv` file, next
                to which the other is written.

        Returns:
            The place.
        """
        report, table = place / "audit.json", place / "findings.csv"
        if place.suffix in (".json", ".csv"):
            report, table = place.with_suffix(".json"), place.with_suffix(".csv")
        lists = {
            name: [row._asdict() for row in getattr(self, name)]
            for name in ("classes", "checks", "findings")
        }
        write_csv(table, Finding._fields, self.findings)
        write_json(report, {"name": self.name, "images": self.images, **lists})
        return place


def audit(
    dataset: Dataset, *, sets: SetNames | None = None, seed: int = 0, report: Report | None = None
) -> Audit:
    """Check every image and label of a set; an unreadable image is a finding.

    Only hashes and a thumbnail of each image are kept.

    Args:
        dataset: The set.
        sets: A split whose sets are compared. Default: the paper's, by image.
        seed: Of the paper's split.
        report: Called with the number of images that are done, and the total.
    """
    split: SetNames | str
    try:
        split = paper_split(dataset.labels, dataset.classes, seed=seed) if sets is None else sets
    except ExplainedError as failure:
        split = f"there is no split: {failure}"
    looks = []
    for look in in_order(lambda index: _look(dataset, index), len(dataset)):
        looks.append(look)
        if report:
            report(len(looks), len(dataset))
    traits = [None if isinstance(look, str) else look.traits for look in looks]
    checks = _Auditor(dataset, looks, copies(traits), split).checks()
    return Audit(
        name=dataset.name,
        images=len(dataset),
        classes=_class_counts(dataset),
        checks=tuple(row for row, _ in checks),
        findings=tuple(finding for _, findings in checks for finding in findings),
    )


class _Look(NamedTuple):
    """Traits and size of an image that was read."""

    traits: Traits
    height: int
    width: int
    is_grey: bool


def _look(dataset: Dataset, index: int) -> _Look | str:
    """Traits and size of an image, or in one line the reason why it cannot be read."""
    try:
        content, image = dataset.images.read(index)
        height, width, _ = image.shape
        is_grey = bool((image == image[..., :1]).all())
        return _Look(traits_of(content, image), height, width, is_grey)
    except Exception as failure:  # whatever happens, the other images are still audited
        reason = " ".join(str(failure).split()) or type(failure).__name__
        return reason.encode(errors="backslashreplace").decode()


def _class_counts(dataset: Dataset) -> tuple[ClassCount, ...]:
    published = published_counts(dataset.name) or {}
    found = np.bincount(dataset.labels, minlength=len(dataset.classes)).tolist()
    counts = dict.fromkeys(published, 0) | dict(zip(dataset.classes, found, strict=True))
    default = 0 if published else None
    return tuple(
        ClassCount(name, count, published.get(name, default)) for name, count in counts.items()
    )


_Check = tuple[Row, list[Finding]]


class _Auditor(NamedTuple):
    """Everything that the checks look at; `split` is a reason where there is no split."""

    dataset: Dataset
    looks: list[_Look | str]
    copies: list[Copy]
    split: SetNames | str

    def checks(self) -> list[_Check]:
        groups: dict[str, list[int]] = defaultdict(list)
        for index, group in enumerate(self.dataset.groups):
            groups[group].append(index)
        several = {group: images for group, images in groups.items() if len(images) > 1}
        of_groups = [
            Copy(first, index, group)
            for group, (first, *others) in several.items()
            for index in others
        ]
        names = [self.dataset.classes[label] for label in self.dataset.labels]
        disputed = _differing(of_groups, names)
        return [
            self._unreadable(),
            self._pairs("files of the same content", self._copies_of(SAME_CONTENT)),
            self._pairs("files of the same pixels alone", self._copies_of(SAME_PIXELS)),
            self._pairs("near duplicates", self._copies_of(NEAR)),
            self._pairs(
                "groups with several images",
                of_groups,
                count=len(several),
                remark=f"{sum(map(len, several.values()))} images; {len(groups)} groups in all",
            ),
            self._groups_in_several_sets(of_groups),
            self._in_several_sets("copies in several sets of the split", self.copies),
            self._pairs("copies with different labels", _differing(self.copies, names), names),
            self._pairs(
                "groups with different labels",
                disputed,
                names,
                count=len({pair.kind for pair in disputed}),
                remark="",
            ),
            *self._sizes(),
        ]

    def _copies_of(self, kind: str) -> list[Copy]:
        return [copy for copy in self.copies if copy.kind == kind]

    def _unreadable(self) -> _Check:
        name = "unreadable files"
        findings = [
            Finding(name, identity, "", look)
            for identity, look in zip(self.dataset.ids, self.looks, strict=True)
            if isinstance(look, str)
        ]
        return Row(name, len(findings), findings[0].detail if findings else ""), findings

    def _pairs(
        self,
        name: str,
        pairs: Sequence[Copy],
        values: Sequence[str] | None = None,
        *,
        count: int | None = None,
        remark: str | None = None,
    ) -> _Check:
        """A finding for each pair; the detail gives the kind of pair, and the `values` of both."""
        ids, groups = self.dataset.ids, self.dataset.groups
        findings = [
            Finding(
                name,
                ids[second],
                ids[first],
                kind if values is None else f"{kind}: {values[second]}, {values[first]}",
            )
            for first, second, kind in pairs
        ]
        if remark is None:
            others = sum(groups[first] != groups[second] for first, second, _ in pairs)
            remark = f"{others} of different groups" if pairs else ""
        return Row(name, len(pairs) if count is None else count, remark), findings

    def _in_several_sets(
        self,
        name: str,
        pairs: Sequence[Copy],
        *,
        count: int | None = None,
        remark: str | None = None,
    ) -> _Check:
        if isinstance(self.split, str):
            return Row(name, 0, self.split), []
        sets = self.split.tolist()
        return self._pairs(name, _differing(pairs, sets), sets, count=count, remark=remark)

    def _groups_in_several_sets(self, pairs: Sequence[Copy]) -> _Check:
        count, remark = None, None
        if not isinstance(self.split, str):
            sizes = Counter(self.split.tolist()).most_common()
            remark = ", ".join(f"{size} in {name}" for name, size in sizes)
            count = count_shared_groups(self.dataset.groups, self.split)
        return self._in_several_sets(
            "groups in several sets of the split", pairs, count=count, remark=remark
        )

    def _sizes(self) -> list[_Check]:
        looks = [look for look in self.looks if not isinstance(look, str)]
        median = float(np.median([look.height * look.width for look in looks])) if looks else 0.0
        sizes = len({(look.width, look.height) for look in looks})

        def is_unusual(look: _Look) -> bool:
            usual = median / UNUSUAL_AREA <= look.height * look.width <= median * UNUSUAL_AREA
            shorter, longer = sorted((look.height, look.width))
            return not usual or longer > UNUSUAL_SHAPE * shorter

        return [
            self._images(
                "images of unusual size",
                is_unusual,
                f"{sizes} sizes; the median has {median:.0f} pixels",
            ),
            self._images("grey images", lambda look: look.is_grey, ""),
            self._images(
                "tiny images",
                lambda look: min(look.height, look.width) < TINY,
                f"shorter side under {TINY} pixels",
            ),
        ]

    def _images(self, name: str, matches: Callable[[_Look], bool], remark: str) -> _Check:
        findings = [
            Finding(name, identity, "", f"{look.width} x {look.height}")
            for identity, look in zip(self.dataset.ids, self.looks, strict=True)
            if not isinstance(look, str) and matches(look)
        ]
        return Row(name, len(findings), remark), findings


def _differing(pairs: Sequence[Copy], values: Sequence[str]) -> list[Copy]:
    return [pair for pair in pairs if values[pair.first] != values[pair.second]]
