"""What decoding may take of the memory."""

import io
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from processes import standin_at
from standin import picture
from test_limits import multipart, part, post

from misgiving.errors import DataError
from misgiving.serve.decode_limits import MemoryBudget, decoding_bytes, opening_bytes

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
    """Most bytes that a process has had in memory."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def send_at_once(where, body, count):
    statuses = []
    senders = [
        threading.Thread(target=lambda: statuses.append(post(where, body)[0])) for _ in range(count)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    return statuses


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what was highest")
def test_small_files_that_decode_to_much_take_no_more_than_the_budget_together(sqlite_place):
    file = blank("RGBA", "WEBP", lossless=True)
    assert len(file) < 1000
    budget = 130_000_000  # one such image takes 120 MB
    with standin_at(sqlite_place, threads=4, max_decoded_bytes=budget) as (process, where):
        post(where, multipart(part(blank("RGB", "PNG"))))  # what is loaded once
        before = highest(process)
        assert send_at_once(where, multipart(*[part(file)] * 2), 4) == [200] * 4
        grown = highest(process) - before
    assert grown < budget


@pytest.mark.parametrize(
    ("file", "each"),
    [
        (blank("RGB", "PNG"), 20),
        (blank("L", "JPEG"), 20),
        (blank("RGBA", "PNG"), 30),
        (blank("RGB", "WEBP"), 30),
        (blank("RGB", "JPEG2000"), 30),
        (blank("F", "TIFF"), 30),
        (encoded(Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)), "PNG"), 30),
    ],
    ids=["PNG", "JPEG", "transparent", "WebP", "JPEG 2000", "fractions", "16 bits"],
)
def test_what_decoding_takes_is_known_from_the_header(file, each):
    texts = TEXTS if file.startswith(b"\x89PNG") else 0
    assert decoding_bytes(file, "x", PLENTY) == each * SIDE**2 + texts


def test_a_small_tiff_with_a_huge_tile_counts_as_its_tile():
    tags = {256: 9, 257: 9, 258: 8, 259: 8, 262: 1, 277: 1, 322: 30_000, 323: 30_000, 324: 8}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    file = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0" * 99
    with pytest.raises(DataError, match="x: more than 50000000 pixels; scale it down"):
        decoding_bytes(file, "x", 50_000_000)


def gif(side):
    """Forty bytes, of which Pillow makes the whole first frame when it opens them."""
    screen = struct.pack("<HHBBB", side, side, 0xF0, 0, 0) + bytes(6)
    frame = struct.pack("<HHHHB", 0, 0, side, side, 0)
    return b"GIF89a" + screen + b"!\xf9\x04\x08\0\0\0\0" + b"," + frame + b"\x08\0;"


def png_of_texts():
    """Small, and its texts take as much as Pillow allows."""
    file = io.BytesIO()
    texts = PngInfo()
    for number in range(63):
        texts.add_text(f"t{number}", "a" * (2**20 - 100), zip=True)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=texts)
    return file.getvalue()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what was highest")
@pytest.mark.parametrize(("file", "status"), [(gif(13_300), 422), (png_of_texts(), 200)])
def test_small_files_that_take_much_to_open_take_their_turn(file, status, sqlite_place):
    assert len(file) < 100_000
    budget = 180_000_000  # for one GIF, or for two PNGs
    with standin_at(sqlite_place, threads=8, max_decoded_bytes=budget) as (process, where):
        post(where, multipart(part(picture())))  # what is loaded once
        before = highest(process)
        assert send_at_once(where, multipart(part(file)), 8) == [status] * 8
        grown = highest(process) - before
    assert grown < 1.5 * budget  # all eight at once would be 490 MB or more


def test_what_opening_takes_is_known_from_how_a_file_begins():
    assert opening_bytes(gif(9)) == 2 * Image.MAX_IMAGE_PIXELS
    assert opening_bytes(picture()) == TEXTS
    assert opening_bytes(b"\xff\xd8\xff") == opening_bytes(b"") == 0


def test_what_is_no_image_takes_nothing_and_is_left_to_the_decoder():
    assert decoding_bytes(b"no image", "x", 1) == 0


def test_shares_are_given_in_the_order_of_asking_so_that_large_ones_get_their_turn():
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


def test_a_share_is_given_back_where_decoding_fails():
    budget = MemoryBudget(1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), budget.reserve(1):
            raise ZeroDivisionError
