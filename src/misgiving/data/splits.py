"""Which image plays which part: `train`, `validation` and so on, and the table that records it."""

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from misgiving.data.datasets import Dataset
from misgiving.data.tables import read_table
from misgiving.errors import DataError, UsageError
from misgiving.files import write_csv
from misgiving.registry import Registry

Parts = Shaped[np.ndarray, " n"]
"""The name of a part for every image."""

COLUMNS = ("id", "hash", "part", "label", "group")
LEAKS = "leaks_to"  # the column with the result of the leakage check
TENTHS = {0: "tune", 1: "calibrate", 2: "test"}  # of the grouped split; the other seven: train


def paper_split(
    labels: Int[np.ndarray, " n"],
    classes: Sequence[str],
    *,
    validation_share: float = 0.1,
    seed: int,
) -> Parts:
    """Split at random by image into `train` and `validation`, every class alike (paper, 4.1).

    Images of one lesion may end in both parts; `straddling_groups` counts how many do.
    """
    if not 0 < validation_share < 1:
        raise UsageError(f"validation_share must be in (0, 1), got {validation_share}")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed must be in [0, 2**32), got {seed}")
    counts = np.bincount(labels, minlength=len(classes))
    _refuse_single(counts, classes)
    parts = np.full(len(labels), "train", dtype="<U10")
    if _enough_for_each(counts, validation_share):
        chosen = {"test_size": validation_share, "stratify": labels, "random_state": seed}
        parts[train_test_split(np.arange(len(labels)), **chosen)[1]] = "validation"
    _refuse_empty(labels[parts == "validation"], counts, classes, share=validation_share)
    return parts


def _refuse_single(counts: Int[np.ndarray, " classes"], classes: Sequence[str]) -> None:
    if not counts.any():
        raise DataError("there is no image to split; choose classes that have some")
    for name, count in zip(classes, counts, strict=True):
        if count == 1:
            raise DataError(
                f"class {name!r} has one image, which cannot be in both parts;"
                " add images of it or leave the class out"
            )


def _enough_for_each(counts: Int[np.ndarray, " classes"], share: float) -> bool:
    """Whether either part has a place for every class, without which scikit-learn refuses."""
    validation = math.ceil(share * counts.sum())
    return bool(min(validation, counts.sum() - validation) >= np.count_nonzero(counts))


def _refuse_empty(
    validation: Int[np.ndarray, " m"],
    counts: Int[np.ndarray, " classes"],
    classes: Sequence[str],
    *,
    share: float,
) -> None:
    validated = np.bincount(validation, minlength=len(classes))
    alone = (counts > 0) & ((validated == 0) | (validated == counts))
    if not alone.any():
        return
    rarest = int(np.argmin(np.where(alone, counts, counts.max() + 1)))
    least = math.ceil(1000 / counts[rarest]) / 1000
    raise UsageError(
        f"validation_share {share} leaves class {classes[rarest]!r} ({counts[rarest]} images)"
        f" without an image in one of the parts; choose a share from {least:g} to {1 - least:g}"
    )


def grouped_split(
    labels: Int[np.ndarray, " n"],
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    seed: int,
) -> Parts:
    """Split by group (lesion) into `train`, `tune`, `calibrate` and `test`: 7, 1, 1 and 1 tenths.

    No group has images in two parts, and every class is in every part, in about equal shares.

    Raises:
        DataError: A class has too few groups to be in all four parts.
    """
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed must be in [0, 2**32), got {seed}")
    parts = np.full(len(labels), "train", dtype="<U10")
    numbered = np.unique(np.array(groups), return_inverse=True)[1]
    _refuse_few_groups(labels, classes, numbered)
    folds = StratifiedGroupKFold(n_splits=10, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # checked below
        for number, (_, members) in enumerate(folds.split(labels, labels, numbered)):
            parts[members] = TENTHS.get(number, "train")
    for part in ("train", *TENTHS.values()):
        _refuse_absent(labels, classes, parts, part)
    return parts


def _refuse_few_groups(
    labels: Int[np.ndarray, " n"], classes: Sequence[str], numbered: Int[np.ndarray, " n"]
) -> None:
    if not len(labels):
        raise DataError("there is no image to split; choose classes that have some")
    for label in np.unique(labels):
        count = len(np.unique(numbered[labels == label]))
        if count < 4:
            raise DataError(
                f"class {classes[label]!r} has {count} groups (lesions), too few for the four parts"
                " of a grouped split; add images of it, leave the class out or use --split paper"
            )
    if (most := int(np.bincount(labels).max())) < 10:
        raise DataError(
            f"no class has more than {most} images, too few for the tenths of a grouped split; "
            "add images or use --split paper"
        )


def _refuse_absent(
    labels: Int[np.ndarray, " n"], classes: Sequence[str], parts: Parts, part: str
) -> None:
    for label in np.setdiff1d(labels, labels[parts == part]):
        raise DataError(
            f"with this seed class {classes[label]!r} has no image in the part {part!r};"
            " try another --seed, add images of it or leave the class out"
        )


class Roles(NamedTuple):
    """Which part of a split is watched while training, used to tune detectors, and measured."""

    watched: str
    tuning: str
    measured: str

    @property
    def tunes_apart(self) -> bool:
        """Whether images are kept apart for choosing and for calibrating."""
        return self.tuning != self.measured


class SplitKind(NamedTuple):
    """A way to split: `draw(labels, classes, groups, validation_share=, seed=)` and its roles."""

    draw: Callable[..., Parts]
    roles: Roles


def _paper(
    labels: Int[np.ndarray, " n"],
    classes: Sequence[str],
    _groups: Sequence[str],
    *,
    validation_share: float,
    seed: int,
) -> Parts:
    return paper_split(labels, classes, validation_share=validation_share, seed=seed)


def _grouped(
    labels: Int[np.ndarray, " n"],
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    validation_share: float,
    seed: int,
) -> Parts:
    del validation_share  # its shares are fixed tenths
    return grouped_split(labels, classes, groups, seed=seed)


SPLITS: Registry[SplitKind] = Registry(
    "split",
    paper=SplitKind(_paper, Roles("validation", "validation", "validation")),
    grouped=SplitKind(_grouped, Roles("tune", "tune", "test")),
)


def straddling_groups(groups: Sequence[str], parts: Parts) -> int:
    """Number of groups (lesions) that have images in more than one part.

    >>> straddling_groups(["a", "a", "b"], np.array(["train", "validation", "train"]))
    1
    """
    placements = Counter(group for group, _ in set(zip(groups, parts.tolist(), strict=True)))
    return sum(count > 1 for count in placements.values())


@dataclass(frozen=True, kw_only=True)
class Split:
    """What `split.csv` records: for every image its content, part, class name and group."""

    ids: tuple[str, ...]
    hashes: tuple[str, ...]
    parts: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def hashes_of(self, part: str) -> frozenset[str]:
        """Contents of the images of one part."""
        return frozenset(h for h, p in zip(self.hashes, self.parts, strict=True) if p == part)


def drawn_parts(
    groups: Sequence[str], count: int, *, seed: int
) -> tuple[Int[np.ndarray, " _"], ...]:
    """Positions of parts of about equal size that share no group, drawn at random."""
    names, members = np.unique(np.array(groups), return_inverse=True)
    if len(names) < count:
        raise DataError(f"{len(names)} groups (lesions) cannot be in {count} parts; give more")
    part_of = np.random.default_rng(seed).permutation(len(names)) % count
    return tuple(np.flatnonzero(part_of[members] == part) for part in range(count))


def leaks(split: Split) -> tuple[str, ...]:
    """For every image the other parts that hold its content or another image of its group.

    >>> leaks(Split(ids=("a", "b", "c"), hashes=("1", "2", "3"), parts=("train", "test", "train"),
    ...             labels=("NV",) * 3, groups=("lesion", "lesion", "other")))
    ('test', 'train', '')
    """
    places: dict[tuple[str, str], set[str]] = defaultdict(set)
    keys = [
        (("group", group), ("content", content))
        for group, content in zip(split.groups, split.hashes, strict=True)
    ]
    for part, of_image in zip(split.parts, keys, strict=True):
        for key in of_image:
            places[key].add(part)
    return tuple(
        " ".join(sorted(set().union(*(places[key] for key in of_image)) - {part}))
        for part, of_image in zip(split.parts, keys, strict=True)
    )


class Leakage(NamedTuple):
    """Groups and identical images that sets share.

    Attributes:
        straddling_groups: Groups with images in more than one set.
        leaking_images: Measured images whose group, or a copy of which, is in the training set.
        measured_images: Images of the measured set.
        separate: Whether neither a group nor an identical image is in two sets.
    """

    straddling_groups: int
    leaking_images: int
    measured_images: int
    separate: bool


def leakage_of(split: Split, measured: str) -> Leakage:
    """Count what the sets share."""
    pairs = list(zip(split.parts, leaks(split), strict=True))
    straddling = straddling_groups(split.groups, np.array(split.parts))
    return Leakage(
        straddling_groups=straddling,
        leaking_images=sum(part == measured and "train" in found.split() for part, found in pairs),
        measured_images=sum(part == measured for part, _ in pairs),
        separate=not straddling and not any(found for _, found in pairs),
    )


def leakage_sentence(split: Split, measured: str) -> str:
    """Say what the measured part shares with the training part."""
    straddling, leaking, total, separate = leakage_of(split, measured)
    if separate:
        return f"no group (lesion) and no identical image is in two parts ({total} in {measured})"
    return (
        f"groups (lesions) with images in more than one part: {straddling}; images of {measured} "
        f"with another image of their lesion, or a copy, in train: {leaking} of {total}"
    )


def write_split(path: Path, split: Split) -> None:
    """Write the split as a table with the leakage check of each image, whole or not at all."""
    columns = (split.ids, split.hashes, split.parts, split.labels, split.groups, leaks(split))
    write_csv(path, (*COLUMNS, LEAKS), zip(*columns, strict=True))


def read_split(path: Path) -> Split:
    """Inverse of `write_split`."""
    rows = read_table(path, COLUMNS)
    for row in rows:
        if not all(row.cells[column] for column in COLUMNS):
            raise DataError(f"{path}: row {row.line} has an empty cell; write the split again")
    ids, hashes, parts, labels, groups = (
        tuple(row.cells[column] for row in rows) for column in COLUMNS
    )
    if len(set(ids)) < len(ids):
        raise DataError(f"{path}: an id occurs more than once; write the split again")
    return Split(ids=ids, hashes=hashes, parts=parts, labels=labels, groups=groups)


def without_training_images(dataset: Dataset, run: Path) -> Dataset:
    """The images that a run was not trained on, by id.

    Raises:
        UsageError: None is left.
    """
    split = read_split(run / "split.csv")
    trained = {name for name, part in zip(split.ids, split.parts, strict=True) if part == "train"}
    kept = np.flatnonzero([identity not in trained for identity in dataset.ids])
    if not len(kept):
        raise UsageError(f"{run} was trained on all images of {dataset.name}; give others")
    return dataset.select(kept)
