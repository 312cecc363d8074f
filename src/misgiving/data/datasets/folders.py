"""`folder:`, `table:`, `isic2019:` and `ham10000:` data, and images without labels.

The last two are in the layouts of their publishers.
"""

import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from misgiving.data.datasets.dataset import Dataset, ImageFiles, check_utf8
from misgiving.data.decoding import read_bytes
from misgiving.errors import DataError, reason_of
from misgiving.files import unescape_formulas
from misgiving.groups import UNITS, groups_of_columns

if TYPE_CHECKING:
    from pandas import DataFrame

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
OWN_COLUMNS = ("path", "label", *UNITS)

ISIC_TRUTH = "ISIC_2019_Training_GroundTruth.csv"
ISIC_DESCRIBED = "ISIC_2019_Training_Metadata.csv"
ISIC_METADATA = {"age_approx": "age", "sex": "sex", "anatom_site_general": "site"}

HAM_CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
HAM_COLUMNS = ("lesion_id", "image_id", "dx")
HAM_TABLES = ("ham10000_metadata.csv", "ham10000_metadata", "ham10000_metadata.tab")
HAM_FOLDERS = ("ham10000_images_part_1", "ham10000_images_part_2", "images")
HAM_METADATA = {"age": "age", "sex": "sex", "localization": "site", "dx_type": "dx_type"}
HAM_MASKS = ("HAM10000_segmentations_lesion_tschandl", "masks")


def read_folder(place: str) -> Dataset:
    """A folder with one sub-folder per class, in which images are found at any depth."""
    folder = existing_folder(place)
    classes = sorted(name for name in listing(folder) if (folder / name).is_dir())
    if len(classes) < 2:
        raise DataError(f"{folder}: fewer than two class folders; give each class its own folder")
    by_class = [_images_in(folder / name) for name in classes]
    paths = tuple(Path(name) for names in by_class for name in names)
    ids = tuple(path.relative_to(folder).as_posix() for path in paths)
    return Dataset(
        name=place,
        classes=tuple(classes),
        labels=np.repeat(np.arange(len(classes)), [*map(len, by_class)]),
        ids=ids,
        groups=ids,
        images=ImageFiles(paths),
    )


def read_labelled_table(place: str) -> Dataset:
    """A CSV file with the columns `path` and `label`, and optionally columns of groups.

    Paths are relative to the file's folder. Images that share a `group`, a `patient` (or
    `patient_id`) or a `lesion` (`lesion_id`) are one group. Other columns become metadata.
    """
    table = Path(place).expanduser()
    folder = table.parent.absolute()
    rows = read_table(table, ["path", "label"])
    for row in rows.index[(rows[["path", "label"]] == "").any(axis=1)]:
        raise DataError(f"{table}: row {row} has no path or no label; fill it in")
    paths = tuple(Path(os.path.normpath(folder / path)) for path in rows["path"])
    for path, count in Counter(paths).most_common(1):
        if count > 1:
            raise DataError(f"{table}: {path} is in {count} rows; keep one")
    ids = tuple(
        (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
        for path in paths
    )
    return dataset_of_rows(
        place,
        rows,
        labels=rows["label"].tolist(),
        classes=sorted({*rows["label"]}),
        ids=ids,
        images=ImageFiles(paths),
        metadata={str(name): str(name) for name in rows if name not in OWN_COLUMNS},
    )


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
        images=ImageFiles(tuple(images / name for name in names)),
        metadata=ISIC_METADATA,
        masks=_first_folder(folder, ["masks"]),
    )


def _check_complete(where: Path, names: Sequence[str], present: AbstractSet[str]) -> None:
    """Check that no image is missing in a folder or table."""
    if missing := [name for name in names if name not in present]:
        count = f"{len(missing)} image" + "s" * (len(missing) > 1)
        raise DataError(f"{where}: lacks {count}, first {missing[0]}; fetch it again in full")


def _first_folder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def read_ham10000(place: str) -> Dataset:
    """HAM10000 (Tschandl et al., 2018); classes without images are left out.

    Images are in the two published folders, in `images` or in the folder itself.
    """
    folder = existing_folder(place)
    table = ham10000_table(folder)
    if table is None:
        raise DataError(f"{folder}: lacks HAM10000_metadata.csv; give the folder that contains it")
    rows = read_table(table, HAM_COLUMNS, may_have_tabs=True)  # as Dataverse writes it
    labels = rows["dx"].str.upper()
    for row in rows.index[~labels.isin(HAM_CLASSES)]:
        raise DataError(
            f"{table}: row {row} has the dx {rows['dx'][row]!r}, not one of "
            f"{', '.join(HAM_CLASSES).lower()}; correct it or fetch the table again"
        )
    parts = [
        folder / name
        for name in sorted(listing(folder), reverse=True)
        if name.lower() in HAM_FOLDERS and (folder / name).is_dir()
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
        images=ImageFiles(tuple(paths[name] for name in names)),
        metadata=HAM_METADATA,
        masks=_first_folder(folder, HAM_MASKS),
    )


def ham10000_table(folder: Path) -> Path | None:
    """The metadata table of a HAM10000 folder, in any spelling; None where there is none."""
    there = {name.lower(): folder / name for name in sorted(listing(folder))}
    return next((there[name] for name in HAM_TABLES if name in there), None)


def dataset_of_rows(
    place: str,
    rows: "DataFrame",
    *,
    labels: Sequence[str],
    classes: Sequence[str],
    ids: Sequence[str],
    images: ImageFiles,
    metadata: Mapping[str, str],
    masks: Path | None = None,
) -> Dataset:
    """A data set that a table describes; classes without images are left out.

    Args:
        place: Name of the data.
        rows: Groups and other facts of the images, one row for each.
        labels: Class name of each image.
        classes: All class names in their order.
        ids: Name of each image.
        images: The images.
        metadata: Columns of the table that are kept where they exist, and their new names.
        masks: Folder of lesion masks.
    """
    present = tuple(name for name in classes if name in {*labels})
    position = {name: number for number, name in enumerate(present)}
    cells = {str(name): column.tolist() for name, column in rows.items()}
    groups, group_columns = groups_of_columns(cells, ids)
    return Dataset(
        name=place,
        classes=present,
        labels=np.array([position[label] for label in labels]),
        ids=tuple(ids),
        groups=groups,
        group_columns=group_columns,
        images=images,
        masks=masks,
        metadata={name: tuple(rows[column]) for column, name in metadata.items() if column in rows},
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
            names += _images_in(place)
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
        raise DataError(f"{folder}: no such folder; give the folder with the data")
    return folder


def listing(folder: Path) -> set[str]:
    """Names in a folder, without hidden ones."""
    return {name for name in os.listdir(folder) if not name.startswith(".")}  # noqa: PTH208


def _images_in(folder: Path) -> list[str]:
    """Images at any depth, ordered by their paths; links are followed, but no folder is read twice.

    A link to a folder above leads nowhere: its images may be of other classes.
    """
    above = [folder.resolve(), folder.absolute().parent.resolve()]
    names: list[str] = []
    read: set[Path] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = Path(os.path.realpath(parent))
        if real in read or (read and any(path.is_relative_to(real) for path in above)):
            folders.clear()
            continue
        read.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [
            f"{parent}/{name}".removeprefix("./")
            for name in files
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    if not names:
        kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise DataError(f"{folder}: contains no images ({kinds}); add some, or leave it out")
    return sorted(names, key=lambda name: name.replace(os.sep, "\0"))  # as paths are ordered


def _raise(failure: OSError) -> None:
    raise failure


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
