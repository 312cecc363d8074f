"""Decisions on image files: the table that `misgiving predict` writes.

It is CSV, Parquet or JSON lines, by the suffix of the file.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from misgiving.csv_tables import csv_lines
from misgiving.deferral.decisions import OF_CLASS, Decision
from misgiving.errors import UsageError
from misgiving.files import whole_file


class DecisionRow(NamedTuple):
    """The decision on one image file; None for a value that is not available or not defined."""

    path: str
    predicted_class: str | None = None
    probability: float | None = None
    predicted_loss: float | None = None
    decision: str | None = None
    reason: str | None = None
    error_probability: float | None = None
    expected_loss: float | None = None
    ood_p_value: float | None = None
    acceptance_score: float | None = None
    ood_score: float | None = None
    probabilities: tuple[float | None, ...] = ()
    unreadable: str | None = None


PREDICTION_COLUMNS, POLICY_COLUMNS = DecisionRow._fields[:4], DecisionRow._fields[4:-2]
UNREADABLE = "unreadable"
KINDS = (".csv", ".parquet", ".jsonl")  # by suffix
BATCH = 10_000  # rows of a Parquet file that are written at a time
TEXTS = ("path", "id", "predicted_class", "decision", "reason", UNREADABLE)  # others: numbers

Rows = Iterable[DecisionRow]
Columns = Sequence[str]


def row_of(path: str, decision: Decision) -> DecisionRow:
    """The row of a table for a decision."""
    shares = (p if math.isfinite(p) else None for p in decision.probabilities.values())
    return DecisionRow(
        path,
        decision.predicted_class,
        decision.probability if math.isfinite(decision.probability) else None,
        **{name: getattr(decision, name) for name in DecisionRow._fields[3:-2]},
        probabilities=tuple(shares),
    )


def columns_of(classes: Columns, *, has_policy: bool, unreadable: bool = False) -> Columns:
    """The columns of a table: those of a policy, and of unreadable images, only if they apply."""
    columns = PREDICTION_COLUMNS + (POLICY_COLUMNS if has_policy else ())
    columns += tuple(f"{OF_CLASS}{name}" for name in classes)
    return (*columns, UNREADABLE) if unreadable else columns


def _cells(columns: Columns, rows: Rows) -> Iterator[dict[str, str | float | None]]:
    """Values of each row by column."""
    missing = (None,) * sum(name.startswith(OF_CLASS) for name in columns)
    single = attrgetter("path", *(x for x in columns[1:] if x in DecisionRow._fields[:-1]))
    for row in rows:
        values = (*single(row), *(row.probabilities or missing), row.unreadable)
        yield dict(zip(columns, values, strict=False))  # the last only where there is its column


def csv_table(columns: Columns, rows: Rows) -> Iterator[str]:
    """Lines of comma-separated values: numbers in six digits, and None as an empty cell."""
    cells = (
        [
            "" if value is None else value if isinstance(value, str) else f"{value:.6g}"
            for value in row.values()
        ]
        for row in _cells(columns, rows)
    )
    return csv_lines(columns, cells)


def _json_lines(columns: Columns, rows: Rows) -> Iterator[str]:
    for row in _cells(columns, rows):
        yield f"{json.dumps(row)}\n"


def _write_parquet(path: Path, columns: Columns, rows: Rows) -> None:
    import pyarrow
    from pyarrow import parquet

    texts, numbers = pyarrow.string(), pyarrow.float64()
    schema = pyarrow.schema([(name, texts if name in TEXTS else numbers) for name in columns])
    cells = _cells(columns, rows)
    with parquet.ParquetWriter(path, schema) as writer:
        while batch := list(islice(cells, BATCH)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))


def check_kind(path: Path) -> None:
    """Check that there is a kind of table with this suffix.

    Raises:
        UsageError: There is none.
    """
    if path.suffix.lower() not in ("", *KINDS):
        raise UsageError(f"{path}: choose a name that ends in {', '.join(KINDS)}")


def write_table(path: Path, columns: Columns, rows: Rows) -> None:
    """Write a table, whole or not at all; its kind is that of the suffix, or CSV."""
    suffix = path.suffix.lower()
    with whole_file(path) as temporary:
        if suffix == ".parquet":
            _write_parquet(temporary, columns, rows)
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.writelines((_json_lines if suffix == ".jsonl" else csv_table)(columns, rows))
