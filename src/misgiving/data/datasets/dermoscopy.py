"""`isic2019:` and `ham10000:` data, in the layouts of their publishers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from misgiving.data.datasets.dataset import Dataset, ImageFiles
from misgiving.data.datasets.folders import (
    TableRow,
    existing_folder,
    listing,
    metadata_of_rows,
    read_table,
    refuse_missing,
)
from misgiving.errors import DataError
from misgiving.groups import groups_of_rows

ISIC_TRUTH = "ISIC_2019_Training_GroundTruth.csv"
ISIC_DESCRIBED = "ISIC_2019_Training_Metadata.csv"
ISIC_METADATA = {"age_approx": "age", "sex": "sex", "anatom_site_general": "site"}

HAM_CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
HAM_COLUMNS = ("lesion_id", "image_id", "dx")
HAM_TABLES = ("ham10000_metadata.csv", "ham10000_metadata", "ham10000_metadata.tab")
HAM_FOLDERS = ("ham10000_images_part_1", "ham10000_images_part_2", "images")
HAM_METADATA = {"age": "age", "sex": "sex", "localization": "site", "dx_type": "dx_type"}
HAM_MASKS = ("HAM10000_segmentations_lesion_tschandl", "masks")

PUBLISHED: Mapping[str, Mapping[str, int]] = {
    "isic2019": {  # 25,331 training images (challenge.isic-archive.com/landing/2019)
        "MEL": 4522,
        "NV": 12875,
        "BCC": 3323,
        "AK": 867,
        "BKL": 2624,
        "DF": 239,
        "VASC": 253,
        "SCC": 628,
    },
    "ham10000": {  # 10,015 images (Tschandl et al., 2018, Scientific Data 5, 180161)
        "MEL": 1113,
        "NV": 6705,
        "BCC": 514,
        "AKIEC": 327,
        "BKL": 1099,
        "DF": 115,
        "VASC": 142,
    },
}
"""Published number of images of each class."""


def published_counts(name: str) -> Mapping[str, int] | None:
    """Published images per class of `isic2019:...` and the like; None where they are not known.

    DermaMNIST holds the 10,015 images of HAM10000 (Yang et al., 2023), and so does its corrected
    edition, but not its extended one (Abhishek et al., 2025).

    >>> published_counts("ham10000:HAM10000")["NV"]
    6705
    >>> published_counts("folder:photos")
    """
    kind, _, place = name.partition(":")
    file = place.rpartition("/")[2]
    if kind == "medmnist" and file.startswith("dermamnist") and "extended" not in file:
        return PUBLISHED["ham10000"]
    return PUBLISHED.get(kind)


def read_isic2019(place: str) -> Dataset:
    """The ISIC 2019 training set; classes without images are left out."""
    folder = existing_folder(place)
    truth = folder / ISIC_TRUTH
    rows = read_table(truth, ["image"])
    columns = [name for name in rows[0].cells if name != "image"]
    diagnoses = np.array([_isic_diagnosis(truth, row, columns) for row in rows])
    present = np.unique(diagnoses)  # UNK has no training image
    ids = tuple(row.cells["image"] for row in rows)
    metadata = folder / ISIC_DESCRIBED
    by_id = {row.cells["image"]: row for row in read_table(metadata, ["image", "lesion_id"])}
    refuse_missing(metadata, [identity for identity in ids if identity not in by_id])
    described = [by_id[identity] for identity in ids]
    named = groups_of_rows([row.cells for row in described], ids)
    images = existing_folder(str(folder / "ISIC_2019_Training_Input"))
    there = listing(images)  # one listing instead of 25,331 look-ups
    refuse_missing(images, [f"{name}.jpg" for name in ids if f"{name}.jpg" not in there])
    return Dataset(
        name=place,
        classes=tuple(columns[index] for index in present),
        labels=np.searchsorted(present, diagnoses),
        ids=ids,
        groups=named.groups,
        group_columns=named.columns,
        images=ImageFiles(tuple(images / f"{name}.jpg" for name in ids)),
        masks=_first_folder(folder, ["masks"]),
        metadata=metadata_of_rows(described, ISIC_METADATA),
    )


def _isic_diagnosis(truth: Path, row: TableRow, columns: Sequence[str]) -> int:
    cells = [row.cells[name].strip() for name in columns]
    marked = [index for index, cell in enumerate(cells) if cell in ("1", "1.0")]
    if not marked or sum(cell in ("0", "0.0") for cell in cells) != len(cells) - 1:
        where = f"{truth}: row {row.line} ({row.cells['image']})"
        raise DataError(f"{where} must have one 1.0 and otherwise 0.0; fetch the table again")
    return marked[0]


def _first_folder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def read_ham10000(place: str) -> Dataset:
    """HAM10000 (Tschandl et al., 2018); classes without images are left out."""
    folder = existing_folder(place)
    table = ham10000_table(folder)
    if table is None:
        raise DataError(f"{folder}: lacks HAM10000_metadata.csv; give the folder that contains it")
    rows = read_table(table, HAM_COLUMNS, may_have_tabs=True)  # as Dataverse writes it
    diagnoses = np.array([_ham_diagnosis(table, row) for row in rows])
    present = np.unique(diagnoses)
    ids = tuple(row.cells["image_id"].strip() for row in rows)
    named = groups_of_rows([row.cells for row in rows], ids)
    return Dataset(
        name=place,
        classes=tuple(HAM_CLASSES[index] for index in present),
        labels=np.searchsorted(present, diagnoses),
        ids=ids,
        groups=named.groups,
        group_columns=named.columns,
        images=_ham_images(folder, ids),
        masks=_first_folder(folder, HAM_MASKS),
        metadata=metadata_of_rows(rows, HAM_METADATA),
    )


def ham10000_table(folder: Path) -> Path | None:
    """The metadata table of a HAM10000 folder, in any spelling; None where there is none."""
    there = {name.lower(): folder / name for name in sorted(listing(folder))}
    return next((there[name] for name in HAM_TABLES if name in there), None)


def _ham_diagnosis(table: Path, row: TableRow) -> int:
    name = row.cells["dx"].strip().upper()
    if name not in HAM_CLASSES:
        known = ", ".join(HAM_CLASSES).lower()
        cause = f"row {row.line} has the dx {row.cells['dx']!r}, not one of {known}"
        raise DataError(f"{table}: {cause}; correct it or fetch the table again")
    return HAM_CLASSES.index(name)


def _ham_images(folder: Path, ids: Sequence[str]) -> ImageFiles:
    """Images in the two published folders, in `images` or in the folder itself."""
    names = [name for name in sorted(listing(folder)) if name.lower() in HAM_FOLDERS]
    parts = [folder / name for name in names if (folder / name).is_dir()]
    found = {
        name.lower(): part / name for part in [folder, *reversed(parts)] for name in listing(part)
    }
    wanted = [f"{identity}.jpg" for identity in ids]
    refuse_missing(folder, [name for name in wanted if name.lower() not in found])
    return ImageFiles(tuple(found[name.lower()] for name in wanted))
