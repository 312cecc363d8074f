"""Small images of each accepted format, in the modes and arrangements that it has."""

import io
import struct
import zlib
from functools import cache

import numpy as np
import tifffile
from corpus import encoded
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

PNG = b"\x89PNG\r\n\x1a\n"
# First column and row of each pass of an interlaced PNG, and its steps
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
PASSES += [(0, 1, 1, 2)]


@cache
def originals(kind):
    return {"JPEG": jpegs, "PNG": pngs, "TIFF": tiffs, "WEBP": webps}[kind]()


def picture(mode, width=60, height=44):
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    slope = np.mgrid[0:height, 0:width].sum(axis=0)[..., None] * (200 / (width + height))
    image = Image.fromarray((slope + noise).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255)
    if mode.endswith("A"):
        image.putalpha(image.convert("L"))
    return image.convert(mode)


def metadata():
    exif = Image.Exif()
    exif[0x0112], exif[0x0110] = 6, "camera"
    exif.get_ifd(0x8769)[0x829A] = TiffImagePlugin.IFDRational(1, 60)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return {"exif": exif.tobytes(), "icc_profile": profile.tobytes()}


def jpegs():
    rgb, large = picture("RGB"), picture("RGB", 640, 480)
    return [
        *(encoded(picture(mode), "JPEG") for mode in ("L", "RGB", "CMYK")),
        *(encoded(rgb, "JPEG", subsampling=number, optimize=True) for number in range(3)),
        *(encoded(image, "JPEG", progressive=True, **metadata()) for image in (rgb, large)),
        encoded(rgb, "JPEG", restart_marker_blocks=2, comment=b"comment", dpi=(72, 72)),
        encoded(large, "JPEG", **metadata()),
    ]


def pngs():
    texts = PngImagePlugin.PngInfo()
    texts.add_text("a", "text")
    texts.add_text("b", "compressed " * 9, zip=True)
    texts.add_itxt("c", "text", zip=True)
    rgb, colours = picture("RGB"), picture("P")
    return [
        *(encoded(picture(mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        encoded(colours, transparency=3, bits=4),
        encoded(rgb, pnginfo=texts, dpi=(72, 72), transparency=(1, 2, 3), **metadata()),
        encoded(rgb, save_all=True, append_images=[rgb.rotate(90)], default_image=True),
        encoded(picture("RGB", 640, 480), compress_level=1),
        interlaced(rgb),
    ]


def interlaced(image):
    rows = np.asarray(image)
    passes = [rows[top::down, left::right] for left, top, right, down in PASSES]
    raw = b"".join(b"\0" + row.tobytes() for part in passes for row in part)
    head = struct.pack(">IIBBBBB", *image.size, 8, 2, 0, 0, 1)
    return png_of([(b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")])


def png_of(chunks):
    pieces = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    ]
    return b"".join([PNG, *pieces])


def tiffs():
    rgb, grey = picture("RGB"), picture("L")
    modes = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "F")
    compressions = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma")
    return [
        *(encoded(picture(mode), "TIFF") for mode in modes),
        *(encoded(rgb, "TIFF", compression=name) for name in compressions),
        *(encoded(picture("1"), "TIFF", compression=name) for name in ("group3", "group4")),
        encoded(rgb, "TIFF", compression="tiff_lzw", tiffinfo={317: 2, 278: 1}),
        encoded(rgb, "TIFF", save_all=True, append_images=[grey], **metadata()),
        encoded(rgb, "TIFF", big_tiff=True),
        encoded(picture("RGB", 640, 480), "TIFF", compression="tiff_lzw"),
        tiled(grey),
    ]


def tiled(image):
    """Tiles, which Pillow reads but does not write."""
    file = io.BytesIO()
    tifffile.imwrite(file, np.asarray(image), tile=(16, 16))
    return file.getvalue()


def webps():
    rgb, alpha = picture("RGB"), picture("RGBA")
    return [
        *(encoded(image, "WEBP", lossless=exact) for image in (rgb, alpha) for exact in (0, 1)),
        encoded(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)], duration=40),
        encoded(alpha, "WEBP", **metadata()),
        encoded(picture("RGB", 640, 480), "WEBP"),
    ]
