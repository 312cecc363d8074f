"""`folder:` and `table:` data, and images without labels."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from misgiving.data.datasets.dataset import Dataset, ImageFiles
from misgiving.data.datasets.tables import metadata_of_rows, read_table
from misgiving.data.decoding import refuse_file
from misgiving.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
OWN_COLUMNS = ("path", "label", "group")


def read_folder(place: str) -> Dataset:
    """A folder with one sub-folder per class, in which images are found at any depth."""
    folder = existing_folder(place)
    classes = sorted(name for name in listing(folder) if (folder / name).is_dir())
    if len(classes) < 2:
        raise DataError(f"{folder}: fewer than two class folders; give each class its own folder")
    found = [_images_in(folder / name, instead="remove it") for name in classes]
    images = [path for paths in found for path in paths]
    ids = tuple(path.relative_to(folder).as_posix() for path in images)
    return Dataset(
        name=place,
        classes=tuple(classes),
        labels=np.repeat(np.arange(len(classes)), [len(paths) for paths in found]),
        ids=ids,
        groups=ids,
        images=ImageFiles(tuple(images)),
    )


def read_labelled_table(place: str) -> Dataset:
    """A CSV file with the columns `path` and `label`, and optionally `group`.

    Paths are relative to the file's folder. Other columns become metadata.
    """
    table = Path(place).expanduser()
    folder = table.parent.absolute()
    rows = read_table(table, ["path", "label"])
    lines: dict[Path, int] = {}
    for row in rows:
        for column in ("path", "label"):
            if not row.cells[column].strip():
                raise DataError(f"{table}: row {row.line} has no {column}; fill it in")
        path = Path(os.path.normpath(folder / row.cells["path"].strip()))
        if path in lines:
            raise DataError(f"{table}: rows {lines[path]} and {row.line} name one image; keep one")
        lines[path] = row.line
    classes, labels = np.unique([row.cells["label"].strip() for row in rows], return_inverse=True)
    ids = tuple(
        (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
        for path in lines
    )
    groups = [row.cells.get("group", "").strip() for row in rows]
    others = [name for name in rows[0].cells if name not in OWN_COLUMNS]
    return Dataset(
        name=place,
        classes=tuple(classes.tolist()),
        labels=labels,
        ids=ids,
        groups=tuple(group or identity for group, identity in zip(groups, ids, strict=True)),
        images=ImageFiles(tuple(lines)),
        metadata=metadata_of_rows(rows, {name: name for name in others}),
    )


def unlabelled(places: Sequence[Path], *, name: str) -> Dataset:
    """These image files, and all images in these folders at any depth, without classes.

    Raises:
        DataError: A file or folder does not exist, or a folder has no image.
    """
    paths: dict[Path, None] = {}
    for place in places:
        if place.is_dir():
            paths |= dict.fromkeys(_images_in(place, instead="name another folder"))
        elif place.is_file():
            paths[place] = None
        else:
            raise DataError(f"{place}: no such file or folder; check the path")
    ids = tuple(map(str, paths))
    return Dataset(
        name=name,
        classes=("unlabelled",),
        labels=np.zeros(len(paths), dtype=np.int64),
        ids=ids,
        groups=ids,
        images=ImageFiles(tuple(paths)),
        contents=f"{len(paths)} images of {name}",
    )


def existing_folder(place: str) -> Path:
    """The folder of this name, in which `~` is the home folder."""
    folder = Path(place).expanduser()
    if not folder.is_dir():
        found = "a file, not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {found}; name the folder that holds the data")
    return folder


def listing(folder: Path) -> set[str]:
    """Names in a folder, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.name.startswith(".")}
    except OSError as failure:
        refuse_file(folder, failure)


def refuse_missing(where: Path, missing: Sequence[str]) -> None:
    """Refuse a folder or table in which images are missing, if there are any."""
    if missing:
        count = f"{len(missing)} image" + "s" * (len(missing) > 1)
        raise DataError(f"{where}: lacks {count}, first {missing[0]}; fetch it again in full")


def _images_in(folder: Path, *, instead: str) -> list[Path]:
    paths = _images_below(folder)
    if not paths:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise DataError(f"{folder}: holds no image ({kinds}); add some or {instead}")
    return paths


def _images_below(folder: Path) -> list[Path]:
    paths: list[Path] = []
    for name in sorted(listing(folder)):
        path = folder / name
        if path.suffix.lower() in SUFFIXES:
            paths.append(path)
        elif path.is_dir() and not path.is_symlink():  # a link may lead in a circle
            paths += _images_below(path)
    return paths
