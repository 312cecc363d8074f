"""Tables in comma-separated values, read with the line of each row for errors that name it."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from misgiving.data.decoding import read_bytes
from misgiving.errors import DataError


class TableRow(NamedTuple):
    """Cells of a CSV row by column, and the line of the file on which the row ends."""

    line: int
    cells: Mapping[str, str]


def read_table(path: Path, columns: Sequence[str]) -> list[TableRow]:
    """Rows of a CSV file (UTF-8, with or without a byte order mark) that has these columns."""
    lines = _csv_lines(path)
    header = [name.strip() for name in lines[0][1]] if lines else []
    missing = [name for name in columns if name not in header]
    if missing:
        there = ", ".join(header) or "none"
        raise DataError(f"{path}: lacks the column {', '.join(missing)}; its columns are {there}")
    if len(lines) == 1:
        raise DataError(f"{path}: holds no rows; add one for each image")
    for line, cells in lines[1:]:
        if len(cells) != len(header):
            cause = f"row {line} has {len(cells)} cells for {len(header)} columns"
            raise DataError(f"{path}: {cause}; quote a cell that holds a comma")
    return [TableRow(line, dict(zip(header, cells, strict=True))) for line, cells in lines[1:]]


def _csv_lines(path: Path) -> list[tuple[int, list[str]]]:
    data = read_bytes(path)
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        return [(reader.line_num, cells) for cells in reader if cells]
    except UnicodeDecodeError as failure:
        raise DataError(f"{path}: not UTF-8 text; save it as CSV in UTF-8") from failure
    except csv.Error as failure:
        raise DataError(
            f"{path}: row {reader.line_num} is not CSV ({failure}); correct it"
        ) from failure
