"""CSV tables of image sets, and metadata columns by which results can be compared."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from misgiving.data.datasets.dataset import Metadata
from misgiving.data.decoding import read_bytes
from misgiving.errors import DataError

AGES = (30, 50, 70)
FEW = 12  # a column with at most so many values is kept as it is
QUARTILES = (1, 2, 3)


class TableRow(NamedTuple):
    """Cells of a CSV row by column, and the line of the file on which the row ends."""

    line: int
    cells: Mapping[str, str]


def read_table(path: Path, columns: Sequence[str]) -> list[TableRow]:
    """Rows of a UTF-8 CSV file that must have these columns."""
    data = read_bytes(path)
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except UnicodeDecodeError as failure:
        raise DataError(f"{path}: not UTF-8 text; save it as CSV in UTF-8") from failure
    except csv.Error as failure:
        raise DataError(
            f"{path}: row {reader.line_num} is not CSV ({failure}); correct it"
        ) from failure
    return checked_rows(path, lines, columns)


def checked_rows(
    path: Path, lines: Sequence[tuple[int, list[str]]], columns: Sequence[str]
) -> list[TableRow]:
    """Rows below a header, given all lines of a table with their numbers."""
    header = [name.strip() for name in lines[0][1]] if lines else []
    if missing := [name for name in columns if name not in header]:
        found = ", ".join(header) or "none"
        raise DataError(f"{path}: lacks the column {', '.join(missing)}; its columns are {found}")
    if len(lines) == 1:
        raise DataError(f"{path}: holds no rows; add one for each image")
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            cause = f"row {line} has {len(cells)} cells for {len(header)} columns"
            raise DataError(f"{path}: {cause}; quote a cell that holds a separator")
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
        name: _banded(name, [row.cells[column].strip() for row in rows])
        for column, name in columns.items()
        if column in cells
    }
    return {name: values for name, values in found.items() if values}


def _banded(name: str, values: Sequence[str]) -> tuple[str, ...]:
    """A column of few values as it is, and numbers in bands; empty if neither is possible."""
    if name == "age":
        return tuple(map(age_band, values))
    if len(set(values)) <= FEW:
        return tuple(values)
    numbers = [_number(value) for value in values]
    if any(number is None for number, value in zip(numbers, values, strict=True) if value):
        return ()
    known = sorted(number for number in numbers if number is not None)
    bounds = sorted({known[len(known) * quarter // 4] for quarter in QUARTILES})

    def band(number: float | None) -> str:
        if number is None:
            return ""
        above = [bound for bound in bounds if number < bound]
        return f"below {above[0]:g}" if above else f"{bounds[-1]:g} or more"

    return tuple(map(band, numbers))


def age_band(age: str) -> str:
    """Band of an age in years; empty if it is not a number.

    >>> age_band("45.0"), age_band("85"), age_band("unknown")
    ('30-49', '70 or older', '')
    """
    years = _number(age)
    if years is None:
        return ""
    if years < AGES[0]:
        return f"under {AGES[0]}"
    for start, end in pairwise(AGES):
        if years < end:
            return f"{start}-{end - 1}"
    return f"{AGES[-1]} or older"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
