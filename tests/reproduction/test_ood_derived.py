"""Sets derived from dermoscopic images: boxes and crops by the lesion, and their laws."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from coloured import dataset_of
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from strategies import generators

from misgiving.data.datasets.dataset import ArrayImage
from misgiving.errors import DataError
from misgiving.reproduction.ood_sets import build
from misgiving.reproduction.ood_sets.derived import (
    DerivedImage,
    bounding_box,
    box_over_image,
    box_over_share,
    clean_square,
)
from misgiving.reproduction.published import PAPER_IMAGES

DERIVED = pytest.mark.parametrize("name", ["b_box", "b_box_70", "b_box_70_image", "derm_skin"])
COUNT, HEIGHT, WIDTH = 6, 60, 80


def ellipse(number):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return ((rows - 25 - number) / 9) ** 2 + ((columns - 35) / (8 + number)) ** 2 <= 1


def save_mask(folder, identity, mask):
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{identity}_segmentation.png")


@pytest.fixture
def held_out(tmp_path):
    """Bright noise without one black pixel, and masks of ellipses."""
    random = np.random.default_rng(0)
    images = random.integers(150, 256, (COUNT, HEIGHT, WIDTH, 3)).astype(np.uint8)
    for number in range(COUNT):
        save_mask(tmp_path, f"lesion{number}", ellipse(number))
    ids = tuple(f"lesion{number}" for number in range(COUNT))
    return dataset_of(images, ids=ids, groups=("x", "x", "y", "y", "z", "z"), masks=tmp_path)


def pixels(dataset):
    return [dataset.images[index].read().image for index in range(len(dataset))]


def is_black(image):
    return (image == 0).all(axis=2)


def test_skin_is_cut_out_unchanged_beside_the_lesion(held_out):
    made = build("derm_skin", held_out, seed=0)
    for number, (crop, image) in enumerate(zip(pixels(made), pixels(held_out), strict=True)):
        windows = np.lib.stride_tricks.sliding_window_view(image, crop.shape)[:, :, 0]
        ((top, left),) = np.argwhere((windows == crop).all(axis=(2, 3, 4)))
        assert not ellipse(number)[top : top + len(crop), left : left + len(crop)].any()
    alone = build("derm_skin", held_out.select(np.array([4])), seed=0)  # without its neighbours
    np.testing.assert_array_equal(pixels(alone)[0], pixels(made)[4])


def test_skin_stays_out_of_the_dark_rim(held_out):
    images = np.stack([image.pixels for image in held_out.images])
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    images[:, (rows - 30) ** 2 + (columns - 40) ** 2 > 38**2] = 12
    rimmed = replace(held_out, images=tuple(map(ArrayImage, images)))
    for seed in range(5):
        assert all(image.min() > 12 for image in pixels(build("derm_skin", rimmed, seed=seed)))


@DERIVED
def test_a_derived_set_samples_images_in_order_with_their_groups_and_keys_by_mask(name, held_out):
    made = build(name, held_out, seed=0)
    assert made.ids == tuple(f"{name}-{identity}" for identity in held_out.ids)
    assert made.groups == held_out.groups
    places = [made.ids.index(id_) for id_ in build(name, held_out, seed=1, count=4).ids]
    assert len(places) == 4
    assert places == sorted(set(places))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    save_mask(held_out.masks, "lesion0", (rows < 30) & (columns > 20) & (columns < 79))
    assert build(name, held_out, seed=0).images[0].key() != made.images[0].key()


def test_a_mask_of_another_size_is_stretched_over_the_image(held_out):
    small = np.zeros((6, 8), dtype=bool)
    small[2:4, 3:5] = True
    save_mask(held_out.masks, "lesion1", small)
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[20:40, 30:50] = True
    boxed = pixels(build("b_box", held_out, seed=0))[1]
    np.testing.assert_array_equal(is_black(boxed), expected)


@DERIVED
def test_images_without_lesion_are_left_out_and_counted(name, held_out, monkeypatch):
    save_mask(held_out.masks, "lesion2", np.zeros((HEIGHT, WIDTH), dtype=bool))
    built = build(name, held_out, seed=0)
    assert (built.left_out, len(built)) == (1, 5)
    assert f"{name}-lesion2" not in built.ids
    assert "1 image left out" in built.contents
    monkeypatch.setitem(PAPER_IMAGES, name, 4)
    assert len(build(name, held_out, seed=0)) == 4


def test_what_cannot_be_built_is_refused(held_out):
    for identity in held_out.ids:
        save_mask(held_out.masks, identity, np.ones((HEIGHT, WIDTH), dtype=bool))
    with pytest.raises(DataError):
        build("derm_skin", held_out, seed=0)


def test_an_image_without_mask_is_located_automatically(held_out):
    (held_out.masks / "lesion0_segmentation.png").unlink()
    images = np.stack([image.pixels for image in held_out.images])
    images[0, 20:32, 30:44] //= 3
    built = build("b_box", replace(held_out, images=tuple(map(ArrayImage, images))), seed=0)
    assert "lesion located automatically in 1" in built.contents
    assert is_black(pixels(built)[0])[21:31, 31:43].all()


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


def is_inside(box, outer):
    return all(
        large.start <= small.start < small.stop <= large.stop
        for small, large in zip(box, outer, strict=True)
    )


def whole(mask):
    return np.s_[0 : mask.shape[0], 0 : mask.shape[1]]


@given(lesions)
def test_the_bounding_box_holds_every_pixel_and_touches_one_at_each_edge(lesion):
    box = bounding_box(lesion)
    assert is_inside(box, whole(lesion))
    within = lesion[box]
    assert within.sum() == lesion.sum()
    assert all(edge.any() for edge in (within[0], within[-1], within[:, 0], within[:, -1]))
    assert is_inside(box_over_share(lesion), box)


@given(ellipses())
def test_a_box_over_a_lesion_of_some_size_covers_60_to_80_percent_of_it(lesion):
    assume(lesion.sum() >= 50)
    box = box_over_share(lesion)
    assert is_inside(box, bounding_box(lesion))
    assert 0.6 <= lesion[box].sum() / lesion.sum() <= 0.8


def test_a_box_over_a_share_has_the_shape_of_the_bounding_box():
    rows, columns = np.mgrid[:200, :300]
    down, across = box_over_share(((rows - 100) / 40) ** 2 + ((columns - 150) / 80) ** 2 <= 1)
    ratio = (across.stop - across.start) / (down.stop - down.start)
    assert ratio == pytest.approx(161 / 81, abs=0.1)
    assert (down.start + down.stop, across.start + across.stop) == pytest.approx((201, 301), abs=1)


@given(lesions)
def test_a_box_over_the_image_has_70_percent_of_it_nearest_to_the_lesion(lesion):
    box, around = box_over_image(lesion), bounding_box(lesion)
    height, width = lesion[box].shape
    rows, columns = lesion.shape
    assert is_inside(box, whole(lesion))
    # the height is the nearest row to that of the image's shape, the width the nearest column
    assert abs(height - rows * 0.7**0.5) <= 0.5 or height == 1
    assert abs(height * width - 0.7 * rows * columns) <= height / 2 or width in (1, columns)
    for edges, real, side in zip(box, around, lesion.shape, strict=True):
        off = edges.start + edges.stop - real.start - real.stop
        assert abs(off) <= 1 or (edges.start == 0 and off > 0) or (edges.stop == side and off < 0)
    if np.all(np.array(lesion[around].shape) <= (height, width)):
        assert lesion[box].sum() == lesion.sum()


@given(masks, st.integers(0, 2**32 - 1))
def test_a_clean_square_is_of_the_largest_side_of_20_to_35_percent_that_is_clean(soiled, seed):
    box, again = (clean_square(soiled, np.random.default_rng(seed)) for _ in range(2))
    assert box == again
    shorter = min(soiled.shape)
    clean = [
        side
        for side in range(max(round(0.2 * shorter), 1), max(round(0.35 * shorter), 1) + 1)
        if not np.lib.stride_tricks.sliding_window_view(soiled, (side, side)).any((2, 3)).all()
    ]
    assert (box is None) == (not clean)
    if box is not None:
        assert is_inside(box, whole(soiled))
        assert soiled[box].shape == (max(clean),) * 2
        assert not soiled[box].any()


def test_every_place_of_a_clean_square_is_equally_likely():
    soiled = np.zeros((10, 10), dtype=bool)
    soiled[:5] = soiled[:, :6] = True  # rows 5 to 9, columns 6 to 9: sides 4, places 2 x 1
    drawn = [clean_square(soiled, np.random.default_rng(seed)) for seed in range(400)]
    places = Counter((down.start, across.start) for down, across in drawn)
    assert {*places} == {(5, 6), (6, 6)}
    assert 150 < places[5, 6] < 250


@given(lesions, generators())
def test_a_black_box_changes_only_pixels_inside_and_a_crop_keeps_only_those(lesion, random):
    image = random.integers(1, 256, (*lesion.shape, 3)).astype(np.uint8)
    box, before = bounding_box(lesion), image.copy()
    boxed, crop = (
        DerivedImage(ArrayImage(image), kind, (box, False)).read().image
        for kind in ("b_box", "derm_skin")
    )
    black = np.zeros(lesion.shape, dtype=bool)
    black[box] = True
    np.testing.assert_array_equal(is_black(boxed), black)
    np.testing.assert_array_equal(boxed[~black], image[~black])
    np.testing.assert_array_equal(crop.reshape(-1, 3), image[black])
    np.testing.assert_array_equal(image, before)
