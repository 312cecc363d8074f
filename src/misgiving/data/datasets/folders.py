"""`folder:` and `table:` data, images without labels, and the tables of image sets."""

import csv
import io
import math
import os
from bisect import bisect
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misgiving.data.datasets.dataset import Dataset, ImageFiles, Metadata, refuse_undecodable
from misgiving.data.decoding import read_bytes, refuse_file
from misgiving.errors import DataError
from misgiving.files import csv_rows
from misgiving.groups import UNITS, groups_of_rows

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
OWN_COLUMNS = ("path", "label", *UNITS)
AGES = (30, 50, 70)
AGE_BANDS = ("under 30", "30-49", "50-69", "70 or older")
FEW = 12  # a column with at most so many values is kept as it is


def read_folder(place: str) -> Dataset:
    """A folder with one sub-folder per class, in which images are found at any depth."""
    folder = existing_folder(place)
    classes = sorted(name for name in listing(folder) if (folder / name).is_dir())
    if len(classes) < 2:
        raise DataError(f"{folder}: fewer than two class folders; give each class its own folder")
    found = [list(_images_in(folder / name, instead="remove it")) for name in classes]
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
    """A CSV file with the columns `path` and `label`, and optionally columns of groups.

    Paths are relative to the file's folder. Images that share a `group`, a `patient` (or
    `patient_id`) or a `lesion` (`lesion_id`) are one group. Other columns become metadata.
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
    others = [name for name in rows[0].cells if name not in OWN_COLUMNS]
    named = groups_of_rows([row.cells for row in rows], ids)
    return Dataset(
        name=place,
        classes=tuple(classes.tolist()),
        labels=labels,
        ids=ids,
        groups=named.groups,
        group_columns=named.columns,
        images=ImageFiles(tuple(lines)),
        metadata=metadata_of_rows(rows, {name: name for name in others}),
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
    refuse_undecodable(names, "images")
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
        found = "a file, not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {found}; give the folder with the data")
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


class TableRow(NamedTuple):
    """Cells of a CSV row by column, and the line of the file on which the row ends."""

    line: int
    cells: Mapping[str, str]


def read_table(
    path: Path, columns: Sequence[str], *, may_have_tabs: bool = False
) -> list[TableRow]:
    """Rows of a UTF-8 CSV file that must have these columns, separated by commas or else tabs."""
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
        tabs = may_have_tabs and "\t" in text.partition("\n")[0]
        file = io.StringIO(text, newline="")
        rows = csv_rows(file, delimiter="\t" if tabs else ",")
        lines = [(number, cells) for number, cells in rows if cells]
    except UnicodeDecodeError as failure:
        raise DataError(f"{path}: not UTF-8 text; save it as CSV in UTF-8") from failure
    except csv.Error as failure:
        raise DataError(f"{path}: not CSV ({failure}); correct it") from failure
    return _checked_rows(path, lines, columns)


def _checked_rows(
    path: Path, lines: Sequence[tuple[int, list[str]]], columns: Sequence[str]
) -> list[TableRow]:
    """Rows below a header, given all lines of a table with their numbers."""
    header = [name.strip() for name in lines[0][1]] if lines else []
    if missing := [name for name in columns if name not in header]:
        found = ", ".join(header) or "none"
        raise DataError(f"{path}: lacks the column {', '.join(missing)}; its columns are {found}")
    if repeated := [name for name, count in Counter(header).items() if name and count > 1]:
        raise DataError(f"{path}: has the column {', '.join(repeated)} more than once; keep one")
    if len(lines) == 1:
        raise DataError(f"{path}: has no rows; add one for each image")
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            cause = f"row {line} has {len(cells)} cells for {len(header)} columns"
            raise DataError(f"{path}: {cause}; quote cells that contain a separator")
    return [TableRow(line, dict(zip(header, cells, strict=True))) for line, cells in lines[1:]]


def metadata_of_rows(rows: Sequence[TableRow], columns: Mapping[str, str]) -> Metadata:
    """Columns of these rows under other names, with ages and other numbers in bands.

    Args:
        rows: One per image.
        columns: The new name of each column. Columns that are missing, and columns of text with
            many values, are left out.
    """
    cells = rows[0].cells if rows else {}
    found = {
        name: banded(name, [row.cells[column].strip() for row in rows])
        for column, name in columns.items()
        if column in cells
    }
    return {name: values for name, values in found.items() if values}


def banded(name: str, values: Sequence[str]) -> tuple[str, ...]:
    """A column of few values as it is, and numbers in bands; empty if neither is possible."""
    if name == "age":
        return tuple(map(age_band, values))
    if len(set(values)) <= FEW:
        return tuple(values)
    numbers = [_number(value) for value in values]
    if any(number is None for number, value in zip(numbers, values, strict=True) if value):
        return ()
    known = sorted(number for number in numbers if number is not None)
    bounds = sorted({known[len(known) * quarter // 4] for quarter in (1, 2, 3)})
    inner = (f"{low:g} to below {high:g}" for low, high in pairwise(bounds))
    bands = [f"below {bounds[0]:g}", *inner, f"{bounds[-1]:g} or more"]
    return tuple("" if number is None else bands[bisect(bounds, number)] for number in numbers)


def age_band(age: str) -> str:
    """Band of an age in years; empty if it is not a number.

    >>> age_band("45.0"), age_band("85"), age_band("unknown")
    ('30-49', '70 or older', '')
    """
    years = _number(age)
    return "" if years is None else AGE_BANDS[bisect(AGES, years)]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
