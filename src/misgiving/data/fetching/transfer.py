"""Receive one file over HTTP: whole, checked, and resumed where a transfer broke off."""

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
from misgiving.errors import DataError
from misgiving.files import write_json
from misgiving.manifests import Digests

CHUNK = 1 << 16  # small, for a slow transfer that breaks off loses what of a chunk has come
PROGRESS = 1 << 20  # bytes after which a server that breaks off is patiently asked again
MOMENTARY = (408, 425, 429, 500, 502, 503, 504)  # answers that may be others in a while
GONE = (404, 410)
PACKED = ("gzip", "deflate", "br", "zstd")  # encodings of a transfer that were not asked for
Report = Callable[[int, int | None], None]
"""Called with how many bytes have come, and of how many if that is known."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server is waited for.

    Attributes:
        timeout: Seconds without a sign of the server after which a transfer is given up.
        retries: Transfers that break off in a row, without progress, before that is an error.
        pause: Seconds before the first repetition; each further one waits twice as long.
        sleep: Waits for so many seconds.
    """

    timeout: float = 60.0
    retries: int = 4
    pause: float = 1.0
    sleep: Callable[[float], None] = time.sleep


class Received(NamedTuple):
    """A file that is whole and is what it should be, under its temporary name."""

    path: Path
    url: str
    bytes: int
    sha256: str


class BrokenOff(Exception):
    """A transfer that may go well when it is tried again."""


class Refused(Exception):
    """This address will not give the file."""


class Version(NamedTuple):
    """Which of the states of a remote file a transfer has begun with."""

    url: str
    etag: str | None
    modified: str | None
    total: int | None

    @property
    def validator(self) -> str | None:
        """What `If-Range` says; a weak ETag does not promise the same bytes."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.modified


def refuse_full(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk has no room for."""
    if needed > (free := shutil.disk_usage(folder).free):
        raise DataError(
            f"{folder}: needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "make room or name another folder"
        )


class Partial:
    """What has come of a file, beside the file, and which version of it that is."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f".{name}.download"
        self.notes = folder / f".{name}.download.json"

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def version(self) -> Version | None:
        """Of the bytes that have come; None if there are none, or it is not known."""
        try:
            version = Version(**json.loads(self.notes.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return version if self.size else None

    def begin(self, version: Version) -> None:
        """Forget all bytes; those to come are of this version."""
        self.path.unlink(missing_ok=True)  # first: no bytes may pass for those of another version
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
    """Receive a file from the first address that gives it.

    What a killed process or a broken transfer left is gone on with, if the server still has the
    same version of the file.

    Raises:
        DataError: No address gives the file, or not the right one, or there is no room for it.
        OSError: The folder cannot be written.
    """
    transfer = _Transfer(file, Partial(folder, file.name), report, patience)
    causes = []
    for url in transfer.in_order(urls):
        try:
            return transfer.patiently(url)
        except (BrokenOff, Refused) as failure:
            causes.append(f"{url}: {failure}")
        if transfer.partial.size:  # no other address may begin anew and lose it
            raise DataError(f"{causes[-1]}; run the same command again to resume")
    raise DataError(f"{'; '.join(causes)}; run the command again later, or name a mirror")


class _Transfer:
    """One file on its way, over all addresses and attempts."""

    def __init__(
        self, file: PublishedFile, partial: Partial, report: Report, patience: Patience
    ) -> None:
        self.file, self.partial, self.report, self.patience = file, partial, report, patience
        self.digests = Digests()

    def in_order(self, urls: Sequence[str]) -> list[str]:
        """The address that something has come from goes first."""
        version = self.partial.version()
        return sorted(urls, key=lambda url: version is None or version.url != url)

    def patiently(self, url: str) -> Received:
        furthest, failures = self.partial.size, 0
        while True:
            try:
                return self._once(url)
            except BrokenOff:
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
        """Version of the bytes that can be gone on with; None if there are none."""
        version = self.partial.version()
        if version is None or version.url != url:
            return None
        if not (version.validator or self.file.md5):  # nothing would betray a splice
            return None
        ends = version.total or self.file.size
        return None if ends is not None and self.partial.size > ends else version

    def _transfer(self, url: str, version: Version | None) -> None:
        with _answer(url, self.partial, version, self.patience.timeout) as response:
            offset, offered = _offer(response, url, self.partial)
            if version and offset and not _same(version, offered):
                self.partial.discard()
                raise BrokenOff("the file has changed since the transfer began")
            self._refuse_other_size(offered.total)
            if not offset:
                self.partial.begin(offered)
            begun_with = version.total if version and offset else None
            total = offered.total or begun_with or self.file.size
            if total is not None:  # what is unpacked is at least as large
                refuse_full(self.partial.path.parent, total - offset + total * self.file.unpack)
            self._catch_up(offset)
            self._append(response, total)

    def _refuse_other_size(self, total: int | None) -> None:
        if None not in (total, self.file.size) and total != self.file.size:
            self.partial.discard()
            raise Refused(f"offers {total} bytes where {self.file.size} are published")

    def _catch_up(self, size: int) -> None:
        """Know the checksums of so many bytes, most often because they have just come."""
        if self.digests.size != size:
            self.digests = Digests.of_file(self.partial.path, size) if size else Digests()

    def _append(self, response: http.client.HTTPResponse, total: int | None) -> None:
        with self.partial.path.open("ab") as file:
            while chunk := _read(response):
                file.write(chunk)
                self.digests.update(chunk)
                self.report(self.digests.size, total)
                if total is not None and self.digests.size > total:
                    break
            file.flush()
            os.fsync(file.fileno())  # a file of zeros after a power cut would look whole
        if total is not None and self.digests.size < total:
            raise BrokenOff(f"the transfer broke off after {self.digests.size} of {total} bytes")

    def _check(self) -> None:
        size, md5 = self.digests.size, self.digests.md5
        if self.file.size not in (None, size):
            self.partial.discard()
            raise Refused(
                f"sent {size} bytes or more where {self.file.size} are published; removed"
            )
        if self.file.md5 not in (None, md5):
            self.partial.discard()
            raise Refused(
                f"sent a file with MD5 {md5} where {self.file.md5} is published; it was removed"
            )


def _same(begun: Version, offered: Version) -> bool:
    """Whether nothing says that these are two versions; a server need not repeat itself."""
    pairs = zip(begun[1:], offered[1:], strict=True)
    return all(old == new for old, new in pairs if None not in (old, new))


@contextmanager
def _answer(
    url: str, partial: Partial, version: Version | None, timeout: float
) -> Iterator[http.client.HTTPResponse]:
    """The server's answer to a request for a file, or for what lacks of this version of it."""
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
        raise BrokenOff(f"no answer ({_reason(failure)})") from failure
    with response:
        yield response


def _explain(status: int, partial: Partial) -> NoReturn:
    """Say what an answer without the file means."""
    says = f"answers {status} {http.client.responses.get(status, '')}".strip()
    if 300 <= status < 400:
        raise Refused(f"redirects to where it is not followed ({status})")
    if status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
        partial.discard()  # it is longer than the file
        raise BrokenOff(says)
    if status in MOMENTARY:
        raise BrokenOff(says)
    if status in GONE:
        partial.discard()  # or the next address would not be tried
    raise Refused(says)


class _Redirects(HTTPRedirectHandler):
    """Follow redirects, but not to a file, nor from an encrypted address to an open one."""

    def redirect_request(  # Any: the answer is declared to be a file, which it is not
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _offer(response: http.client.HTTPResponse, url: str, partial: Partial) -> tuple[int, Version]:
    """From which byte on the answer holds the file, and which version of it."""
    headers = response.headers
    if headers.get_content_type() == "text/html" or headers.get("Content-Encoding") in PACKED:
        raise Refused("answers with a web page instead of the file")
    offset, total = 0, response.length
    if response.status == http.client.PARTIAL_CONTENT:
        offset, total = _content_range(headers.get("Content-Range", ""))
        if offset != partial.size:
            partial.discard()
            raise BrokenOff("answers with another part of the file than was asked for")
    elif response.status != http.client.OK:
        raise Refused(f"answers {response.status}")
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


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as failure:
        raise BrokenOff(f"the transfer broke off ({_reason(failure)})") from failure


def _reason(failure: BaseException) -> str:
    """What went wrong, in one line, without what a server may have made of it."""
    inner = getattr(failure, "reason", failure)  # urllib wraps what it cannot name
    words = " ".join(str(inner).split()) or type(inner).__name__
    return "".join(filter(str.isprintable, words))
