"""`folder:` and `table:` data, images without labels, and the tables of image sets."""

import io
import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from misgiving.data.datasets.dataset import Dataset, ImageFiles, Metadata, check_utf8
from misgiving.data.decoding import read_bytes, unreadable
from misgiving.errors import DataError, reason_of
from misgiving.files import unescape_formulas
from misgiving.groups import UNITS, groups_of_columns

if TYPE_CHECKING:
    from pandas import DataFrame

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
OWN_COLUMNS = ("path", "label", *UNITS)


def read_folder(place: str) -> Dataset:
    """A folder with one sub-folder per class, in which images are found at any depth."""
    folder = existing_folder(place)
    classes = sorted(name for name in listing(folder) if (folder / name).is_dir())
    if len(classes) < 2:
        raise DataError(f"{folder}: fewer than two class folders; give each class its own folder")
    by_class = [list(_images_in(folder / name, instead="remove it")) for name in classes]
    images = [path for paths in by_class for path in paths]
    ids = tuple(path.relative_to(folder).as_posix() for path in images)
    return Dataset(
        name=place,
        classes=tuple(classes),
        labels=np.repeat(np.arange(len(classes)), [len(paths) for paths in by_class]),
        ids=ids,
        groups=ids,
        images=ImageFiles(tuple(images)),
    )


def read_labelled_table(place: str) -> Dataset:
    """A CSV file with the columns `path` and `label`, and optionally columns of groups.

    Paths are relative to the file's folder. Images that share a `group`, a `patient` (or
    `patient_id`) or a `lesion` (`lesion_id`) are one group. Other columns become metadata.
    """
    table = Path(place).expanduser()
    folder = table.parent.absolute()
    rows = read_table(table, ["path", "label"])
    for column in ("path", "label"):
        for row in rows.index[rows[column] == ""]:
            raise DataError(f"{table}: row {row} has no {column}; fill it in")
    paths = [Path(os.path.normpath(folder / path)) for path in rows["path"]]
    for path, count in Counter(paths).most_common(1):
        if count > 1:
            raise DataError(f"{table}: {path} is in {count} rows; keep one")
    classes, labels = np.unique(rows["label"].to_numpy(str), return_inverse=True)
    ids = tuple(
        (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
        for path in paths
    )
    groups, group_columns = groups_of_columns(columns_of(rows), ids)
    return Dataset(
        name=place,
        classes=tuple(classes.tolist()),
        labels=labels,
        ids=ids,
        groups=groups,
        group_columns=group_columns,
        images=ImageFiles(tuple(paths)),
        metadata=metadata_of(rows, {name: name for name in rows if name not in OWN_COLUMNS}),
    )


def image_names(places: Sequence[Path]) -> list[str]:
    """These image files, and all images in these folders at any depth, each once.

    A file that is found twice has the name under which it was found first. Names take a quarter of
    the memory of paths, of which there may be millions.

    Raises:
        DataError: A file or folder does not exist, a folder has no image, or a name is not UTF-8.
    """
    names: list[str] = []
    for place in places:
        if place.is_dir():
            names += map(str, _images_in(place, instead="name another folder"))
        elif place.is_file():
            names.append(str(place))
        else:
            raise DataError(f"{place}: no such file or folder; check the path")
    check_utf8(names, "images")
    if len(places) == 1:
        return names
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(os.path.abspath(name), name)  # noqa: PTH100  # paths take ten times as long
    return list(first.values())


def unlabelled_images(places: Sequence[Path], *, name: str) -> Dataset:
    """The images of `image_names`, without classes."""
    ids = tuple(image_names(places))
    return Dataset(
        name=name,
        classes=("unlabelled",),
        labels=np.zeros(len(ids), dtype=np.int64),
        ids=ids,
        groups=ids,
        images=ImageFiles(tuple(map(Path, ids))),
        contents=f"{len(ids)} images of {name}",
    )


def existing_folder(place: str) -> Path:
    """The folder of this name, in which `~` is the home folder."""
    folder = Path(place).expanduser()
    if not folder.is_dir():
        reason = "a file, not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {reason}; give the folder with the data")
    return folder


def listing(folder: Path) -> set[str]:
    """Names in a folder, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.name.startswith(".")}
    except OSError as failure:
        raise unreadable(folder, failure) from failure


def _images_in(folder: Path, *, instead: str) -> Iterator[Path]:
    empty = True
    for path in _images_below(folder):
        empty = False
        yield path
    if empty:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise DataError(f"{folder}: contains no images ({kinds}); add some or {instead}")


def _images_below(folder: Path) -> Iterator[Path]:
    """Images at any depth, each real folder once: those of linked folders come last."""
    read: set[Path] = set()
    linked = deque([folder])
    while linked:
        yield from _walk(linked.popleft(), read, linked)


def _walk(folder: Path, read: set[Path], linked: deque[Path]) -> Iterator[Path]:
    """Images below a folder that was not read before; links to folders are put off."""
    if (real := folder.resolve()) in read:
        return
    read.add(real)
    for name in sorted(listing(folder)):
        path = folder / name
        if path.suffix.lower() in SUFFIXES:
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from _walk(path, read, linked)
        elif path.is_dir() and not _leads_up(path):
            linked.append(path)


def _leads_up(link: Path) -> bool:
    """True for a link to a folder that contains it, whose images may be of other classes."""
    target = link.resolve()
    return any(above.resolve().is_relative_to(target) for above in link.absolute().parents)


def read_table(path: Path, columns: Sequence[str], *, may_have_tabs: bool = False) -> "DataFrame":
    """Stripped texts of a UTF-8 CSV file that must have these columns, with commas or else tabs.

    Rows are numbered from 2, as a spreadsheet does.
    """
    import pandas as pd  # takes longer to import than a folder of images takes to list

    data = read_bytes(path)
    tabs = may_have_tabs and b"\t" in data.partition(b"\n")[0]
    try:
        rows = pd.read_csv(
            io.BytesIO(data),
            sep="\t" if tabs else ",",
            header=None,  # keeps repeated names
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            engine="python",  # which tells missing cells from empty ones
        )
    except ValueError as failure:
        raise DataError(
            f"{path}: not a table in UTF-8 with commas ({reason_of(failure)}); correct it"
        ) from failure
    if incomplete := rows.index[rows.isna().any(axis=1)].tolist():
        raise DataError(f"{path}: row {incomplete[0] + 1} has too few cells; fill them in")
    rows = rows.map(lambda cell: unescape_formulas(cell).strip())
    header = rows.iloc[0].tolist()
    rows = rows.iloc[1:].set_axis(header, axis=1).set_axis(range(2, len(rows) + 1), axis=0)
    if missing := [name for name in columns if header.count(name) != 1]:
        raise DataError(
            f"{path}: needs the column {', '.join(missing)} once; its columns are "
            f"{', '.join(header)}"
        )
    if rows.empty:
        raise DataError(f"{path}: has no rows; add one for each image")
    return rows.loc[:, ~rows.columns.duplicated()]


def columns_of(rows: "DataFrame") -> dict[str, list[str]]:
    """The cells of each column."""
    return {str(name): rows[name].tolist() for name in rows}


def metadata_of(rows: "DataFrame", columns: Mapping[str, str]) -> Metadata:
    """Columns of a table, one row per image, under other names; missing ones are left out."""
    return {name: tuple(rows[column]) for column, name in columns.items() if column in rows}
