"""Files and folders that appear whole or not at all, and checksums.

A sealed folder shows whether a file of it was changed. That guards against accidents and unintended
edits, not against forgery: anyone can seal a folder.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

from misgiving.errors import DataError, Parameter, UsageError, explain_damage, reason_of

PARTIAL, LOCK = ".partial", ".lock"  # a temporary file or folder, and the lock of its writer
CHECKSUMS = "checksums.json"
README = "README.md"  # for people, who may edit it; a model hub adds hidden files, too


@contextmanager
def whole_file(path: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds."""
    check_writable(path)
    with _temporary(path) as partial:
        partial.touch(mode)
        with disk_errors(path):
            yield partial
        partial.replace(path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; replace `path` by it if the block succeeds."""
    with _temporary(path) as partial:
        partial.mkdir()
        with disk_errors(path):
            yield partial
        _swap(partial, path)


@contextmanager
def locked(lock: Path, *, timeout: float = -1.0) -> Iterator[None]:
    """Hold a lock that is removed afterwards, and is free when its process has died.

    Raises:
        filelock.Timeout: Another process or thread still holds it after these seconds; a negative
            number: waits without limit.
    """
    from filelock import FileLock  # a tenth of a second, which reading need not wait

    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=timeout):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside `path`, without what a killed process left; others wait."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    with locked(partial.with_suffix(LOCK)):
        _remove(partial)
        try:
            yield partial
        finally:
            _remove(partial)


def clear_abandoned(paths: Iterable[Path]) -> None:
    """Remove what killed processes left of these files and folders; living ones are left alone."""
    from filelock import Timeout

    for path in paths:
        with suppress(Timeout):
            partial = path.with_name(f".{path.name}{PARTIAL}")
            if partial.exists():
                with locked(partial.with_suffix(LOCK), timeout=0.0):
                    _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise the OSError behind a library's own error about a failed write, with the path."""
    try:
        yield
    except OSError as error:
        if error.errno and PARTIAL in str(error.filename or PARTIAL):
            error.filename = str(path)  # where a disk is full, the system names none
        raise
    except Exception as error:
        code = re.search(r"\(os error (\d+)\)", str(error))  # from a library in Rust
        if code is None:
            raise
        number = int(code[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any, *, compact: bool = False) -> None:
    """Write JSON whole or not at all; NaN, which is not JSON, is a ValueError.

    Indented, or `compact` where there may be a million values: that is ten times as fast.
    """
    indent = None if compact else 2
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def read_json(path: Path, *, remedy: str, version: int | None = None) -> dict[str, Any]:
    """Read a JSON object, which must have this number as its `format` if one is given.

    Raises:
        DataError: The file is missing, damaged or of another format; the message ends in `remedy`.
    """
    with explain_damage(path, remedy=remedy):
        check_ordinary(path)
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError("not a JSON object")
        if version is not None and content.get("format") != version:
            raise ValueError(f"format {content.get('format')!r} where {version} is expected")
    return content


def check_ordinary(path: Path) -> None:
    """Raise a ValueError for what is no file: reading a named pipe could wait for ever."""
    if path.exists() and not path.is_file():
        raise ValueError("not an ordinary file")


def _swap(partial: Path, path: Path) -> None:
    """Put a finished folder in its place, and then delete the one that was there."""
    if not path.exists():
        partial.replace(path)
        return
    with TemporaryDirectory(prefix=f".{path.name}.", suffix=".old", dir=path.parent) as aside:
        old = path.replace(Path(aside) / path.name)
        try:
            partial.replace(path)
        except BaseException:  # also an interrupt: the old folder is removed on leaving
            old.replace(path)
            raise


def check_writable(out: Path, *, folder: bool = False, parameter: str = "out") -> None:
    """Check that a file or a folder can be written, before any work is done for it."""
    if out.exists() and not (out.is_dir() if folder else out.is_file()):
        kind = "a folder" if folder else "an ordinary file"
        raise UsageError(f"{out}: is not {kind}; choose another ", Parameter(parameter))
    start = out.absolute() if folder else out.absolute().parent
    try:
        place = next(path for path in (start, *start.parents) if os.path.lexists(path))
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise UsageError(
            f"{out}: cannot be written ({reason_of(error)}); choose another ", Parameter(parameter)
        ) from error


def sha256_of(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_chunks(chunks: Iterable[bytes]) -> str:
    """SHA-256 of data that need not be in memory at once."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def sha256_of_lines(lines: Iterable[str]) -> str:
    """SHA-256 of text lines, each of which ends with a line feed."""
    return sha256_of_chunks(f"{line}\n".encode() for line in lines)


def sha256_of_json(content: Any) -> str:
    """SHA-256 of a JSON value, regardless of the order of its keys; NaN is a ValueError."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256_of(text.encode())


def sha256_of_file(path: Path) -> str:
    """SHA-256 of an ordinary file's content."""
    check_ordinary(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(folder: Path, names: Iterable[str] | None = None) -> None:
    """Write the checksums of a finished folder's files, by default of all of them."""
    names = (path.name for path in folder.iterdir()) if names is None else names
    checksums = {name: sha256_of_file(folder / name) for name in sorted(names)}
    write_json(folder / CHECKSUMS, checksums)


def verify(folder: Path, names: Iterable[str] | None = None, *, remedy: str) -> None:
    """Refuse a folder whose files are not those that were sealed.

    Args:
        folder: The folder.
        names: Files that must be sealed and unchanged; None for all of them, and no others.
        remedy: Ends the message, such as "train again".

    Raises:
        DataError: A file is missing, damaged or changed, or does not belong to the folder.
    """
    checksums = read_json(folder / CHECKSUMS, remedy=remedy)
    if names is None:
        names = checksums
        files = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        for extra in sorted(files - {CHECKSUMS, README, *names}):
            raise DataError(f"{folder / extra}: does not belong here; remove it, or {remedy}")
    for name in sorted(names):
        with explain_damage(folder / name, remedy=remedy):
            unchanged = sha256_of_file(folder / name) == checksums.get(name)
        if not unchanged:
            raise DataError(f"{folder / name}: damaged or changed after it was written; {remedy}")


def check_replaceable(out: Path, mark: str, *, overwrite: bool) -> None:
    """Check that a folder can be written: it does not exist, or has the file `mark` of its kind.

    Raises:
        UsageError: It exists, and is of another kind or not to be replaced.
    """
    if not os.path.lexists(out):
        check_writable(out, folder=True)
    elif not overwrite or out.is_symlink() or not (out / mark).is_file():
        raise UsageError(
            f"{out}: exists; choose another folder, or ",
            Parameter("overwrite", True),
            f" where it has a {mark}",
        )


def default_cache() -> Path:
    """Folder for prepared images: `misgiving` in XDG_CACHE_HOME, or else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "misgiving"
