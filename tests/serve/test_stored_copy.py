"""Stored copies have the pixels and the orientation of what was sent, and nothing about people."""

import io

import numpy as np
import pytest
from corpus import encoded
from corpus import picture as smooth
from PIL import ExifTags, Image, PngImagePlugin
from standin import picture, sent

from misgiving.data.decoding import decode, decode_reduced
from misgiving.serve.stored_copy import stored_copy

SECRET = b"Jane Doe, Ward 7"
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + SECRET + b"</x:xmpmeta>"
TEXTS = PngImagePlugin.PngInfo()
TEXTS.add_text("Comment", SECRET.decode())
TEXTS.add_itxt("XML:com.adobe.xmp", XMP.decode())


def exif(orientation):
    made = Image.Exif()
    made[ExifTags.Base.Artist] = SECRET.decode()
    made[ExifTags.Base.Orientation] = orientation
    made.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAreaInformation] = SECRET
    return made


def with_segments(jpeg):
    """A JPEG with IPTC data, a thumbnail, an index of images, and data after its end."""
    for marker, content in (
        (0xED, b"Photoshop 3.0\0" + SECRET),
        (0xE0, b"JFXX\0" + SECRET),
        (0xE2, b"MPF\0" + SECRET),
    ):
        segment = b"\xff" + bytes([marker]) + (len(content) + 2).to_bytes(2) + content
        jpeg = jpeg[:2] + segment + jpeg[2:]
    return jpeg + SECRET


def made(kind, orientation=6, mode="RGB", **options):
    image = Image.fromarray(smooth()).convert(mode)
    return encoded(image, kind, exif=exif(orientation), **options)


FILES = {
    "jpeg": with_segments(made("JPEG", comment=SECRET, xmp=XMP)),
    "progressive": made("JPEG", 3, progressive=True, comment=SECRET, icc_profile=b"profile"),
    "cmyk": made("JPEG", 1, "CMYK", comment=SECRET),
    "restarts": made("JPEG", 8, restart_marker_rows=1, comment=SECRET),
    "png": made("PNG", pnginfo=TEXTS) + SECRET,
    "palette": made("PNG", 2, "P", pnginfo=TEXTS),
    "sixteen bits": encoded(
        Image.fromarray(smooth()[..., 0].astype(np.uint16) * 257), exif=exif(7), pnginfo=TEXTS
    ),
    "webp": made("WEBP", xmp=XMP),
    "lossless webp": made("WEBP", 5, "RGBA", lossless=True, xmp=XMP),
    "tiff": made("TIFF", 4, tiffinfo={270: SECRET.decode()}, compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_stored_copy_decodes_to_the_same_pixels_without_any_metadata(serving, tmp_path, name):
    data = FILES[name]
    assert SECRET in data
    client = serving(keep_images=tmp_path / "kept")
    copy = client.get(f"/cases/{sent(client, data)['id']}/image").content
    assert SECRET not in copy
    np.testing.assert_array_equal(decode(copy, "copy"), decode(data, "original"))
    image = Image.open(io.BytesIO(copy))
    assert {*image.getexif()} <= {ExifTags.Base.Orientation}
    assert not {"comment", "xmp", "XML:com.adobe.xmp", "Comment"} & {*image.info}


@pytest.mark.parametrize("name", ["jpeg", "progressive", "restarts", "cmyk"])
def test_no_part_of_a_jpeg_is_encoded_anew(name):
    data = FILES[name]
    start, end = data.index(b"\xff\xda"), data.index(b"\xff\xd9") + 2
    assert data[start:end] in stored_copy(data, name)
    before, after = (Image.open(io.BytesIO(each)) for each in (data, stored_copy(data, name)))
    assert before.quantization == after.quantization
    assert before.info.get("icc_profile") == after.info.get("icc_profile")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_without_metadata_is_stored_as_it_was_sent(kind):
    data = picture(0.3, kind=kind)
    assert stored_copy(data, "a") == data


@pytest.mark.parametrize("frame", [1, 2])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "MPO"])
def test_a_copy_has_no_frame_but_the_one_that_the_model_saw(kind, frame):
    """Else a browser would show another one, as of a PNG whose animation leaves out its image."""
    frames = [Image.fromarray(smooth()).rotate(turn) for turn in (0, 90, 180)]
    pages = {"save_all": True, "append_images": frames[1:]}
    own = {"PNG": {"default_image": True}, "WEBP": {"lossless": True}, "MPO": {}}[kind]
    data, loaded = encoded(frames[0], kind, **pages, **own), {}
    seen, *_ = decode_reduced(data, "a", lambda *_: 1.0, frame=frame, loaded=loaded)
    with Image.open(io.BytesIO(stored_copy(data, "a", frame=frame, loaded=loaded))) as copy:
        assert getattr(copy, "n_frames", 1) == 1
        np.testing.assert_array_equal(copy.convert("RGB"), seen)


def test_a_file_that_does_not_follow_its_format_is_stored_as_its_pixels():
    data = picture(kind="PNG")
    without_end = data[: data.index(b"IEND") - 4]  # Pillow needs no more
    copy = stored_copy(without_end, "a")
    assert copy.endswith(data[-12:])
    np.testing.assert_array_equal(decode(copy, "copy"), decode(data, "original"))
