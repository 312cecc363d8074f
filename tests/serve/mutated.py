"""Small images of each accepted format, changed at random; a seed gives the file."""

import random
import struct
import zlib
from functools import cache

import numpy as np
from corpus import encoded
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")
MOST_BYTES = 4_000_000
NUMBERS = [0, 1, 2, 3, 7, 8, 16, 100, 127, 128, 255, 256, 4000, 7000, 32767, 32768, 65535, 65536]
NUMBERS += [2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
TIMES = [1, 1, 1, 2, 3, 10, 100, 3000, 100_000]
PNG = b"\x89PNG\r\n\x1a\n"


def mutated(kind, seed):
    """The file of this format and seed."""
    chance = random.Random(f"{kind} {seed}")
    data = chance.choice(originals(kind))
    for _ in range(chance.choice([1, 1, 2, 4])):
        is_by_chunk = kind == "PNG" and chance.random() < 0.75  # else a sum tells what was changed
        data = (with_other_chunk if is_by_chunk else with_other_bytes)(data, chance)[:MOST_BYTES]
    return data


def with_other_bytes(data, chance):
    """Flip a bit, write a number, insert, remove, cut or repeat."""
    at, length = chance.randrange(len(data) + 1), chance.choice([1, 2, 4, 8, 50, 1000])
    match chance.choice(["flip", "number", "number", "insert", "remove", "cut", "repeat"]):
        case "flip" if at < len(data):
            return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        case "number":
            size, order = chance.choice([1, 2, 4]), chance.choice(["little", "big"])
            number = chance.choice(NUMBERS) % 256**size
            return data[:at] + number.to_bytes(size, order) + data[at + size :]
        case "insert":
            return data[:at] + chance.randbytes(length) + data[at:]
        case "cut":
            return data[:at]
        case "repeat":
            times = min(chance.choice(TIMES), MOST_BYTES // length)
            return data[:at] + data[at : at + length] * times + data[at:]
    return data[:at] + data[at + length :]


def with_other_chunk(data, chance):
    """Repeat, remove, fill or change a chunk of a PNG, under the right check sums."""
    chunks, at = [], len(PNG)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    at = chance.randrange(len(chunks) or 1)
    name, body = chunks[at] if chunks else (b"IDAT", b"")
    chunk = [(name, body)]
    match chance.choice(["repeat", "remove", "fill", *["other"] * 3]):
        case "repeat":
            chunk *= min(chance.choice(TIMES), MOST_BYTES // (len(body) + 8))
        case "remove":
            chunk = []
        case "fill":
            content = bytes(chance.choice([0, 10, 1000, 10**6, 10**8]))
            chunk = [(name, body[:2] + zlib.compress(content, 1))]
        case _:
            chunk = [(name, with_other_bytes(body, chance))]
    chunks[at : at + 1] = chunk
    pieces = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    ]
    return b"".join([PNG, *pieces])


@cache
def originals(kind):
    """Files of a format, in the modes and arrangements that it has."""
    rgb, grey, large = picture("RGB"), picture("L"), picture("RGB", 640, 480)
    pages = {"save_all": True, "append_images": [rgb.rotate(90)]}
    texts = PngImagePlugin.PngInfo()
    texts.add_text("b", "compressed " * 9, zip=True)
    modes = ["L", "RGB"]
    modes += {"JPEG": ["CMYK"], "WEBP": ["RGBA"]}.get(kind, ["1", "P", "RGBA", "I;16"])
    options = {
        "JPEG": [{"progressive": True}, {"restart_marker_blocks": 2}, {"subsampling": 2}],
        "PNG": [{"pnginfo": texts, "transparency": (1, 2, 3)}, {**pages, "default_image": True}],
        "TIFF": [
            *({"compression": name} for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")),
            {"save_all": True, "append_images": [grey]},
            {"big_tiff": True},
        ],
        "WEBP": [{"lossless": True}, {**pages, "duration": 40}],
    }
    return [
        *(encoded(picture(mode), kind) for mode in modes),
        *(encoded(rgb, kind, **each) for each in options[kind]),
        *(encoded(image, kind, **metadata()) for image in (rgb, large)),
    ]


def picture(mode, width=60, height=44):
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    slope = np.mgrid[0:height, 0:width].sum(axis=0)[..., None] * (200 / (width + height))
    image = Image.fromarray((slope + noise).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


def metadata():
    exif = Image.Exif()
    exif[0x0112], exif[0x0110] = 6, "camera"
    exif.get_ifd(0x8769)[0x829A] = TiffImagePlugin.IFDRational(1, 60)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return {"exif": exif.tobytes(), "icc_profile": profile.tobytes()}
