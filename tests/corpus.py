"""Bad and unusual image files, each with the expected result.

Expected pixels come from the arrays that were saved, or from the definition of the format.
"""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

ROWS, COLUMNS = 30, 40
EXIF_HEADER = b"Exif\0\0"
ORIENTATION = 0x0112
DAMAGED = "not an image|cannot be decoded"


class Case(NamedTuple):
    """A file with its expected pixels (within some grey levels), or the reason of its refusal."""

    name: str
    pixels: np.ndarray | None = None
    within: int = 0
    refused: str | None = None


class Mark:
    """Creates the file that it names when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


def picture() -> np.ndarray:
    """A smooth picture in which every direction and channel can be told from the others."""
    rows, columns = np.mgrid[0:ROWS, 0:COLUMNS]
    return np.stack([rows * 8, columns * 6, 200 - rows * 3 - columns * 2], axis=2).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    return encoded(Image.fromarray(array), kind, **options)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file, as its specification lays it out."""
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(
    width: int, height: int, *, depth: int, colour: int, rows: bytes, extra: bytes = b""
) -> bytes:
    """A PNG file by hand: Pillow writes no colours of 16 bits, and nothing that lies."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(rows, 9))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def png16(values: np.ndarray) -> bytes:
    """A PNG of 16 bits for each of 3 or 4 channels."""
    height, width, channels = values.shape
    big = values.astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in big)
    return png(width, height, depth=16, colour={3: 2, 4: 6}[channels], rows=rows)


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """A transparent picture on white paper, by the definition of transparency."""
    share = alpha[..., None] / 255
    return np.rint(colours * share + 255 * (1 - share)).astype(np.uint8)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2).astype(np.uint8)


def uprights() -> dict[int, np.ndarray]:
    """What is stored so that each EXIF orientation shows `picture`, by the standard's words.

    They say what the stored first row and first column are of the upright picture.
    """
    upright = picture()
    turned = upright.transpose(1, 0, 2)
    return {
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: turned,  # left, top
        6: turned[::-1],  # right, top
        7: turned[::-1, ::-1],  # right, bottom
        8: turned[:, ::-1],  # left, bottom
    }


def build(folder: Path) -> list[Case]:
    """Write all of them into a folder; gives what should become of each."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {**plain(), **modes(), **frames(), **exif(), **sizes(), **names()}
    for name, (data, *_) in contents.items():
        (folder / name).write_bytes(data)
    read = [Case(name, pixels, within) for name, (_, pixels, within) in contents.items()]
    refused = {**cut(), **no_images(folder), **hostile()}
    for name, (data, _) in refused.items():
        (folder / name).write_bytes(data)
    reasons = [Case(name, refused=reason) for name, (_, reason) in refused.items()]
    return [*read, *reasons, *special(folder)]


Readable = dict[str, tuple[bytes, np.ndarray, int]]
Refused = dict[str, tuple[bytes, str]]


def plain() -> Readable:
    image = picture()
    data = rgb(image)
    jpeg = rgb(image, "JPEG", quality=95, subsampling=0)
    few = image // 128 * 100
    profile = {"icc_profile": b"no such profile"}
    wrong_sum = bytearray(data)
    wrong_sum[-13] ^= 0xFF  # of the pixels' chunk; the last chunk has 12 bytes
    exact = {
        "plain.png": data,
        "plain.bmp": rgb(image, "BMP"),
        "plain.webp": rgb(image, "WEBP", lossless=True),
        "plain.tif": rgb(image, "TIFF"),
        "deflated.tiff": rgb(image, "TIFF", compression="tiff_deflate"),
        "png_named.jpg": data,
        "garbage_after.png": data + b"\0garbage" * 99,
        "damaged_profile.png": rgb(image, **profile),
        "wrong_sum.png": bytes(wrong_sum),
        "without_end.png": data[:-12],
        "unknown_chunk.png": data[:33] + chunk(b"abCd", b"?" * 9) + data[33:],
    }
    close = {
        "plain.jpg": jpeg,
        "UPPER.JPG": jpeg,
        "jpeg_named.png": jpeg,
        "garbage_after.jpg": jpeg + b"\xff\xd8garbage" * 99,
        "damaged_profile.jpg": rgb(image, "JPEG", quality=95, subsampling=0, **profile),
        "without_end.jpg": jpeg[:-2],
    }
    return {
        **{name: (content, image, 0) for name, content in exact.items()},
        **{name: (content, image, 8) for name, content in close.items()},
        "progressive.jpeg": (rgb(image, "JPEG", quality=95, progressive=True), image, 24),
        "plain.gif": (rgb(few, "GIF"), few, 0),
    }


def modes() -> Readable:
    image = picture()
    levels, alpha = image[..., 0], image[..., 1]
    fine = image.astype(np.uint16) * 257 + np.arange(COLUMNS, dtype=np.uint16)[:, None] % 3
    deep = Image.fromarray(levels.astype(np.uint16) * 257)
    opaque = np.full_like(levels, 65535, dtype=np.uint16)
    bits = Image.fromarray(levels > 99)
    black_and_white = grey((levels > 99) * 255)
    ink = [Image.fromarray(255 - image[..., channel]) for channel in range(3)]
    cmyk = Image.merge("CMYK", [*ink, Image.new("L", (COLUMNS, ROWS), 0)])
    few = image // 128 * 100
    palette = Image.fromarray(few).quantize(8)
    at = np.asarray(palette)
    hole = int(at[0, 0])
    with_hole = np.where((at == hole)[..., None], 255, few).astype(np.uint8)
    with_alpha, on_white = np.dstack([image, alpha]), over_white(image, alpha)
    grey_alpha = Image.fromarray(np.dstack([levels, alpha]), "LA")
    fractions = Image.fromarray((levels / 255).astype(np.float32))
    return {
        "grey.png": (rgb(levels), grey(levels), 0),
        "grey.jpg": (rgb(levels, "JPEG", quality=95), grey(levels), 6),
        "sixteen_bit_grey.png": (encoded(deep), grey(levels), 0),
        "sixteen_bit_grey.tif": (encoded(deep, "TIFF"), grey(levels), 0),
        "sixteen_bit_colour.png": (png16(fine), image, 1),
        "sixteen_bit_alpha.png": (png16(np.dstack([fine, opaque])), image, 1),
        "one_bit.png": (encoded(bits), black_and_white, 0),
        "one_bit.tif": (encoded(bits, "TIFF", compression="group4"), black_and_white, 0),
        "palette.png": (encoded(palette), few, 0),
        "palette_with_hole.png": (encoded(palette, transparency=hole), with_hole, 0),
        "hole.gif": (encoded(palette, "GIF", transparency=hole), with_hole, 0),
        "alpha.png": (rgb(with_alpha), on_white, 1),
        "alpha.webp": (rgb(with_alpha, "WEBP", lossless=True, exact=True), on_white, 1),
        "grey_alpha.png": (encoded(grey_alpha), over_white(grey(levels), alpha), 1),
        "fractions.tif": (encoded(fractions, "TIFF"), grey(levels), 0),
        "cmyk.tif": (encoded(cmyk, "TIFF"), image, 0),
        "ycck.jpg": (ycck(cmyk), ycck_pixels(cmyk), 8),
        "cmyk.jpg": (encoded(cmyk, "JPEG", quality=97, subsampling=0), image, 8),
    }


def ycck(image: Image.Image) -> bytes:
    """A JPEG whose Adobe marker says that its four channels are YCCK."""
    data = bytearray(encoded(image, "JPEG", quality=97, subsampling=0))
    marker = data.index(b"Adobe")
    data[marker + 11] = 2  # the transform, after five letters, a version and two pairs of flags
    return bytes(data)


def ycck_pixels(image: Image.Image) -> np.ndarray:
    """What such a file shows where there is no black: its colours are YCbCr (ITU-T T.871)."""
    stored = 255 - np.asarray(image).astype(np.float64)  # as Adobe inverts CMYK
    y, cb, cr = (stored[..., channel] for channel in range(3))
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    ink = np.stack([y + 1.402 * (cr - 128), green, y + 1.772 * (cb - 128)], axis=2)
    return np.rint(255 - np.clip(ink, 0, 255)).astype(np.uint8)


def frames() -> Readable:
    first, second = picture() // 128 * 100, np.zeros_like(picture())
    both = [Image.fromarray(second)]
    options = {"save_all": True, "append_images": both}
    return {
        "animated.gif": (rgb(first, "GIF", **options), first, 0),
        "animated.webp": (rgb(first, "WEBP", lossless=True, **options), first, 0),
        "animated.png": (rgb(first, "PNG", **options), first, 0),
        "pages.tif": (rgb(first, "TIFF", **options), first, 0),
    }


def exif() -> Readable:
    files: Readable = {}
    close = {"kind": "JPEG", "quality": 95, "subsampling": 0}
    for number, stored in {**uprights(), 99: picture()}.items():
        image = Image.fromarray(np.ascontiguousarray(stored))
        tags = image.getexif()
        tags[ORIENTATION] = number
        files[f"orientation_{number}.png"] = (encoded(image, exif=tags), picture(), 0)
        files[f"orientation_{number}.jpg"] = (encoded(image, exif=tags, **close), picture(), 8)
    damaged = EXIF_HEADER + b"II*\0\xff\xff\xff"
    files["damaged_exif.png"] = (rgb(picture(), exif=EXIF_HEADER + b"none"), picture(), 0)
    files["damaged_exif.jpg"] = (rgb(picture(), exif=damaged, **close), picture(), 8)
    return files


def sizes() -> Readable:
    def flat(height: int, width: int) -> np.ndarray:
        return np.full((height, width, 3), (7, 77, 177), dtype=np.uint8)

    return {
        f"{height}x{width}.png": (rgb(flat(height, width)), flat(height, width), 0)
        for height, width in ((1, 1), (1, 3000), (3000, 1), (2, 2))
    }


def names() -> Readable:
    data, image = rgb(picture()), picture()
    called = ["größe 皮膚", "x" * 251, "皮" * 83 + "xx", "line\nbreak", "quote'\"s", "comma,semi;c"]
    called += ["-rf", "--out=x", " space ", "100%d{}", "\x1b[31mred", "<img src=x onerror=a(1)>"]
    called += ["$(touch here)", "=1+1", "CON", "two..dots"]
    return {f"{name}.png": (data, image, 0) for name in called}


def cut() -> Refused:
    """Files that end too early, at several places."""
    random = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    kinds = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "webp": "WEBP", "gif": "GIF", "bmp": "BMP"}
    found: Refused = {}
    for suffix, kind in kinds.items():
        whole = rgb(random, kind)
        for percent in (1, 50, 90):
            part = whole[: max(4, len(whole) * percent // 100)]
            found[f"cut_at_{percent}.{suffix}"] = (part, DAMAGED)
    return found


def no_images(folder: Path) -> Refused:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("plain.png", rgb(picture()))
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    return {
        "empty.png": (b"", "is empty"),
        "empty.jpg": (b"", "is empty"),
        "text.jpg": (b"not a picture\n" * 20, "not an image"),
        "page.png": (b"<!doctype html><title>404</title>" * 9, "not an image"),
        "data.jpg": (json.dumps({"error": "not found"}).encode(), "not an image"),
        "drawing.png": (drawing, "not an image"),
        "pickle.png": (pickle.dumps(Mark(folder.parent / "executed")), "not an image"),
        "archive.jpg": (packed.getvalue(), "not an image"),
        "program.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        "paper.tif": (b"%PDF-1.7\n" + b"0" * 99, "not an image"),
        "zeros.bmp": (bytes(4096), "not an image"),
        "start_only.png": (b"\x89PNG\r\n\x1a\n", DAMAGED),
        "pointer.jpg": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "not an image"
        ),
    }  # fmt: skip


def hostile() -> Refused:
    data = rgb(picture())
    wrong_header, flipped = bytearray(data), bytearray(data)
    wrong_header[29] ^= 0xFF
    flipped[data.index(b"IDAT") + 20] ^= 0xFF
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(90_000_000), 9))
    levels = np.array([[np.nan, 0.5]], dtype=np.float32)
    not_a_number, bright = (Image.fromarray(values) for values in (levels, levels[:, 1:] + 1))
    grey_bomb = {"width": 20_000, "height": 20_000, "depth": 1, "colour": 0}
    declared = png(10_000, 10_000, depth=8, colour=2, rows=bytes(999))
    too_large, outside = "more than .* pixels", "values outside 0 to 1"
    return {
        "wrong_header.png": (bytes(wrong_header), DAMAGED),
        "flipped.png": (bytes(flipped), "cannot be decoded"),
        "declares_20000.png": (png(**grey_bomb, rows=bytes(2501) * 9), too_large),
        "declares_10000.png": (declared, too_large),
        "bomb.png": (png(**grey_bomb, rows=bytes(2501 * 20_000)), too_large),
        "text_bomb.png": (data[:33] + text + data[33:], DAMAGED),
        "no_size.png": (png(0, 0, depth=8, colour=2, rows=b""), DAMAGED),
        "not_a_number.tif": (encoded(not_a_number, "TIFF"), outside),
        "bright.tif": (encoded(bright, "TIFF"), outside),
    }


def special(folder: Path) -> list[Case]:
    """What is no ordinary file, or none that can be opened."""
    (folder / "loop_a.png").symlink_to("loop_b.png")
    (folder / "loop_b.png").symlink_to("loop_a.png")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "link.png").symlink_to("plain.png")
    (folder / "device.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.jpg")
    not_ordinary = "not an ordinary file"
    return [
        Case("link.png", picture()),
        Case("loop_a.png", refused="cannot be read"),
        Case("loop_b.png", refused="cannot be read"),
        Case("dangling.png", refused="cannot be read"),
        Case("device.png", refused=not_ordinary),
        Case("pipe.jpg", refused=not_ordinary),
    ]
