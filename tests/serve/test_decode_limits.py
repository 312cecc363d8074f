"""Limits on decoding: memory, and slow JPEG and Netpbm files."""

import io
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from services import standin_at
from standin import picture
from test_limits import multipart, part, post
from waiting import until

from misgiving.errors import DataError
from misgiving.serve.decode_limits import (
    MemoryBudget,
    check_jpeg,
    check_netpbm,
    decoding_bytes,
    opening_bytes,
)

SIDE = 2000
PLENTY = 10**9
TEXTS = 64 * 2**20  # of a PNG, compressed, as Pillow reads them


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def blank(mode, kind, **options):
    return encoded(Image.new(mode, (SIDE, SIDE)), kind, **options)


def gif(side):
    """Forty bytes; Pillow lays out the whole first frame when it opens them."""
    screen = struct.pack("<HHBBB", side, side, 0xF0, 0, 0) + bytes(6)
    frame = struct.pack("<HHHHB", 0, 0, side, side, 0)
    return b"GIF89a" + screen + b"!\xf9\x04\x08\0\0\0\0" + b"," + frame + b"\x08\0;"


def png_of_texts():
    """A small file whose texts take as much memory as Pillow allows."""
    texts = PngInfo()
    for number in range(63):
        texts.add_text(f"t{number}", "a" * (2**20 - 100), zip=True)
    return encoded(Image.new("RGB", (8, 8)), "PNG", pnginfo=texts)


def tiff_of_a_tile(side):
    """Nine pixels wide, of one huge tile."""
    tags = {256: 9, 257: 9, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0" * 99


def test_memory_for_decoding_is_known_from_the_header():
    for file, each, texts in (
        (blank("RGB", "PNG"), 20, TEXTS),
        (blank("L", "JPEG"), 20, 0),
        (blank("RGBA", "PNG"), 30, TEXTS),
        (blank("RGB", "WEBP"), 30, 0),
        (blank("RGB", "JPEG2000"), 30, 0),
        (blank("F", "TIFF"), 30, 0),
        (encoded(Image.new("L", (1, 65_535)), "PNG"), 20 * 65_535 / SIDE**2, TEXTS),
        (b"no image", 0, 0),
    ):
        assert decoding_bytes(file, "x", PLENTY) == each * SIDE**2 + texts
    assert opening_bytes(gif(9)) == 2 * Image.MAX_IMAGE_PIXELS
    assert opening_bytes(picture()) == TEXTS
    assert opening_bytes(b"\xff\xd8\xff") == opening_bytes(b"") == 0
    for file, pixels, limit in (
        (tiff_of_a_tile(30_000), 50_000_000, "50000000"),
        (encoded(Image.new("L", (1, 65_536)), "PNG"), PLENTY, "65535"),
    ):
        with pytest.raises(DataError, match=limit):
            decoding_bytes(file, "x", pixels)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what was highest")
@pytest.mark.parametrize(
    ("file", "count", "status", "budget"),
    [
        (blank("RGBA", "WEBP", lossless=True), 4, 200, 130_000_000),  # one of 120 MB at a time
        (gif(13_300), 4, 422, 180_000_000),  # one
        (png_of_texts(), 8, 200, 180_000_000),  # two
    ],
    ids=["WebP", "GIF", "PNG"],
)
def test_small_files_that_need_much_memory_wait_their_turn(
    file, count, status, budget, sqlite_place
):
    def highest():
        """Peak resident memory of the service, in bytes."""
        text = Path(f"/proc/{process.pid}/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) * 1024

    assert len(file) < 100_000
    with standin_at(sqlite_place, threads=8, max_decoded_bytes=budget) as (process, where):
        post(where, multipart(part(blank("RGB", "PNG"))))  # what is loaded once
        before = highest()
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: post(where, multipart(part(file))), range(count)))
        grown = highest() - before
    assert [answer[0] for answer in answers] == [status] * count
    # A heap keeps some of what was freed; all of them at once would be 480 MB or more.
    assert grown < (budget if file.startswith(b"RIFF") else 2 * budget)


def test_memory_is_reserved_in_the_order_of_requests():
    budget, order, release = MemoryBudget(10), [], threading.Event()

    def take(size):
        with budget.reserve(size):
            order.append(size)
            release.wait(10)

    with ThreadPoolExecutor(3) as threads:
        for waiting, size in enumerate([6, 99, 1]):  # the second is larger than the budget
            threads.submit(take, size)
            until(lambda waiting=waiting: order and len(budget._waiting) == waiting)
        assert order == [6]
        release.set()
    assert order == [6, 99, 1]


def progressive(size=(64, 48), **options):
    noise = Image.effect_noise(size, 60).convert("RGB")
    return encoded(noise, "JPEG", progressive=True, **options)


def with_scans(count):
    """A JPEG with additional empty scans."""
    data = encoded(Image.new("L", (640, 480), 128), "JPEG", progressive=True)
    component = data[data.rfind(b"\xff\xda") + 5]
    scan = b"\xff\xda\x00\x08\x01" + bytes([component, 0, 1, 63, 0])
    whole = data[:-2] + scan * count + data[-2:]
    Image.open(io.BytesIO(whole)).load()  # a decoder reads it all
    return whole


def test_a_jpeg_with_thousands_of_scans_or_segments_is_refused(client):
    data, comment, scans = progressive(), b"\xff\xfe\x00\x02", b"\xff\xda\x00\x02"
    for quick in (
        with_scans(20),
        data[:2] + comment * 9_000 + data[2:],
        progressive((300, 200), quality=95),  # and what only looks like scans
        progressive((300, 200), comment=scans * 900),
        data + scans * 90_000,  # a phone's film after the photograph
        b"\x89PNG" + scans * 900,
    ):
        check_jpeg(quick, "x")
    for slow in (with_scans(200), data[:2] + comment * 10_000 + data[2:]):
        with pytest.raises(DataError):
            check_jpeg(slow, "x")
    for slow in (with_scans(200), b"P2\n1 1\n255\n7"):
        answer = client.post("/decisions", files={"files": ("a", slow)})
        assert answer.status_code == 422


def test_only_a_netpbm_file_that_is_read_byte_by_byte_is_refused():
    for data in (
        b"P1\n2 2\n" + b"#\n" * 9 + b"1 0 0 1",
        b"P3\n1 1\n255\n1 2 3",
        b"P6\n2 2\n254\n" + bytes(12),
        b"P6\n2 2\n65535\n" + bytes(24),
        b"P5\n#" + b"x" * 5000 + b"\n2 2\n255\n" + bytes(4),
        b"P5\n" + b"#\n" * 2500 + b"2 2\n255\n" + bytes(4),
        b"PyP 2 2 255\n" + bytes(4),
    ):
        with pytest.raises(DataError):
            check_netpbm(data, "x")
    for mode in ("1", "L", "RGB", "I;16", "F"):
        file = encoded(Image.new(mode, (3, 2)), "PPM")
        check_netpbm(file, "x")
        start, _, rest = file.partition(b"\n")
        check_netpbm(start + b"\n# made by a scanner\n" + rest, "x")
