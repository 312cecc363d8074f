"""`ham10000:`: the HAM10000 set as its publishers lay it out (Tschandl et al., 2018)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from misgiving.data.datasets.dataset import Dataset
from misgiving.data.datasets.folders import existing_folder, first_folder, listing, refuse_missing
from misgiving.data.datasets.images import ImageFiles
from misgiving.data.datasets.metadata import metadata_of_rows
from misgiving.data.decoding import read_bytes
from misgiving.data.tables import TableRow, read_table
from misgiving.errors import DataError

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
COLUMNS = ("lesion_id", "image_id", "dx")
METADATA = ("ham10000_metadata.csv", "ham10000_metadata", "ham10000_metadata.tab")
IMAGES = ("ham10000_images_part_1", "ham10000_images_part_2", "images")
DESCRIBED = {"age": "age", "sex": "sex", "localization": "site", "dx_type": "dx_type"}
MASKS = ("HAM10000_segmentations_lesion_tschandl", "masks")


def read_ham10000(place: str) -> Dataset:
    """HAM10000 as published; the classes that have images, in the order of ISIC."""
    folder = existing_folder(place)
    metadata = metadata_of(folder)
    if metadata is None:
        raise DataError(f"{folder}: lacks HAM10000_metadata.csv; name the folder that holds it")
    rows = _rows(metadata)
    diagnoses = np.array([_diagnosis(metadata, row) for row in rows])
    present = np.unique(diagnoses)
    ids = tuple(row.cells["image_id"].strip() for row in rows)
    lesions = (row.cells["lesion_id"].strip() for row in rows)
    return Dataset(
        name=place,
        classes=tuple(CLASSES[index] for index in present),
        labels=np.searchsorted(present, diagnoses),
        ids=ids,
        groups=tuple(lesion or identity for lesion, identity in zip(lesions, ids, strict=True)),
        images=_images(folder, ids),
        masks=first_folder(folder, MASKS),
        metadata=metadata_of_rows(rows, DESCRIBED),
    )


def metadata_of(folder: Path) -> Path | None:
    """The table of a HAM10000 folder, however its name is written; None where there is none."""
    there = {name.lower(): folder / name for name in sorted(listing(folder))}
    return next((there[name] for name in METADATA if name in there), None)


def _rows(metadata: Path) -> list[TableRow]:
    """Rows of the table, which Dataverse separates by tabs and others by commas."""
    text = read_bytes(metadata).decode("utf-8-sig", errors="replace")
    if "\t" not in text.partition("\n")[0]:
        return read_table(metadata, COLUMNS)
    header, *lines = [
        [cell.strip().strip('"') for cell in line.split("\t")] for line in text.splitlines()
    ]
    if missing := [name for name in COLUMNS if name not in header]:
        raise DataError(f"{metadata}: lacks the column {', '.join(missing)}; fetch it again")
    if not lines:
        raise DataError(f"{metadata}: holds no rows; fetch it again")
    for number, cells in enumerate(lines, start=2):
        if len(cells) != len(header):
            cause = f"row {number} has {len(cells)} cells for {len(header)} columns"
            raise DataError(f"{metadata}: {cause}; fetch it again")
    return [
        TableRow(number, dict(zip(header, cells, strict=True)))
        for number, cells in enumerate(lines, start=2)
    ]


def _diagnosis(metadata: Path, row: TableRow) -> int:
    name = row.cells["dx"].strip().upper()
    if name not in CLASSES:
        known = ", ".join(CLASSES).lower()
        cause = f"row {row.line} has the dx {row.cells['dx']!r}, which is none of {known}"
        raise DataError(f"{metadata}: {cause}; correct it or fetch the table again")
    return CLASSES.index(name)


def _images(folder: Path, ids: Sequence[str]) -> ImageFiles:
    """Images in the two parts, in `images` or in the folder itself; each is listed once."""
    names = sorted(listing(folder))
    parts = [folder / name for name in names if name.lower() in IMAGES and (folder / name).is_dir()]
    found = {
        name.lower(): part / name for part in [folder, *reversed(parts)] for name in listing(part)
    }
    wanted = [f"{identity}.jpg" for identity in ids]
    refuse_missing(folder, [name for name in wanted if name.lower() not in found])
    return ImageFiles(tuple(found[name.lower()] for name in wanted))
