"""Laws of the boxes and crops of derived sets, and of the masks that they go by."""

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from strategies import generators

from misgiving.data.datasets.dataset import ImageArray
from misgiving.data.ood_sets.derived import DerivedImages, Region
from misgiving.data.ood_sets.lesions import dark_rim, locate_lesion, resized, widened
from misgiving.data.ood_sets.rectangles import (
    Box,
    bounding_box,
    box_over_image,
    box_over_share,
    clean_square,
)

shapes = array_shapes(min_dims=2, max_dims=2, max_side=12)
masks = arrays(bool, shapes)
lesions = masks.filter(np.any)


@st.composite
def ellipses(draw):
    """A lesion of at least seven pixels either way somewhere in an image, perhaps cut off."""
    height, width = draw(st.integers(30, 60)), draw(st.integers(30, 60))
    centre = draw(st.integers(0, height)), draw(st.integers(0, width))
    radii = draw(st.integers(7, 30)), draw(st.integers(7, 30))
    rows, columns = np.mgrid[:height, :width]
    return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1


@st.composite
def patches(draw):
    """A rectangular lesion of at most three quarters of either side, anywhere in an image."""
    mask = np.zeros((draw(st.integers(8, 40)), draw(st.integers(8, 40))), dtype=bool)
    sides = [draw(st.integers(1, 3 * size // 4)) for size in mask.shape]
    corner = [draw(st.integers(0, n - side)) for n, side in zip(mask.shape, sides, strict=True)]
    mask[corner[0] : corner[0] + sides[0], corner[1] : corner[1] + sides[1]] = True
    return mask


def inside(box, mask):
    return mask[box.top : box.bottom, box.left : box.right]


def is_inside(box, outer):
    return (
        outer.top <= box.top < box.bottom <= outer.bottom
        and outer.left <= box.left < box.right <= outer.right
    )


def whole(mask):
    return Box(0, 0, *mask.shape)


@given(lesions)
def test_the_bounding_box_holds_every_pixel_and_touches_one_at_each_edge(lesion):
    box = bounding_box(lesion)
    assert is_inside(box, whole(lesion))
    within = inside(box, lesion)
    assert within.sum() == lesion.sum()
    assert all(edge.any() for edge in (within[0], within[-1], within[:, 0], within[:, -1]))


@given(lesions)
def test_a_box_over_a_share_is_inside_the_bounding_box(lesion):
    assert is_inside(box_over_share(lesion), bounding_box(lesion))


@given(ellipses())
def test_a_box_over_a_lesion_of_some_size_covers_60_to_80_percent_of_it(lesion):
    assume(lesion.sum() >= 50)
    box = box_over_share(lesion)
    assert is_inside(box, bounding_box(lesion))
    assert 0.6 <= inside(box, lesion).sum() / lesion.sum() <= 0.8


@given(lesions, st.integers(1, 3))
def test_a_finer_mask_is_boxed_over_no_worse_a_share(lesion, times):
    fine = lesion.repeat(times, axis=0).repeat(times, axis=1)
    errors = [
        abs(inside(box_over_share(mask), mask).sum() / mask.sum() - 0.7) for mask in (lesion, fine)
    ]
    assert errors[1] <= max(errors[0], 0.1) + 1e-12


@given(lesions)
def test_a_box_over_the_image_has_70_percent_of_it(lesion):
    box = box_over_image(lesion)
    (rows, columns), height, width = lesion.shape, box.bottom - box.top, box.right - box.left
    assert is_inside(box, whole(lesion))
    # the height is the nearest row to that of the image's shape, the width the nearest column
    assert abs(height - rows * 0.7**0.5) <= 0.5 or height == 1
    assert abs(height * width - 0.7 * rows * columns) <= height / 2 or width in (1, columns)


@given(patches())
def test_a_box_over_the_image_holds_the_whole_lesion(lesion):
    assert inside(box_over_image(lesion), lesion).sum() == lesion.sum()


@given(masks, generators())
def test_a_clean_square_touches_no_soiled_pixel_and_is_of_20_to_35_percent(soiled, random):
    box = clean_square(soiled, random)
    shorter = min(soiled.shape)
    if box is None:
        side = max(round(0.2 * shorter), 1)
        places = product(*(range(size - side + 1) for size in soiled.shape))
        assert all(soiled[top : top + side, left : left + side].any() for top, left in places)
    else:
        side = box.bottom - box.top
        assert is_inside(box, whole(soiled))
        assert side == box.right - box.left
        assert max(round(0.2 * shorter), 1) <= side <= max(round(0.35 * shorter), 1)
        assert not inside(box, soiled).any()


@given(masks, st.integers(0, 2**32 - 1))
def test_the_same_seed_cuts_the_same_square(soiled, seed):
    first, again = (clean_square(soiled, np.random.default_rng(seed)) for _ in range(2))
    assert first == again


@given(lesions, st.integers(1, 5), st.integers(1, 5))
def test_a_box_on_a_finer_grid_has_its_edges_where_they_were(lesion, down, across):
    box, (rows, columns) = bounding_box(lesion), lesion.shape
    scaled = box.scaled(lesion.shape, (down * rows, across * columns))
    assert scaled == (down * box.top, across * box.left, down * box.bottom, across * box.right)
    assert scaled.scaled((down * rows, across * columns), lesion.shape) == box


@given(lesions, generators())
def test_a_black_box_changes_only_pixels_inside_and_a_crop_keeps_only_those(lesion, random):
    image = random.integers(1, 256, (*lesion.shape, 3)).astype(np.uint8)
    box, before = bounding_box(lesion), image.copy()
    region = Region(box, lesion.shape, automatic=False)
    boxed, crop = (
        DerivedImages(ImageArray(image[None]), kind, (region,)).read(0).image
        for kind in ("b_box", "derm_skin")
    )
    covered = np.zeros(lesion.shape, dtype=bool)
    inside(box, covered)[:] = True
    np.testing.assert_array_equal((boxed == 0).all(axis=2), covered)
    np.testing.assert_array_equal(boxed[~covered], image[~covered])
    np.testing.assert_array_equal(crop.reshape(-1, 3), image[covered])
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("rule", [bounding_box, box_over_share, box_over_image])
@given(shapes)
def test_without_a_lesion_there_is_no_box(rule, shape):
    assert rule(np.zeros(shape, dtype=bool)) is None


@given(masks, st.floats(0, 20))
def test_a_widened_mask_has_every_pixel_within_the_margin_and_no_other(mask, margin):
    found = widened(mask, margin)
    set_pixels = np.argwhere(mask)
    for row, column in np.ndindex(mask.shape):
        squares = ((set_pixels - (row, column)) ** 2).sum(axis=1)
        assert found[row, column] == bool((squares**0.5 <= margin).any())


@given(masks, st.integers(1, 4), st.integers(1, 4))
def test_a_mask_on_a_finer_grid_and_back_is_what_it_was(mask, down, across):
    fine = resized(mask, (down * mask.shape[0], across * mask.shape[1]))
    np.testing.assert_array_equal(fine, mask.repeat(down, axis=0).repeat(across, axis=1))
    np.testing.assert_array_equal(resized(fine, mask.shape), mask)


@given(generators(), shapes, st.integers(0, 255), st.integers(1, 256))
def test_in_any_picture_a_lesion_of_its_size_is_found_or_none(random, shape, lowest, levels):
    image = (lowest + random.integers(levels, size=(*shape, 3))).clip(0, 255).astype(np.uint8)
    before = image.copy()
    found, rim = locate_lesion(image), dark_rim(image)
    assert rim.shape == shape
    assert found is None or (found.shape == shape and found.any())
    np.testing.assert_array_equal(image, before)
