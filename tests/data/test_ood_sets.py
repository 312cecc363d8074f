import importlib.metadata
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset, ImageArray
from misgiving.data.ood_sets import ood_set
from misgiving.data.ood_sets.ood_set import OOD_SETS, PHOTOGRAPHS, build
from misgiving.errors import DataError


@pytest.fixture
def held_out():
    return load_dataset("digits").select(np.arange(20, 40))


def pixels(dataset):
    return [dataset.images.read(index).image for index in range(len(dataset))]


def package_picture(name):
    folder = importlib.metadata.distribution("scikit-image").locate_file("skimage/data")
    return np.asarray(Image.open(f"{folder}/{name}").convert("RGB"))


@pytest.mark.parametrize("name", OOD_SETS)
def test_an_ood_set_has_one_class_and_the_settings_of_the_held_out_images(name, held_out):
    ood = build(name, held_out, seed=0)
    assert (ood.name, ood.classes, set(ood.labels.tolist())) == (name, ("ood",), {0})
    assert ood.preprocessing == held_out.preprocessing


@pytest.mark.parametrize("name", OOD_SETS)
def test_the_same_seed_gives_the_same_bytes(name, held_out):
    first, again = (build(name, held_out, seed=4) for _ in range(2))
    assert [*map(first.images.key, range(len(first)))] == [
        *map(again.images.key, range(len(again)))
    ]
    np.testing.assert_array_equal(pixels(first)[2], pixels(again)[2])


def test_crops_are_cut_out_unchanged(held_out):
    crop = pixels(build("histology", held_out, seed=0))[3]
    windows = np.lib.stride_tricks.sliding_window_view(package_picture("ihc.png"), (64, 64, 3))
    assert (windows[:, :, 0, ::21, ::21] == crop[::21, ::21]).all(axis=(2, 3, 4)).any()


def test_no_crop_occurs_twice():
    picture = np.random.default_rng(0).integers(0, 256, (66, 66, 3)).astype(np.uint8)
    crops = ood_set.random_crops(picture, 9, np.random.default_rng(0))  # has just nine places
    assert len({crop.tobytes() for crop in crops}) == 9


def test_photographs_are_balanced_over_the_pictures(held_out):
    crops = build("photographs", held_out, seed=0)
    counts = Counter(crops.groups)
    assert set(counts) == {name.partition(".")[0] for name in PHOTOGRAPHS}
    assert set(counts.values()) == {21, 22}
    assert "from 12 photographs" in crops.contents


def test_the_group_of_a_photograph_is_its_source(held_out):
    crops = build("photographs", held_out, seed=0)
    gray = ("brick", "camera", "clock_motion", "coins", "grass", "gravel", "moon")
    for group, image in zip(crops.groups, pixels(crops), strict=True):
        assert (group not in gray) or (np.ptp(image, axis=2) == 0).all()


def test_a_box_is_black_over_the_ink_and_white_paper_stays(held_out):
    boxed = pixels(build("boxes", held_out, seed=0))
    for before, after in zip(pixels(held_out), boxed, strict=True):
        darkness = 255 - before[..., 0].astype(int)
        ink = [
            (row, column)
            for row in range(8)
            for column in range(8)
            if 2 * darkness[row, column] >= darkness.max()
        ]
        top, left = min(row for row, _ in ink), min(column for _, column in ink)
        bottom, right = max(row for row, _ in ink), max(column for _, column in ink)
        for row in range(8):
            for column in range(8):
                inside = top <= row <= bottom and left <= column <= right
                assert after[row, column].tolist() == (
                    [0, 0, 0] if inside else before[row, column].tolist()
                )


def test_a_blank_page_is_boxed_as_a_whole():
    page = np.full((1, 4, 5, 3), 255, dtype=np.uint8)
    blank = Dataset(
        name="blank",
        classes=("a",),
        labels=np.array([0]),
        ids=("page",),
        groups=("page",),
        images=ImageArray(page),
    )
    assert (pixels(build("boxes", blank, seed=0)) == np.zeros_like(page)).all()


def test_a_picture_that_the_package_lacks_is_named(held_out):
    with pytest.raises(DataError, match=r"gone\.png: not in an installed scikit-image"):
        ood_set.picture_crops(held_out, 0, pictures=("gone.png",))
