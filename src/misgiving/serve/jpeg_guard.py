"""How often a JPEG goes over its image: a small file may do so thousands of times."""

import re
from collections.abc import Iterator
from itertools import islice

from misgiving.errors import DataError

SCANS = 100  # an ordinary progressive JPEG has about ten; libtiff allows as many
SEGMENTS = 10_000

JPEG = b"\xff\xd8\xff"
MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # none is a stuffed zero, or a restart
START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN, TEMPORARY = 0xD8, 0xD9, 0xDA, 0x01


def refuse_laborious(data: bytes, name: str) -> None:
    """Refuse a JPEG that would take minutes, whatever its number of pixels.

    Raises:
        DataError: It has too many scans or segments.
    """
    if not data.startswith(JPEG) or _is_surely_short(data):
        return
    markers = list(islice(_markers(data), SEGMENTS + 1))
    if len(markers) > SEGMENTS or markers.count(START_OF_SCAN) > SCANS:
        raise DataError(
            f"{name}: a JPEG of more than {SCANS} scans or {SEGMENTS} segments; save it anew"
        )


def _is_surely_short(data: bytes) -> bool:
    """Whether there are not even enough bytes that could be markers: a tenth of the walk's time."""
    return data.count(b"\xff") - data.count(b"\xff\0") <= SCANS


def _markers(data: bytes) -> Iterator[int]:
    """Of segments up to the end of the image, read as a decoder does (ITU-T T.81, annex B)."""
    position = len(JPEG) - 1
    while found := MARKER.search(data, position):
        marker, position = found[1][0], found.end()
        if marker == END_OF_IMAGE:
            return
        yield marker
        if marker not in (START_OF_IMAGE, TEMPORARY):  # all others tell their length
            position += int.from_bytes(data[position : position + 2], "big")
