"""Decisions on image files: the table that `misgiving predict` writes.

It is CSV, Parquet or JSON lines, by the suffix of the file.
"""

import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from misgiving.deferral.decisions import Decision
from misgiving.errors import UsageError
from misgiving.files import csv_lines, whole_file, write_csv

Value = str | float | None


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
    unreadable: str | None = None


PREDICTION_COLUMNS = DecisionRow._fields[:4]
POLICY_COLUMNS = DecisionRow._fields[4:-1]
UNREADABLE = "unreadable"
NUMBERS = {
    "errors": "error_probability",
    "scores": "acceptance_score",
    "ood_scores": "ood_score",
}
BATCH = 10_000  # rows of a Parquet file that are written at a time
TEXTS = ("path", "predicted_class", "decision", "reason", UNREADABLE)  # the others are numbers


class DecisionTable(NamedTuple):
    """Decisions in the order of the images, and the columns that are written of them.

    The decisions may be an iterator, which one write uses up.
    """

    columns: tuple[str, ...]
    decisions: Iterable[DecisionRow]

    @classmethod
    def of(
        cls, decisions: Iterable[DecisionRow], *, has_policy: bool, unreadable: bool = False
    ) -> "DecisionTable":
        """Choose the columns: those of a policy, and of unreadable images, only if they apply."""
        columns = PREDICTION_COLUMNS + (POLICY_COLUMNS if has_policy else ())
        return cls((*columns, UNREADABLE) if unreadable else columns, decisions)

    @property
    def rows(self) -> Iterator[tuple[Value, ...]]:
        """The values of the columns."""
        return (tuple(getattr(row, name) for name in self.columns) for row in self.decisions)

    @property
    def csv_rows(self) -> Iterator[list[str]]:
        """Numbers in six digits, and None as an empty cell."""
        return ([_cell(value) for value in row] for row in self.rows)

    def csv(self) -> str:
        """The table as comma-separated values."""
        return "".join(csv_lines(self.columns, self.csv_rows))


class DecidedNumbers:
    """The numbers of decisions, kept while their rows pass, for the performance to expect."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._numbers = {name: array("d") for name in NUMBERS}
        self._accepted = array("b")

    def through(self, rows: Iterable[DecisionRow]) -> Iterator[DecisionRow]:
        """Pass rows on, and keep their numbers; rows of unreadable images have none."""
        for row in rows:
            if row.decision is not None:
                self._names.append(row.path)
                self._accepted.append(row.decision == "accept")
                for name, values in self._numbers.items():
                    number = getattr(row, NUMBERS[name])
                    values.append(math.nan if number is None else number)
            yield row

    @property
    def arrays(self) -> dict[str, Any]:
        """All numbers by name, and whether an image was accepted."""
        accepted = np.array(self._accepted, dtype=bool)
        numbers = {name: np.array(values) for name, values in self._numbers.items()}
        return {"names": self._names, "accepted": accepted, **numbers}


def row_of(path: str, decision: Decision) -> DecisionRow:
    """The row of a table for a decision."""
    return DecisionRow(
        path,
        decision.predicted_class,
        decision.probability if math.isfinite(decision.probability) else None,
        *(getattr(decision, name) for name in DecisionRow._fields[3:-1]),
    )


def _cell(value: Value) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.6g}"


def _write_csv(path: Path, table: DecisionTable) -> None:
    write_csv(path, table.columns, table.csv_rows)


def _write_lines(path: Path, table: DecisionTable) -> None:
    lines = (json.dumps(dict(zip(table.columns, row, strict=True))) for row in table.rows)
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"{line}\n" for line in lines)


def _write_parquet(path: Path, table: DecisionTable) -> None:
    import pyarrow
    from pyarrow import parquet

    texts, numbers = pyarrow.string(), pyarrow.float64()
    schema = pyarrow.schema([(name, texts if name in TEXTS else numbers) for name in table.columns])
    rows = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    with whole_file(path) as partial, parquet.ParquetWriter(partial, schema) as writer:
        while batch := list(islice(rows, BATCH)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))


WRITERS: dict[str, Callable[[Path, DecisionTable], None]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".jsonl": _write_lines,
    "": _write_csv,
}
"""By suffix."""


def writer_for(path: Path) -> Callable[[Path, DecisionTable], None]:
    """The function that writes a table to this file; call it before the work is done.

    Raises:
        UsageError: No kind of table has this suffix.
    """
    if path.suffix.lower() not in WRITERS:
        raise UsageError(f"{path}: choose a name that ends in {', '.join(filter(None, WRITERS))}")
    return WRITERS[path.suffix.lower()]
