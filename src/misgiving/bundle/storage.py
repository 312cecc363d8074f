"""The files of a bundle."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from misgiving.errors import DataError, ExplainedError
from misgiving.manifests import verify

FORMAT = 2
FACTS = "bundle.json"
AGAIN = "run `misgiving export` again"


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
    verify(folder, remedy=AGAIN)
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
