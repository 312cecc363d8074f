"""Sealed folders, which show whether a file was changed, and what may replace them.

They guard against accidents and unintended edits, not against forgery: anyone can seal a folder.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from misgiving.errors import DataError, Parameter, UsageError, explain_damage
from misgiving.files import check_writable, read_json, sha256_of_file, write_json

CHECKSUMS = "checksums.json"
README = "README.md"  # for people, who may edit it; a model hub adds hidden files, too


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
