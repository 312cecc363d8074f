"""Files of columns by name: `.csv`, `.parquet` and `.npz`; see `schema` for the columns."""

import csv
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from misgiving.csv_tables import escape_formulas, unescape_formulas
from misgiving.errors import DataError
from misgiving.predictions.cells import Column
from misgiving.predictions.schema import ARRAY_OF_OPINION, NUMERIC, ONCE, WHOLE, named
from misgiving.registry import Registry

if TYPE_CHECKING:
    import pandas


def _read_csv(path: Path) -> dict[str, Column]:
    import pandas

    with path.open(encoding="utf-8-sig", newline="") as file, warnings.catch_warnings():
        header = [unescape_formulas(name.strip()) for name in next(csv.reader(file), [])]
        file.seek(0)  # a pipe has no second reading, and fails
        if len(header) == 1:
            raise DataError(f"{path}: its only column is {header[0]!r}; separate columns by commas")
        kinds = {name: object for name in header if not named(name, NUMERIC)}
        warnings.simplefilter("error", pandas.errors.ParserWarning)  # of cells left out
        frame = pandas.read_csv(
            file,
            names=header,
            header=0,
            dtype=kinds,
            index_col=False,
            keep_default_na=False,
            low_memory=False,
        )
    columns = {name: frame[name].to_numpy() for name in header}
    for name in kinds:
        columns[name] = [  # of a short row, the last cells are NaN
            unescape_formulas(cell) if isinstance(cell, str) else "" for cell in columns[name]
        ]
    return columns


def _write_csv(path: Path, columns: Mapping[str, Any]) -> None:
    frame = _frame(columns)
    for name in frame.columns:
        if named(name, NUMERIC):
            frame[name] = frame[name].astype(np.float64)
        else:
            frame[name] = [escape_formulas(cell) for cell in frame[name]]
    frame.columns = [escape_formulas(name) for name in frame.columns]
    frame.to_csv(path, index=False, lineterminator="\r\n")  # so that either sign is quoted


def _read_parquet(path: Path) -> dict[str, Column]:
    import pandas

    frame = pandas.read_parquet(path)
    columns: dict[str, Any] = {name: frame[name].to_numpy() for name in frame.columns}
    return columns | {name: np.array(json.loads(value)) for name, value in frame.attrs.items()}


def _write_parquet(path: Path, columns: Mapping[str, Any]) -> None:
    frame = _frame(columns)
    head = [name for name in ("head_weight", "head_bias") if name in columns]
    frame.attrs = {name: json.dumps(columns[name].tolist()) for name in head}
    frame.to_parquet(path, index=False)


def _frame(columns: Mapping[str, Any]) -> "pandas.DataFrame":
    """One column for each class, feature and channel, and values of all images in each row."""
    import pandas

    count, none = len(columns["label"]), np.zeros((0, 0))
    widths = columns.get("tap_widths", columns.get("taps", none).shape[1:])
    wide = {
        "logits": [f"logit_{label}" for label in columns["classes"]],
        "features": [f"feature_{at}" for at in range(columns.get("features", none).shape[1])],
        "taps": [f"tap_{tap}_{at}" for tap, width in enumerate(widths) for at in range(width)],
    }
    for opinion in columns:
        if opinion.startswith(ARRAY_OF_OPINION):
            name = opinion.removeprefix(ARRAY_OF_OPINION)
            wide[opinion] = [f"probability_{label}@{name}" for label in columns["classes"]]
    single = {name: columns[name] for name in columns if name not in (*WHOLE, *wide)}
    for array, names in wide.items():
        if array in columns:
            single |= dict(zip(names, columns[array].T, strict=True))
    single |= {name: [columns[name]] * count for name in ONCE if name in columns}
    return pandas.DataFrame(
        {
            name: column if isinstance(column, np.ndarray) else list(column)
            for name, column in single.items()
        }
    )


def _read_npz(path: Path) -> dict[str, Column]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _write_npz(path: Path, columns: Mapping[str, Any]) -> None:
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    for name, array in arrays.items():
        if array.dtype.kind in "OU":  # in UTF-8, which has a quarter of the bytes
            arrays[name] = np.char.encode(array.astype(str), "utf-8")
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # which has an option


Read = Callable[[Path], dict[str, Column]]
Write = Callable[[Path, Mapping[str, Any]], None]
FILE_FORMATS: Registry[tuple[Read, Write]] = Registry(
    "kind of file",
    **{
        ".csv": (_read_csv, _write_csv),
        ".npz": (_read_npz, _write_npz),
        ".parquet": (_read_parquet, _write_parquet),
    },
)
"""Functions that read and write a kind of file, by its suffix."""
