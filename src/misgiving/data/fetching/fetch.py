"""Fetch a published set into a folder, as the readers of data sets expect it there."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from misgiving.data.fetching.archives import BadArchive, Contents, contents_of, unpack
from misgiving.data.fetching.catalogue import CATALOGUE, PublishedFile, PublishedSet, sources
from misgiving.data.fetching.transfer import (
    Partial,
    Patience,
    Received,
    receive,
    refuse_full,
)
from misgiving.errors import DataError, UsageError
from misgiving.files import write_json
from misgiving.manifests import Digests

Report = Callable[[str, int, int | None], None]
"""Called with a file's name, how many of its bytes are done, and of how many if that is known."""

MANIFEST = "fetched.json"


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a set consists of, now that it is there.

    Attributes:
        folder: Where it is.
        written: Files and folders that have been fetched.
        found: Those that were there and are what was fetched before, or is published.
        data: How other commands call the set.
        description: What it is.
        licence: Terms of use.
        citation: What its authors ask to cite.
    """

    folder: Path
    written: tuple[Path, ...]
    found: tuple[Path, ...]
    data: str
    description: str
    licence: str
    citation: str


def fetch(
    name: str,
    folder: Path,
    *,
    report: Report | None = None,
    mirror: str | None = None,
    keep_archives: bool = False,
    patience: Patience | None = None,
) -> Fetched:
    """Fetch all files of a set of `CATALOGUE` that are not in the folder yet.

    Sizes and MD5 are checked where they are published. `fetched.json` says what was fetched, when,
    from where, and its SHA-256. What is there and differs from that is never replaced. A transfer
    that is killed or breaks off leaves hidden files, from which the next call goes on. A zip
    archive that lies in the folder already is unpacked from there.

    Args:
        name: Of the set.
        folder: Where to; it is made if need be.
        report: Hears of every part that has come or has been unpacked.
        mirror: Address of a web folder that holds the files under their own names; they are
            taken from nowhere else then.
        keep_archives: Leave fetched zip archives beside what they were unpacked to.
        patience: With the servers; by default, four retries in a row and 60 s of silence.

    Raises:
        UsageError: There is no such set, or the folder or mirror cannot be one.
        DataError: A file cannot be had, is wrong, or has no room, or another process fetches here.
    """
    published = CATALOGUE[name]
    _refuse_mirror(mirror)
    with _alone(folder), _explained(folder):
        work = _Work(
            folder=folder,
            report=report or _say_nothing,
            mirror=mirror,
            keep_archives=keep_archives,
            patience=patience or Patience(),
            manifest=_read_manifest(folder / MANIFEST),
        )
        missing = [file for file in published.files if not work.has(file)]
        refuse_full(folder, sum(map(work.room_for, missing)))
        for file in missing:
            work.get(file)
        for file in published.files:  # a process killed after unpacking leaves the archive
            Partial(folder, file.name).discard()
    return _fetched(published, folder, missing)


def _fetched(published: PublishedSet, folder: Path, missing: list[PublishedFile]) -> Fetched:
    found = [file for file in published.files if file not in missing]
    return Fetched(
        folder=folder,
        written=tuple(folder / file.result for file in missing),
        found=tuple(folder / file.result for file in found),
        data=published.data.format(folder=folder),
        description=published.description,
        licence=published.licence,
        citation=published.citation,
    )


def _say_nothing(name: str, done: int, total: int | None) -> None:
    del name, done, total


def _refuse_mirror(mirror: str | None) -> None:
    try:
        valid = mirror is None or urlsplit(mirror).scheme in ("http", "https")
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"mirror {mirror!r} is no web address; write https://HOST/FOLDER")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make a folder and hold its lock, which dies with the process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as failure:
        reason = failure.strerror or type(failure).__name__
        raise UsageError(f"{folder}: cannot be a folder ({reason}); name another") from failure
    try:
        _lock(folder, handle)
        yield
    finally:
        os.close(handle)


def _lock(folder: Path, handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as failure:
        raise DataError(
            f"{folder}: another process is fetching into it; wait until it has ended"
        ) from failure


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Name what the disk does not allow; what servers do wrong is explained elsewhere."""
    try:
        yield
    except OSError as failure:
        reason = failure.strerror or type(failure).__name__
        raise DataError(
            f"{failure.filename or folder}: cannot be read or written ({reason}); "
            "correct that, or make room, and run the same command again"
        ) from failure


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Fetching into one folder."""

    folder: Path
    report: Report
    mirror: str | None
    keep_archives: bool
    patience: Patience
    manifest: dict[str, Any]

    def has(self, file: PublishedFile) -> bool:
        """Whether a file or folder is there; one that is not what was fetched is refused."""
        target = self.folder / file.result
        if not target.exists():
            return False
        noted = self.manifest.get(file.name, {})
        if file.unpack:
            valid = target.is_dir() and noted.get("unpacked") == contents_of(target)._asdict()
        else:
            valid = target.is_file() and _is_right(target, file, noted)
        if not valid:
            raise DataError(
                f"{target}: is there, and is not what was fetched; "
                "move it away to fetch it, or name another folder"
            )
        return True

    def room_for(self, file: PublishedFile) -> int:
        """Bytes that are still to come, as far as they are known; what is unpacked is larger."""
        lacking = (file.size or 0) - Partial(self.folder, file.name).size
        return max(lacking, 0) + (file.size or 0) * file.unpack

    def get(self, file: PublishedFile) -> None:
        """Fetch one file; the manifest knows of it before it has its name."""
        target = self.folder / file.name
        if file.unpack and target.exists():
            self._unpack(file, _at_hand(target, file))
            return
        received = receive(
            file,
            sources(file, self.mirror),
            self.folder,
            report=lambda done, total: self.report(file.name, done, total),
            patience=self.patience,
        )
        if file.unpack:
            self._unpack(file, received)
        else:
            self._note(file, received, None)
        if not file.unpack or self.keep_archives:
            received.path.replace(target)

    def _unpack(self, file: PublishedFile, received: Received) -> None:
        def before(contents: Contents) -> None:
            refuse_full(self.folder, contents.bytes)
            self._note(file, received, contents)

        try:
            unpack(
                received.path,
                self.folder / file.result,
                before=before,
                report=lambda done, total: self.report(f"{file.name}, unpacking", done, total),
            )
        except BadArchive as failure:
            if received.path.name == file.name:  # it was there before, and is not ours
                raise DataError(f"{failure}; move it away to fetch it") from failure
            Partial(self.folder, file.name).discard()
            raise DataError(f"{failure}; it was removed, so fetch it again") from failure

    def _note(self, file: PublishedFile, received: Received, contents: Contents | None) -> None:
        self.manifest[file.name] = {
            "url": received.url,
            "bytes": received.bytes,
            "sha256": received.sha256,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "unpacked": contents and contents._asdict(),
        }
        write_json(self.folder / MANIFEST, {"files": self.manifest})


def _at_hand(archive: Path, file: PublishedFile) -> Received:
    """An archive that lies in the folder, if it is the published one as far as can be told."""
    digests = Digests.of_file(archive)
    wrong = file.size not in (None, digests.size)
    if wrong or file.md5 not in (None, digests.md5):
        raise DataError(f"{archive}: is not the published file; move it away to fetch it")
    return Received(archive, archive.resolve().as_uri(), digests.size, digests.sha256)


def _is_right(path: Path, file: PublishedFile, noted: dict[str, Any]) -> bool:
    """Whether a file is the one that was fetched, or the one that is published."""
    digests = Digests.of_file(path)
    if file.md5:
        return digests.md5 == file.md5
    return digests.sha256 == noted.get("sha256")


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {name: dict(noted) for name, noted in files.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as failure:
        raise DataError(
            f"{path}: cannot be read; move it away, or name another folder"
        ) from failure
