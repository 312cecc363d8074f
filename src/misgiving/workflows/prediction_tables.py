"""Predictions as a table: CSV, Parquet or JSON lines, by the suffix of the file."""

import json
import math
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from misgiving.errors import UsageError
from misgiving.files import csv_text, harmless, whole_file, write_text
from misgiving.workflows.predict import Predicted

PREDICTION_COLUMNS = ("path", "predicted_class", "probability", "predicted_loss")
DECISION_COLUMNS = (
    "decision",
    "reason",
    "error_probability",
    "expected_loss",
    "ood_p_value",
    "score",
    "ood_score",
)
UNREADABLE = "unreadable"
WORDS = ("path", "predicted_class", "decision", "reason", UNREADABLE)  # the others are numbers

Value = str | float | None


class PredictionTable(NamedTuple):
    """Header and rows; None for what is not there or not defined."""

    header: Sequence[str]
    rows: list[Sequence[Value]]


def table_of(
    predicted: Sequence[Predicted], *, decides: bool, unreadable: bool = False
) -> PredictionTable:
    """A row for each image.

    Args:
        predicted: Answers, in order.
        decides: Whether there are columns for what a policy says.
        unreadable: Whether there is a column that says why an image cannot be read.
    """
    header = PREDICTION_COLUMNS + (DECISION_COLUMNS if decides else ())
    rows = [_row(one, header[1:], unreadable=unreadable) for one in predicted]
    return PredictionTable((*header, UNREADABLE) if unreadable else header, rows)


def _row(one: Predicted, columns: Sequence[str], *, unreadable: bool) -> Sequence[Value]:
    values = [_value(getattr(one.answer, name, None)) for name in columns]
    return (one.path, *values, *((one.unreadable or None,) if unreadable else ()))


def _value(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_csv(table: PredictionTable) -> str:
    """Numbers in six digits; what is not there is an empty cell; no text is a formula."""
    return csv_text(table.header, [[_cell(value) for value in row] for row in table.rows])


def _cell(value: Value) -> str:
    if value is None:
        return ""
    return harmless(value) if isinstance(value, str) else f"{value:.6g}"


def _write_csv(path: Path, table: PredictionTable) -> None:
    write_text(path, as_csv(table))


def _write_lines(path: Path, table: PredictionTable) -> None:
    lines = (json.dumps(dict(zip(table.header, row, strict=True))) for row in table.rows)
    write_text(path, "".join(f"{line}\n" for line in lines))


def _write_parquet(path: Path, table: PredictionTable) -> None:
    import pyarrow
    from pyarrow import parquet

    types = [pyarrow.string() if name in WORDS else pyarrow.float64() for name in table.header]
    columns = [
        pyarrow.array([row[position] for row in table.rows], type=kind)
        for position, kind in enumerate(types)
    ]
    with whole_file(path) as partial:
        parquet.write_table(pyarrow.table(columns, names=list(table.header)), partial)


WRITERS: dict[str, Callable[[Path, PredictionTable], None]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".jsonl": _write_lines,
    "": _write_csv,
}
"""By suffix."""


def writer_for(path: Path) -> Callable[[Path, PredictionTable], None]:
    """What writes a table to this file; refused before anything is predicted.

    Raises:
        UsageError: No kind of table has this suffix.
        ModuleNotFoundError: It is Parquet, and pyarrow is not installed.
    """
    if path.suffix.lower() not in WRITERS:
        raise UsageError(f"{path}: choose a name that ends in {', '.join(filter(None, WRITERS))}")
    if path.suffix.lower() == ".parquet":
        import_module("pyarrow")
    return WRITERS[path.suffix.lower()]
