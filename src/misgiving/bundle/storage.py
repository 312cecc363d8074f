"""The files of a bundle, sealed: what is missing, changed or extra is refused.

The checksums guard against accidents and edits by mistake. They are no signature: who wants to
forge a bundle can.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from misgiving.errors import DataError, ExplainedError
from misgiving.files import file_sha256, write_json

FORMAT = 1
FACTS, CHECKSUMS = "bundle.json", "checksums.json"
AGAIN = "run `misgiving export` again"


def seal(folder: Path) -> None:
    """Write the checksum of every file in the folder."""
    write_json(
        folder / CHECKSUMS, {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    )


def is_bundle(folder: Path) -> bool:
    """Whether the folder calls itself a bundle, whole or damaged."""
    return (folder / FACTS).is_file()


def is_bundle_not_run(folder: Path) -> bool:
    """Whether a model's folder is a bundle; False where it calls itself a run.

    Raises:
        DataError: It is neither, which is said without what loads a run.
    """
    if not is_bundle(folder) and not (folder / "config.json").is_file():
        raise DataError(
            f"{folder}: neither a run nor a bundle; give a folder that `misgiving train` or "
            "`misgiving export` wrote"
        )
    return is_bundle(folder)


def read_facts(folder: Path) -> dict[str, Any]:
    """What a bundle says of itself, after all its files were found to be as they were written.

    Raises:
        DataError: It is no bundle, of another format, or not as it was written.
    """
    if not is_bundle(folder):
        raise DataError(
            f"{folder}: not a bundle (it has no {FACTS}); give a folder that `misgiving export` "
            "wrote"
        )
    facts = read_json(folder / FACTS)
    found = facts.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise DataError(
            f"{folder / FACTS}: of format {found}, which a newer misgiving wrote; update yours"
        )
    if found != FORMAT:
        raise DataError(
            f"{folder / FACTS}: has format {found!r}, and this version reads {FORMAT}; {AGAIN}"
        )
    _refuse_changed(folder)
    return facts


def read_json(path: Path) -> dict[str, Any]:
    """Read an object."""
    with damage_explained(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError("holds no object")
        return content


@contextmanager
def damage_explained(path: Path) -> Iterator[None]:
    """Whatever a damaged file makes fail becomes one line that names the file."""
    try:
        yield
    except DataError:
        raise
    except (ExplainedError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: missing or damaged ({error}); {AGAIN}") from error
    except RecursionError as error:
        raise DataError(f"{path}: damaged (nested too deeply); {AGAIN}") from error


def _refuse_changed(folder: Path) -> None:
    written = read_json(folder / CHECKSUMS)
    found = {path.name for path in folder.iterdir()} - {CHECKSUMS}
    if missing := sorted(written.keys() - found):
        raise DataError(f"{folder / missing[0]}: is missing from the bundle; {AGAIN}")
    if extra := sorted(found - written.keys()):
        raise DataError(
            f"{folder / extra[0]}: does not belong to the bundle; remove it, or {AGAIN}"
        )
    for name in sorted(written):
        with damage_explained(folder / name):
            found_now = file_sha256(folder / name)
        if found_now != written[name]:
            raise DataError(f"{folder / name}: was changed after it was exported; {AGAIN}")
