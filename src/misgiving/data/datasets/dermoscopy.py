"""`isic2019:` and `ham10000:` data, in the layouts of their publishers."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from misgiving.data.datasets.dataset import Dataset, ImageFiles
from misgiving.data.datasets.folders import (
    dataset_of_rows,
    existing_folder,
    listing,
    read_table,
)
from misgiving.errors import DataError

ISIC_TRUTH = "ISIC_2019_Training_GroundTruth.csv"
ISIC_DESCRIBED = "ISIC_2019_Training_Metadata.csv"
ISIC_METADATA = {"age_approx": "age", "sex": "sex", "anatom_site_general": "site"}

HAM_CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
HAM_COLUMNS = ("lesion_id", "image_id", "dx")
HAM_TABLES = ("ham10000_metadata.csv", "ham10000_metadata", "ham10000_metadata.tab")
HAM_FOLDERS = ("ham10000_images_part_1", "ham10000_images_part_2", "images")
HAM_METADATA = {"age": "age", "sex": "sex", "localization": "site", "dx_type": "dx_type"}
HAM_MASKS = ("HAM10000_segmentations_lesion_tschandl", "masks")


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
