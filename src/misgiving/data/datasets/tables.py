"""`table:`, `isic2019:` and `ham10000:` data; the last two in the layouts of their publishers."""

import io
import json
import os
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from misgiving.csv_tables import csv_rows
from misgiving.data.datasets.dataset import SET_NAMES, Dataset, FileImage, SourceImage
from misgiving.data.datasets.parquet import parquet_files, parquet_images, parquet_rows
from misgiving.data.decoding import read_bytes
from misgiving.errors import DataError, explain_damage
from misgiving.groups import UNITS, groups_of_columns

if TYPE_CHECKING:
    from pandas import DataFrame

OWN_COLUMNS = ("path", "label", "set", *UNITS)

ISIC_TRUTH = "ISIC_2019_Training_GroundTruth.csv"
ISIC_DESCRIBED = "ISIC_2019_Training_Metadata.csv"
ISIC_METADATA = {"age_approx": "age", "sex": "sex", "anatom_site_general": "site"}

HAM_CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
HAM_COLUMNS = ("lesion_id", "image_id", "dx")
HAM_TABLES = ("ham10000_metadata.csv", "ham10000_metadata", "ham10000_metadata.tab")
HAM_FOLDERS = ("ham10000_images_part_1", "ham10000_images_part_2", "images")
HAM_METADATA = {"age": "age", "sex": "sex", "localization": "site", "dx_type": "dx_type"}
HAM_MASKS = ("ham10000_segmentations_lesion_tschandl", "masks")


def read_labelled_table(place: str) -> Dataset:
    """A table with the columns `path` and `label`, and optionally `set` and columns of groups.

    CSV, JSON lines or Parquet; the last may have the images themselves in the column `image`. Paths
    are relative to the file's folder. Images that share a `group`, a `patient` (or `patient_id`) or
    a `lesion` (`lesion_id`) are one group. Other columns become metadata.
    """
    table = Path(place).expanduser()
    return labelled_table(table, read_table(table, ["path", "label"]))


def labelled_table(table: Path, rows: "DataFrame") -> Dataset:
    """The data set of the rows of such a table, which may differ from those in its file."""
    folder = table.parent.absolute()
    for row in rows.index[(rows[["path", "label"]] == "").any(axis=1)]:
        raise DataError(f"{table}: row {row} has no path or no label; fill it in")
    paths = tuple(Path(os.path.normpath(folder / path)) for path in rows["path"])
    ids = tuple(
        (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
        for path in paths
    )
    dataset = dataset_of_rows(
        str(table),
        rows,
        labels=rows["label"].tolist(),
        classes=sorted({*rows["label"]}),
        ids=ids,
        images=parquet_images(table) or tuple(map(FileImage, paths)),
        metadata={str(name): str(name) for name in rows if name not in OWN_COLUMNS},
    )
    return replace(dataset, sets=_published_sets(table, rows))


def _published_sets(table: Path, rows: "DataFrame") -> tuple[str, ...]:
    """Set of each row by the column `set`; empty where there is none, or nothing in it."""
    if "set" not in rows or not rows["set"].any():
        return ()
    sets = rows["set"].str.lower().map(SET_NAMES)
    for row in rows.index[sets.isna()]:
        raise DataError(
            f"{table}: row {row} has the set {rows['set'][row]!r}, not one of "
            f"{', '.join(dict.fromkeys(SET_NAMES.values()))}; correct it or rename the column"
        )
    return tuple(sets)


def read_isic2019(place: str) -> Dataset:
    """The ISIC 2019 training set; classes without images are left out, as UNK is."""
    folder = existing_folder(place)
    truth = read_table(folder / ISIC_TRUTH, ["image"])
    cells = truth.drop(columns="image")
    marked = cells.isin(["1", "1.0"])
    valid = (marked.sum(axis=1) == 1) & (marked | cells.isin(["0", "0.0"])).all(axis=1)
    for row in truth.index[~valid]:
        where = f"{folder / ISIC_TRUTH}: row {row} ({truth['image'][row]})"
        raise DataError(f"{where} must have one 1.0 and otherwise 0.0; fetch the table again")
    ids = truth["image"].tolist()
    rows = read_table(folder / ISIC_DESCRIBED, ["image", "lesion_id"]).set_index("image")
    _check_complete(folder / ISIC_DESCRIBED, ids, {*rows.index})
    images = existing_folder(str(folder / "ISIC_2019_Training_Input"))
    names = [f"{identity}.jpg" for identity in ids]
    _check_complete(images, names, listing(images))  # one listing instead of 25,331 look-ups
    return dataset_of_rows(
        place,
        rows[~rows.index.duplicated(keep="last")].loc[ids],
        labels=marked.idxmax(axis=1).tolist(),
        classes=cells.columns.tolist(),
        ids=ids,
        images=tuple(FileImage(images / name) for name in names),
        metadata=ISIC_METADATA,
        augmentation="dermoscopy",
        masks=folder / "masks" if (folder / "masks").is_dir() else None,
    )


def _check_complete(where: Path, names: Sequence[str], present: AbstractSet[str]) -> None:
    """Check that no image is missing in a folder or table."""
    if missing := [name for name in names if name not in present]:
        count = f"{len(missing)} image" + "s" * (len(missing) > 1)
        raise DataError(f"{where}: lacks {count}, first {missing[0]}; fetch it again in full")


def read_ham10000(place: str) -> Dataset:
    """HAM10000 (Tschandl et al., 2018); classes without images are left out.

    Images are in the two published folders, in `images` or in the folder itself.
    """
    folder = existing_folder(place)
    there = {name.lower(): folder / name for name in sorted(listing(folder))}
    table, masks = (
        next((there[name] for name in names if name in there), None)
        for names in (HAM_TABLES, HAM_MASKS)
    )
    if table is None:
        raise DataError(f"{folder}: lacks HAM10000_metadata.csv; give the folder that contains it")
    rows = read_table(table, HAM_COLUMNS)
    labels = rows["dx"].str.upper()
    for row in rows.index[~labels.isin(HAM_CLASSES)]:
        raise DataError(
            f"{table}: row {row} has the dx {rows['dx'][row]!r}, not one of "
            f"{', '.join(HAM_CLASSES).lower()}; correct it or fetch the table again"
        )
    parts = [
        folder / name
        for name in sorted(listing(folder), reverse=True)
        if name.lower() in HAM_FOLDERS
    ]
    paths = {name.lower(): part / name for part in [folder, *parts] for name in listing(part)}
    ids = rows["image_id"].tolist()
    names = [f"{identity}.jpg".lower() for identity in ids]
    _check_complete(folder, names, paths.keys())
    return dataset_of_rows(
        place,
        rows,
        labels=labels.tolist(),
        classes=HAM_CLASSES,
        ids=ids,
        images=tuple(FileImage(paths[name]) for name in names),
        metadata=HAM_METADATA,
        augmentation="dermoscopy",
        masks=masks,
    )


def dataset_of_rows(
    place: str,
    rows: "DataFrame",
    *,
    labels: Sequence[str],
    classes: Sequence[str],
    ids: Sequence[str],
    images: tuple[SourceImage, ...],
    metadata: Mapping[str, str],
    masks: Path | None = None,
    augmentation: str = "light",
) -> Dataset:
    """A data set that a table describes; classes without images are left out.

    `rows` has groups and other facts, one row for each image; `metadata` are the columns of it that
    are kept where they exist, and their new names.
    """
    present = tuple(name for name in classes if name in {*labels})
    position = {name: number for number, name in enumerate(present)}
    cells = {str(name): column.tolist() for name, column in rows.items()}
    groups, group_columns = groups_of_columns(cells, len(ids))
    return Dataset(
        name=place,
        classes=present,
        labels=np.array([position[label] for label in labels]),
        ids=tuple(ids),
        groups=groups,
        group_columns=group_columns,
        images=images,
        masks=masks,
        augmentation=augmentation,
        metadata={name: tuple(rows[column]) for column, name in metadata.items() if column in rows},
    )


def existing_folder(place: str) -> Path:
    """The folder of this name, in which `~` is the home folder."""
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder with the data")
    return folder


def listing(folder: Path) -> set[str]:
    """Names in a folder, without hidden ones."""
    return {name for name in os.listdir(folder) if not name.startswith(".")}  # noqa: PTH208


def read_table(path: Path, columns: Sequence[str]) -> "DataFrame":
    """Stripped texts of a table that must have these columns; `file_name` is called `path`.

    UTF-8 CSV, with commas or tabs (as Dataverse writes it), or by its suffix JSON lines or Parquet.
    Rows are numbered from 2, as a spreadsheet does.
    """
    import pandas as pd  # takes longer to import than a folder of images takes to list

    with explain_damage(path, remedy="correct the table, in UTF-8 with commas"):
        header, *rows = _cells(path)
    if "path" not in header:
        header = ["path" if name == "file_name" else name for name in header]
    if missing := [name for name in columns if header.count(name) != 1]:
        raise DataError(
            f"{path}: needs the column {', '.join(missing)} once; its columns are "
            f"{', '.join(header)}"
        )
    for number, cells in enumerate(rows, start=2):
        if len(cells) != len(header):
            raise DataError(f"{path}: row {number} must have {len(header)} cells; correct it")
    if not rows:
        raise DataError(f"{path}: has no rows; add one for each image")
    table = pd.DataFrame(rows, columns=header, index=range(2, len(rows) + 2))
    return table.loc[:, ~table.columns.duplicated()]


def _cells(path: Path) -> list[list[str]]:
    if parquet_files(path):
        return _cells_of_records(parquet_rows(path))
    data = read_bytes(path)
    if path.suffix == ".jsonl":
        return _cells_of_records([json.loads(line) for line in data.splitlines() if line.strip()])
    delimiter = "\t" if b"\t" in data.partition(b"\n")[0] else ","
    rows = csv_rows(io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter=delimiter)
    stripped = ([cell.strip() for cell in cells] for _, cells in rows)
    return [cells for cells in stripped if any(cells)] or [[]]


def _cells_of_records(records: Sequence[Mapping[str, object]]) -> list[list[str]]:
    header = [*dict.fromkeys(name for record in records for name in record)]
    values = ([record.get(name) for name in header] for record in records)
    return [header, *(["" if v is None else str(v).strip() for v in row] for row in values)]
