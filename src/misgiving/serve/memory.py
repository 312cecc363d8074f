"""How much memory decoding takes, and that no more is taken at once than there may be."""

import math
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image
from PIL.PngImagePlugin import MAX_TEXT_MEMORY
from PIL.TiffImagePlugin import TiffImageFile

from misgiving.data.preprocessing import MAX_PIXELS

PLAIN, OTHER = 20, 30  # bytes for each pixel at the highest, from the decoder to the square
"""Measured over every format that is read: 8-bit modes up to 20 bytes, when an image is turned and
laid over white; 16-bit and 32-bit ones, transparent ones, WebP and JPEG 2000 up to 28.6."""

PLAIN_MODES = ("1", "L", "P", "LA", "RGB", "CMYK", "YCbCr")
BUFFERED = ("WEBP", "JPEG2000")  # their decoders hold the image once more, in four bytes or more
BEFORE = {b"GIF8": 2 * MAX_PIXELS, b"\x89PNG": MAX_TEXT_MEMORY}
"""Bytes that opening a file takes before anything is known of it, by how it begins: a GIF's first
frame may be laid out, and a PNG's compressed texts are read."""

TILE_WIDTH, TILE_LENGTH = 322, 323
NEVER = 2**62  # pixels, more than any limit


class Budget:
    """Bytes that threads share; who wants more than is free waits, in the order of asking."""

    def __init__(self, whole: int) -> None:
        self._whole = self._free = whole
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def share(self, wanted: int) -> Iterator[None]:
        """Hold so many bytes in the block; who wants more than the whole has all of it alone."""
        wanted = min(wanted, self._whole)
        self._take(wanted)
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()

    def _take(self, wanted: int) -> None:
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            self._changed.wait_for(lambda: self._waiting[0] is turn and wanted <= self._free)
            self._waiting.popleft()
            self._free -= wanted
            self._changed.notify_all()


def bytes_to_open(data: bytes) -> int:
    """At the highest, until the header is read."""
    return next((wanted for start, wanted in BEFORE.items() if data.startswith(start)), 0)


def pixels_of(image: Image.Image) -> int:
    """Pixels that a decoder makes room for: a TIFF's tile may be larger than its image."""
    pixels = image.width * image.height
    return max(pixels, _of_a_tile(image)) if isinstance(image, TiffImageFile) else pixels


def _of_a_tile(image: TiffImageFile) -> int:
    try:
        return math.prod(int(image.tag_v2.get(tag, 0)) for tag in (TILE_WIDTH, TILE_LENGTH))
    except (TypeError, ValueError, OverflowError):  # tags that are no numbers: nobody wrote these
        return NEVER


def bytes_to_decode(image: Image.Image) -> int:
    """At the highest, from the encoded image to the square."""
    plain = image.mode in PLAIN_MODES and image.format not in BUFFERED
    texts = MAX_TEXT_MEMORY if image.format == "PNG" else 0
    return pixels_of(image) * (PLAIN if plain else OTHER) + texts
