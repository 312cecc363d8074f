import io
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from misgiving.data.decoding import decode
from misgiving.data.preprocessing import (
    COLOR_CONSTANCY,
    INTERPOLATIONS,
    Preprocessing,
)
from misgiving.errors import DataError, UsageError

shades_of_gray, gray_world = COLOR_CONSTANCY["shades_of_gray"], COLOR_CONSTANCY["gray_world"]


def picture(height=9, width=12, seed=0, highest=250):
    random = np.random.default_rng(seed)
    return random.integers(5, highest, (height, width, 3)).astype(np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def balanced_by_loops(image, power):
    """Shades of gray in scalar float64: Minkowski mean, unit length, division, clip."""
    honest = [pixel for row in image.tolist() for pixel in row if max(pixel) < 255]
    light = [sum((p[c] / 255) ** power for p in honest) ** (1 / power) for c in range(3)]
    length = math.sqrt(sum(value**2 for value in light))
    return [
        [
            [round(255 * min(1, p[c] / 255 / (light[c] / length * math.sqrt(3)))) for c in range(3)]
            for p in row
        ]
        for row in image.tolist()
    ]


def balanced(balance, image):
    return np.asarray(balance(Image.fromarray(image)))


def plain(**changes):
    return Preprocessing(**{"image_size": 8, "crop": 1.0, "color_constancy": "none", **changes})


@pytest.mark.parametrize(("balance", "power"), [(shades_of_gray, 6), (gray_world, 1)])
def test_color_constancy_is_a_division_by_the_minkowski_mean(balance, power):
    image = picture()
    np.testing.assert_array_equal(balanced(balance, image), balanced_by_loops(image, power))


def test_saturated_pixels_do_not_change_the_estimate_of_the_light():
    image = picture()
    image[0] = (255, 3, 9)
    np.testing.assert_array_equal(balanced(shades_of_gray, image), balanced_by_loops(image, 6))


def test_bright_values_are_clipped_and_do_not_wrap_round():
    image = np.full((4, 4, 3), (40, 200, 200), dtype=np.uint8)
    image[0, 0] = (254, 100, 100)  # far more red than the light has
    assert balanced(gray_world, image)[0, 0, 0] == 255


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (255, 0, 0)])
@pytest.mark.parametrize("name", COLOR_CONSTANCY)
def test_pictures_that_tell_nothing_of_the_light_stay_as_they_are(name, colour):
    image = np.full((3, 5, 3), colour, dtype=np.uint8)
    np.testing.assert_array_equal(balanced(COLOR_CONSTANCY[name], image), image)


@pytest.mark.parametrize(
    ("shape", "kept"),
    [("both", (slice(15, 85), slice(30, 170))), ("square", (slice(0, 100), slice(50, 150)))],
)
def test_the_centre_crop_keeps_the_middle(shape, kept):
    image = picture(100, 200)
    size = 50
    expected = Image.fromarray(image[kept]).resize((size, size), Image.Resampling.BILINEAR)
    result = plain(image_size=size, crop=0.7, crop_shape=shape)(image)
    np.testing.assert_array_equal(result, np.asarray(expected))


@pytest.mark.parametrize("size", [(40, 61), (83, 30), (24, 24), (24, 239), (7, 5)])
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


def test_a_long_narrow_picture_takes_no_more_memory_than_others():
    process = plain(image_size=64, crop_shape="resized")
    picture = np.zeros((2, 60_000, 3), dtype=np.uint8)
    picture[:, 29_998:30_002] = 255
    square = process(picture)
    assert square.shape == (64, 64, 3)
    assert (square == 255).all()  # the middle, and some around it


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_whole_picture_is_resized_as_pillow_does(interpolation):
    image = Image.fromarray(picture(40, 61))
    expected = image.resize((8, 8), Image.Resampling[interpolation.upper()])
    result = plain(interpolation=interpolation)(np.asarray(image))
    np.testing.assert_array_equal(result, np.asarray(expected))


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


@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.floats(0.01, 1),
    st.sampled_from(["both", "square", "resized"]),
)
@settings(max_examples=30, deadline=None)
def test_any_picture_gives_the_size_asked_for(height, width, crop, shape):
    process = Preprocessing(image_size=7, crop=crop, crop_shape=shape)
    assert process(picture(height, width)).shape == (7, 7, 3)


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


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_with_no_pixels_to_spare_gives_the_square_of_its_pixels(kind, orientation):
    process = Preprocessing(image_size=40)
    data = jpeg(textured(57, 90), orientation, kind)
    np.testing.assert_array_equal(process.from_file(data, "x"), process(decode(data, "x")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(400, 400), (304, 416), (403, 301)])
@pytest.mark.parametrize(("shape", "constancy"), [("both", "shades_of_gray"), ("square", "none")])
def test_a_reduced_file_gives_the_square_of_its_pixels_but_for_rounding(
    orientation, size, shape, constancy
):
    process = Preprocessing(image_size=64, crop_shape=shape, color_constancy=constancy)
    reduced, shifted = of_file_and_of_pixels(process, jpeg(textured(*size), orientation))
    assert reduced < shifted / 2


@pytest.mark.parametrize(
    ("size", "crop", "expected"),
    [
        ((1024, 1024), 0.85, (436, 436)),  # divided by 2: 870 pixels are not 4 x 1.25 x 224
        ((1400, 1400), 0.85, (298, 298)),
        ((1400, 2800), 0.85, (298, 596)),
        ((2400, 2400), 1.0, (300, 300)),
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
    st.sampled_from(["both", "square", "resized"]),
)
@settings(max_examples=60, deadline=None)
def test_a_jpeg_is_not_decoded_smaller_than_its_square_takes(height, width, crop, shape):
    sizes = []
    process = plain(image_size=20, crop=crop, crop_shape=shape)
    whole = process._kept(height, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(COLOR_CONSTANCY, "none", lambda image: sizes.append(image.size) or image)
        process.from_file(jpeg(Image.new("RGB", (width, height))), "x")
    for kept, full in zip(sizes[0], (whole[2] - whole[0], whole[3] - whole[1]), strict=True):
        assert kept >= min(full, 20)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_file_whose_sides_do_not_divide_is_read_whole(cropped_sizes, orientation):
    process = plain(image_size=20)
    process.from_file(jpeg(Image.new("RGB", (161, 163)), orientation), "x")
    process.from_file(jpeg(Image.new("RGB", (160, 160)), orientation), "x")
    assert [max(size) for size in cropped_sizes] == [163, 40]


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "MPO")], ids=lambda value: value
)
def test_every_kind_of_jpeg_may_be_reduced(cropped_sizes, mode, kind):
    several = (
        {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]} if kind == "MPO" else {}
    )
    data = jpeg(textured(400, 400).convert(mode), kind=kind, **several)
    reduced, shifted = of_file_and_of_pixels(plain(image_size=80), data)
    assert reduced < shifted / 2
    assert (100, 100) in cropped_sizes


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 3),
        ("image_size", 0),
        ("image_size", True),
        ("image_size", 2.5),
        ("crop", 0.0),
        ("crop", 1.5),
        ("crop", math.nan),
        ("crop", "0.85"),
        ("crop_shape", "round"),
        ("color_constancy", "gray"),
    ],
)
def test_a_bad_preprocessing_value_is_refused_by_the_name_of_its_field(field, value):
    with pytest.raises(UsageError, match=field):
        Preprocessing.from_dict({field: value})


@pytest.mark.parametrize("data", [b"no picture", jpeg(textured(90, 90))[:-900]])
def test_a_file_whose_square_cannot_be_read_is_named(data):
    with pytest.raises(DataError, match=r"^lesion\.jpg: "):
        plain().from_file(data, "lesion.jpg")


@pytest.mark.parametrize("brightest", [1, 255])
def test_eight_bits_in_32_are_refused_rather_than_black(brightest):
    values = np.array([[0, brightest]], dtype=np.int32)
    with pytest.raises(DataError, match=r"x: .*65535"):
        decode(encoded(Image.fromarray(values), "TIFF"), "x")


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (256, 1), (65535, 255)])
def test_other_whole_numbers_in_32_bits_are_scaled_as_16(value, expected):
    values = np.array([[0, value]], dtype=np.int32)
    assert decode(encoded(Image.fromarray(values), "TIFF"), "x")[0, 1].tolist() == [expected] * 3


def test_preprocessing_imports_no_torch():
    imports = "import sys, misgiving.data.ood_sets, misgiving.data.splits"
    code = f"{imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
