"""Download published image sets in the layout that the readers of data sets expect."""

import re
import shutil
import time
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from importlib.resources import files
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests
from filelock import Timeout
from pydantic import TypeAdapter
from requests.utils import get_auth_from_url, urldefragauth

from misgiving.errors import DataError, Parameter, reason_of, visible
from misgiving.files import check_writable, locked, whole_folder
from misgiving.registry import Registry

Report = Callable[[str, int, int | None], None]
"""Called with a file's name, its bytes that are done, and its size if that is known."""

Get = Callable[..., requests.Response]

CHUNK_BYTES = 1 << 16  # small, as an interrupted transfer loses the current chunk
TIMEOUT = 10.0, 60.0  # seconds for a connection, and of silence, after which a transfer fails
MOST_TRANSFERS = 100  # of one file
MAX_FAILURES = 4  # failures in a row, without progress, that are tolerated
PAUSE = 1.0  # seconds before the first retry, doubled for each further one
SIZE_HEADERS = "Content-Range", "Content-Length"  # the first has the size of the whole file
MOST_BYTES = 20 * 10**9  # of a file whose size the server does not say
DEEPEST = 50  # folders within each other in an archive
WAIT = 10.0  # seconds for another command that fetches into the same folder


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One file of a published set.

    Attributes:
        name: Name here and on a mirror.
        url: Address.
        md5: In hexadecimal; None where no source gives it.
    """

    name: str
    url: str
    md5: str | None = None

    @property
    def result(self) -> str:
        """Name of the resulting file, or of the folder that a zip archive is unpacked into."""
        return self.name.removesuffix(".zip")


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """A set of images as its authors publish it.

    Attributes:
        description: Content and size, and unknown facts about its source.
        licence: Terms of use.
        citation: Publications that its authors ask to cite.
        data: Name of the downloaded set in other commands; `{folder}` is the folder it is in.
        files: Its files.
    """

    description: str
    licence: str
    citation: str
    data: str
    files: tuple[PublishedFile, ...]


CATALOGUE: Registry[PublishedSet] = Registry(
    "data set",
    **TypeAdapter(dict[str, PublishedSet]).validate_python(
        tomllib.loads((files(__package__) / "catalogue.toml").read_text(encoding="utf-8"))
    ),
)
"""All sets that can be downloaded, by name."""


def fetch(
    name: str,
    folder: Path,
    *,
    report: Report = lambda *_: None,
    mirror: str | None = None,
) -> list[Path]:
    """Download all files of a set of `CATALOGUE` that are not in the folder yet.

    MD5 is checked where it is published. An interrupted transfer leaves hidden files, from which
    the next call resumes. A zip archive that is in the folder already is unpacked from there. No
    file that is there is replaced. Of several processes, one downloads.

    Args:
        name: Of the set.
        folder: Destination, created if necessary.
        report: Progress callback for downloading and unpacking.
        mirror: Address of a web folder with the files under their own names, used instead of the
            published address.

    Returns:
        Files and folders that are new.

    Raises:
        UsageError: There is no such set, or the folder cannot be made.
        DataError: A file is not available or wrong, or another process fetches into the folder.
    """
    published = CATALOGUE[name]
    check_writable(folder, folder=True, parameter="folder")
    try:
        with locked(folder / ".download.lock", timeout=WAIT):
            missing = [file for file in published.files if not (folder / file.result).exists()]
            for file in published.files:
                url = file.url if mirror is None else f"{mirror.rstrip('/')}/{file.name}"
                _fetch_file(file, url, folder, report)
    except Timeout as failure:
        raise DataError(f"{folder}: another command fetches into it; wait for its end") from failure
    return [folder / file.result for file in missing]


def _fetch_file(file: PublishedFile, url: str, folder: Path, report: Report) -> None:
    """Download one file unless it is there, and unpack an archive."""
    path, target = folder / file.name, folder / file.result
    is_archive = target != path
    if is_archive and target.is_dir():
        return
    had_archive = path.exists()
    pooch.get_logger().setLevel("WARNING")
    try:
        auth = get_auth_from_url(url) if "@" in url else None
        registry = pooch.Pooch(
            path=folder,
            base_url="",
            urls={file.name: urldefragauth(url)},  # so that no message has the password
            registry={file.name: file.md5 and f"md5:{file.md5}"},
            allow_updates=False,
        )
        get = partial(requests.get, auth=auth, stream=True, timeout=TIMEOUT)
        registry.fetch(file.name, downloader=partial(_download, file.name, report, get))
    except (OSError, ValueError) as failure:  # requests raises OSErrors, pooch ValueErrors
        of_address = isinstance(failure, OSError) and isinstance(failure, ValueError)
        reason = "not a web address" if of_address else visible(reason_of(failure))
        raise DataError(
            f"{path}: cannot be downloaded ({reason}); run the same command again to resume, or "
            "give a ",
            Parameter("mirror"),
        ) from failure
    if is_archive:
        _unpack(path, target, partial(report, f"{file.name}, unpacking"))
        if not had_archive:
            path.unlink()


def _unpack(archive: Path, folder: Path, report: Callable[[int, int | None], None]) -> None:
    """Unpack a zip archive into a folder that appears whole or not at all.

    A leading folder of the same name is removed from the paths. Hidden files are left out: file
    managers add stubs that look like masks and images. `report` is called with the number of bytes
    that are unpacked, and the total.
    """
    try:
        with zipfile.ZipFile(archive) as opened, whole_folder(folder) as unfinished:
            members = [
                info
                for info in opened.infolist()
                if not (info.is_dir() or re.search(r"(^|/)(\.[^./]|__MACOSX/)", info.filename))
            ]
            if any(info.filename.count("/") > DEEPEST for info in members):
                raise zipfile.BadZipFile(f"folders are more than {DEEPEST} deep")
            done, total = 0, sum(info.file_size for info in members)
            for info in members:
                info.filename = info.filename.removeprefix(f"{folder.name}/")
                opened.extract(info, unfinished)  # stays in the folder, and checks the CRC
                done += info.file_size
                report(done, total)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as failure:
        raise DataError(
            f"{archive}: not a valid zip archive ({reason_of(failure)}); remove it, and run the "
            "same command again"
        ) from failure


def _download(name: str, report: Report, get: Get, url: str, output_file: str, _: object) -> None:
    """Download a file for pooch, and after an interruption only the bytes that are missing.

    Until a file is complete, its bytes are in a hidden file beside the destination, which survives
    the process. A transfer is resumed until several in a row have brought no progress, or 100 have
    not completed it. Where there is no connection from the start, it is not tried again.
    """
    unfinished = Path(output_file).parent / f".{name}.download"
    version = unfinished.with_name(f"{unfinished.name}.version")
    failures, start = 0, _size(unfinished)
    most = start
    for number in count(1):
        try:
            _transfer(partial(get, url), unfinished, version, partial(report, name))
            break
        except (requests.ConnectionError, requests.Timeout) as failure:
            failures = 1 if _size(unfinished) > most else failures + 1
            most = max(most, _size(unfinished))  # a file that began anew has made no progress
            unconnected = isinstance(failure, requests.ConnectionError) and failure.request
            if unconnected and _size(unfinished) == start:
                host = urlsplit(url).hostname
                raise requests.ConnectionError(f"no connection to {host}") from failure
            if failures > MAX_FAILURES or number == MOST_TRANSFERS:
                raise
        time.sleep(PAUSE * 2 ** (failures - 1))
    unfinished.replace(output_file)
    version.unlink()


def _transfer(
    get: Get, unfinished: Path, version: Path, report: Callable[[int, int | None], None]
) -> None:
    """Request the missing bytes once.

    If the server has another version by now, or gives neither a strong ETag nor a date to tell, the
    transfer starts anew; under a weak ETag other bytes are possible.

    Raises:
        requests.HTTPError: The server does not have the file.
        requests.ConnectionError: The transfer was interrupted, or may succeed later.
        ValueError: The server sends more than it declares; without that, more than 20 GB or half of
            the free space.
    """
    size, validator = _size(unfinished), version.read_text("utf-8") if version.exists() else ""
    rest = {"Range": f"bytes={size}-", "If-Range": validator} if size and validator else {}
    with get(headers={"Accept-Encoding": "identity", **rest}) as response:
        _check_status(response, unfinished)
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            size = 0
            unfinished.unlink(missing_ok=True)  # first: no bytes are taken for another version
            validator = response.headers.get("ETag", response.headers.get("Last-Modified", ""))
            version.write_text("" if validator.startswith("W/") else validator, "utf-8")
        whole, length = (response.headers.get(name, "") for name in SIZE_HEADERS)
        total = int(whole.rpartition("/")[2] or length or 0) or None
        limit = total or min(MOST_BYTES, shutil.disk_usage(unfinished.parent).free // 2)
        try:
            with unfinished.open("ab") as file:
                for chunk in response.iter_content(CHUNK_BYTES):
                    size += len(chunk)
                    if size > limit:
                        unfinished.unlink()
                        raise ValueError(f"more than {limit} bytes come")
                    file.write(chunk)
                    report(size, total)
        except requests.RequestException as failure:  # a broken stream has a type of its own
            raise requests.ConnectionError(reason_of(failure)) from failure
    if total is not None and size < total:
        raise requests.ConnectionError(f"interrupted after {size} of {total} bytes")


def _check_status(response: requests.Response, unfinished: Path) -> None:
    status, start = response.status_code, f"bytes {_size(unfinished)}-"
    part, _, whole = response.headers.get("Content-Range", "").partition("/")
    is_rest = part.startswith(start) and whole.isdigit()
    cannot_resume = status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    if cannot_resume or (status == HTTPStatus.PARTIAL_CONTENT and not is_rest):
        unfinished.unlink(missing_ok=True)
        raise requests.ConnectionError("the file has changed since the transfer began")
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise requests.ConnectionError(f"answers {status}")
    response.raise_for_status()
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise requests.HTTPError("answers with a web page instead of the file")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
