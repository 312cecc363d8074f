"""Limits on decoding: memory, and slow JPEG files."""

import io
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from processes import standin_at
from standin import picture
from test_limits import multipart, part, post

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


def highest(process):
    """Peak resident memory of a process, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def send_at_once(where, body, count):
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda _: post(where, body)[0], range(count)))


def test_memory_for_decoding_is_known_from_the_header():
    grey_of_16_bits = Image.fromarray(np.zeros((SIDE, SIDE), np.uint16))
    for file, each, texts in (
        (blank("RGB", "PNG"), 20, TEXTS),
        (blank("L", "JPEG"), 20, 0),
        (blank("RGBA", "PNG"), 30, TEXTS),
        (blank("RGB", "WEBP"), 30, 0),
        (blank("RGB", "JPEG2000"), 30, 0),
        (blank("F", "TIFF"), 30, 0),
        (encoded(grey_of_16_bits, "PNG"), 30, TEXTS),
        (encoded(Image.new("L", (1, 65_535)), "PNG"), 20 * 65_535 / SIDE**2, TEXTS),
        (b"no image", 0, 0),
    ):
        assert decoding_bytes(file, "x", PLENTY) == each * SIDE**2 + texts
    assert opening_bytes(gif(9)) == 2 * Image.MAX_IMAGE_PIXELS
    assert opening_bytes(picture()) == TEXTS
    assert opening_bytes(b"\xff\xd8\xff") == opening_bytes(b"") == 0


def test_a_small_tiff_with_a_huge_tile_counts_as_its_tile():
    tags = {256: 9, 257: 9, 258: 8, 259: 8, 262: 1, 277: 1, 322: 30_000, 323: 30_000, 324: 8}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    file = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0" * 99
    with pytest.raises(DataError, match="50000000"):
        decoding_bytes(file, "x", 50_000_000)


@pytest.mark.parametrize("size", [(1, 65_536), (65_536, 1)])
def test_an_image_that_is_long_and_narrow_is_refused(size):
    with pytest.raises(DataError, match="65535"):
        decoding_bytes(encoded(Image.new("L", size), "PNG"), "x", PLENTY)


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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what was highest")
@pytest.mark.parametrize(
    ("file", "status", "budget"),
    [
        (blank("RGBA", "WEBP", lossless=True), 200, 130_000_000),  # one of 120 MB
        (gif(13_300), 422, 180_000_000),  # one
        (png_of_texts(), 200, 180_000_000),  # two
    ],
    ids=["WebP", "GIF", "PNG"],
)
def test_small_files_that_need_much_memory_wait_their_turn(file, status, budget, sqlite_place):
    assert len(file) < 100_000
    with standin_at(sqlite_place, threads=8, max_decoded_bytes=budget) as (process, where):
        post(where, multipart(part(blank("RGB", "PNG"))))  # what is loaded once
        before = highest(process)
        assert send_at_once(where, multipart(part(file)), 8) == [status] * 8
        grown = highest(process) - before
    # A heap keeps some of what was freed; all eight at once would be 500 MB or more.
    assert grown < (budget if file.startswith(b"RIFF") else 2 * budget)


def test_memory_is_reserved_in_the_order_of_requests():
    budget, order, holding, release = MemoryBudget(10), [], threading.Event(), threading.Event()

    def take(name, wanted):
        with budget.reserve(wanted):
            order.append(name)
            if name == "first":
                holding.set()
                release.wait(10)

    threads = [threading.Thread(target=take, args=("first", 6))]
    threads[0].start()
    holding.wait(10)
    for name, wanted in (("large", 99), ("small", 1)):
        threads.append(threading.Thread(target=take, args=(name, wanted)))
        threads[-1].start()
        while len(budget._waiting) < len(threads) - 1:
            pass
    assert order == ["first"]
    release.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "large", "small"]


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
    data, comment = progressive(), b"\xff\xfe\x00\x02"
    check_jpeg(with_scans(20), "x")
    check_jpeg(data[:2] + comment * 9_000 + data[2:], "x")
    for slow in (with_scans(200), data[:2] + comment * 10_000 + data[2:]):
        with pytest.raises(DataError, match="x: "):
            check_jpeg(slow, "x")
    for slow in (with_scans(200), b"P2\n1 1\n255\n7"):
        answer = client.post("/decisions", files={"files": ("a", slow)})
        assert answer.status_code == 422


def test_bytes_that_only_look_like_scans_are_not_counted():
    scans = b"\xff\xda\x00\x02"
    for data in (
        progressive((300, 200), quality=95),
        progressive((300, 200), exif=b"Exif\0\0" + scans * 900),
        progressive((300, 200), comment=scans * 900),
        progressive() + scans * 90_000,  # a phone's film after the photograph
        b"\x89PNG" + scans * 900,
        b"\xff\xd8\xff",
        b"",
    ):
        check_jpeg(data, "x")


def test_only_a_netpbm_file_that_is_read_byte_by_byte_is_refused():
    for data in (
        b"P1\n2 2\n" + b"#\n" * 9 + b"1 0 0 1",
        b"P2\n2 2\n255\n1 2 3 4",
        b"P3\n1 1\n255\n1 2 3",
        b"P6\n2 2\n254\n" + bytes(12),
        b"P6\n2 2\n65535\n" + bytes(24),
        b"P5\n#" + b"x" * 5000 + b"\n2 2\n255\n" + bytes(4),
        b"P5\n" + b" " * 5000 + b"2 2\n255\n" + bytes(4),
        b"P5\n" + b"#\n" * 2500 + b"2 2\n255\n" + bytes(4),
        b"PyP 2 2 255\n" + bytes(4),
    ):
        with pytest.raises(DataError, match=r"x: .*Netpbm"):
            check_netpbm(data, "x")
    for mode in ("1", "L", "RGB", "I;16", "F"):
        file = encoded(Image.new(mode, (3, 2)), "PPM")
        check_netpbm(file, "x")
        start, _, rest = file.partition(b"\n")
        check_netpbm(start + b"\n# made by a scanner\n" + rest, "x")
