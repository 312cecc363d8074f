"""Unpack zip archives from untrusted sources."""

import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple
from zlib import error as zlib_error

from misgiving.errors import DataError, reason_of
from misgiving.files import whole_folder

LARGEST_GROWTH = 50  # images hardly compress: an archive that grows more is hostile
CHUNK = 1 << 16
ENCRYPTED = 1  # a flag bit of the zip format
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DAMAGE = (zipfile.BadZipFile, zlib_error, EOFError, FileExistsError, NotADirectoryError)


class BadArchive(DataError):
    """The archive is damaged or hostile."""


class Contents(NamedTuple):
    """Number of files in a folder at any depth, and their total size."""

    files: int
    bytes: int


def contents_of(folder: Path) -> Contents:
    """Contents of a folder without hidden files and folders, which other programs leave."""
    files = [
        path
        for path in folder.rglob("[!.]*")
        if not (path.is_dir() or _has_dot(path.relative_to(folder)))
    ]
    sizes = [path.lstat().st_size for path in files]
    return Contents(len(sizes), sum(sizes))


def unpack(
    archive: Path,
    folder: Path,
    *,
    before: Callable[[Contents], None],
    report: Callable[[int, int | None], None],
) -> None:
    """Unpack a zip archive into a folder that appears whole or not at all.

    A leading folder of the same name is removed from the paths, and hidden files are left out.

    Args:
        archive: The file.
        folder: The destination, which must not exist.
        before: Called with the expected contents before anything is written.
        report: Called with the number of bytes that are unpacked, and the total.

    Raises:
        BadArchive: The archive is damaged or hostile.
        OSError: The folder cannot be written.
    """
    with _damage_explained(archive), zipfile.ZipFile(archive) as opened:
        members = _members(archive, opened, folder.name)
        expected = Contents(len(members), sum(member.file_size for member in members.values()))
        if expected.bytes > LARGEST_GROWTH * archive.stat().st_size:
            raise BadArchive(f"{archive}: unpacks to {expected.bytes} bytes, too many to be images")
        before(expected)
        with whole_folder(folder) as unfinished:
            done = 0
            for path, member in members.items():
                target = unfinished / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as packed, target.open("xb") as file:
                    shutil.copyfileobj(packed, file, CHUNK)  # no more than declared; checks the CRC
                    if file.tell() != member.file_size:
                        raise zipfile.BadZipFile(f"{member.filename!r} is shorter than declared")
                done += member.file_size
                report(done, expected.bytes)


@contextmanager
def _damage_explained(archive: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as failure:
        raise BadArchive(f"{archive}: not a valid zip archive ({reason_of(failure)})") from failure


def _members(
    archive: Path, opened: zipfile.ZipFile, name: str
) -> Mapping[PurePosixPath, zipfile.ZipInfo]:
    """Files to unpack, by their path in the folder."""
    infos = [info for info in opened.infolist() if not info.is_dir()]
    for info in infos:
        if problem := _problem(info):
            raise BadArchive(f"{archive}: its member {info.filename!r} {problem}")
    wanted = [info for info in infos if not _is_hidden(info.filename)]
    members = {PurePosixPath(info.filename): info for info in wanted}
    if len({str(path).lower() for path in members}) < len(wanted) or not members:
        raise BadArchive(f"{archive}: contains no files, or two with the same name")
    if all(path.parts[0] == name and len(path.parts) > 1 for path in members):
        return {path.relative_to(name): info for path, info in members.items()}
    return members


def _problem(info: zipfile.ZipInfo) -> str | None:
    """The reason to refuse a member, if there is one; its data are not read."""
    parts = info.filename.split("/")
    if {"..", ".", ""} & set(parts) or "\\" in info.filename or ":" in parts[0]:
        return "leads out of its folder"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is not an ordinary file"
    if info.flag_bits & ENCRYPTED or info.compress_type not in METHODS:
        return "is encrypted, or compressed by an unsupported method"
    return None


def _is_hidden(name: str) -> bool:
    """True for files of file managers; macOS adds stubs that look like masks and images."""
    path = PurePosixPath(name)
    return path.parts[0] == "__MACOSX" or _has_dot(path)


def _has_dot(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)
