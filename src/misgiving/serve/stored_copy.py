"""Copies of image files without what cameras and programs write about people and places.

Parts of the file are left out, so that the pixels of a JPEG, PNG or WebP stay as they were encoded.
"""

import io
import re
import zlib
from collections.abc import Callable
from contextlib import suppress

from PIL import ExifTags, Image

from misgiving.data.decoding import IMAGE_FORMATS, Loaded, decode_reduced

MARKER = re.compile(rb"\xff+([\x01-\xfe])")  # may be padded in front
SCAN_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # a marker that is neither data nor a restart
START_OF_SCAN, END_OF_IMAGE = b"\xda", b"\xd9"
JPEG_MARKERS = {START_OF_SCAN, *(bytes([each]) for each in (*range(0xC0, 0xD0), 0xDB, 0xDC, 0xDD))}
JPEG_APPLICATIONS = {b"\xe0": b"JFIF\0", b"\xe2": b"ICC_PROFILE\0", b"\xee": b"Adobe"}
PNG_CHUNKS = set(
    b"IHDR PLTE IDAT IEND tRNS cHRM gAMA iCCP sBIT sRGB cICP bKGD hIST pHYs sPLT".split()
)
WEBP_CHUNKS = set(b"VP8X|VP8 |VP8L|ALPH|ICCP".split(b"|"))
WEBP_EXIF, WEBP_XMP = 8, 4  # flags of VP8X

Strip = Callable[[bytes, bytes], bytes]


def stored_copy(data: bytes, name: str, *, frame: int = 1, loaded: Loaded | None = None) -> bytes:
    """A file that decodes to the same pixels of a frame, with no metadata but the orientation.

    It has no other frame, which a browser would show in its place. Of a format without a rule here,
    of another frame than the first, and of a file that does not follow its format, the pixels are
    stored as PNG; those in `loaded` are not decoded again.
    """
    is_first = frame == 1 or any(number == 0 for number, _ in loaded or ())
    for start, strip in STRIP.items():
        if is_first and data.startswith(start):
            with suppress(ValueError, IndexError, TypeError, AttributeError):
                copy = strip(data, b"")
                exif = b"" if copy == data else _orientation(data)
                return strip(data, exif) if exif else copy
    image, *_ = decode_reduced(data, name, lambda *_: 1.0, frame=frame, loaded=loaded)
    image.save(file := io.BytesIO(), "PNG", compress_level=1)
    return file.getvalue()


def _orientation(data: bytes) -> bytes:
    """EXIF data with the orientation alone; empty for an upright image."""
    try:
        given = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS).getexif()
        orientation = int(given.get(ExifTags.Base.Orientation, 1))
    except Exception:  # as for the decoder: damaged EXIF data
        return b""
    if not 2 <= orientation <= 8:
        return b""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


def _jpeg(data: bytes, exif: bytes) -> bytes:
    """The segments that decoding needs, up to the end of the first image."""
    parts, at = [data[:2]], 2
    if exif:
        parts.append(b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif)
    while (marker := MARKER.match(data, at)[1]) != END_OF_IMAGE:  # type: ignore[index]
        begin = data.index(marker, at) + 1
        at = begin + int.from_bytes(data[begin : begin + 2])
        if marker == START_OF_SCAN:
            at = SCAN_END.search(data, at).start()  # type: ignore[union-attr]
        if marker in JPEG_MARKERS or data.startswith(JPEG_APPLICATIONS.get(marker, ()), begin + 2):
            parts += [b"\xff", marker, data[begin:at]]
    return b"".join([*parts, b"\xff", END_OF_IMAGE])


def _png(data: bytes, exif: bytes) -> bytes:
    parts, at, kind = [data[:8]], 8, b""
    while kind != b"IEND":
        end, kind = at + 12 + int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if end > len(data):
            raise ValueError("a chunk is incomplete")
        if kind in PNG_CHUNKS:
            parts.append(data[at:end])
        if kind == b"IHDR" and exif:
            chunk = b"eXIf" + exif.removeprefix(b"Exif\0\0")
            parts += [(len(chunk) - 4).to_bytes(4), chunk, zlib.crc32(chunk).to_bytes(4)]
        at = end
    return b"".join(parts)


def _webp(data: bytes, exif: bytes) -> bytes:
    parts, at, length = list[bytes](), 12, 8 + int.from_bytes(data[4:8], "little")
    while at < min(length, len(data)):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        kind, end = data[at : at + 4], at + 8 + size + size % 2
        if kind == b"ANMF":
            raise ValueError("it is an animation")
        if kind == b"VP8X":
            flags = data[at + 8] & ~(WEBP_EXIF | WEBP_XMP) | (WEBP_EXIF if exif else 0)
            parts.append(data[at : at + 8] + bytes([flags]) + data[at + 9 : end])
        elif kind in WEBP_CHUNKS:
            parts.append(data[at:end])
        at = end
    if exif:
        parts.append(b"EXIF" + len(exif).to_bytes(4, "little") + exif + bytes(len(exif) % 2))
    content = b"WEBP" + b"".join(parts)
    return b"RIFF" + len(content).to_bytes(4, "little") + content


STRIP: dict[bytes, Strip] = {b"\xff\xd8\xff": _jpeg, b"\x89PNG\r\n\x1a\n": _png, b"RIFF": _webp}
"""Functions that copy a file, by its first bytes."""
