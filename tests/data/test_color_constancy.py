"""Colour constancy: the oracle in scalar loops, and its laws."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from strategies import generators, orders

from misgiving.data.preprocessing import COLOR_CONSTANCY

shades_of_gray, gray_world = COLOR_CONSTANCY["shades_of_gray"], COLOR_CONSTANCY["gray_world"]
BALANCES = pytest.mark.parametrize(
    "balance", [shades_of_gray, gray_world], ids=["shades_of_gray", "gray_world"]
)
sides = st.integers(1, 40)


def drawn(random, height, width, *, highest=255, lowest=0):
    return random.integers(lowest, highest + 1, (height, width, 3)).astype(np.uint8)


def gray(random, height, width, *, highest=255):
    return np.repeat(drawn(random, height, width, highest=highest)[..., :1], 3, axis=2)


def difference(one, other):
    return np.abs(one.astype(int) - other.astype(int)).max()


def balanced(balance, image):
    return np.asarray(balance(Image.fromarray(image)))


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


@pytest.mark.parametrize(("balance", "power"), [(shades_of_gray, 6), (gray_world, 1)])
def test_color_constancy_is_a_division_by_the_minkowski_mean(balance, power):
    image = drawn(np.random.default_rng(0), 9, 12, lowest=5, highest=249)
    np.testing.assert_array_equal(balanced(balance, image), balanced_by_loops(image, power))


def test_saturated_pixels_do_not_change_the_light_and_bright_values_do_not_wrap_round():
    image = drawn(np.random.default_rng(0), 9, 12, lowest=5, highest=249)
    image[0] = (255, 3, 9)
    np.testing.assert_array_equal(balanced(shades_of_gray, image), balanced_by_loops(image, 6))
    image = np.full((4, 4, 3), (40, 200, 200), dtype=np.uint8)
    image[0, 0] = (254, 100, 100)  # far more red than the light has
    assert balanced(gray_world, image)[0, 0, 0] == 255


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (255, 0, 0)])
@pytest.mark.parametrize("name", COLOR_CONSTANCY)
def test_pictures_that_tell_nothing_of_the_light_stay_as_they_are(name, colour):
    image = np.full((3, 5, 3), colour, dtype=np.uint8)
    np.testing.assert_array_equal(balanced(COLOR_CONSTANCY[name], image), image)


@BALANCES
@given(generators(), sides, sides)
def test_a_gray_picture_is_balanced_already(balance, random, height, width):
    image = gray(random, height, width)
    np.testing.assert_array_equal(balanced(balance, image), image)


@BALANCES
@given(generators(), sides, sides, st.tuples(*[st.integers(1, 4)] * 3))
def test_a_gray_scene_under_light_of_any_colour_comes_out_gray(
    balance, random, height, width, light
):
    lit = gray(random, height, width, highest=63) * np.array(light, dtype=np.uint8)
    result = balanced(balance, lit).astype(int)
    assert np.ptp(result, axis=2).max() <= 1


@BALANCES
@given(generators(), sides, sides, st.integers(2, 5))
def test_a_longer_exposure_brightens_the_result_alike_unless_it_saturates(
    balance, random, height, width, times
):
    image = drawn(random, height, width, highest=254 // times)
    expected = np.minimum(times * balanced(balance, image).astype(int), 255)
    longer = balanced(balance, (times * image).astype(np.uint8))
    # the shorter exposure is rounded to half a level, which is `times` halves in the longer one
    assert difference(longer, expected) <= (times + 1) / 2


@BALANCES
@given(generators(), sides, sides, st.permutations(range(3)))
def test_exchanging_the_channels_exchanges_those_of_the_result(
    balance, random, height, width, channels
):
    image = drawn(random, height, width)
    exchanged = balanced(balance, np.ascontiguousarray(image[..., channels]))
    assert difference(exchanged, balanced(balance, image)[..., channels]) <= 1


@BALANCES
@given(generators(), sides, sides, st.data())
def test_where_the_pixels_lie_does_not_matter_to_their_balance(
    balance, random, height, width, data
):
    image = drawn(random, height, width)
    rows, columns = data.draw(orders(height)), data.draw(orders(width))
    shuffled = balanced(balance, np.ascontiguousarray(image[rows][:, columns]))
    np.testing.assert_array_equal(shuffled, balanced(balance, image)[rows][:, columns])


@BALANCES
@given(generators(), sides, sides)
def test_balancing_twice_changes_nothing_but_rounding(balance, random, height, width):
    once = balanced(balance, drawn(random, height, width, lowest=60, highest=120))
    assume(once.max() < 255)
    # a mean moves by half a level at most, and no pixel is brighter than twice the mean
    assert difference(balanced(balance, once), once) <= 2


@BALANCES
@given(generators(), sides, sides)
def test_brighter_stays_brighter_in_every_channel(balance, random, height, width):
    image = drawn(random, height, width)
    before, after = (some.reshape(-1, 3).astype(int) for some in (image, balanced(balance, image)))
    order = np.argsort(before, axis=0)
    assert (np.diff(np.take_along_axis(after, order, axis=0), axis=0) >= 0).all()
