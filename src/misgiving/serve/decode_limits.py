"""Limits on decoding: pixels, memory, and files that would take minutes."""

import io
import math
import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from PIL import Image
from PIL.PngImagePlugin import MAX_TEXT_MEMORY
from PIL.TiffImagePlugin import TiffImageFile

from misgiving.data.decoding import FORMATS, MAX_PIXELS
from misgiving.errors import DataError

PLAIN_BYTES, OTHER_BYTES = 20, 30
"""Peak bytes per pixel from the decoder to the model input, measured over every supported format:
8-bit modes up to 20 (turned, and laid over white); 16-bit, 32-bit, transparent, WebP and JPEG 2000
up to 28.6."""

PLAIN_MODES = ("1", "L", "P", "LA", "RGB", "CMYK", "YCbCr")
BUFFERED_FORMATS = (
    "WEBP",
    "JPEG2000",
)  # decoders that hold a second copy of four bytes or more per pixel
OPENING_BYTES = {b"GIF8": 2 * MAX_PIXELS, b"\x89PNG": MAX_TEXT_MEMORY}
"""Peak bytes of opening a file, by its first bytes: Pillow may lay out the first frame of a GIF,
and reads the compressed texts of a PNG."""

TILE_WIDTH, TILE_LENGTH = 322, 323
UNLIMITED = 2**62  # more pixels than any limit
MAX_SIDE = 65_535  # as in a JPEG; beyond it, Pillow's pointers to the rows count as well

MAX_SCANS = 100  # an ordinary progressive JPEG has about ten; libtiff allows as many
MAX_SEGMENTS = 10_000
JPEG = b"\xff\xd8\xff"
MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # neither a stuffed zero nor a restart

GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
SIZE = GAP + rb"\d+" + GAP + rb"\d+"
NETPBM_HEAD = 4096  # bytes, with comments
NATIVE_NETPBM = re.compile(
    rb"P(?:4%b|[56]%b255|5%b65535|f%b-?[\d.]+)\s" % (SIZE, SIZE + GAP, SIZE + GAP, SIZE + GAP)
)
START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN, TEMPORARY = 0xD8, 0xD9, 0xDA, 0x01


class MemoryBudget:
    """Bytes that threads share; those that need more than is free wait in the order of arrival."""

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Hold these bytes during the block; a request beyond the total gets all of it alone."""
        count = min(count, self._total)
        request = object()
        with self._changed:
            self._waiting.append(request)
            self._changed.wait_for(lambda: self._waiting[0] is request and count <= self._free)
            self._waiting.popleft()
            self._free -= count
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


def opening_bytes(data: bytes) -> int:
    """Peak memory of reading the header."""
    return next((count for start, count in OPENING_BYTES.items() if data.startswith(start)), 0)


def decoding_bytes(data: bytes, name: str, max_pixels: int) -> int:
    """Peak memory of decoding, from the header alone; 0 for a file that is not an image.

    Raises:
        DataError: The image has too many pixels, in all or along a side.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels, side = _allocated_pixels(image), max(image.size)
            plain = image.mode in PLAIN_MODES and image.format not in BUFFERED_FORMATS
            texts = MAX_TEXT_MEMORY if image.format == "PNG" else 0
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        pixels, side, plain, texts = UNLIMITED, 0, True, 0
    except Exception:  # Pillow raises almost anything; the decoder will explain it
        return 0
    if pixels > max_pixels:
        raise DataError(f"{name}: more than {max_pixels} pixels; scale it down")
    if side > MAX_SIDE:
        raise DataError(f"{name}: more than {MAX_SIDE} pixels along a side; crop it")
    return pixels * (PLAIN_BYTES if plain else OTHER_BYTES) + texts


def _allocated_pixels(image: Image.Image) -> int:
    """Pixels that the decoder allocates: a tile of a TIFF may be larger than its image."""
    pixels = image.width * image.height
    if not isinstance(image, TiffImageFile):
        return pixels
    try:
        tile = math.prod(int(image.tag_v2.get(tag, 0)) for tag in (TILE_WIDTH, TILE_LENGTH))
    except (TypeError, ValueError, OverflowError):  # tags that are not numbers
        return UNLIMITED
    return max(pixels, tile)


def check_jpeg(data: bytes, name: str) -> None:
    """Check a JPEG for scans or segments that would take minutes, whatever its number of pixels.

    Raises:
        DataError: It has too many scans or segments.
    """
    # Too few bytes that could be markers: this check takes a tenth of the time of the walk.
    if not data.startswith(JPEG) or data.count(b"\xff") - data.count(b"\xff\0") <= MAX_SCANS:
        return
    markers = list(islice(_markers(data), MAX_SEGMENTS + 1))
    if len(markers) > MAX_SEGMENTS or markers.count(START_OF_SCAN) > MAX_SCANS:
        raise DataError(
            f"{name}: a JPEG with more than {MAX_SCANS} scans or {MAX_SEGMENTS} segments; save it "
            "again with another program"
        )


def check_netpbm(data: bytes, name: str) -> None:
    """Check for a Netpbm file that Pillow would read byte by byte, in up to quadratic time.

    Raises:
        DataError: Its pixels are text, its header is long, or its values have an unusual range.
    """
    if not re.match(rb"P[0-6fy]", data) or NATIVE_NETPBM.match(data[:NETPBM_HEAD]):
        return
    raise DataError(
        f"{name}: a Netpbm file of text, with more than {NETPBM_HEAD} bytes before its pixels, or "
        "with a highest value other than 255 (65535 for grey); save it as PNG"
    )


def _markers(data: bytes) -> Iterator[int]:
    """Segment markers up to the end of the image, as a decoder reads them (ITU-T T.81, annex B)."""
    position = len(JPEG) - 1
    while match := MARKER.search(data, position):
        marker, position = match[1][0], match.end()
        if marker == END_OF_IMAGE:
            return
        yield marker
        if marker not in (START_OF_IMAGE, TEMPORARY):  # all others state their length
            position += int.from_bytes(data[position : position + 2], "big")
