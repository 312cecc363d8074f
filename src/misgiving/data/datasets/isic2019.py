"""`isic2019:`: the training set of the ISIC 2019 challenge in its official layout."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from misgiving.data.datasets.dataset import Dataset
from misgiving.data.datasets.folders import existing_folder, first_folder, listing, refuse_missing
from misgiving.data.datasets.images import ImageFiles
from misgiving.data.datasets.metadata import metadata_of_rows
from misgiving.data.tables import TableRow, read_table
from misgiving.errors import DataError

TRUTH = "ISIC_2019_Training_GroundTruth.csv"
METADATA = {"age_approx": "age", "sex": "sex", "anatom_site_general": "site"}


def read_isic2019(place: str) -> Dataset:
    """ISIC 2019 training set as published; the classes that have images, in their own order."""
    folder = existing_folder(place)
    truth = folder / TRUTH
    rows = read_table(truth, ["image"])
    columns = [name for name in rows[0].cells if name != "image"]
    diagnoses = np.array([_diagnosis(truth, row, columns) for row in rows])
    present = np.unique(diagnoses)  # UNK has no training image
    ids = tuple(row.cells["image"] for row in rows)
    described = _described(folder / "ISIC_2019_Training_Metadata.csv", ids)
    return Dataset(
        name=place,
        classes=tuple(columns[index] for index in present),
        labels=np.searchsorted(present, diagnoses),
        ids=ids,
        groups=tuple(
            row.cells["lesion_id"] or identity for row, identity in zip(described, ids, strict=True)
        ),
        images=_isic_images(folder / "ISIC_2019_Training_Input", ids),
        masks=first_folder(folder, ["masks"]),
        metadata=metadata_of_rows(described, METADATA),
    )


def _diagnosis(truth: Path, row: TableRow, columns: Sequence[str]) -> int:
    cells = [row.cells[name].strip() for name in columns]
    marked = [index for index, cell in enumerate(cells) if cell in ("1", "1.0")]
    if not marked or sum(cell in ("0", "0.0") for cell in cells) != len(cells) - 1:
        where = f"{truth}: row {row.line} ({row.cells['image']})"
        raise DataError(f"{where} is not one 1.0 and else 0.0; fetch the table again")
    return marked[0]


def _described(metadata: Path, ids: Sequence[str]) -> list[TableRow]:
    """The rows of the metadata in the order of the images."""
    rows = {row.cells["image"]: row for row in read_table(metadata, ["image", "lesion_id"])}
    refuse_missing(metadata, [identity for identity in ids if identity not in rows])
    return [rows[identity] for identity in ids]


def _isic_images(folder: Path, ids: Sequence[str]) -> ImageFiles:
    there = listing(existing_folder(str(folder)))  # one listing, not 25,331 look-ups
    names = [f"{identity}.jpg" for identity in ids]
    refuse_missing(folder, [name for name in names if name not in there])
    return ImageFiles(tuple(folder / name for name in names))
