"""Lists of images for a person to review: suspect labels, or the decisions of `predict`."""

from pathlib import Path
from typing import NamedTuple

from misgiving.errors import DataError, explain_damage
from misgiving.files import csv_rows

SUSPECTS_FILE = "suspect_labels.csv"
REMEDY = "give a CSV file that `misgiving data check` or `predict` wrote"


class SuspectLabel(NamedTuple):
    """An image whose label is probably wrong; one row of `suspect_labels.csv`.

    Attributes:
        path: Of the image file; empty where it is not known.
        id: Name of the image.
        label: The given label.
        suggested_class: The most probable other class.
        score: From 0.5 to 1, the higher the more suspect; see `metrics.label_errors.suspicion`.
        basis: `held-out` outputs of the model, or `cross-fitted` ones.
        why: The evidence in words.
    """

    path: str
    id: str
    label: str
    suggested_class: str
    score: float
    basis: str
    why: str


class ListedImage(NamedTuple):
    """An image file in a list, its place from 1, and what the list says of its label."""

    path: str
    place: int
    remark: str


def read_review_list(path: Path) -> list[ListedImage]:
    """Read a list as CSV: suspect labels, or decisions.

    Paths are relative to the working folder, as the commands that write lists have them.

    Raises:
        DataError: The file is missing or damaged, names no images, or an image does not exist.
    """
    with explain_damage(path, remedy=REMEDY), path.open(encoding="utf-8-sig", newline="") as file:
        header, *lines = [cells for _, cells in csv_rows(file) if cells] or [[]]
        rows = [dict(zip(header, cells, strict=False)) for cells in lines]
    if not rows:
        raise DataError(f"{path}: has no rows; {REMEDY}")
    if "path" not in header:
        raise DataError(f"{path}: there is no column path; {REMEDY}")
    for number, row in enumerate(rows, start=1):
        if not Path(row.get("path") or "?").is_file():
            raise DataError(
                f"{path}: row {number}: {row.get('path')!r} is not a file; run from the folder in "
                "which the list was made"
            )
    return [
        ListedImage(row["path"], number, _remark(row)) for number, row in enumerate(rows, start=1)
    ]


def _remark(row: dict[str, str]) -> str:
    if not row.get("suggested_class"):
        return ""
    return (
        f"labelled {row.get('label')}; suggested class {row['suggested_class']} "
        f"(score {row.get('score')}); {row.get('why')}"
    )
