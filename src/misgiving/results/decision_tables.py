"""Decisions on image files: the table that `misgiving predict` writes, and the journal before it.

The table is CSV, Parquet or JSON lines, by the suffix of the file. The journal holds finished
decisions beside an unfinished table, so that a killed command can resume: one line of JSON for each
decision, after a first line that identifies the model and its policy. A line that was cut off by a
kill is ignored.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

from misgiving.errors import UsageError
from misgiving.files import csv_lines, whole_file, write_csv
from misgiving.manifests import sha256_of

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
BATCH = 10_000  # rows of a Parquet file that are written at a time
TEXTS = ("path", "predicted_class", "decision", "reason", UNREADABLE)  # the others are numbers


class DecisionTable(NamedTuple):
    """Decisions in the order of the images, and the columns that are written of them.

    Decisions that are made one after another, without end in memory, can be written once.
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
        ModuleNotFoundError: It is Parquet, and pyarrow is not installed.
    """
    if path.suffix.lower() not in WRITERS:
        raise UsageError(f"{path}: choose a name that ends in {', '.join(filter(None, WRITERS))}")
    if path.suffix.lower() == ".parquet":
        import_module("pyarrow")
    return WRITERS[path.suffix.lower()]


JOURNAL_FORMAT = 2


class DecisionJournal:
    """Decisions by the key of their image; with a file, also for a later attempt."""

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self.decisions: dict[str, DecisionRow] = {}
        self._file = file

    def add(self, decisions: Mapping[str, DecisionRow]) -> None:
        """Add decisions; they are on the disk when this returns."""
        self.decisions |= decisions
        if self._file is not None and decisions:
            self._file.write(b"".join(_line([key, *row]) for key, row in decisions.items()))
            self._file.flush()
            os.fsync(self._file.fileno())


def journal_path(out: Path) -> Path:
    """The journal's file while the table `out` is unfinished."""
    return out.with_name(f"{out.name}.unfinished.jsonl")


@contextmanager
def decision_journal(
    out: Path | None, fingerprint: str, *, resume: bool
) -> Iterator[DecisionJournal]:
    """Keep decisions until the block ends without an error, when `out` is there.

    Args:
        out: The table to be written; None keeps decisions in memory alone.
        fingerprint: Of model and policy.
        resume: Start with the decisions of an earlier attempt, instead of discarding them.

    Raises:
        UsageError: Another process writes the same table, or the journal is another model's.
    """
    if out is None:
        yield DecisionJournal()
        return
    path = journal_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    first = _line([JOURNAL_FORMAT, sha256_of(fingerprint.encode())])
    with path.open("a+b") as file:
        _lock(file, out)
        journal = DecisionJournal(file)
        if resume:
            journal.decisions |= _read(file, path, first)
        else:
            file.truncate(0)
        if not file.seek(0, os.SEEK_END):
            file.write(first)
            file.flush()
        try:
            yield journal
        except BaseException:
            if not journal.decisions:
                path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)


def _lock(file: IO[bytes], out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UsageError(f"{out}: another process is writing it; choose another file") from error


def _read(file: IO[bytes], path: Path, first: bytes) -> dict[str, DecisionRow]:
    """The decisions up to the first incomplete line, where the file is cut off."""
    file.seek(0)
    found = file.readline()
    whole = file.tell() if found.endswith(b"\n") else 0
    if whole and found != first:
        raise UsageError(
            f"{path}: belongs to another model or policy; leave out `resume` to start again"
        )
    decisions = {}
    for line in file if whole else ():
        try:
            key, *values = json.loads(line)
            row = DecisionRow(*values)
        except (ValueError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        decisions[key] = row
        whole += len(line)
    file.truncate(whole)
    return decisions


def _line(values: list[object]) -> bytes:
    return json.dumps(values).encode() + b"\n"
