"""Receive one file over HTTP, verified, and resumed after an interruption."""

import http.client
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from misgiving.data.fetching.catalogue import PublishedFile
from misgiving.errors import DataError, reason_of, visible
from misgiving.files import write_json
from misgiving.manifests import Digests

CHUNK = 1 << 16  # small, as an interrupted transfer loses the current chunk
PROGRESS = 1 << 20  # bytes after which the count of failures in a row starts again
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)  # answers that may change soon
GONE = (404, 410)
ENCODINGS = ("gzip", "deflate", "br", "zstd")  # none of them was requested
Report = Callable[[int, int | None], None]
"""Called with the number of bytes received, and the total if that is known."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Timeout and retries.

    Attributes:
        timeout: Seconds of silence after which a transfer fails.
        retries: Failures in a row, without progress, that are tolerated.
        pause: Seconds before the first retry; doubled for each further one.
        sleep: Waits for a number of seconds.
    """

    timeout: float = 60.0
    retries: int = 4
    pause: float = 1.0
    sleep: Callable[[float], None] = time.sleep


class Received(NamedTuple):
    """A complete and verified file, under its temporary name."""

    path: Path
    url: str
    bytes: int
    sha256: str


class TransferInterrupted(Exception):
    """A failure that may be temporary."""


class AddressRefused(Exception):
    """The file is not available from this address."""


class Version(NamedTuple):
    """Version of a remote file, as given by its server."""

    url: str
    etag: str | None
    modified: str | None
    total: int | None

    @property
    def validator(self) -> str | None:
        """Value of `If-Range`; a weak ETag does not guarantee the same bytes."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.modified


def refuse_full(folder: Path, needed: int) -> None:
    """Refuse to start if the disk has too little room."""
    if needed > (free := shutil.disk_usage(folder).free):
        raise DataError(
            f"{folder}: needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "make room or choose another folder"
        )


class Partial:
    """The received bytes of a file, in hidden files next to it, with their version."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f".{name}.download"
        self.notes = folder / f".{name}.download.json"

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def version(self) -> Version | None:
        """Version of the received bytes; None if there are none, or it is unknown."""
        try:
            version = Version(**json.loads(self.notes.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return version if self.size else None

    def begin(self, version: Version) -> None:
        """Discard all bytes; the next are of this version."""
        self.path.unlink(missing_ok=True)  # first, so that no bytes are taken for another version
        write_json(self.notes, version._asdict())

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


def receive(
    file: PublishedFile,
    urls: Sequence[str],
    folder: Path,
    *,
    report: Report,
    patience: Patience,
) -> Received:
    """Receive a file from the first address that has it.

    An interrupted transfer is resumed if the server still has the same version of the file.

    Raises:
        DataError: No address has the right file, or there is no room for it.
        OSError: The folder cannot be written.
    """
    transfer = _Transfer(file, Partial(folder, file.name), report, patience)
    version = transfer.partial.version()
    causes = []
    for url in sorted(urls, key=lambda url: version is None or version.url != url):
        try:
            return transfer.patiently(url)
        except (TransferInterrupted, AddressRefused) as failure:
            causes.append(f"{url}: {failure}")
        if transfer.partial.size:  # another address would start again and lose it
            raise DataError(f"{causes[-1]}; run the same command again to resume")
    raise DataError(f"{'; '.join(causes)}; run the command again later, or give a mirror")


class _Transfer:
    """The transfer of one file, over all addresses and attempts."""

    def __init__(
        self, file: PublishedFile, partial: Partial, report: Report, patience: Patience
    ) -> None:
        self.file, self.partial, self.report, self.patience = file, partial, report, patience
        self.digests = Digests()

    def patiently(self, url: str) -> Received:
        furthest, failures = self.partial.size, 0
        while True:
            try:
                return self._once(url)
            except TransferInterrupted:
                progress = self.partial.size >= furthest + PROGRESS
                failures = 1 if progress else failures + 1
                furthest = max(furthest, self.partial.size)
                if failures > self.patience.retries:
                    raise
            self.patience.sleep(self.patience.pause * 2 ** (failures - 1))

    def _once(self, url: str) -> Received:
        version = self._resumable(url)
        if version is None or self.partial.size != (version.total or self.file.size):
            self._transfer(url, version)
        self._catch_up(self.partial.size)
        self._check()
        return Received(self.partial.path, url, self.digests.size, self.digests.sha256)

    def _resumable(self, url: str) -> Version | None:
        """Version of the bytes from which the transfer can resume; None if it cannot."""
        version = self.partial.version()
        if version is None or version.url != url:
            return None
        if not (version.validator or self.file.md5):  # a mixture of versions would not be noticed
            return None
        ends = version.total or self.file.size
        return None if ends is not None and self.partial.size > ends else version

    def _transfer(self, url: str, version: Version | None) -> None:
        with _answer(url, self.partial, version, self.patience.timeout) as response:
            offset, offered = _offer(response, url, self.partial)
            pairs = zip(version[1:], offered[1:], strict=True) if version and offset else ()
            # a server may omit what it said before, but must not contradict it
            if any(old != new for old, new in pairs if None not in (old, new)):
                self.partial.discard()
                raise TransferInterrupted("the file has changed since the transfer began")
            if None not in (offered.total, self.file.size) and offered.total != self.file.size:
                self.partial.discard()
                raise AddressRefused(
                    f"offers {offered.total} bytes where {self.file.size} are published"
                )
            if not offset:
                self.partial.begin(offered)
            begun_with = version.total if version and offset else None
            total = offered.total or begun_with or self.file.size
            if total is not None:  # unpacking takes at least as many bytes again
                refuse_full(self.partial.path.parent, total - offset + total * self.file.is_archive)
            self._catch_up(offset)
            self._append(response, total)

    def _catch_up(self, size: int) -> None:
        """Digest the first `size` bytes, unless they were digested on arrival."""
        if self.digests.size != size:
            self.digests = Digests.of_file(self.partial.path, size) if size else Digests()

    def _append(self, response: http.client.HTTPResponse, total: int | None) -> None:
        with self.partial.path.open("ab") as file:
            while chunk := _next_chunk(response):
                file.write(chunk)
                self.digests.update(chunk)
                self.report(self.digests.size, total)
                if total is not None and self.digests.size > total:
                    break
            file.flush()
            os.fsync(file.fileno())  # a file of zeros after a power failure would look complete
        if total is not None and self.digests.size < total:
            raise TransferInterrupted(
                f"the transfer was interrupted after {self.digests.size} of {total} bytes"
            )

    def _check(self) -> None:
        size, md5 = self.digests.size, self.digests.md5
        if self.file.size not in (None, size):
            self.partial.discard()
            raise AddressRefused(
                f"sent {size} bytes or more where {self.file.size} are published; removed"
            )
        if self.file.md5 not in (None, md5):
            self.partial.discard()
            raise AddressRefused(
                f"sent a file with MD5 {md5} where {self.file.md5} is published; it was removed"
            )


@contextmanager
def _answer(
    url: str, partial: Partial, version: Version | None, timeout: float
) -> Iterator[http.client.HTTPResponse]:
    """The answer to a request for a file, or for the missing bytes of this version."""
    headers = {"User-Agent": "misgiving", "Accept-Encoding": "identity"}
    if version:
        headers["Range"] = f"bytes={partial.size}-"
        if version.validator:
            headers["If-Range"] = version.validator
    try:
        response = build_opener(_Redirects).open(Request(url, headers=headers), timeout=timeout)
    except HTTPError as failure:
        failure.close()
        _explain(failure.code, partial)
    except (OSError, http.client.HTTPException, ValueError) as failure:
        raise TransferInterrupted(f"no answer ({_reason(failure)})") from failure
    with response:
        yield response


def _explain(status: int, partial: Partial) -> NoReturn:
    """Raise the error for an answer without the file."""
    says = f"answers {status} {http.client.responses.get(status, '')}".strip()
    if 300 <= status < 400:
        raise AddressRefused(f"redirects to an address that is not allowed ({status})")
    if status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
        partial.discard()  # there are more bytes than the file has
        raise TransferInterrupted(says)
    if status in TEMPORARY:
        raise TransferInterrupted(says)
    if status in GONE:
        partial.discard()  # so that the next address is tried
    raise AddressRefused(says)


class _Redirects(HTTPRedirectHandler):
    """Follow redirects, but not to local files, nor from https to http."""

    def redirect_request(  # Any: typeshed declares a file
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _offer(response: http.client.HTTPResponse, url: str, partial: Partial) -> tuple[int, Version]:
    """The first byte of the file in the answer, and the version of the file."""
    headers = response.headers
    if headers.get_content_type() == "text/html" or headers.get("Content-Encoding") in ENCODINGS:
        raise AddressRefused("answers with a web page instead of the file")
    offset, total = 0, response.length
    if response.status == http.client.PARTIAL_CONTENT:
        offset, total = _content_range(headers.get("Content-Range", ""))
        if offset != partial.size:
            partial.discard()
            raise TransferInterrupted("answers with other bytes than were requested")
    elif response.status != http.client.OK:
        raise AddressRefused(f"answers {response.status}")
    return offset, Version(url, headers.get("ETag"), headers.get("Last-Modified"), total)


def _content_range(header: str) -> tuple[int, int | None]:
    """First byte and total length; -1 if the header cannot be read.

    >>> _content_range("bytes 5-9/10")
    (5, 10)
    """
    match = re.fullmatch(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)", header.strip())
    if match is None:
        return -1, None
    return int(match[1]), None if match[3] == "*" else int(match[3])


def _next_chunk(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as failure:
        raise TransferInterrupted(f"the transfer was interrupted ({_reason(failure)})") from failure


def _reason(failure: BaseException) -> str:
    """The reason of a failure in one printable line, as servers may send anything."""
    return visible(reason_of(getattr(failure, "reason", failure)))  # urllib wraps some errors
