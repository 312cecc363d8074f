"""Pictures after the answer: recent squares in memory, and files where they are to be kept."""

import io
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from misgiving.data.preprocessing import FORMATS
from misgiving.errors import DataError
from misgiving.files import force_to_disk, whole_file
from misgiving.manifests import sha256_of, sha256_of_file
from misgiving.serve.memory import bytes_to_decode, pixels_of

Square = UInt8[np.ndarray, "size size 3"]

SHOWN = {"image/jpeg", "image/png", "image/gif", "image/webp", "image/bmp", "image/tiff"}
UNKNOWN = "application/octet-stream"


class RecentSquares:
    """The newest squares, up to a number of bytes; safe in threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._squares: OrderedDict[str, Square] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, id: str, square: Square) -> None:
        """Keep this one, and forget the oldest for it."""
        with self._lock:
            self._squares[id] = square
            self._bytes += square.nbytes
            while self._bytes > self._max_bytes:
                self._bytes -= self._squares.popitem(last=False)[1].nbytes

    def get(self, id: str) -> Square | None:
        """The square of a case, unless it was forgotten."""
        with self._lock:
            return self._squares.get(id)


class KeptImages:
    """Image files by the hash of their content; the sender's name for them plays no role."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, sha256: str, data: bytes) -> None:
        """Have a file on the disk, whole; equal files are kept once, a damaged one is replaced."""
        path = self._path(sha256)
        for folder in (self._folder, path.parent):
            _make_private(folder)
        if not _is_intact(path, sha256):
            with whole_file(path, mode=0o600) as partial:
                partial.write_bytes(data)
                force_to_disk(partial)
        force_to_disk(path.parent)

    def read(self, sha256: str) -> bytes | None:
        """The content, where it is still there.

        Raises:
            OSError: It cannot be read.
            ValueError: It is damaged.
        """
        try:
            data = self._path(sha256).read_bytes()
        except FileNotFoundError:
            return None
        if sha256_of(data) != sha256:
            raise ValueError("is damaged")
        return data

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256


def _make_private(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        force_to_disk(folder.parent)


def _is_intact(path: Path, sha256: str) -> bool:
    try:
        return sha256_of_file(path) == sha256
    except OSError:
        return False


def as_jpeg(square: Square) -> bytes:
    """A thumbnail: the image as the model sees it."""
    file = io.BytesIO()
    Image.fromarray(square).save(file, "JPEG", quality=85)
    return file.getvalue()


def media_type(data: bytes) -> str:
    """The type by which a browser may show a file; it never follows from what the sender said."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            found = image.get_format_mimetype()
    except Exception:  # Pillow raises almost anything
        return UNKNOWN
    return found if found in SHOWN else UNKNOWN


def bytes_wanted(data: bytes, name: str, max_pixels: int) -> int:
    """What decoding will take, as the header says; nothing is decoded for it.

    Raises:
        DataError: It has too many pixels. What is no image at all takes nothing, and is left to the
            decoder to explain.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels, wanted = pixels_of(image), bytes_to_decode(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        pixels, wanted = max_pixels + 1, 0
    except Exception:
        return 0
    if pixels > max_pixels:
        raise DataError(f"{name}: more than {max_pixels} pixels; scale it down")
    return wanted
