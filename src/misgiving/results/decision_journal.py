"""Decisions on disk beside an unfinished table, so that a killed command can resume.

Each process of a command has a journal: one line of JSON for each decision, after a first line that
identifies the model and its policy. A line that was cut off by a kill is ignored. Memory holds a
few bytes for each decision, so the number of images is limited by the disk.
"""

import fcntl
import glob
import json
import os
import weakref
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Int64

from misgiving.errors import UsageError
from misgiving.manifests import sha256_of
from misgiving.results.decision_tables import DecisionRow

JOURNAL_FORMAT = 2

Places = Int64[np.ndarray, " images"]
"""Places of the decisions on images in a journal; -1: it has none."""


class Entry(NamedTuple):
    """A decision, and the key of its image."""

    key: str
    row: DecisionRow


class DecisionJournal:
    """Decisions in a file that grows, found by the keys of their images or by their places."""

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self._file = TemporaryFile() if file is None else file  # noqa: SIM115  # see finalize
        self._hashes, self._places = array("Q"), array("q")
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return len(self._places)

    def add(self, entries: Iterable[Entry]) -> list[int]:
        """Add decisions, and give their places; they are on the disk when this returns."""
        place, places, lines = self._file.seek(0, os.SEEK_END), [], []
        for entry in entries:
            lines.append(_line([entry.key, *entry.row]))
            self.note(entry.key, place)
            places.append(place)
            place += len(lines[-1])
        self._file.write(b"".join(lines))
        self._file.flush()
        os.fsync(self._file.fileno())
        return places

    def note(self, key: str, place: int) -> None:
        """Remember the place of a decision that is in the file."""
        self._hashes.append(_hash(key))
        self._places.append(place)

    def find(self, keys: Iterable[str]) -> Places:
        """Places of the decisions on the images with these keys, by 64 bits of the keys' hashes."""
        wanted = np.array(array("Q", map(_hash, keys)), dtype=np.uint64)
        if not len(self):
            return np.full(len(wanted), -1, dtype=np.int64)
        order = np.argsort(self._hashes, kind="stable")
        hashes, places = (
            np.array(self._hashes)[order],
            np.array(self._places, dtype=np.int64)[order],
        )
        last = np.maximum(np.searchsorted(hashes, wanted, side="right") - 1, 0)
        return np.where(hashes[last] == wanted, places[last], -1)

    def at(self, place: int) -> Entry:
        """The decision at a place."""
        self._file.seek(place)
        key, *values = json.loads(self._file.readline())
        return Entry(key, DecisionRow(*values))


class JournalRows:
    """Decisions on images in their order, read from the journal at each iteration."""

    def __init__(
        self,
        names: Sequence[str],
        journal: DecisionJournal,
        places: Places,
        unreadable: Mapping[int, str],
    ) -> None:
        self._names, self._journal = names, journal
        self._places, self._unreadable = places, unreadable

    def __iter__(self) -> Iterator[DecisionRow]:
        for index, (name, place) in enumerate(zip(self._names, self._places, strict=True)):
            if index in self._unreadable:
                yield DecisionRow(name, unreadable=self._unreadable[index])
            elif place >= 0:  # another process has the others
                yield self._journal.at(int(place)).row._replace(path=name)


def journal_path(out: Path, rank: int = 0) -> Path:
    """A process's file while the table `out` is unfinished."""
    return out.with_name(f"{out.name}.unfinished{f'.{rank}' if rank else ''}.jsonl")


@contextmanager
def decision_journal(
    out: Path | None, fingerprint: str, *, resume: bool, rank: int = 0, processes: int = 1
) -> Iterator[DecisionJournal]:
    """Keep decisions until the block ends without an error, when `out` is there.

    Args:
        out: The table to be written; None keeps decisions in a temporary file.
        fingerprint: Of model and policy.
        resume: Start with the decisions of an earlier attempt, instead of discarding them.
        rank: Number of this process. The first one also takes over the journals of processes that
            an earlier attempt had, and this one has not.
        processes: How many there are.

    Raises:
        UsageError: Another process writes the same table, or the journal is another model's.
    """
    if out is None:
        yield DecisionJournal()
        return
    path = journal_path(out, rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    first = _line([JOURNAL_FORMAT, sha256_of(fingerprint.encode())])
    journal = _opened(path, out, first, resume=resume)
    if rank == 0:
        _take_over(journal, _left(out, processes), first, resume=resume)
    try:
        yield journal
    except BaseException:
        if not len(journal):
            path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)


def _opened(path: Path, out: Path, first: bytes, *, resume: bool) -> DecisionJournal:
    """Open a journal, which is closed when nothing refers to it: its rows are read afterwards."""
    file = path.open("a+b")
    journal = DecisionJournal(file)
    _lock(file, out)
    if not resume:
        file.truncate(0)
    for entry, place in _read(file, path, first):
        journal.note(entry.key, place)
    if not file.seek(0, os.SEEK_END):
        file.write(first)
        file.flush()
    return journal


def _take_over(
    journal: DecisionJournal, left: Sequence[Path], first: bytes, *, resume: bool
) -> None:
    """Remove journals, and with `resume` add their decisions before."""
    for path in left:
        if resume:
            with path.open("r+b") as file:
                journal.add(entry for entry, _ in _read(file, path, first))
        path.unlink()


def _left(out: Path, processes: int) -> list[Path]:
    """Journals of processes that this command does not have."""
    start, end = f"{out.name}.unfinished.", ".jsonl"
    found = out.parent.glob(f"{glob.escape(start)}*{end}")
    numbers = {path: path.name.removeprefix(start).removesuffix(end) for path in found}
    return [path for path, n in numbers.items() if n.isdecimal() and int(n) >= processes]


def _lock(file: IO[bytes], out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UsageError(f"{out}: another process is writing it; choose another file") from error


def _read(file: IO[bytes], path: Path, first: bytes) -> Iterator[tuple[Entry, int]]:
    """Decisions with their places up to the first incomplete line, where the file is cut off."""
    file.seek(0)
    found = file.readline()
    whole = len(found) if found.endswith(b"\n") else 0
    if whole and found != first:
        raise UsageError(
            f"{path}: belongs to another model or policy; leave out `resume` to start again"
        )
    for line in file if whole else ():
        try:
            key, *values = json.loads(line)
            row = DecisionRow(*values)
        except (ValueError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        yield Entry(key, row), whole
        whole += len(line)
    file.truncate(whole)


def _hash(key: str) -> int:
    return int(sha256_of(os.fsencode(key))[:16], 16)


def _line(values: list[object]) -> bytes:
    return json.dumps(values).encode() + b"\n"
