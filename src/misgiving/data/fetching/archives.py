"""Unpack zip archives that strangers made."""

import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from zlib import error as zlib_error

from misgiving.errors import DataError
from misgiving.files import whole_folder

LARGEST_GROWTH = 50  # images hardly shrink when packed: an archive that grows more is hostile
CHUNK = 1 << 16
ENCRYPTED = 1  # a flag bit of the zip format
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class BadArchive(DataError):
    """The archive itself must not be unpacked, whatever is done about the folder."""


class Contents(NamedTuple):
    """What a folder holds: how many files at any depth, and their bytes together."""

    files: int
    bytes: int


def contents_of(folder: Path) -> Contents:
    """Count what lies in a folder, without hidden files, which file managers leave."""
    files = [path for path in folder.rglob("[!.]*") if not path.is_dir()]
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

    A leading folder of the same name is taken off, and hidden files are left out.

    Args:
        archive: The file.
        folder: Where to; it must not exist.
        before: Called with what will be in the folder before anything is written.
        report: Called with how many bytes are unpacked, and of how many.

    Raises:
        BadArchive: The archive is damaged, or holds what must not be unpacked.
        OSError: The folder cannot be written.
    """
    with _explained(archive), zipfile.ZipFile(archive) as opened:
        members = _members(archive, opened, folder.name)
        expected = Contents(len(members), sum(member.file_size for member in members.values()))
        if expected.bytes > LARGEST_GROWTH * archive.stat().st_size:
            raise BadArchive(f"{archive}: unpacks to {expected.bytes} bytes, too many to be images")
        before(expected)
        with whole_folder(folder) as unfinished:
            done = 0
            for path, member in members.items():
                _extract(opened, member, unfinished / path)
                done += member.file_size
                report(done, expected.bytes)


@contextmanager
def _explained(archive: Path) -> Iterator[None]:
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib_error,
        EOFError,
        FileExistsError,
        NotADirectoryError,
    ) as failure:
        reason = " ".join(str(failure).split())
        raise BadArchive(f"{archive}: not a whole zip archive ({reason})") from failure


def _members(
    archive: Path, opened: zipfile.ZipFile, name: str
) -> Mapping[PurePosixPath, zipfile.ZipInfo]:
    """Files to unpack, by their path in the folder."""
    infos = [info for info in opened.infolist() if not info.is_dir()]
    for info in infos:
        if complaint := _complaint(info):
            raise BadArchive(f"{archive}: its member {info.filename!r} {complaint}")
    wanted = [info for info in infos if not _is_litter(info.filename)]
    members = {PurePosixPath(info.filename): info for info in wanted}
    if len({str(path).lower() for path in members}) < len(wanted) or not members:
        raise BadArchive(f"{archive}: holds no file, or two of one name")
    if all(path.parts[0] == name and len(path.parts) > 1 for path in members):
        return {path.relative_to(name): info for path, info in members.items()}
    return members


def _complaint(info: zipfile.ZipInfo) -> str | None:
    """What is wrong with a member, if anything; its data are not read."""
    parts = info.filename.split("/")
    if {"..", ".", ""} & set(parts) or "\\" in info.filename or ":" in parts[0]:
        return "leads out of its folder"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is not an ordinary file"
    if info.flag_bits & ENCRYPTED or info.compress_type not in METHODS:
        return "is encrypted, or packed in an uncommon way"
    return None


def _is_litter(name: str) -> bool:
    """Whether a file manager added it; macOS adds stubs that look like masks and images."""
    parts = PurePosixPath(name).parts
    return parts[0] == "__MACOSX" or any(part.startswith(".") for part in parts)


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(member) as packed, path.open("xb") as file:
        shutil.copyfileobj(packed, file, CHUNK)  # reads no more than declared, and checks the CRC
        if file.tell() != member.file_size:
            raise zipfile.BadZipFile(f"{member.filename!r} is shorter than declared")
