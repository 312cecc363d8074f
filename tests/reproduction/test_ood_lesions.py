from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from coloured import write_photos
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from strategies import generators

from misgiving.data.datasets import load_dataset
from misgiving.data.decoding import decode
from misgiving.errors import DataError
from misgiving.reproduction.ood_sets import build, lesions
from misgiving.reproduction.ood_sets.lesions import (
    dark_rim,
    locate_lesion,
    mask_of,
    resized,
    widened,
    with_masks,
)

SKIN, BROWN = (225, 175, 160), (120, 70, 55)


def drawn(size=(150, 200), centre=(75, 100), radius=30, noise=6):
    """A brown disc on skin, and its mask."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
    image = np.where(disc[..., None], BROWN, SKIN)
    image = image + np.random.default_rng(0).normal(0, noise, image.shape)
    return image.clip(0, 255).astype(np.uint8), disc


def overlap(one, other):
    return np.count_nonzero(one & other) / np.count_nonzero(one | other)


def with_dark_rim(image):
    rows, columns = np.mgrid[:150, :200]
    image[(rows - 75) ** 2 + (columns - 100) ** 2 > 95**2] = 5
    return image


def under_uneven_light(image):
    return (image * np.linspace(0.55, 1.0, 200)[None, :, None]).astype(np.uint8)


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"centre": (95, 130)}, np.array),
        ({}, with_dark_rim),
        ({}, under_uneven_light),
        ({"size": (600, 800), "centre": (300, 400), "radius": 120}, np.array),
    ],
)
def test_a_disc_on_skin_is_found(options, change):
    image, disc = drawn(**options)
    assert overlap(locate_lesion(change(image)), disc) > 0.8


def test_a_hole_in_the_lesion_is_filled():
    image, disc = drawn()
    hole = drawn(radius=12)[1]
    image[hole] = SKIN
    assert locate_lesion(image)[disc & hole].all()


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_nothing_is_found_in_an_image_of_one_colour(shade):
    assert not locate_lesion(np.full((40, 50, 3), shade, dtype=np.uint8)).any()


def test_a_dark_patch_away_from_the_corners_is_no_rim():
    image, disc = drawn()
    image[disc] = 3
    assert not dark_rim(image).any()


def test_the_threshold_is_that_of_scikit_image():
    filters = pytest.importorskip("skimage.filters")
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(30, 6, 700), random.normal(80, 14, 300)])
    one_bin = np.ptp(values) / 256
    assert lesions._otsu(values) == pytest.approx(filters.threshold_otsu(values), abs=one_bin)


def test_real_lesions_are_found(real_data):
    dataset = load_dataset(f"isic2019:{real_data / 'isic2019-mini'}").select(np.arange(0, 2465, 50))
    overlaps = []
    for index, identity in enumerate(dataset.ids):
        path = dataset.masks / f"{identity}_segmentation.png"
        mask = decode(path.read_bytes(), str(path))[..., 0] >= 128
        overlaps.append(overlap(locate_lesion(dataset.images[index].read().image), mask))
    assert np.mean(overlaps) > 0.7


shapes = array_shapes(min_dims=2, max_dims=2, max_side=12)
masks = arrays(bool, shapes)


@given(masks, st.floats(0, 20))
def test_a_widened_mask_has_every_pixel_within_the_margin_and_no_other(mask, margin):
    wider = widened(mask, margin)
    set_pixels = np.argwhere(mask)
    for row, column in np.ndindex(mask.shape):
        squares = ((set_pixels - (row, column)) ** 2).sum(axis=1)
        assert wider[row, column] == bool((squares**0.5 <= margin).any())


@given(masks, st.integers(1, 30), st.integers(1, 30))
def test_a_resized_mask_has_the_pixel_under_each_centre(mask, rows, columns):
    height, width = mask.shape
    again = resized(mask, (rows, columns))
    for row, column in np.ndindex(rows, columns):
        under = mask[
            floor(Fraction(2 * row + 1, 2 * rows) * height),
            floor(Fraction(2 * column + 1, 2 * columns) * width),
        ]
        assert again[row, column] == under


@given(generators(), shapes, st.integers(0, 255), st.integers(1, 256))
def test_in_any_picture_a_lesion_of_its_size_is_searched(random, shape, lowest, levels):
    image = (lowest + random.integers(levels, size=(*shape, 3))).clip(0, 255).astype(np.uint8)
    before = image.copy()
    assert locate_lesion(image).shape == dark_rim(image).shape == shape
    np.testing.assert_array_equal(image, before)


@pytest.fixture
def photos(tmp_path):
    """A folder for each class, and masks named by the files alone."""
    for path in write_photos(tmp_path / "photos"):
        mask = np.zeros((20, 30), dtype=np.uint8)
        mask[5:9, 6:16] = 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{path.stem}_segmentation.png")
    return load_dataset(f"folder:{tmp_path / 'photos'}")


def test_masks_are_found_by_the_name_of_the_file_without_its_folder(photos, tmp_path):
    assert mask_of(tmp_path / "masks", "NV/one.png") == tmp_path / "masks/one_segmentation.png"
    boxed = build("b_box", with_masks(photos, str(tmp_path / "masks")), seed=0)
    assert "automatically" not in boxed.contents
    black = (boxed.images[0].read().image == 0).all(axis=2)
    assert np.argwhere(black).min(axis=0).tolist() == [5, 6]
    assert np.argwhere(black).max(axis=0).tolist() == [8, 15]


def test_masks_of_another_folder_replace_those_beside_the_data_or_automatic_location(
    photos, tmp_path
):
    masked = replace(photos, masks=tmp_path / "masks")
    assert with_masks(masked, "automatic").masks is None
    assert with_masks(masked, None).masks == tmp_path / "masks"
    with pytest.raises(DataError):
        with_masks(photos, str(tmp_path / "photos"))  # holds no masks
