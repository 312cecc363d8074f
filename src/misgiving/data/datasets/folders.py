"""`folder:` and images without labels, and what else finds images in folders."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from misgiving.data.datasets.dataset import Dataset
from misgiving.data.datasets.images import ImageFiles
from misgiving.data.decoding import refuse_file
from misgiving.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})


def read_folder(place: str) -> Dataset:
    """One sub-folder for each class; images are found inside at any depth."""
    folder = existing_folder(place)
    classes = sorted(name for name in listing(folder) if (folder / name).is_dir())
    if len(classes) < 2:
        raise DataError(f"{folder}: fewer than two class folders; give each class its own folder")
    found_in = {name: images_below(folder / name) for name in classes}
    for name, paths in found_in.items():
        _refuse_none(paths, folder / name, "remove it")
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


def existing_folder(place: str) -> Path:
    """The folder of this name, in which `~` is the home folder.

    Raises:
        DataError: There is none.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        found = "a file, not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {found}; name the folder that holds the data")
    return folder


def listing(folder: Path) -> set[str]:
    """Names in a folder, without the hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.name.startswith(".")}
    except OSError as failure:
        refuse_file(folder, failure)


def first_folder(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of these sub-folders that exists; None where there is none."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def images_below(folder: Path) -> list[Path]:
    """Image files in a folder at any depth."""
    paths: list[Path] = []
    for name in sorted(listing(folder)):
        path = folder / name
        if path.suffix.lower() in SUFFIXES:
            paths.append(path)
        elif path.is_dir() and not path.is_symlink():  # a link may lead round in a circle
            paths += images_below(path)
    return paths


def refuse_missing(where: Path, missing: Sequence[str]) -> None:
    """Refuse a folder or table that lacks these images, if there are any."""
    if missing:
        count = f"{len(missing)} image" + "s" * (len(missing) > 1)
        raise DataError(f"{where}: lacks {count}, first {missing[0]}; fetch it again in full")


def unlabelled(places: Sequence[Path], *, name: str) -> Dataset:
    """Images without classes: these files, and all images in these folders at any depth.

    Raises:
        DataError: A file or folder does not exist, or a folder holds no image.
    """
    paths = list(dict.fromkeys(path for place in places for path in _images_of(place)))
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


def _images_of(place: Path) -> list[Path]:
    if place.is_dir():
        found = images_below(place)
        _refuse_none(found, place, "name another folder")
        return found
    if place.is_file():
        return [place]
    raise DataError(f"{place}: no such file or folder; check the path")


def _refuse_none(paths: Sequence[Path], folder: Path, instead: str) -> None:
    if not paths:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise DataError(f"{folder}: holds no image ({kinds}); add some or {instead}")
