"""Automatic location of lesions, on drawn images and on real ones."""

import numpy as np
import pytest

from misgiving.data.datasets import load_dataset
from misgiving.data.decoding import decode
from misgiving.data.ood_sets import lesions
from misgiving.data.ood_sets.lesions import locate_lesion

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


@pytest.mark.parametrize("centre", [(75, 100), (50, 70), (95, 130)])
def test_a_disc_on_skin_is_found(centre):
    image, disc = drawn(centre=centre)
    assert overlap(locate_lesion(image), disc) > 0.8


def test_a_dark_rim_is_not_taken_for_the_lesion():
    image, disc = drawn()
    rows, columns = np.mgrid[:150, :200]
    image[(rows - 75) ** 2 + (columns - 100) ** 2 > 95**2] = 5
    assert overlap(locate_lesion(image), disc) > 0.8


def test_uneven_light_is_not_taken_for_the_lesion():
    image, disc = drawn()
    light = np.linspace(0.55, 1.0, 200)[None, :, None]
    assert overlap(locate_lesion((image * light).astype(np.uint8)), disc) > 0.8


def test_a_hole_in_the_lesion_is_filled():
    image, disc = drawn()
    hole = drawn(radius=12)[1]
    image[hole] = SKIN
    assert locate_lesion(image)[disc & hole].all()


def test_a_large_image_has_a_mask_of_its_own_size():
    image, disc = drawn(size=(600, 800), centre=(300, 400), radius=120)
    found = locate_lesion(image)
    assert found.shape == (600, 800)
    assert overlap(found, disc) > 0.8


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_nothing_is_found_in_an_image_of_one_colour(shade):
    assert locate_lesion(np.full((40, 50, 3), shade, dtype=np.uint8)) is None


def test_the_threshold_is_that_of_scikit_image():
    filters = pytest.importorskip("skimage.filters")
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(30, 6, 700), random.normal(80, 14, 300)])
    one_bin = np.ptp(values) / 256
    assert lesions._otsu(values) == pytest.approx(filters.threshold_otsu(values), abs=one_bin)


def test_a_dark_patch_away_from_the_corners_is_no_rim():
    image, disc = drawn()
    image[disc] = 3
    assert not lesions.dark_rim(image).any()


def test_real_lesions_are_found(real_data):
    dataset = load_dataset(f"isic2019:{real_data / 'isic2019-mini'}").select(np.arange(0, 2465, 50))
    overlaps = []
    for index, identity in enumerate(dataset.ids):
        path = dataset.masks / f"{identity}_segmentation.png"
        mask = decode(path.read_bytes(), str(path))[..., 0] >= 128
        overlaps.append(overlap(locate_lesion(dataset.images.read(index).image), mask))
    assert np.mean(overlaps) > 0.7
