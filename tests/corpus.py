"""Unusual and bad image files, each with the expected pixels or the reason of its refusal.

Expected pixels come from the arrays that were saved, or from the definition of the format.
"""

import io
import os
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

HEIC = Path(__file__).parent / "data" / "quarters.heic"  # written by libheif and x265
ROWS, COLUMNS = 30, 40
TOO_LARGE = "more than 89478485 pixels(?=; make the image smaller$)"
CLOSE = {"kind": "JPEG", "quality": 95, "subsampling": 0}
FINE = {"kind": "AVIF", "quality": 100, "subsampling": "4:4:4"}


class Case(NamedTuple):
    """A file with its expected pixels (within some grey levels), or the reason of its refusal."""

    name: str
    pixels: np.ndarray | None = None
    within: int = 0
    refused: str | None = None


class Trap:
    """Fails the test in which it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was executed",)


def picture() -> np.ndarray:
    """A smooth picture in which every direction and channel can be told from the others."""
    rows, columns = np.mgrid[0:ROWS, 0:COLUMNS]
    return np.stack([rows * 8, columns * 6, 200 - rows * 3 - columns * 2], axis=2).astype(np.uint8)


def quarters() -> np.ndarray:
    """The picture in the file `HEIC`: four squares of one colour each."""
    colours = np.array([[(200, 30, 30), (30, 180, 30)], [(30, 30, 200), (240, 240, 240)]])
    return colours.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    return encoded(Image.fromarray(array), kind, **options)


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """A transparent picture on white paper, by the definition of transparency."""
    share = alpha[..., None] / 255
    return np.rint(colours * share + 255 * (1 - share)).astype(np.uint8)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2).astype(np.uint8)


def build(folder: Path) -> list[Case]:
    """Write all of them into a folder; gives the expected result of each."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for name, (data, *expected) in {**plain(), **modes(), **exif(), **bad()}.items():
        (folder / name).write_bytes(data)
        is_read = len(expected) == 2
        cases.append(Case(name, *expected) if is_read else Case(name, refused=expected[0]))
    return [*cases, *special(folder)]


def plain() -> dict:
    image = picture()
    data = rgb(image)
    few = image // 128 * 100
    second = Image.fromarray(np.zeros_like(image))
    flat = np.full((1, 3000, 3), (7, 77, 177), dtype=np.uint8)
    names = ["größe 皮膚", "x" * 251, "line\nbreak", "quote'\"s", "comma,semi;c", " space ", "-rf"]
    exact = {
        **{f"{name}.png": data for name in [*names, "\x1b[31mred", "$(touch here)", "=1+1"]},
        "plain.png": data,
        "plain.bmp": rgb(image, "BMP"),
        "plain.webp": rgb(image, "WEBP", lossless=True),
        "png_named.jpg": data,
        "garbage_after.png": data + b"\0garbage" * 99,
        "damaged_profile.png": rgb(image, icc_profile=b"no such profile"),
    }
    return {
        **{name: (content, image, 0) for name, content in exact.items()},
        "quarters.heic": (HEIC.read_bytes(), quarters(), 1),
        "UPPER.JPG": (rgb(image, **CLOSE), image, 8),
        "animated.gif": (rgb(few, "GIF", save_all=True, append_images=[second]), few, 0),
        "flat.png": (rgb(flat), flat, 0),
        "upright.png": (rgb(flat.transpose(1, 0, 2).copy()), flat.transpose(1, 0, 2), 0),
    }


def modes() -> dict:
    image = picture()
    levels, alpha = image[..., 0], image[..., 1]
    deep = Image.fromarray(levels.astype(np.uint16) * 257)
    fractions = Image.fromarray((levels / 255).astype(np.float32))
    ink = [Image.fromarray(255 - image[..., channel]) for channel in range(3)]
    cmyk = Image.merge("CMYK", [*ink, Image.new("L", (COLUMNS, ROWS), 0)])
    few = image // 128 * 100
    palette = Image.fromarray(few).quantize(8)
    at = np.asarray(palette)
    hole = int(at[0, 0])
    with_hole = np.where((at == hole)[..., None], 255, few).astype(np.uint8)
    with_alpha, on_white = np.dstack([image, alpha]), over_white(image, alpha)
    grey_alpha = Image.fromarray(np.dstack([levels, alpha]), "LA")
    bits = Image.fromarray(levels > 99)
    return {
        "grey.png": (rgb(levels), grey(levels), 0),
        "sixteen_bit_grey.png": (encoded(deep), grey(levels), 0),
        "sixteen_bit_grey.tif": (encoded(deep, "TIFF"), grey(levels), 0),
        "fractions.tif": (encoded(fractions, "TIFF"), grey(levels), 0),
        "one_bit.tif": (encoded(bits, "TIFF"), grey((levels > 99) * 255), 0),
        "palette.png": (encoded(palette), few, 0),
        "palette_with_hole.png": (encoded(palette, transparency=hole), with_hole, 0),
        "hole.gif": (encoded(palette, "GIF", transparency=hole), with_hole, 0),
        "alpha.png": (rgb(with_alpha), on_white, 1),
        "grey_alpha.png": (encoded(grey_alpha), over_white(grey(levels), alpha), 1),
        "cmyk.jpg": (encoded(cmyk, "JPEG", quality=97, subsampling=0), image, 8),
    }


def exif() -> dict:
    """Each orientation, stored as the standard says.

    It names the sides of the upright picture where the stored first row and first column are.
    """
    upright = picture()
    turned = upright.transpose(1, 0, 2)
    stored = {
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: turned,  # left, top
        6: turned[::-1],  # right, top
        7: turned[::-1, ::-1],  # right, bottom
        8: turned[:, ::-1],  # left, bottom
        99: upright,
    }
    damaged = b"Exif\0\0II*\0\xff\xff\xff"
    files = {"damaged_exif.jpg": (rgb(upright, exif=damaged, **CLOSE), upright, 8)}
    for number, pixels in stored.items():
        image = Image.fromarray(np.ascontiguousarray(pixels))
        tags = image.getexif()
        tags[0x0112] = number  # orientation
        kinds = [("png", {}, 0), ("tif", {"kind": "TIFF"}, 0), ("jpg", CLOSE, 8), ("avif", FINE, 5)]
        for kind, options, within in kinds:
            data = encoded(image, exif=tags, **options)
            files[f"orientation_{number}.{kind}"] = (data, upright, within)
    return files


def bad() -> dict:
    random = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    kinds = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "webp": "WEBP", "gif": "GIF", "bmp": "BMP"}
    cut = {f"cut.{suffix}": rgb(random, kind) for suffix, kind in kinds.items()}
    flipped = bytearray(rgb(picture()))
    flipped[flipped.index(b"IDAT") + 20] ^= 0xFF
    levels = np.array([[np.nan, 0.5]], dtype=np.float32)
    not_a_number, bright = (Image.fromarray(values) for values in (levels, levels[:, 1:] + 1))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    return {
        **{name: (data[: len(data) // 2], "cannot be decoded") for name, data in cut.items()},
        "flipped.png": (bytes(flipped), "cannot be decoded"),
        "empty.png": (b"", "is empty"),
        "cut.avif": (rgb(random, "AVIF")[:999], "not an image"),
        "text.jpg": (b"not a picture\n" * 20, "not an image"),
        "pickle.png": (pickle.dumps(Trap()), "not an image"),
        "program.png": (eps, "not an image"),
        "paper.tif": (b"%PDF-1.7\n" + b"0" * 99, "not an image"),
        "bomb.png": (encoded(Image.new("1", (20_000, 20_000))), TOO_LARGE),
        "large.png": (encoded(Image.new("1", (10_000, 10_000))), TOO_LARGE),
        "not_a_number.tif": (encoded(not_a_number, "TIFF"), "values outside 0 to 1"),
        "bright.tif": (encoded(bright, "TIFF"), "values outside 0 to 1"),
    }


def special(folder: Path) -> list[Case]:
    """Links, and files that are not ordinary or cannot be opened."""
    links = {"loop_a.png": "loop_b.png", "loop_b.png": "loop_a.png", "dangling.png": "nowhere.png"}
    for name, target in {**links, "link.png": "plain.png", "device.png": "/dev/zero"}.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.jpg")
    return [
        Case("link.png", picture()),
        *(Case(name, refused="cannot be read") for name in links),
        *(Case(name, refused="not an ordinary file") for name in ("device.png", "pipe.jpg")),
    ]
