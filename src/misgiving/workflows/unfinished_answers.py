"""Answers that are kept while there are more to come, so that a killed command can go on.

One line of JSON for each answer is added to a file beside the result, after a first line that says
what answers. A line that a kill has cut off is as if it had never been written.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from misgiving.bundle import Answer
from misgiving.errors import UsageError

FORMAT = 1


class Kept:
    """Answers by what identifies an image; with a file, also for a later attempt."""

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self._file = file

    def add(self, answers: Mapping[str, Answer]) -> None:
        """Take up answers; they are on the disk when this returns."""
        self.answers |= answers
        if self._file is not None and answers:
            self._file.write(b"".join(_line([key, *answers[key]]) for key in answers))
            self._file.flush()
            os.fsync(self._file.fileno())


def beside(out: Path) -> Path:
    """The file for answers while `out` is not finished."""
    return out.with_name(f"{out.name}.unfinished.jsonl")


@contextmanager
def kept_beside(out: Path, fingerprint: str, *, resume: bool) -> Iterator[Kept]:
    """Keep answers until the block ends well, which is when `out` is there.

    Args:
        out: What is to be written; the answers are kept beside it.
        fingerprint: Of what answers: those of another model or policy are not gone on from.
        resume: Go on from what an earlier attempt has kept; else it is forgotten.

    Raises:
        UsageError: Another process writes the same, or what is kept is another model's.
    """
    path = beside(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = hashlib.sha256(fingerprint.encode()).hexdigest()
    with path.open("a+b") as file:
        _lock(file, out)
        kept = Kept(file)
        if resume:
            kept.answers |= _read(file, path, mark)
        else:
            file.truncate(0)
        if not file.seek(0, os.SEEK_END):
            file.write(_line([FORMAT, mark]))
            file.flush()
        try:
            yield kept
        except BaseException:
            if not kept.answers:  # there is nothing to go on from
                path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)


def _lock(file: IO[bytes], out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UsageError(f"{out}: another process is writing it; name another place") from error


def _read(file: IO[bytes], path: Path, mark: str) -> dict[str, Answer]:
    """What is kept, up to the first line that is not whole; the rest is cut off."""
    file.seek(0)
    first = file.readline()
    whole = file.tell() if first.endswith(b"\n") else 0
    if whole and first != _line([FORMAT, mark]):
        raise UsageError(
            f"{path}: was kept by another model or policy; leave out --resume to begin anew"
        )
    answers = {}
    for line in file if whole else ():
        try:
            key, *values = json.loads(line)
            answer = Answer(*values)
        except (ValueError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        answers[key] = answer._replace(probabilities=tuple(answer.probabilities))
        whole += len(line)
    file.truncate(whole)
    return answers


def _line(values: list[object]) -> bytes:
    return json.dumps(values).encode() + b"\n"
