"""What is wrong with a labelled image set, found before anything is learnt from it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
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
"""Called with how many images are done, and of how many."""

TINY = 32  # pixels of the shorter side
UNUSUAL_AREA = 4  # times the median's pixels, or a median of that many times the pixels
UNUSUAL_SHAPE = 2.5  # times as long as wide


class Finding(NamedTuple):
    """One image that is not as it should be, and the one it is compared with, if any, by id."""

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
    """How many images of a class there are, and how many were published, where that is known."""

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
        images: How many there are.
        classes: All classes of the set, and published ones that it lacks.
        checks: A row for each check.
        findings: All images that the checks name.
    """

    name: str
    images: int
    classes: tuple[ClassCount, ...]
    checks: tuple[Row, ...]
    findings: tuple[Finding, ...]

    def summary(self) -> list[Row]:
        """Counts of images, of each class beside the published ones, and of what was found."""
        rows = [Row(f"images of {of.name}", of.images, of.remark) for of in self.classes]
        return [Row("images", self.images, f"in {len(self.classes)} classes"), *rows, *self.checks]

    def write(self, place: Path) -> Path:
        """Write all of it as JSON and the findings as a table, each whole or not at all.

        Args:
            place: A folder, for `audit.json` and `findings.csv`; or a `.json` or `.csv` file,
                beside which the other is written.

        Returns:
            The place.
        """
        is_file = place.suffix in (".json", ".csv")
        report, table = (
            (place.with_suffix(".json"), place.with_suffix(".csv"))
            if is_file
            else (place / "audit.json", place / "findings.csv")
        )
        write_csv(table, Finding._fields, self.findings)
        write_json(report, self._content())
        return place

    def _content(self) -> dict[str, object]:
        return {"name": self.name, "images": self.images} | {
            name: [row._asdict() for row in getattr(self, name)]
            for name in ("classes", "checks", "findings")
        }


def audit(
    dataset: Dataset, *, sets: SetNames | None = None, seed: int = 0, report: Report | None = None
) -> Audit:
    """Look at every image and label of a set; an image that cannot be read is a finding.

    Only hashes and a thumbnail of each image are kept.

    Args:
        dataset: The set.
        sets: A split whose sets are compared. Default: the paper's, by image.
        seed: Of the paper's split.
        report: Told how many images are done.
    """
    split = _drawn(dataset, seed) if sets is None else sets
    material = _material(dataset, split, report)
    checks = [check(material) for check in CHECKS]
    return Audit(
        name=dataset.name,
        images=len(dataset),
        classes=_class_counts(dataset),
        checks=tuple(Row(check.name, check.number, check.remark) for check in checks),
        findings=tuple(finding for check in checks for finding in check.findings),
    )


def _material(dataset: Dataset, split: SetNames | str, report: Report | None) -> "_Material":
    looked = _looked(dataset, report)
    traits = [None if isinstance(look, str) else look.traits for look in looked]
    return _Material(dataset, looked, copies(traits), split)


def _drawn(dataset: Dataset, seed: int) -> SetNames | str:
    """The paper's split, or why there is none."""
    try:
        return paper_split(dataset.labels, dataset.classes, seed=seed)
    except ExplainedError as failure:
        return f"there is no split: {failure}"


class _Look(NamedTuple):
    """What is kept of an image that was read."""

    traits: Traits
    height: int
    width: int
    is_grey: bool


def _looked(dataset: Dataset, report: Report | None) -> list[_Look | str]:
    """What is seen of every image, or in one line why it cannot be read."""
    looked = []
    for look in in_order(partial(_look, dataset), len(dataset)):
        looked.append(look)
        if report:
            report(len(looked), len(dataset))
    return looked


def _look(dataset: Dataset, index: int) -> _Look | str:
    try:
        content, image = dataset.images.read(index)
        return _Look(
            traits=traits_of(content, image),
            height=image.shape[0],
            width=image.shape[1],
            is_grey=bool((image == image[..., :1]).all()),
        )
    except Exception as failure:  # whatever an image does, the others are still looked at
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


class _Material(NamedTuple):
    """What the checks look at."""

    dataset: Dataset
    looked: list[_Look | str]
    copies: list[Copy]
    split: SetNames | str

    def class_names(self) -> list[str]:
        return [self.dataset.classes[label] for label in self.dataset.labels]

    def finding(self, check: str, image: int, other: int | None, detail: str) -> Finding:
        ids = self.dataset.ids
        return Finding(check, ids[image], "" if other is None else ids[other], detail)

    def lesions(self) -> dict[str, list[int]]:
        """Positions of the images of every lesion that has several."""
        members: dict[str, list[int]] = defaultdict(list)
        for index, group in enumerate(self.dataset.groups):
            members[group].append(index)
        return {group: indices for group, indices in members.items() if len(indices) > 1}

    def of_one_lesion(self) -> list[Copy]:
        """Each further image of a lesion with the lesion's first, and the lesion's name."""
        return [
            Copy(first, index, group)
            for group, (first, *others) in self.lesions().items()
            for index in others
        ]

    def read(self) -> Iterator[tuple[int, _Look]]:
        """Images that could be read, with their positions."""
        for index, look in enumerate(self.looked):
            if not isinstance(look, str):
                yield index, look


class _Check(NamedTuple):
    name: str
    findings: list[Finding]
    remark: str
    number: int


def _unreadable(material: _Material) -> _Check:
    name = "unreadable files"
    bad = [(index, look) for index, look in enumerate(material.looked) if isinstance(look, str)]
    findings = [material.finding(name, index, None, reason) for index, reason in bad]
    return _Check(name, findings, findings[0].detail if findings else "", len(findings))


def _compared(
    material: _Material, name: str, pairs: Sequence[Copy], said: Sequence[str] | None = None
) -> _Check:
    """A finding for each pair, with what `said` holds of either image, and what makes it a pair."""
    details = [
        f"{kind}: {said[second]}, {said[first]}" if said is not None else kind
        for first, second, kind in pairs
    ]
    findings = [
        material.finding(name, pair.second, pair.first, detail)
        for pair, detail in zip(pairs, details, strict=True)
    ]
    groups = material.dataset.groups
    others = sum(groups[first] != groups[second] for first, second, _ in pairs)
    return _Check(name, findings, f"{others} of different lesions" * bool(pairs), len(pairs))


def _differing(pairs: Sequence[Copy], said: Sequence[str]) -> list[Copy]:
    return [pair for pair in pairs if said[pair.first] != said[pair.second]]


def _copies_of(material: _Material, *, name: str, kind: str) -> _Check:
    return _compared(material, name, [copy for copy in material.copies if copy.kind == kind])


def _repeated_lesions(material: _Material) -> _Check:
    lesions = material.lesions()
    total = sum(map(len, lesions.values()))
    remark = f"{total} images; {len(set(material.dataset.groups))} lesions in all"
    found = _compared(material, "lesions with several images", material.of_one_lesion())
    return found._replace(remark=remark, number=len(lesions))


def _straddling_lesions(material: _Material) -> _Check:
    name = "lesions on two sides of the split"
    found = _straddling(material, name, material.of_one_lesion())
    if isinstance(material.split, str):
        return found
    sizes = Counter(material.split.tolist()).most_common()
    return found._replace(
        remark=", ".join(f"{count} in {part}" for part, count in sizes),
        number=count_shared_groups(material.dataset.groups, material.split),
    )


def _straddling_copies(material: _Material) -> _Check:
    return _straddling(material, "copies on two sides of the split", material.copies)


def _straddling(material: _Material, name: str, pairs: Sequence[Copy]) -> _Check:
    if isinstance(material.split, str):
        return _Check(name, [], material.split, 0)
    sets = material.split.tolist()
    return _compared(material, name, _differing(pairs, sets), sets)


def _contradicting_copies(material: _Material) -> _Check:
    names = material.class_names()
    apart = _differing(material.copies, names)
    return _compared(material, "copies with different labels", apart, names)


def _contradicting_lesions(material: _Material) -> _Check:
    names = material.class_names()
    apart = _differing(material.of_one_lesion(), names)
    found = _compared(material, "lesions with different labels", apart, names)
    return found._replace(remark="", number=len({pair.kind for pair in apart}))


def _unusual(material: _Material) -> _Check:
    looks = [look for _, look in material.read()]
    median = float(np.median([look.height * look.width for look in looks])) if looks else 0.0
    sizes = len({(look.width, look.height) for look in looks})
    remark = f"{sizes} sizes; the median has {median:.0f} pixels"
    matches = partial(_is_unusual, median=median)
    return _looking(material, name="images of unusual size", remark=remark, matches=matches)


def _is_unusual(look: _Look, *, median: float) -> bool:
    area = look.height * look.width
    length, breadth = max(look.height, look.width), min(look.height, look.width)
    as_large = median / UNUSUAL_AREA <= area <= median * UNUSUAL_AREA
    return not as_large or length > UNUSUAL_SHAPE * breadth


def _is_grey(look: _Look) -> bool:
    return look.is_grey


def _is_tiny(look: _Look) -> bool:
    return min(look.height, look.width) < TINY


def _looking(
    material: _Material, *, name: str, remark: str = "", matches: Callable[[_Look], bool]
) -> _Check:
    """A finding for each image that looks in some way."""
    findings = [
        material.finding(name, index, None, f"{look.width} x {look.height}")
        for index, look in material.read()
        if matches(look)
    ]
    return _Check(name, findings, remark, len(findings))


SHORT = f"shorter side under {TINY} pixels"
CHECKS: tuple[Callable[[_Material], _Check], ...] = (
    _unreadable,
    partial(_copies_of, name="files of the same content", kind=SAME_CONTENT),
    partial(_copies_of, name="files of the same pixels alone", kind=SAME_PIXELS),
    partial(_copies_of, name="near duplicates", kind=NEAR),
    _repeated_lesions,
    _straddling_lesions,
    _straddling_copies,
    _contradicting_copies,
    _contradicting_lesions,
    _unusual,
    partial(_looking, name="grey images", matches=_is_grey),
    partial(_looking, name="tiny images", remark=SHORT, matches=_is_tiny),
)
