"""Whatever a file is like, the service answers in time, gives its memory back, and stops."""

import random
import re
import signal
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from corpus import HEIC, encoded
from dicoms import dicom, lut
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin
from pydicom.data import get_testdata_file
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from services import standin_at
from waiting import until

TIMEOUT = 30.0  # seconds of a request, as by default
CLIENTS = 4
THREADS = 2
DECODERS = THREADS + 1
GIVEN_BACK = 50.0  # MB
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "JPEG2000", "DICOM")
PUBLISHED = ("SC_rgb_jpeg_gdcm.dcm", "examples_palette.dcm", "image_dfl.dcm", "JPEG2000.dcm")
MAX_BYTES = 4_000_000
NUMBERS = [0, 1, 2, 3, 7, 8, 16, 100, 127, 128, 255, 256, 4000, 7000, 32767, 32768, 65535, 65536]
NUMBERS += [2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
TIMES = [1, 1, 1, 2, 3, 10, 100, 3000, 100_000]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="Linux tells the memory of a process")
@pytest.mark.parametrize(
    ("first", "count"),
    [
        pytest.param(0, 20, id="short"),
        pytest.param(random.randrange(10**9), 2000, id="long", marks=pytest.mark.soak),
    ],
)
def test_any_file_is_answered_in_time_and_leaves_nothing_behind(sqlite_place, first, count):
    def post(data):
        begun = time.monotonic()
        response = client.post("/decisions", content=data, headers={"Content-Type": "image/png"})
        answered = time.monotonic()
        assert client.get("/health").status_code == 200  # while others send files
        return response.status_code, answered - begun, time.monotonic() - answered

    seeds = list(product(FORMATS, range(first, first + count)))
    limits = {
        "timeout": TIMEOUT,
        "max_decoding_seconds": 2.0,
        "threads": THREADS,
        "formats": FORMATS,
    }
    with (
        standin_at(sqlite_place, **limits) as (process, client),
        ThreadPoolExecutor(CLIENTS) as threads,
    ):
        honest = threads.map(post, [data for kind in FORMATS for data in originals(kind)])
        before = max(megabytes(process.pid) for _ in honest)
        answers = threads.map(lambda seed: post(mutated(*seed)), seeds)
        for seed, (status, seconds, wait) in zip(seeds, answers, strict=True):
            assert status in (200, 422), f"mutated{seed}"
            assert seconds < TIMEOUT, f"mutated{seed}"
            assert wait < 5, f"mutated{seed}"  # seconds; usually 0.1
        until(lambda: megabytes(process.pid) < before + GIVEN_BACK, seconds=60)
        process.send_signal(signal.SIGTERM)
        process.wait(15)


def megabytes(pid):
    """Memory of a service and of its decoders, as if each were the largest, without mapped files.

    A decoder starts when all others are busy, which depends on the machine.
    """
    started = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    sizes = []
    for number in [pid, *started]:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            status = Path(f"/proc/{number}/status").read_text()
            sizes.append(sum(map(int, re.findall(r"RssAnon:\s+(\d+)", status))))
    own, *decoders = sizes
    return (own + DECODERS * max(decoders, default=0)) / 1024


def mutated(kind, seed):
    """The file of this format and seed."""
    chance = random.Random(f"{kind} {seed}")
    data = chance.choice(originals(kind))
    for _ in range(chance.choice([1, 1, 2, 4])):
        is_by_chunk = kind == "PNG" and chance.random() < 0.75  # else a sum tells what was changed
        data = (with_other_chunk if is_by_chunk else with_other_bytes)(data, chance)[:MAX_BYTES]
    return data


def with_other_bytes(data, chance):
    """Flip a bit, write a number, insert, remove, cut or repeat."""
    at, length = chance.randrange(len(data) + 1), chance.choice([1, 2, 4, 8, 50, 1000])
    size, order = chance.choice([1, 2, 4]), chance.choice(["little", "big"])
    number = (chance.choice(NUMBERS) % 256**size).to_bytes(size, order)
    times = min(chance.choice(TIMES), MAX_BYTES // length)
    written, removed = chance.choice(
        [
            (bytes(byte ^ 1 << chance.randrange(8) for byte in data[at : at + 1]), 1),
            *[(number, size)] * 2,
            (chance.randbytes(length), 0),
            (b"", length),
            (b"", len(data)),
            (data[at : at + length] * times, 0),
        ]
    )
    return data[:at] + written + data[at + removed :]


def with_other_chunk(data, chance):
    """Repeat, remove, fill or change a chunk of a PNG, under the right check sums."""
    chunks, start = [], len(PNG)
    while start + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        chunks.append((data[start + 4 : start + 8], data[start + 8 : start + 8 + length]))
        start += 12 + length
    at = chance.randrange(len(chunks) or 1)
    name, body = chunks[at] if chunks else (b"IDAT", b"")
    match chance.choice(["repeat", "remove", "fill", *["other"] * 3]):
        case "repeat":
            made = [(name, body)] * min(chance.choice(TIMES), MAX_BYTES // (len(body) + 8))
        case "remove":
            made = []
        case "fill":
            content = bytes(chance.choice([0, 10, 1000, 10**6, 10**8]))
            made = [(name, body[:2] + zlib.compress(content, 1))]
        case _:
            made = [(name, with_other_bytes(body, chance))]
    chunks[at : at + 1] = made
    return PNG + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def dicoms():
    """DICOM files in several transfer syntaxes, with windows, tables and frames."""
    noise = np.random.default_rng(0).integers(0, 4096, (2, 44, 60), dtype=np.uint16)
    colours = noise.astype(np.uint8)[0, :, :, None] + np.arange(3, dtype=np.uint8)
    window = {"WindowCenter": 2000, "WindowWidth": 900, "PixelSpacing": [0.2, 0.3]}
    syntaxes = (None, RLELossless, JPEG2000Lossless, JPEGLSLossless)
    return [
        *(dicom(noise[0], bits=12, compressed=each, **window) for each in syntaxes),
        *(dicom(colours, compressed=each) for each in syntaxes),
        dicom(noise, "MONOCHROME1", bits=12, VOILUTSequence=[lut(np.arange(4096), 0, 12)]),
        *(Path(get_testdata_file(name)).read_bytes() for name in PUBLISHED),
    ]


@cache
def originals(kind):
    """Files of a format, in the modes and arrangements that it has."""
    if kind == "HEIF":  # Pillow writes none
        return [HEIC.read_bytes()]
    if kind == "DICOM":
        return dicoms()
    noise = np.random.default_rng(0).integers(0, 256, (44, 60, 3), dtype=np.uint8)
    rgb, deep = Image.fromarray(noise), Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    others = {"JPEG": ["CMYK"], "PNG": ["1", "P", "RGBA"], "TIFF": ["1", "P", "RGBA"]}
    modes = ["L", "RGB", *others.get(kind, ["RGBA"])]
    pages = {"save_all": True, "append_images": [rgb.rotate(90).convert("L")]}
    texts, exif = PngImagePlugin.PngInfo(), Image.Exif()
    texts.add_text("b", "compressed " * 9, zip=True)
    exif[0x0112], exif[0x0110] = 6, "camera"
    exif.get_ifd(0x8769)[0x829A] = TiffImagePlugin.IFDRational(1, 60)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    metadata = {"exif": exif.tobytes(), "icc_profile": profile.tobytes()}
    options = {
        "JPEG": [{"progressive": True}, {"restart_marker_blocks": 2}, {"subsampling": 2}],
        "PNG": [{"pnginfo": texts, "transparency": (1, 2, 3)}, {**pages, "default_image": True}],
        "TIFF": [
            *({"compression": name} for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")),
            *(pages, {"big_tiff": True}),
        ],
        "WEBP": [{"lossless": True}, {**pages, "duration": 40}],
        "AVIF": [{"subsampling": "4:4:4"}, {"quality": 100}, {**pages, "duration": 40}],
        "JPEG2000": [
            *({"quality_layers": [40, 5]}, {"tile_size": (16, 16)}, {"irreversible": True}),
            {"no_jp2": True, "progression": "RPCL"},
        ],
    }
    return [
        *(encoded(rgb.convert(mode), kind) for mode in modes),
        *([encoded(deep, kind)] if kind in ("PNG", "TIFF", "JPEG2000") else []),
        *(encoded(rgb, kind, **each) for each in (*options[kind], metadata)),
        encoded(rgb.resize((640, 480)), kind, **metadata),
    ]
