"""Files of predictions, read as columns by name: `.csv`, `.parquet` and `.npz`."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float

from misgiving.errors import DataError
from misgiving.files import csv_rows

Column = Sequence[Any] | np.ndarray

NUMERIC = ("logit_", "probability_", "feature_", "predicted_loss")  # how such columns begin
USUAL_BYTES = 2**30  # of the arrays in an `.npz`, however much it is compressed
MOST_PACKED = 100  # times the size of the file, where they have more; logits hardly shrink
LINES = 50_000  # read at a time


def is_number(value: Any) -> bool:
    """True for what `float` accepts."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def at(row: int, column: str, problem: str) -> str:
    """A problem with its place; rows are counted from 1."""
    return f"row {row + 1}, column {column}: {problem}"


def _read_csv(path: Path) -> dict[str, Column]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _csv_columns(file)
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8; save it as UTF-8 text") from error


def _csv_columns(file: IO[str]) -> dict[str, Column]:
    header, chunks = _csv_chunks(file)
    numeric = [name.startswith(NUMERIC) for name in header]
    cells: list[list[Any]] = [[] for _ in header]
    for start, chunk in chunks:
        for column, values in enumerate(zip(*chunk, strict=True)):
            if numeric[column]:
                cells[column].append(_chunk_numbers(header[column], values, start))
            else:
                cells[column] += values
    return {
        name: np.concatenate(of) if is_numeric and of else of
        for name, is_numeric, of in zip(header, numeric, cells, strict=True)
    }


def _csv_chunks(file: IO[str]) -> tuple[list[str], Iterator[tuple[int, list[list[str]]]]]:
    """The header, and the rows in chunks with the position of their first."""
    lines = (cells for _, cells in csv_rows(file))
    header = [name.strip() for name in next(lines, [])]
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and separator in header[0]:
            raise DataError(f"columns are separated by {name}; separate them by commas")
    _refuse_repeated(header)
    return header, _chunks((row for row in lines if row), len(header))  # blank lines at the end


def _refuse_repeated(names: Sequence[str]) -> None:
    if repeated := sorted(name for name in set(names) if names.count(name) > 1):
        raise DataError(f"two columns are named {repeated[0]!r}; give each its own name")


def _chunks(rows: Iterator[list[str]], width: int) -> Iterator[tuple[int, list[list[str]]]]:
    start = 0
    while chunk := list(islice(rows, LINES)):
        for number, row in enumerate(chunk, start + 1):
            if len(row) != width:
                raise DataError(
                    f"row {number} has {len(row)} cells, and the header {width}; give one cell for "
                    "each column"
                )
        yield start, chunk
        start += len(chunk)


def _chunk_numbers(name: str, values: Sequence[str], start: int) -> Float[np.ndarray, " _"]:
    try:
        return np.array(values, dtype=np.float64)
    except ValueError:
        row = next(row for row, value in enumerate(values) if not is_number(value))
        raise DataError(at(start + row, name, f"{values[row]!r} is not a number")) from None


def _read_npz(path: Path) -> dict[str, Column]:
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > max(USUAL_BYTES, MOST_PACKED * path.stat().st_size):
        raise DataError(
            f"its arrays have {size / 2**30:.0f} GiB, over {MOST_PACKED} times the size of the "
            "file; save them without compression"
        )
    with np.load(path, allow_pickle=False) as arrays:
        return {name: _plain(name, arrays) for name in arrays.files}


def _plain(name: str, arrays: Any) -> Column:
    try:
        array: Any = arrays[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{name} holds Python objects, which are not read; save text as an array of text"
            ) from None
        raise
    if not isinstance(array, np.ndarray):
        raise DataError(f"{name} is not an array; leave it out")
    if not array.ndim:
        raise DataError(f"{name} is one value; give one for each image")
    return np.asarray(array)


def _read_parquet(path: Path) -> dict[str, Column]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        table = file.read()
    names = table.column_names
    _refuse_repeated(names)
    return {name: _parquet_column(name, table[name]) for name in names}


def _parquet_column(name: str, column: Any) -> Column:
    from pyarrow import compute, types

    kind = column.type
    if types.is_floating(kind) or (types.is_integer(kind) and not column.null_count):
        return np.asarray(column.to_numpy())
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        lengths = np.asarray(compute.fill_null(compute.list_value_length(column), -1))
        if (other := lengths != lengths[:1]).any() or -1 in lengths[:1]:
            row = int(other.argmax())
            raise DataError(at(row, name, "its list is missing, or has another length than others"))
        return np.array(column.to_pylist())
    values: Column = column.to_pylist()
    return values


READERS: dict[str, Callable[[Path], dict[str, Column]]] = {
    ".csv": _read_csv,
    ".npz": _read_npz,
    ".parquet": _read_parquet,
}
"""By suffix."""
