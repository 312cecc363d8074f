"""Copies of image files, in a folder that only its owner reads."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from misgiving.errors import UsageError
from misgiving.files import whole_file
from misgiving.serve.problems import ImageNotStoredError


@contextmanager
def image_failures() -> Iterator[None]:
    """Raise ImageNotStoredError from failures of the disk."""
    try:
        yield
    except (OSError, UsageError) as failure:
        raise ImageNotStoredError from failure


class KeptImages:
    """Copies of image files, named by the hash of what was sent, never by the sender's name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()  # as `audit.csv` names its files

    @image_failures()
    def write(self, sha256: str, data: bytes) -> None:
        """Store a file durably; equal files are stored once.

        Raises:
            ImageNotStoredError: There is no room for it, or no permission.
        """
        path = self.path(sha256)
        for folder in (self._folder, path.parent):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _force_to_disk(folder.parent)
        if not path.exists():
            with whole_file(path, mode=0o600) as partial:
                partial.write_bytes(data)
                _force_to_disk(partial)
        _force_to_disk(path.parent)

    def check(self, size: int) -> None:
        """Raise OSError where there is no room for a file of this size."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryFile(dir=self._folder) as file:
            if sys.platform == "linux":
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.write(bytes(size))
                file.flush()

    def path(self, sha256: str) -> Path:
        """The place of a file."""
        return self._folder / sha256[:2] / sha256

    def delete(self, sha256: str) -> None:
        """Delete a file durably, if it is there."""
        path = self.path(sha256)
        if path.exists():
            path.unlink()
            _force_to_disk(path.parent)


def _force_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, survives a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
