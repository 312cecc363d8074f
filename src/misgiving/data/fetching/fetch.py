"""Fetch a published set into a folder, in the layout that the readers of data sets expect."""

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from misgiving.data.fetching.archives import BadArchive, Contents, contents_of, unpack
from misgiving.data.fetching.catalogue import CATALOGUE, PublishedFile, PublishedSet
from misgiving.data.fetching.transfer import Partial, Patience, Received, receive, refuse_full
from misgiving.errors import DataError, UsageError, explain_damage, reason_of
from misgiving.files import read_json, write_json
from misgiving.manifests import Digests

Report = Callable[[str, int, int | None], None]
"""Called with a file's name, its bytes that are done, and its size if that is known."""

RECORD = "fetched.json"


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A set that was fetched.

    Attributes:
        written: Files and folders that were fetched now.
        found: Files and folders that were there already.
        data: Name of the set in other commands.
        published: Description, licence and citation.
    """

    written: tuple[Path, ...]
    found: tuple[Path, ...]
    data: str
    published: PublishedSet


def fetch(
    name: str,
    folder: Path,
    *,
    report: Report = lambda *_: None,
    mirror: str | None = None,
    keep_archives: bool = False,
    patience: Patience | None = None,
) -> Fetched:
    """Fetch all files of a set of `CATALOGUE` that are not in the folder yet.

    Sizes and MD5 are checked where they are published. `fetched.json` records the time, address and
    SHA-256 of each file. Files that differ from the record are never replaced. An interrupted
    transfer leaves hidden files, from which the next call resumes. A zip archive that is in the
    folder already is unpacked from there.

    Args:
        name: Of the set.
        folder: Destination, created if necessary.
        report: Progress callback for downloading and unpacking.
        mirror: Address of a web folder with the files under their own names, used instead of the
            published addresses.
        keep_archives: Keep fetched zip archives after unpacking.
        patience: With the servers; by default four retries in a row, and 60 s of silence.

    Raises:
        UsageError: There is no such set, or the folder or mirror cannot be used.
        DataError: A file is not available, wrong or too large, or another process fetches here.
    """
    published = CATALOGUE[name]
    if mirror is not None and not re.match(r"https?://(\[[\w:.]+\]|[^/\s\[\]])", mirror):
        raise UsageError(f"`mirror` {mirror!r} is not a web address; write https://HOST/FOLDER")
    with _locked(folder), _disk_errors_explained(folder):
        work = _Work(
            folder=folder,
            report=report,
            mirror=mirror,
            keep_archives=keep_archives,
            patience=patience or Patience(),
            record=_read_record(folder / RECORD),
        )
        missing = [file for file in published.files if not work.has(file)]
        refuse_full(folder, sum(map(work.room_for, missing)))
        for file in missing:
            work.get(file)
        for file in published.files:  # a process killed after unpacking leaves the archive
            Partial(folder, file.name).discard()
    return Fetched(
        written=tuple(folder / file.result for file in missing),
        found=tuple(folder / file.result for file in published.files if file not in missing),
        data=published.data.format(folder=folder),
        published=published,
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Create a folder and hold its lock, which is released when the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as failure:
        raise UsageError(
            f"{folder}: cannot be a folder ({reason_of(failure)}); choose another"
        ) from failure
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as failure:
        raise DataError(
            f"{folder}: another process is fetching into it; wait until it has finished"
        ) from failure
    finally:
        os.close(handle)


@contextmanager
def _disk_errors_explained(folder: Path) -> Iterator[None]:
    """Name the file that cannot be read or written; failures of servers are explained elsewhere."""
    try:
        yield
    except OSError as failure:
        raise DataError(
            f"{failure.filename or folder}: cannot be read or written ({reason_of(failure)}); "
            "fix that, or make room, and run the same command again"
        ) from failure


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Fetching into one folder."""

    folder: Path
    report: Report
    mirror: str | None
    keep_archives: bool
    patience: Patience
    record: dict[str, Any]

    def has(self, file: PublishedFile) -> bool:
        """True if the file or folder is there; refuse one that differs from what was fetched."""
        target = self.folder / file.result
        if not target.exists():
            return False
        recorded = self.record.get(file.name, {})
        if file.is_archive:
            valid = target.is_dir() and recorded.get("unpacked") == contents_of(target)._asdict()
        else:
            digests = Digests.of_file(target) if target.is_file() else Digests()
            expected = file.md5 or recorded.get("sha256")
            valid = expected == (digests.md5 if file.md5 else digests.sha256)
        if not valid:
            raise DataError(
                f"{target}: exists, and is not what was fetched; "
                "move it away to fetch it, or choose another folder"
            )
        return True

    def room_for(self, file: PublishedFile) -> int:
        """Bytes that are still to be written, as far as known; unpacking takes as many again."""
        lacking = (file.size or 0) - Partial(self.folder, file.name).size
        return max(lacking, 0) + (file.size or 0) * file.is_archive

    def get(self, file: PublishedFile) -> None:
        """Fetch one file; it is recorded before it gets its name."""
        target = self.folder / file.name
        if file.is_archive and target.exists():
            digests = Digests.of_file(target)
            if file.size not in (None, digests.size) or file.md5 not in (None, digests.md5):
                raise DataError(f"{target}: is not the published file; move it away to fetch it")
            address = target.resolve().as_uri()
            self._unpack(file, Received(target, address, digests.size, digests.sha256))
            return
        mirrored = f"{(self.mirror or '').rstrip('/')}/{file.name}"
        received = receive(
            file,
            file.urls if self.mirror is None else (mirrored,),
            self.folder,
            report=lambda done, total: self.report(file.name, done, total),
            patience=self.patience,
        )
        if file.is_archive:
            self._unpack(file, received)
        else:
            self._note(file, received, None)
        if not file.is_archive or self.keep_archives:
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
            if received.path.name == file.name:  # the user's own file
                raise DataError(f"{failure}; move it away to fetch it") from failure
            Partial(self.folder, file.name).discard()
            raise DataError(f"{failure}; it was removed, so fetch it again") from failure

    def _note(self, file: PublishedFile, received: Received, contents: Contents | None) -> None:
        self.record[file.name] = {
            "url": received.url,
            "bytes": received.bytes,
            "sha256": received.sha256,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "unpacked": contents and contents._asdict(),
        }
        write_json(self.folder / RECORD, {"files": self.record})


def _read_record(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    remedy = "move it away, or choose another folder"
    with explain_damage(path, remedy=remedy):
        files = read_json(path, remedy=remedy)["files"]
        return {name: dict(recorded) for name, recorded in files.items()}
