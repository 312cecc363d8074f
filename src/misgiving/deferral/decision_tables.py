"""Decisions on image files: the table that `misgiving predict` writes.

It is CSV, Parquet or JSON lines, by the suffix of the file.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from misgiving.csv_tables import csv_lines
from misgiving.deferral.decisions import COLUMNS, NUMBERS, OF_CLASS, WITHOUT_POLICY, Decision
from misgiving.errors import UsageError
from misgiving.files import whole_file


class DecisionRow(NamedTuple):
    """The decision on one image; None, and the reason in `unreadable`, if it cannot be read."""

    path: str
    decision: Decision | None = None
    unreadable: str | None = None


UNREADABLE = "unreadable"
KINDS = (".csv", ".parquet", ".jsonl")  # by suffix
BATCH = 10_000  # rows of a Parquet file that are written at a time

Rows = Iterable[DecisionRow]
Columns = Sequence[str]
Cell = str | float | None


def with_reviews(rows: Rows, reviews: int) -> list[DecisionRow]:
    """Defer the least certain of the accepted images, until people have so many to look at.

    Those that the policy does not accept are among these, however many they are.
    """
    listed = list(rows)
    accepted = [
        (decision.acceptance_score or 0.0, place)
        for place, (_, decision, _) in enumerate(listed)
        if decision is not None and decision.decision == "accept"
    ]
    decided = sum(row.decision is not None for row in listed)
    reason = f"among the {reviews} least certain of these images"
    for _, place in sorted(accepted)[: max(0, reviews - decided + len(accepted))]:
        given = listed[place].decision
        assert given is not None
        deferred = given.model_copy(update={"decision": "defer", "reason": reason})
        listed[place] = listed[place]._replace(decision=deferred)
    return listed


def columns_of(classes: Columns, *, has_policy: bool, unreadable: bool = False) -> Columns:
    """The columns of a table: those of a policy, and of unreadable images, only if they apply."""
    columns = ("path", *(COLUMNS if has_policy else WITHOUT_POLICY))
    columns += tuple(f"{OF_CLASS}{name}" for name in classes)
    return (*columns, UNREADABLE) if unreadable else columns


def _cells(columns: Columns, rows: Rows) -> Iterator[dict[str, Cell]]:
    """Values of each row by column."""
    single = [name for name in columns[1:] if name in COLUMNS]
    read = attrgetter(*single)
    wide = [name for name in columns if name.startswith(OF_CLASS)]
    missing = (None,) * (len(single) + len(wide))
    for path, decision, unreadable in rows:
        values: tuple[Cell, ...] = missing
        if decision is not None:
            values = (*read(decision), *decision.probabilities.values())
        # the last only where there is its column
        yield dict(zip(columns, (path, *values, unreadable), strict=False))


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
    are_numbers = [name in NUMBERS or name.startswith(OF_CLASS) for name in columns]
    kinds = [numbers if is_number else texts for is_number in are_numbers]
    schema = pyarrow.schema([*zip(columns, kinds, strict=True)])
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
