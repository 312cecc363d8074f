"""Cropping, colour constancy, resizing and decoding: oracles, laws, and attacks on the decoder."""

import io
import math

import numpy as np
import pytest
from corpus import encoded
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter
from refusals import naming
from strategies import generators
from torchvision import transforms

from misgiving.data import decoding
from misgiving.data.decoding import decode
from misgiving.data.preprocessing import (
    COLOR_CONSTANCY,
    CROP_SHAPES,
    INTERPOLATIONS,
    LEAST_CROP,
    Preprocessing,
)
from misgiving.errors import DataError, UsageError


def picture(height=9, width=12, seed=0, highest=250):
    random = np.random.default_rng(seed)
    return random.integers(5, highest, (height, width, 3)).astype(np.uint8)


def plain(**changes):
    return Preprocessing(**{"image_size": 8, "crop": 1.0, "color_constancy": "none", **changes})


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("crop", "kept"), [(0.7, np.s_[15:85, 30:170]), (1.0, np.s_[:, :])])
def test_the_centre_crop_keeps_the_middle_and_is_resized_as_pillow_does(crop, kept, interpolation):
    image = picture(100, 200)
    expected = Image.fromarray(image[kept]).resize((50, 50), INTERPOLATIONS[interpolation])
    process = plain(image_size=50, crop=crop, interpolation=interpolation)
    np.testing.assert_array_equal(process(image), np.asarray(expected))


@pytest.mark.parametrize("size", [(40, 61), (83, 30), (24, 239), (7, 5), (58, 62)])
@pytest.mark.parametrize(("shorter", "side"), [(32, 28), (29, 24), (16, 16)])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_resizing_and_then_cropping_gives_what_torchvision_gives(
    size, shorter, side, interpolation
):
    image = picture(*size)
    mode = transforms.InterpolationMode(interpolation)
    steps = transforms.Compose([transforms.Resize(shorter, mode), transforms.CenterCrop(side)])
    process = plain(
        image_size=side, crop=side / shorter, crop_shape="resized", interpolation=interpolation
    )
    np.testing.assert_array_equal(process(image), np.asarray(steps(Image.fromarray(image))))


def test_a_jpeg_that_is_not_reduced_has_the_pixels_of_the_decoder():
    data = encoded(textured(640, 640), "JPEG")
    with Image.open(io.BytesIO(data)) as decoded:
        expected = decoded.resize((16, 16), Image.Resampling.BILINEAR)
    exact = plain(image_size=16, reduce_jpeg=False).from_file(data, "it")
    np.testing.assert_array_equal(exact, np.asarray(expected))
    assert (plain(image_size=16).from_file(data, "it") != exact).any()


def test_the_light_is_estimated_inside_the_crop():
    image = picture(40, 40)
    rim = image.copy()
    rim[:2] = (200, 0, 0)
    process = plain(crop=0.85, color_constancy="shades_of_gray")
    np.testing.assert_array_equal(process(image), process(rim))


def textured(height, width, seed=0):
    """Soft spots of 16 pixels: something like a photograph, where a shift by one pixel shows."""
    coarse = Image.fromarray(picture(height // 16, width // 16, seed, highest=235))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image, orientation=1, kind="JPEG", **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, kind, quality=95, exif=exif, **options)


def of_file_and_of_pixels(process, data):
    """How far the square of a file is from that of its pixels, and a shift by one of them."""
    pixels = decode(data, "x")
    square = process(pixels).astype(float)
    shifted = process(np.roll(pixels, 1, axis=1))
    return [np.abs(other - square).mean() for other in (process.from_file(data, "x"), shifted)]


@pytest.fixture
def cropped_sizes(monkeypatch):
    """Height and width of every crop that is made while colours are not balanced."""
    sizes = []
    monkeypatch.setitem(
        COLOR_CONSTANCY, "none", lambda image: sizes.append((image.height, image.width)) or image
    )
    return sizes


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(400, 400), (304, 416), (403, 301)])
@pytest.mark.parametrize("constancy", ["shades_of_gray", "none"])
def test_a_reduced_file_gives_the_square_of_its_pixels_but_for_rounding(
    orientation, size, constancy
):
    process = Preprocessing(image_size=64, color_constancy=constancy)
    reduced, shifted = of_file_and_of_pixels(process, jpeg(textured(*size), orientation))
    assert reduced < shifted / 2


@pytest.mark.parametrize(
    ("size", "crop", "expected"),
    [
        ((1024, 1024), 0.85, (436, 436)),  # divided by 2: 870 pixels are not 4 x 1.25 x 224
        ((559, 900), 1.0, (559, 900)),
        ((560, 900), 1.0, (280, 450)),
    ],
)
def test_a_jpeg_is_decoded_no_larger_than_its_square_takes(cropped_sizes, size, crop, expected):
    process = Preprocessing(crop=crop, color_constancy="none")
    process.from_file(jpeg(Image.new("RGB", size[::-1])), "x")
    assert cropped_sizes == [expected]


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.floats(0.1, 1),
    st.sampled_from(["both", "resized"]),
)
@settings(max_examples=60, deadline=None)
def test_a_jpeg_is_not_decoded_smaller_than_its_square_takes(height, width, crop, shape):
    sizes = []
    process = plain(image_size=20, crop=crop, crop_shape=shape)
    whole = process._edges(height, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COLOR_CONSTANCY, "none", lambda image: sizes.append(image.size) or image)
        process.from_file(jpeg(Image.new("RGB", (width, height))), "x")
    for part, full in zip(sizes[0], (whole[2] - whole[0], whole[3] - whole[1]), strict=True):
        assert part >= min(full, 20)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_file_whose_sides_do_not_divide_is_read_whole(cropped_sizes, orientation):
    process = plain(image_size=20)
    process.from_file(jpeg(Image.new("RGB", (161, 163)), orientation), "x")
    process.from_file(jpeg(Image.new("RGB", (160, 160)), orientation), "x")
    assert [max(size) for size in cropped_sizes] == [163, 40]


def test_a_bad_value_is_refused_by_the_name_of_its_field():
    unknown = ("crop_shape", "round"), ("color_constancy", "gray"), ("interpolation", "soft")
    for field, value in [("image_size", 0), ("crop", 0.0), ("crop", math.nan), *unknown]:
        with pytest.raises(UsageError, check=naming(field)):
            Preprocessing(**{field: value})
    for field, value in ("size", 3), ("image_size", 2.5), ("crop", 1.5):
        with pytest.raises(ValueError, match=field):
            TypeAdapter(Preprocessing).validate_python({field: value})


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (256, 1), (65535, 255)])
def test_whole_numbers_in_32_bits_are_scaled_as_16_and_never_taken_for_8(value, expected):
    def tiff(*values):
        return encoded(Image.fromarray(np.array([values], dtype=np.int32)), "TIFF")

    assert decode(tiff(0, value), "x")[0, 1].tolist() == [expected] * 3
    for brightest in (1, 255):
        with pytest.raises(DataError, match=r"x: .*65535"):
            decode(tiff(0, brightest), "x")


sides = st.integers(1, 24)
shares = st.floats(LEAST_CROP, 1)


def drawn(random, height, width, *, highest=255, lowest=0):
    return random.integers(lowest, highest + 1, (height, width, 3)).astype(np.uint8)


@given(sides, sides, shares)
def test_a_crop_is_inside_in_the_middle_and_never_empty(height, width, share):
    left, top, right, bottom = Preprocessing(crop=share)._edges(height, width)
    assert 0 <= top < bottom <= height
    assert 0 <= left < right <= width
    assert abs(top - (height - bottom)) <= 1
    assert abs(left - (width - right)) <= 1
    for side, exact in ((bottom - top, share * height), (right - left, share * width)):
        assert abs(side - max(exact, 1)) <= 0.5


@given(
    generators(), sides, sides, shares, st.integers(1, 20), st.sampled_from([*CROP_SHAPES]),
    st.sampled_from([*COLOR_CONSTANCY]),
)  # fmt: skip
def test_any_picture_becomes_a_square_of_exactly_the_size_asked_for(
    random, height, width, share, size, shape, balance
):
    process = Preprocessing(image_size=size, crop=share, crop_shape=shape, color_constancy=balance)
    result = process(drawn(random, height, width))
    assert (result.shape, result.dtype) == ((size, size, 3), np.uint8)


OPENINGS = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"P6 "]


@st.composite
def damaged(draw, kind):
    """A file of this kind, or only its opening, cut off and with other bytes in some places."""
    if draw(st.booleans()):
        return draw(st.sampled_from(OPENINGS)) + draw(st.binary(max_size=60))
    data = bytearray(encoded(Image.fromarray(drawn(draw(generators()), 9, 12)), kind))
    for at, value in draw(
        st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=8)
    ):
        data[at % len(data)] = value
    return bytes(data[: len(data) - draw(st.integers(0, 999)) % len(data)])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"])
@given(st.data())
def test_a_damaged_file_is_pixels_or_refused_in_one_line(kind, data):
    refusal = "lesion.jpg: "
    try:
        image = decode(data.draw(damaged(kind)), "lesion.jpg")
        assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
    except DataError as failure:
        refusal = str(failure)
    assert refusal.startswith("lesion.jpg: ")
    assert "\n" not in refusal


shades_of_gray, gray_world = COLOR_CONSTANCY["shades_of_gray"], COLOR_CONSTANCY["gray_world"]


def balanced_by_loops(image, power):
    """Minkowski mean, unit length, division and clip in scalar float64, before rounding."""
    honest = [pixel for row in image.tolist() for pixel in row if max(pixel) < 255]
    light = [sum((p[c] / 255) ** power for p in honest) ** (1 / power) for c in range(3)]
    length = math.sqrt(sum(value**2 for value in light))
    gains = [length / (value * math.sqrt(3)) if value else 1 for value in light]
    return [
        [[255 * min(1, p[c] / 255 * gains[c]) for c in range(3)] for p in row]
        for row in image.tolist()
    ]


@pytest.mark.parametrize(("balance", "power"), [(shades_of_gray, 6), (gray_world, 1)])
@given(generators(), sides, sides, st.integers(0, 255), st.integers(0, 2), st.booleans())
def test_color_constancy_is_a_division_by_the_minkowski_mean_without_saturated_pixels(
    balance, power, random, height, width, highest, saturated, has_blue
):
    image = drawn(random, height, width, highest=highest)
    image[:saturated] = (255, 3, 9)
    image[..., 2] *= has_blue
    balanced = np.asarray(balance(Image.fromarray(image)))
    assert np.abs(balanced - balanced_by_loops(image, power)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_is_decoded_once_for_all_that_reduce_it_alike(kind, monkeypatch):
    data = encoded(Image.fromarray(picture(163, 161)), kind)
    processes = [plain(image_size=size) for size in (15, 16, 60)]  # a JPEG is reduced by 8, 8, 2
    expected = [process.from_file(data, "x") for process in processes]
    made, as_rgb = [], decoding._as_rgb
    monkeypatch.setattr(decoding, "_as_rgb", lambda image: made.append(image) or as_rgb(image))
    loaded = {}
    for process, square in zip(processes, expected, strict=True):
        shared = process.from_file(data, "x", loaded=loaded)
        np.testing.assert_array_equal(shared, square)
    assert len(made) == (2 if kind == "JPEG" else 1)
