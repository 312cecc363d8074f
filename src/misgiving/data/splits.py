"""Which image plays which part: `train`, `validation` and so on, and the table that records it."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped
from sklearn.model_selection import train_test_split

from misgiving.data.tables import read_table
from misgiving.errors import DataError, UsageError
from misgiving.files import write_csv
from misgiving.registry import Registry

Parts = Shaped[np.ndarray, " n"]
"""The name of a part for every image."""

COLUMNS = ("id", "hash", "part", "label", "group")


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


SPLITS: Registry[Callable[..., Parts]] = Registry("split", paper=paper_split)


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


def write_split(path: Path, split: Split) -> None:
    """Write the split as a table, whole or not at all."""
    columns = (split.ids, split.hashes, split.parts, split.labels, split.groups)
    write_csv(path, COLUMNS, zip(*columns, strict=True))


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
