"""Labelled image sets that are not decoded yet, and the sources of their pixels."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from misgiving.arrays import Classes, Picture, Rows, Units
from misgiving.data.decoding import BadImage, BadImagesError, decode, read_bytes, unreadable
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import DataError, UsageError
from misgiving.files import sha256_of
from misgiving.groups import unit_numbers

SET_NAMES = {
    **{name: name for name in ("train", "validation", "test", "tune", "calibrate")},
    **{"training": "train", "testing": "test"},
    **dict.fromkeys(("val", "valid", "dev"), "validation"),
}
"""Sets of a published split by the names that they have, in lower case."""

Labelled = TypeVar("Labelled", bound="LabelledImages")


class HashedImage(NamedTuple):
    """A decoded image and the SHA-256 of the content that it was decoded from."""

    hash: str
    image: Picture


class SourceImage(ABC):
    """An image that is not decoded yet, and that any thread may read."""

    @abstractmethod
    def content(self) -> tuple[bytes | Picture, str]:
        """The encoded image, or pixels that are not encoded; and its name for messages."""

    @abstractmethod
    def key(self) -> str:
        """Identity that is quick to determine and changes with the content."""

    def hash(self) -> str:
        """SHA-256 of the content, which is not decoded for it."""
        return _hash_of(self.content()[0])

    def read(self, preprocessing: Preprocessing | None = None) -> HashedImage:
        """The image, or its square, for which it is decoded no larger than necessary."""
        content, name = self.content()
        if isinstance(content, bytes):
            image = (
                preprocessing.from_file(content, name) if preprocessing else decode(content, name)
            )
        else:
            image = preprocessing(content) if preprocessing else content
        return HashedImage(_hash_of(content), image)


def _hash_of(content: bytes | Picture) -> str:
    return sha256_of(content if isinstance(content, bytes) else content.tobytes())


@dataclass(frozen=True, eq=False)
class FileImage(SourceImage):
    """An image file; the key is absolute path, size and time of change."""

    path: Path

    def content(self) -> tuple[bytes, str]:
        return read_bytes(self.path), str(self.path)

    def key(self) -> str:
        return file_key(self.path)


def file_key(path: Path) -> str:
    """Absolute path, size and time of change of a file."""
    try:
        status = path.stat()
    except OSError as failure:
        raise unreadable(path.absolute(), failure) from failure
    return f"{path.absolute()}|{status.st_size}|{status.st_mtime_ns}"


@dataclass(frozen=True, eq=False)
class ArrayImage(SourceImage):
    """An image in memory; the key is the hash of the pixels."""

    pixels: Picture

    def content(self) -> tuple[Picture, str]:
        return self.pixels, ""

    def key(self) -> str:
        return _hash_of(self.pixels)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """Facts of images that are known before and after they are decoded.

    Attributes:
        classes: Class names; a label is a position in it.
        labels: One per image.
        ids: Unique: the path inside the folder, or the image's own name.
        groups: Images of one group are not independent, such as those of a patient or a lesion;
            empty where an image is a group of its own.
        group_columns: Columns of the data that define the groups; none: each image is its own.
        sets: Set of each image in the split that the data name (a value of `SET_NAMES`), if any.
    """

    BY_ROW: ClassVar[tuple[str, ...]] = ("labels", "ids", "groups", "sets")
    """Fields with a value for each image."""

    classes: tuple[str, ...]
    labels: Classes
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    group_columns: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def units(self) -> Units:
        """Number of the group of each image."""
        return unit_numbers(self.groups, self.ids)

    def select(self: Labelled, indices: Rows) -> Labelled:
        """These images in this order."""
        chosen = {name: _chosen(getattr(self, name), indices) for name in self.BY_ROW}
        return replace(self, **chosen)

    def align(self: Labelled, classes: Sequence[str]) -> tuple[Labelled, int]:
        """The images of these classes, labelled as positions in `classes`, and how many are not.

        Raises:
            DataError: There is no image of any of these classes.
        """
        position = {name: number for number, name in enumerate(classes)}
        labels = np.array([position.get(name, -1) for name in self.classes])[self.labels]
        chosen = np.flatnonzero(labels >= 0)
        if not len(chosen):
            raise DataError(
                f"none of the data's classes ({', '.join(self.classes)}) is one of the model's "
                f"({', '.join(classes)}); give data with the model's class names"
            )
        aligned = replace(self.select(chosen), classes=tuple(classes), labels=labels[chosen])
        return aligned, len(self) - len(chosen)


def _chosen(values: Any, rows: Rows) -> Any:
    """The values for these images, in this order, also by column."""
    if isinstance(values, Mapping):
        return {name: _chosen(column, rows) for name, column in values.items()}
    if isinstance(values, np.ndarray):
        return values[rows]
    return tuple(values[row] for row in rows) if values else ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset(LabelledImages):
    """A labelled image set that is not decoded yet, with suitable settings.

    Attributes:
        name: The name that was asked for, such as `folder:photos`.
        images: What reads the pixels of each.
        preprocessing: Suits this kind of data.
        augmentation: Preset of `AUGMENTATIONS` that suits this kind of data.
        contents: One sentence for a report, where the name does not say enough.
        masks: Folder of lesion masks, named by an image's id and `_segmentation.png`, as large as
            the image and white on the lesion.
        metadata: More columns, such as the patient's age; empty where it is not known.
        left_out: Number of images of which no image of a derived set could be made.
        ignored: Number of files that are no images, by their suffix in lower case.
        empty: Names of class folders without images, which are no classes.
    """

    BY_ROW = (*LabelledImages.BY_ROW, "images", "metadata")

    name: str
    images: tuple[SourceImage, ...]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    augmentation: str = "light"
    contents: str = ""
    masks: Path | None = None
    metadata: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: int = 0
    ignored: Mapping[str, int] = field(default_factory=dict)
    empty: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for identity, count in Counter(self.ids).most_common(1):
            if count > 1:
                raise DataError(f"{self.name}: {identity!r} occurs {count} times; keep it once")
        check_utf8(self.ids, self.name)

    def check_class_sizes(self) -> None:
        """Check that there are two classes, and no class of one image."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        if np.count_nonzero(counts) < 2:
            raise DataError(f"{self.name}: has fewer than two classes; add images of another")
        for name in np.array(self.classes)[counts == 1]:
            raise DataError(
                f"{self.name}: class {str(name)!r} has one image, which cannot be in two sets; "
                "add images of it or leave the class out"
            )

    def restrict(self, classes: Sequence[str]) -> "Dataset":
        """Images of exactly these classes, labelled by their positions in `classes`."""
        if not classes or len({*classes} & {*self.classes}) < len(classes):
            raise UsageError(
                f"classes of {self.name} must be some of {', '.join(self.classes)}, each once; got "
                f"{', '.join(map(repr, classes)) or 'none'}"
            )
        return self.align(classes)[0]


def check_utf8(names: Iterable[str], where: str) -> None:
    """Check that names of files are UTF-8, as no table could hold others."""
    for name in names:
        if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
            raise DataError(f"{where}: the name {name!a} is not UTF-8; rename the file")


def without(dataset: Dataset, bad: Sequence[BadImage]) -> Dataset:
    """The set without these images.

    Raises:
        BadImagesError: No image of a class is left.
    """
    names = {image.image for image in bad}
    good = dataset.select(np.flatnonzero([name not in names for name in dataset.ids]))
    for label in np.setdiff1d(dataset.labels, good.labels):
        raise BadImagesError(
            f"{dataset.name}: no image of class {dataset.classes[label]!r} can be read; repair "
            "them, or take the class out of the data",
            images=bad,
            total=len(dataset),
        )
    return good
