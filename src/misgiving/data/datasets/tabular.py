"""`table:`: images and labels from a CSV file of one's own."""

import os
from pathlib import Path

import numpy as np

from misgiving.data.datasets.dataset import Dataset
from misgiving.data.datasets.images import ImageFiles
from misgiving.data.datasets.metadata import metadata_of_rows
from misgiving.data.tables import TableRow, read_table
from misgiving.errors import DataError

OWN = ("path", "label", "group")


def read_labelled_table(place: str) -> Dataset:
    """CSV with the columns `path`, `label` and perhaps `group`; paths start at the CSV's folder.

    What other columns say of the images is kept as metadata.
    """
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
        metadata=metadata_of_rows(rows, {name: name for name in rows[0].cells if name not in OWN}),
    )


def _image_of(table: Path, row: TableRow) -> Path:
    for column in ("path", "label"):
        if not row.cells[column].strip():
            raise DataError(f"{table}: row {row.line} has no {column}; fill it in")
    return Path(os.path.normpath(table.parent.absolute() / row.cells["path"].strip()))


def _inside(path: Path, folder: Path) -> str:
    """Path from the folder on, where it lies inside."""
    folder = folder.absolute()
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
