"""Digests of the package's code, by which units of older code are recognised."""

from functools import cache
from importlib.resources import files
from pathlib import Path

from misgiving.files import sha256_of_chunks

NOT_MEASURING = (
    *("__main__.py", "bundle", "cli", "report", "serve", "reproduction/report"),
    *("reproduction/collection.py", "reproduction/intervals.py", "reproduction/ray.py"),
)
"""Files and folders of the package on which no measurement depends."""

NOT_TRAINING = (*NOT_MEASURING, "calibration", "deferral", "evaluation", "reproduction")
"""Those on which no training depends: layers above it."""


@cache
def code_digest(left_out: tuple[str, ...]) -> str:
    """SHA-256 of the package's code without these files and folders."""
    root = Path(str(files("misgiving")))
    excluded = {root / name for name in left_out}
    paths = [path for path in sorted(root.rglob("*.py")) if not excluded & {path, *path.parents}]
    return sha256_of_chunks(
        part for path in paths for part in (bytes(path.relative_to(root)), path.read_bytes())
    )
