"""Splits of a data set into training, tuning, calibration and test sets, and `split.csv`."""

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from misgiving.arrays import Classes, Groups, Mask, Names, Rows
from misgiving.csv_tables import csv_rows, write_csv
from misgiving.data.cache import ImageSet
from misgiving.data.datasets.dataset import Dataset, LabelledImages
from misgiving.data.decoding import in_order, returning_bad_images
from misgiving.errors import DataError, Parameter, UsageError, explain_damage
from misgiving.groups import unit_numbers
from misgiving.registry import Registry

GROUPED_SETS = ("train", "calibrate", "test", "tune")
NUM_FOLDS = 10
SPLIT_COLUMNS = ("id", "hash", "set", "label", "group", "leaks_to")  # of `split.csv`


def paper_split(
    labels: Classes, classes: Sequence[str], *, validation_share: float = 0.1, seed: int
) -> Names:
    """Split at random by image into `train` and `validation`, stratified by class (paper, 4.1).

    Images of one group may end up in both sets; `leakage_of` counts such groups.

    Raises:
        UsageError: The share leaves a set without images of a class.
    """
    from sklearn.model_selection import train_test_split  # a second, which reading splits saves

    counts = np.bincount(labels, minlength=len(classes))
    sets = np.full(len(labels), "train", dtype="<U10")
    # 0.07 * 100 is 7.000000000000001 in binary floating point: round up the decimal number
    size = math.ceil(Fraction(str(validation_share)) * len(labels))
    chosen = {"test_size": size, "stratify": labels, "random_state": seed}
    with suppress(ValueError):  # there are too few images of a class, which is explained below
        sets[train_test_split(np.arange(len(labels)), **chosen)[1]] = "validation"
    validation = np.bincount(labels[sets == "validation"], minlength=len(classes))
    in_one_set = (counts > 0) & ((validation == 0) | (validation == counts))
    if in_one_set.any():
        rarest = int(np.argmin(np.where(in_one_set, counts, counts.max() + 1)))
        raise UsageError(
            Parameter("validation_share"),
            f" {validation_share} leaves one set without images of class "
            f"{classes[rarest]!r} ({counts[rarest]} in all); choose a share nearer to 0.5, add "
            "images of the class or leave it out",
        )
    return sets


def grouped_split(
    labels: Classes,
    classes: Sequence[str],
    units: Groups,
    *,
    shares: Sequence[int] = (70, 5, 15, 10),
    seed: int,
) -> Names:
    """Split by group into `train`, `tune`, `calibrate` and `test`, by shares in percent.

    The group of an image is the number or name among `units`. No group is in two sets, and every
    set has images of every class, in about equal shares. A set that has none of a rare class
    receives one of its groups, drawn at random, from the set with the most of them. So a class with
    four groups has one in each set; one with fewer is refused.

    Raises:
        DataError: A class has too few groups to be in all four sets.
    """
    numbered = np.unique(np.array(units), return_inverse=True)[1]
    train, tune, calibrate, test = shares
    size, part = math.gcd(train, tune + calibrate, test), math.gcd(tune, calibrate)
    fold = stratified_folds(labels, numbered, sum(shares) // size, seed)
    sets = np.full(len(labels), "train", dtype="<U10")
    sets[fold < test // size] = "test"
    rows = np.flatnonzero((fold >= test // size) & (fold < (sum(shares) - train) // size))
    fold = stratified_folds(labels[rows], numbered[rows], (tune + calibrate) // part, seed)
    sets[rows] = np.where(fold < tune // part, "tune", "calibrate")
    for label in _lacking(sets, labels, numbered, GROUPED_SETS, seed):
        count = len(np.unique(numbered[labels == label]))
        raise DataError(
            f"class {classes[label]!r} has {count} group{'s' * (count > 1)}, too few for the "
            "four sets of a grouped split; add images of it, leave the class out or use ",
            Parameter("split", "paper"),
        )
    return sets


def split_by_group(
    images: LabelledImages, *, shares: Sequence[int] = (70, 5, 15, 10), seed: int
) -> Names:
    """The split that the data name, or else `grouped_split`.

    A published `validation` is divided by group into `tune` and `calibrate`. Sets that are missing
    then are drawn from `train`. Both are in proportion to the shares, with images of every class
    where there are enough groups.

    Raises:
        DataError: A class has too few groups, or none in the published set `train`.
    """
    labels, classes, units = images.labels, images.classes, images.units
    if not images.sets:
        return grouped_split(labels, classes, units, shares=shares, seed=seed)
    share_of = dict(zip(("train", "tune", "calibrate", "test"), shares, strict=True))
    sets = np.array(images.sets, dtype="<U10")

    def divide(source: str, parts: Sequence[str]) -> None:
        """Divide one set among these, of which the last is the largest."""
        rows = np.flatnonzero(sets == source)
        unit = math.gcd(*(share_of[name] for name in parts))
        weights = [share_of[name] // unit for name in parts]
        fold = np.zeros(len(rows), dtype=int)
        if len(rows) and len(parts) > 1:
            fold = stratified_folds(labels[rows], units[rows], sum(weights), seed)
        names = np.repeat(parts, weights)[fold].astype("<U10")
        _lacking(names, labels[rows], units[rows], parts, seed)
        sets[rows] = names

    divide("validation", [n for n in ("tune", "calibrate") if n not in sets] or ["tune"])
    divide("train", [*(n for n in share_of if n not in sets), "train"])
    for label in np.setdiff1d(labels, labels[sets == "train"]):
        raise DataError(f"the set train has no image of class {classes[label]!r}; add some to it")
    return sets


def cross_validation_split(labels: Classes, units: Groups, *, seed: int) -> Names:
    """Split by group into the sets of one of ten folds: the last digit of `seed` is its number.

    Over seeds 0 to 9 each image is in `test` once. Eight tenths of the images train; half a tenth
    each is in `tune` and `calibrate`. Tens of the seed draw other folds.

    Raises:
        DataError: There are too few groups of images, or images of each class.
    """
    numbered = np.unique(np.array(units), return_inverse=True)[1]
    partition, number = divmod(seed, NUM_FOLDS)
    twentieth = stratified_folds(labels, numbered, 2 * NUM_FOLDS, partition)
    if len(np.unique(twentieth)) < 2 * NUM_FOLDS:
        raise DataError(
            f"too few images for ten folds, which take {2 * NUM_FOLDS} groups of images and as "
            "many images of a class; give more, or choose ",
            Parameter("split", "grouped"),
        )
    place = (twentieth - 2 * number) % (2 * NUM_FOLDS)
    names = np.array(["test", "test", "tune", "calibrate", *["train"] * (2 * NUM_FOLDS - 4)])
    return np.asarray(names[place])


def stratified_folds(
    labels: Classes, numbered: Int[np.ndarray, " n"], count: int, seed: int
) -> Int[np.ndarray, " n"]:
    """The fold of each image, drawn by group; the last one where there are too few images."""
    from sklearn.model_selection import StratifiedGroupKFold

    drawn = np.full(len(labels), count - 1)
    most = int(np.bincount(labels, minlength=1).max())
    if min(most, len(np.unique(numbered))) >= count:  # scikit-learn requires this
        folds = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class")
            for number, (_, members) in enumerate(folds.split(labels, labels, numbered)):
                drawn[members] = number
    return drawn


def _lacking(
    sets: Names,
    labels: Classes,
    numbered: Int[np.ndarray, " n"],
    names: Sequence[str],
    seed: int,
) -> list[int]:
    """Move a group into each set that lacks a class, from the set with the most groups of it.

    Returns the classes of which there are too few groups.
    """
    lacking: list[int] = []
    random = np.random.default_rng(seed)

    def spare_groups(within: Mask, label: int) -> Rows:
        """Groups of a class in a set without which the set still has all its classes."""
        pairs = np.unique(np.column_stack([numbered, labels])[within], axis=0)
        only = np.bincount(pairs[:, 1], minlength=label + 1) < 2
        needed = pairs[only[pairs[:, 1]], 0]
        return np.setdiff1d(pairs[pairs[:, 1] == label, 0], needed)

    for label, name in product(np.unique(labels).tolist(), names):
        if (labels[sets == name] == label).any():
            continue
        spare = max((spare_groups(sets == other, label) for other in names), key=len)
        if len(spare):
            sets[numbered == random.choice(spare)] = name
        else:
            lacking.append(label)
    return lacking


class EvaluationSets(NamedTuple):
    """Sets of a split: for tuning, which is also monitored in training, and to be measured."""

    tuning: str
    measured: str


SPLITS: Registry[EvaluationSets] = Registry(
    "split",
    paper=EvaluationSets("validation", "validation"),
    grouped=EvaluationSets("tune", "test"),
    folds=EvaluationSets("tune", "test"),
)


class Split(NamedTuple):
    """The content of `split.csv`: for each image its hash, set, class name and group.

    The group is empty where an image is one of its own.
    """

    ids: tuple[str, ...]
    hashes: tuple[str, ...]
    sets: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]

    def hashes_of(self, set_name: str) -> frozenset[str]:
        """Hashes of the images in one set."""
        pairs = zip(self.hashes, self.sets, strict=True)
        return frozenset(content for content, name in pairs if name == set_name)


def split_of(images: ImageSet, sets: Names) -> Split:
    """The content of `split.csv`."""
    return Split(
        ids=images.ids,
        hashes=images.hashes,
        sets=tuple(str(name) for name in sets),
        labels=tuple(images.classes[label] for label in images.labels),
        groups=images.groups,
    )


def leaks(split: Split) -> tuple[str, ...]:
    """For each image, the other sets that have its content or another image of its group.

    >>> leaks(Split(ids=("a", "b", "c"), hashes=("1", "2", "3"), sets=("train", "test", "train"),
    ...             labels=("NV",) * 3, groups=("lesion", "lesion", "other")))
    ('test', 'train', '')
    """
    sets_with_group, sets_with_content = defaultdict(set), defaultdict(set)
    units = unit_numbers(split.groups, split.ids).tolist()
    images = list(zip(split.sets, units, split.hashes, strict=True))
    for name, group, content in images:
        sets_with_group[group].add(name)
        sets_with_content[content].add(name)
    return tuple(
        " ".join(sorted((sets_with_group[group] | sets_with_content[content]) - {name}))
        for name, group, content in images
    )


def leakage_of(split: Split, measured: str) -> dict[str, int | bool]:
    """Count the groups and identical images that sets share.

    Returns:
        shared_groups: Groups with images in more than one set.
        leaking_images: Measured images whose group, or a copy of which, is in the training set.
        measured_images: Images of the measured set.
        separate: Whether neither a group nor an identical image is in two sets.
    """
    pairs = list(zip(split.sets, leaks(split), strict=True))
    measured_leaks = [others.split() for name, others in pairs if name == measured]
    places = {*zip(split.groups, split.sets, strict=True)}
    sets_of = Counter(group for group, _ in places if group)
    return {
        "shared_groups": sum(count > 1 for count in sets_of.values()),
        "leaking_images": sum("train" in others for others in measured_leaks),
        "measured_images": len(measured_leaks),
        "separate": not any(others for _, others in pairs),
    }


def write_split(path: Path, split: Split) -> None:
    """Write `split.csv`, with the leakage check of each image."""
    write_csv(path, SPLIT_COLUMNS, zip(*split, leaks(split), strict=True))


def read_split(path: Path) -> Split:
    """Inverse of `write_split`."""
    remedy = "run the command that wrote it again"
    with explain_damage(path, remedy=remedy), path.open(encoding="utf-8", newline="") as file:
        header, *rows = (tuple(cells) for _, cells in csv_rows(file))
        whole = all(len(row) == len(SPLIT_COLUMNS) and all(row[:4]) for row in rows)
        if header != SPLIT_COLUMNS or not whole:
            raise ValueError("a column is missing, or a cell is empty")
        columns = [*zip(*rows, strict=True)] or [()] * len(SPLIT_COLUMNS)
    return Split(*columns[:-1])


def without_training_images(dataset: Dataset, run: Path) -> Dataset:
    """The images of a data set that a run was not trained on, by content; unreadable ones stay.

    Raises:
        UsageError: None is left.
    """
    trained = read_split(run / "split.csv").hashes_of("train")
    hashed = returning_bad_images(lambda index: dataset.images[index].hash(), dataset.ids)
    rows = np.flatnonzero([content not in trained for content in in_order(hashed, len(dataset))])
    if not len(rows):
        raise UsageError(f"{run} was trained on all images of {dataset.name}; give others")
    return dataset.select(rows)
