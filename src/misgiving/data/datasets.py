"""Labelled image sets, not yet decoded, and how `digits`, `folder:` and the like are read."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8
from sklearn.datasets import load_digits

from misgiving.data.preprocessing import (
    AugmentationSettings,
    Preprocessing,
    decode,
    read_bytes,
    refuse_file,
)
from misgiving.data.tables import TableRow, read_table
from misgiving.errors import DataError, UsageError
from misgiving.registry import Registry

Indices = Int[np.ndarray, " selected"]
PAPER_PREPROCESSING = Preprocessing()
DERMOSCOPY_AUGMENTATION = AugmentationSettings()
TRUTH = "ISIC_2019_Training_GroundTruth.csv"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})


class HashedImage(NamedTuple):
    """A decoded image and the SHA-256 of what it was decoded from, in hexadecimal."""

    hash: str
    image: UInt8[np.ndarray, "height width 3"]


@runtime_checkable
class ImageSource(Protocol):
    """Images that are read one at a time, from any thread."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> HashedImage:
        """Decode one image and hash its content."""

    def key(self, index: int) -> str:
        """Identity that is cheap to get and changes when the content does."""

    def select(self, indices: Indices) -> "ImageSource":
        """Source of these images alone, in this order."""


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files; the key is absolute path, size and time of change."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> HashedImage:
        path = self.paths[index]
        data = read_bytes(path)
        return HashedImage(hashlib.sha256(data).hexdigest(), decode(data, str(path)))

    def key(self, index: int) -> str:
        path = self.paths[index].absolute()
        try:
            status = path.stat()
        except OSError as failure:
            refuse_file(path, failure)
        return f"{path}|{status.st_size}|{status.st_mtime_ns}"

    def select(self, indices: Indices) -> "ImageFiles":
        return ImageFiles(tuple(self.paths[index] for index in indices))


@dataclass(frozen=True, eq=False)
class ImageArray:
    """Images in memory; the key is the hash of the pixels."""

    images: UInt8[np.ndarray, "n height width 3"]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> HashedImage:
        return HashedImage(self.key(index), self.images[index])

    def key(self, index: int) -> str:
        return hashlib.sha256(self.images[index].tobytes()).hexdigest()

    def select(self, indices: Indices) -> "ImageArray":
        return ImageArray(self.images[indices])


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A labelled image set and the settings that suit it.

    Attributes:
        name: The set as it was asked for, such as `folder:photos`.
        classes: Class names; a label is a position in it.
        labels: One per image.
        ids: Unique: the path inside the folder, or the image's own name.
        groups: Images of one group show the same thing (lesion, source picture); the id where
            nothing else is known.
        images: Where the pixels come from.
        preprocessing: Suits this kind of data.
        augmentation: Suits this kind of data.
        contents: One sentence for a report, where the name does not say enough.
    """

    name: str
    classes: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    images: ImageSource
    preprocessing: Preprocessing = PAPER_PREPROCESSING
    augmentation: AugmentationSettings = DERMOSCOPY_AUGMENTATION
    contents: str = ""

    def __post_init__(self) -> None:
        sizes = {len(self.labels), len(self.ids), len(self.groups), len(self.images)}
        if len(sizes) > 1:
            raise UsageError(f"{self.name}: labels, ids, groups and images differ in number")
        for identity, count in Counter(self.ids).most_common(1):
            if count > 1:
                raise DataError(f"{self.name}: {identity!r} occurs {count} times; keep it once")
        for identity in self.ids:
            if any("\ud800" <= letter <= "\udfff" for letter in identity):  # undecodable bytes
                raise DataError(f"{self.name}: the name {identity!a} is not UTF-8; rename the file")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Indices) -> "Dataset":
        """Set of these images alone, in this order."""
        return replace(
            self,
            labels=self.labels[indices],
            ids=tuple(self.ids[index] for index in indices),
            groups=tuple(self.groups[index] for index in indices),
            images=self.images.select(indices),
        )

    def restrict(self, classes: Sequence[str]) -> "Dataset":
        """Images of exactly these classes, whose labels are positions in `classes`."""
        for name in classes:
            if name not in self.classes:
                known = ", ".join(self.classes)
                raise UsageError(f"unknown class {name!r} of {self.name}; choose from {known}")
        if not classes or len(set(classes)) < len(classes):
            raise UsageError(f"classes must be named once each, got {', '.join(classes) or 'none'}")
        relabelled = np.full(len(self.classes), -1, dtype=np.int64)
        relabelled[[self.classes.index(name) for name in classes]] = np.arange(len(classes))
        labels = relabelled[self.labels]
        kept = self.select(np.flatnonzero(labels >= 0))
        return replace(kept, classes=tuple(classes), labels=labels[labels >= 0])


def _digits(_: str) -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels, as dark ink on white paper (scikit-learn)."""
    bunch = load_digits()
    ink = np.rint(255 - bunch.images * (255 / 16)).astype(np.uint8)
    ids = tuple(f"digit-{number:04d}" for number in range(len(ink)))
    return Dataset(
        name="digits",
        classes=tuple(str(name) for name in bunch.target_names),
        labels=bunch.target.astype(np.int64),
        ids=ids,
        groups=ids,
        images=ImageArray(np.repeat(ink[..., None], 3, axis=3)),
        preprocessing=Preprocessing(image_size=16, crop=1.0, color_constancy="none"),
        augmentation=AugmentationSettings(flips=False, rotation=10.0),  # a turned 6 is a 9
        contents="1797 handwritten digits of 8 x 8 pixels from scikit-learn",
    )


def _folder(place: str) -> Dataset:
    """One sub-folder for each class; images are found inside at any depth."""
    folder = _existing_folder(place)
    classes = sorted(name for name in _listing(folder) if (folder / name).is_dir())
    if len(classes) < 2:
        raise DataError(f"{folder}: fewer than two class folders; give each class its own folder")
    found_in = {name: _images_below(folder / name) for name in classes}
    for name, paths in found_in.items():
        if not paths:
            kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
            raise DataError(f"{folder / name}: holds no image ({kinds}); add some or remove it")
    images = [path for name in classes for path in found_in[name]]
    ids = tuple(path.relative_to(folder).as_posix() for path in images)
    return Dataset(
        name=place,
        classes=tuple(classes),
        labels=np.repeat(np.arange(len(classes)), [len(paths) for paths in found_in.values()]),
        ids=ids,
        groups=ids,
        images=ImageFiles(tuple(images)),
    )


def _existing_folder(place: str) -> Path:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        found = "a file, not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {found}; name the folder that holds the data")
    return folder


def _listing(folder: Path) -> set[str]:
    """Names in a folder, without the hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.name.startswith(".")}
    except OSError as failure:
        refuse_file(folder, failure)


def _images_below(folder: Path) -> list[Path]:
    paths: list[Path] = []
    for name in sorted(_listing(folder)):
        path = folder / name
        if path.suffix.lower() in SUFFIXES:
            paths.append(path)
        elif path.is_dir() and not path.is_symlink():  # a link may lead round in a circle
            paths += _images_below(path)
    return paths


def _table(place: str) -> Dataset:
    """CSV with the columns `path`, `label` and perhaps `group`; paths start at the CSV's folder."""
    table = Path(place).expanduser()
    rows = read_table(table, ["path", "label"])
    lines: dict[Path, int] = {}
    for row in rows:
        path = _image_of(table, row)
        if path in lines:
            raise DataError(f"{table}: rows {lines[path]} and {row.line} name one image; keep one")
        lines[path] = row.line
    classes, labels = np.unique([row.cells["label"].strip() for row in rows], return_inverse=True)
    ids = tuple(_inside(path, table.parent) for path in lines)
    groups = [row.cells.get("group", "").strip() for row in rows]
    return Dataset(
        name=place,
        classes=tuple(classes.tolist()),
        labels=labels,
        ids=ids,
        groups=tuple(group or identity for group, identity in zip(groups, ids, strict=True)),
        images=ImageFiles(tuple(lines)),
    )


def _image_of(table: Path, row: TableRow) -> Path:
    for column in ("path", "label"):
        if not row.cells[column].strip():
            raise DataError(f"{table}: row {row.line} has no {column}; fill it in")
    path = Path(os.path.normpath(table.parent.absolute() / row.cells["path"].strip()))
    if not path.is_file():
        raise DataError(f"{table}: row {row.line} names {path}, which is no file; correct the path")
    return path


def _inside(path: Path, folder: Path) -> str:
    """Path from the folder on, where it lies inside."""
    folder = folder.absolute()
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _isic2019(place: str) -> Dataset:
    """ISIC 2019 training set as published; the classes that have images, in their own order."""
    folder = _existing_folder(place)
    truth = folder / TRUTH
    rows = read_table(truth, ["image"])
    columns = [name for name in rows[0].cells if name != "image"]
    diagnoses = np.array([_diagnosis(truth, row, columns) for row in rows])
    present = np.unique(diagnoses)  # UNK has no training image
    ids = tuple(row.cells["image"] for row in rows)
    return Dataset(
        name=place,
        classes=tuple(columns[index] for index in present),
        labels=np.searchsorted(present, diagnoses),
        ids=ids,
        groups=_lesions(folder / "ISIC_2019_Training_Metadata.csv", ids),
        images=_isic_images(folder / "ISIC_2019_Training_Input", ids),
    )


def _diagnosis(truth: Path, row: TableRow, columns: Sequence[str]) -> int:
    cells = [row.cells[name].strip() for name in columns]
    marked = [index for index, cell in enumerate(cells) if cell in ("1", "1.0")]
    if not marked or sum(cell in ("0", "0.0") for cell in cells) != len(cells) - 1:
        where = f"{truth}: row {row.line} ({row.cells['image']})"
        raise DataError(f"{where} is not one 1.0 and else 0.0; fetch the table again")
    return marked[0]


def _lesions(metadata: Path, ids: Sequence[str]) -> tuple[str, ...]:
    rows = read_table(metadata, ["image", "lesion_id"])
    lesions = {row.cells["image"]: row.cells["lesion_id"] for row in rows}
    _refuse_missing(metadata, [identity for identity in ids if identity not in lesions])
    return tuple(lesions[identity] or identity for identity in ids)


def _isic_images(folder: Path, ids: Sequence[str]) -> ImageFiles:
    there = _listing(_existing_folder(str(folder)))  # one listing, not 25,331 look-ups
    names = [f"{identity}.jpg" for identity in ids]
    _refuse_missing(folder, [name for name in names if name not in there])
    return ImageFiles(tuple(folder / name for name in names))


def _refuse_missing(where: Path, missing: Sequence[str]) -> None:
    if missing:
        count = f"{len(missing)} image" + "s" * (len(missing) > 1)
        raise DataError(f"{where}: lacks {count}, first {missing[0]}; fetch it again in full")


class Loader(NamedTuple):
    """How a kind of set is written, and what reads it from what follows the colon."""

    form: str
    load: Callable[[str], Dataset]


DATASETS: Registry[Loader] = Registry(
    "data",
    digits=Loader("digits", _digits),
    folder=Loader("folder:FOLDER", _folder),
    table=Loader("table:FILE.csv", _table),
    isic2019=Loader("isic2019:FOLDER", _isic2019),
)


def load_dataset(spec: str) -> Dataset:
    """Read what a person calls `digits`, `folder:FOLDER`, `table:FILE.csv` or `isic2019:FOLDER`.

    >>> load_dataset("digits").classes[:3]
    ('0', '1', '2')
    """
    kind, _, place = spec.partition(":")
    if kind not in DATASETS:
        raise UsageError(f"unknown data {spec!r}; {_hint(spec)}")
    form, load = DATASETS[kind]
    if bool(place) != (":" in form):
        raise UsageError(f"data {spec!r} must be written {form}")
    return replace(load(place), name=spec)


def _hint(spec: str) -> str:
    path = Path(spec).expanduser()
    truth = path / TRUTH
    found = {"table": path.is_file(), "isic2019": truth.is_file(), "folder": path.is_dir()}
    for kind in filter(found.get, found):
        return f"did you mean {kind}:{spec}?"
    return f"choose from {', '.join(loader.form for loader in DATASETS.values())}"


def unlabelled(places: Sequence[Path], *, name: str) -> Dataset:
    """Images without classes: these files, and all images in these folders at any depth.

    Raises:
        DataError: A file or folder does not exist, or a folder holds no image.
    """
    paths: dict[Path, None] = {}
    for place in places:
        if place.is_dir():
            paths |= dict.fromkeys(_refuse_none(_images_below(place), place))
        elif place.is_file():
            paths[place] = None
        else:
            raise DataError(f"{place}: no such file or folder; check the path")
    ids = tuple(str(path) for path in paths)
    return Dataset(
        name=name,
        classes=("unlabelled",),
        labels=np.zeros(len(paths), dtype=np.int64),
        ids=ids,
        groups=ids,
        images=ImageFiles(tuple(paths)),
        contents=f"{len(paths)} images of {name}",
    )


def _refuse_none(paths: list[Path], folder: Path) -> list[Path]:
    if not paths:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise DataError(f"{folder}: holds no image ({kinds}); add some or name another folder")
    return paths
