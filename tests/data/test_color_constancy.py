"""Colour constancy: the oracle in scalar loops, and its laws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from strategies import generators

from misgiving.data.preprocessing import COLOR_CONSTANCY

shades_of_gray, gray_world = COLOR_CONSTANCY["shades_of_gray"], COLOR_CONSTANCY["gray_world"]
BALANCES = pytest.mark.parametrize(
    "balance", [shades_of_gray, gray_world], ids=["shades_of_gray", "gray_world"]
)
sides = st.integers(1, 12)


def drawn(random, height, width, *, highest):
    return random.integers(0, highest + 1, (height, width, 3)).astype(np.uint8)


def balanced(balance, image):
    return np.asarray(balance(Image.fromarray(image)))


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
@given(generators(), sides, sides, st.integers(1, 255), st.integers(0, 2), st.booleans())
def test_color_constancy_is_a_division_by_the_minkowski_mean_without_saturated_pixels(
    balance, power, random, height, width, highest, saturated, has_blue
):
    image = drawn(random, height, width, highest=highest)
    image[:saturated] = (255, 3, 9)
    image[..., 2] *= has_blue
    exact = balanced_by_loops(image, power)
    assert np.abs(balanced(balance, image) - exact).max() <= 0.5 + 1e-9


def test_values_that_become_brighter_than_white_do_not_wrap_round():
    image = np.full((4, 4, 3), (40, 200, 200), dtype=np.uint8)
    image[0, 0] = (254, 100, 100)  # far more red than the light has
    assert balanced(gray_world, image)[0, 0, 0] == 255


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (255, 0, 0)])
@pytest.mark.parametrize("name", COLOR_CONSTANCY)
def test_pictures_that_tell_nothing_of_the_light_stay_as_they_are(name, colour):
    image = np.full((3, 5, 3), colour, dtype=np.uint8)
    np.testing.assert_array_equal(balanced(COLOR_CONSTANCY[name], image), image)


@BALANCES
@given(generators(), sides, sides, st.tuples(*[st.integers(1, 4)] * 3))
def test_a_gray_scene_under_light_of_any_colour_comes_out_gray(
    balance, random, height, width, light
):
    lit = drawn(random, height, width, highest=63)[..., :1] * np.array(light, dtype=np.uint8)
    result = balanced(balance, lit).astype(int)
    assert np.ptp(result, axis=2).max() <= 1
