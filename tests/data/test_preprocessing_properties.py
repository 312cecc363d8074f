"""Laws of cropping, colour constancy, resizing and decoding, and attacks on the decoder."""

import io
import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from strategies import generators, orders

from misgiving.data.decoding import decode
from misgiving.data.preprocessing import (
    COLOR_CONSTANCY,
    CROPS,
    INTERPOLATIONS,
    LEAST_CROP,
    Preprocessing,
)
from misgiving.errors import DataError

shades_of_gray, gray_world = COLOR_CONSTANCY["shades_of_gray"], COLOR_CONSTANCY["gray_world"]


def balanced(by):
    """Colour constancy from pixels to pixels."""
    return lambda pixels: np.array(by(Image.fromarray(pixels)))


BALANCES = pytest.mark.parametrize(
    "balance",
    [balanced(shades_of_gray), balanced(gray_world)],
    ids=["shades_of_gray", "gray_world"],
)
sides = st.integers(1, 40)
shares = st.floats(0, 1, exclude_min=True)


def picture(random, height, width, *, highest=255, lowest=0):
    return random.integers(lowest, highest + 1, (height, width, 3)).astype(np.uint8)


def gray(random, height, width, *, highest=255):
    return np.repeat(picture(random, height, width, highest=highest)[..., :1], 3, axis=2)


def difference(one, other):
    return np.abs(one.astype(int) - other.astype(int)).max()


@pytest.mark.parametrize("shape", ["both", "square"])
@given(sides, sides, shares)
def test_a_crop_is_inside_in_the_middle_and_never_empty(shape, height, width, share):
    left, top, right, bottom = Preprocessing(crop=share, crop_shape=shape)._kept(height, width)
    assert 0 <= top < bottom <= height
    assert 0 <= left < right <= width
    assert abs(top - (height - bottom)) <= 1
    assert abs(left - (width - right)) <= 1
    wanted = (
        [share * height, share * width] if shape == "both" else [min(share * width, height)] * 2
    )
    for kept, exact in zip((bottom - top, right - left), wanted, strict=True):
        assert abs(kept - max(exact, 1)) <= 0.5


@given(
    generators(), sides, sides, shares, st.integers(1, 20), st.sampled_from([*CROPS]),
    st.sampled_from([*COLOR_CONSTANCY]),
)  # fmt: skip
def test_any_picture_becomes_a_square_of_exactly_the_size_asked_for(
    random, height, width, share, size, shape, balance
):
    share = max(share, LEAST_CROP)
    process = Preprocessing(image_size=size, crop=share, crop_shape=shape, color_constancy=balance)
    result = process(picture(random, height, width))
    assert (result.shape, result.dtype) == ((size, size, 3), np.uint8)


@given(st.tuples(*[st.integers(0, 255)] * 3), sides, sides, shares, st.integers(1, 20))
def test_a_picture_of_one_colour_stays_one_of_that_colour(colour, height, width, share, size):
    image = np.full((height, width, 3), colour, dtype=np.uint8)
    process = Preprocessing(image_size=size, crop=share, color_constancy="none")
    assert (process(image) == np.array(colour)).all()


@given(generators(), sides, sides, st.integers(1, 20))
def test_mirroring_a_picture_that_is_not_cropped_mirrors_the_result(random, height, width, size):
    image = picture(random, height, width)
    process = Preprocessing(image_size=size, crop=1.0)
    for mirrored in (np.s_[::-1], np.s_[:, ::-1]):
        assert difference(process(image[mirrored]), process(image)[mirrored]) <= 1


@given(generators(), sides, sides, st.integers(1, 20))
def test_resizing_stays_between_the_darkest_and_the_brightest_of_each_channel(
    random, height, width, size
):
    image = picture(random, height, width)
    result = Preprocessing(image_size=size, crop=1.0, color_constancy="none")(image)
    assert (result.min(axis=(0, 1)) >= image.min(axis=(0, 1))).all()
    assert (result.max(axis=(0, 1)) <= image.max(axis=(0, 1))).all()


@BALANCES
@given(generators(), sides, sides)
def test_a_gray_picture_is_balanced_already(balance, random, height, width):
    image = gray(random, height, width)
    np.testing.assert_array_equal(balance(image), image)


@BALANCES
@given(generators(), sides, sides, st.tuples(*[st.integers(1, 4)] * 3))
def test_a_gray_scene_under_light_of_any_colour_comes_out_gray(
    balance, random, height, width, light
):
    lit = gray(random, height, width, highest=63) * np.array(light, dtype=np.uint8)
    result = balance(lit).astype(int)
    assert np.ptp(result, axis=2).max() <= 1


@BALANCES
@given(generators(), sides, sides, st.integers(2, 5))
def test_a_longer_exposure_brightens_the_result_alike_unless_it_saturates(
    balance, random, height, width, times
):
    image = picture(random, height, width, highest=254 // times)
    expected = np.minimum(times * balance(image).astype(int), 255)
    # the shorter exposure is rounded to half a level, which is `times` halves in the longer one
    assert difference(balance((times * image).astype(np.uint8)), expected) <= (times + 1) / 2


@BALANCES
@given(generators(), sides, sides, st.permutations(range(3)))
def test_exchanging_the_channels_exchanges_those_of_the_result(
    balance, random, height, width, channels
):
    image = picture(random, height, width)
    exchanged = balance(np.ascontiguousarray(image[..., channels]))
    assert difference(exchanged, balance(image)[..., channels]) <= 1


@BALANCES
@given(generators(), sides, sides, st.data())
def test_where_the_pixels_lie_does_not_matter_to_their_balance(
    balance, random, height, width, data
):
    image = picture(random, height, width)
    rows, columns = data.draw(orders(height)), data.draw(orders(width))
    shuffled = balance(np.ascontiguousarray(image[rows][:, columns]))
    np.testing.assert_array_equal(shuffled, balance(image)[rows][:, columns])


@BALANCES
@given(generators(), sides, sides)
def test_balancing_twice_changes_nothing_but_rounding(balance, random, height, width):
    once = balance(picture(random, height, width, lowest=60, highest=120))
    assume(once.max() < 255)
    # a mean moves by half a level at most, and no pixel is brighter than twice the mean
    assert difference(balance(once), once) <= 2


@BALANCES
@given(generators(), sides, sides)
def test_brighter_stays_brighter_in_every_channel(balance, random, height, width):
    image = picture(random, height, width)
    before, after = (of.reshape(-1, 3).astype(int) for of in (image, balance(image)))
    order = np.argsort(before, axis=0)
    assert (np.diff(np.take_along_axis(after, order, axis=0), axis=0) >= 0).all()


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
@given(generators(), sides, sides)
def test_losslessly_saved_pixels_are_decoded_unchanged(kind, random, height, width):
    image = picture(random, height, width)
    np.testing.assert_array_equal(decode(encoded(image, kind), "x"), image)


def is_decoded_or_refused(data):
    """Whether these are pixels, or are explained in one line that names the file."""
    try:
        image = decode(data, "lesion.jpg")
    except DataError as refusal:
        return str(refusal).startswith("lesion.jpg: ") and "\n" not in str(refusal)
    return image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


@given(
    st.binary(max_size=60),
    st.sampled_from(
        [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"P6 "]
    ),
)
def test_any_bytes_are_pixels_or_refused_in_one_line(data, beginning):
    assert is_decoded_or_refused(beginning + data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"])
@given(
    generators(), st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=8),
    st.integers(0, 999),
)  # fmt: skip
def test_a_damaged_file_is_pixels_or_refused_in_one_line(kind, random, changes, cut):
    data = bytearray(encoded(picture(random, 9, 12), kind))
    for at, value in changes:
        data[at % len(data)] = value
    assert is_decoded_or_refused(bytes(data[: len(data) - cut % len(data)]))


preprocessings = st.fixed_dictionaries(
    {},
    optional={
        "image_size": st.integers(1, 4096),
        "crop": st.floats(LEAST_CROP, 1),
        "crop_shape": st.sampled_from([*CROPS]),
        "color_constancy": st.sampled_from([*COLOR_CONSTANCY]),
        "interpolation": st.sampled_from([*INTERPOLATIONS]),
        "reduce_jpeg": st.booleans(),
    },
)


@given(drawn=preprocessings)
def test_settings_come_back_from_json_as_they_were(drawn):
    settings = Preprocessing(**drawn)
    assert Preprocessing.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
