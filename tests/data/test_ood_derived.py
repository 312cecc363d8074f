"""Sets derived from dermoscopic images with masks: boxes, crops, counts, keys."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset, ImageArray
from misgiving.data.ood_sets.lesions import resized
from misgiving.data.ood_sets.ood_set import PAPER_COUNTS, build
from misgiving.data.ood_sets.rectangles import (
    Box,
    bounding_box,
    box_over_image,
    box_over_share,
    clean_square,
)
from misgiving.errors import DataError, UsageError

DERIVED = ("b_box", "b_box_70", "b_box_70_image", "derm_skin")
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
    return Dataset(
        name="ellipses",
        classes=("a", "b"),
        labels=np.arange(COUNT) % 2,
        ids=tuple(f"lesion{number}" for number in range(COUNT)),
        groups=("x", "x", "y", "y", "z", "z"),
        images=ImageArray(images),
        masks=tmp_path,
    )


def pixels(dataset):
    return [dataset.images.read(index).image for index in range(len(dataset))]


def covered(image, mask):
    """Share of the mask's pixels that are black, counted one by one."""
    places = [(r, c) for r in range(len(mask)) for c in range(len(mask[0])) if mask[r, c]]
    return sum(image[r, c].tolist() == [0, 0, 0] for r, c in places) / len(places)


def corners(image):
    """The box around the black pixels, and whether it is black all over."""
    black = (image == 0).all(axis=2)
    rows = [r for r in range(len(black)) if black[r].any()]
    columns = [c for c in range(len(black[0])) if black[:, c].any()]
    top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    return (top, left, bottom, right), bool(black[top:bottom, left:right].all())


@pytest.mark.parametrize("name", DERIVED)
def test_a_derived_set_keeps_the_lesions_of_its_images_as_groups(name, held_out):
    made = build(name, held_out, seed=0)
    assert made.ids == tuple(f"{name}-{identity}" for identity in held_out.ids)
    assert made.groups == held_out.groups


def test_b_box_is_black_on_the_bounding_box_and_unchanged_elsewhere(held_out):
    boxed = pixels(build("b_box", held_out, seed=0))
    for number, (before, after) in enumerate(zip(pixels(held_out), boxed, strict=True)):
        mask = ellipse(number)
        rows = [r for r in range(HEIGHT) if mask[r].any()]
        columns = [c for c in range(WIDTH) if mask[:, c].any()]
        assert corners(after) == ((rows[0], columns[0], rows[-1] + 1, columns[-1] + 1), True)
        outside = ~(after == 0).all(axis=2)
        np.testing.assert_array_equal(after[outside], before[outside])


def test_b_box_70_covers_60_to_80_percent_of_the_lesion(held_out):
    for number, image in enumerate(pixels(build("b_box_70", held_out, seed=0))):
        assert 0.6 <= covered(image, ellipse(number)) <= 0.8


def test_skin_is_cut_out_unchanged_beside_the_lesion(held_out):
    made = build("derm_skin", held_out, seed=0)
    for number, (crop, image) in enumerate(zip(pixels(made), pixels(held_out), strict=True)):
        side = len(crop)
        found = [
            (top, left)
            for top in range(HEIGHT - side + 1)
            for left in range(WIDTH - side + 1)
            if np.array_equal(image[top : top + side, left : left + side], crop)
        ]
        (top, left), *others = found
        assert not others
        assert not ellipse(number)[top : top + side, left : left + side].any()


def test_skin_stays_out_of_the_dark_rim(held_out):
    images = held_out.images.images.copy()
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    rim = (rows - 30) ** 2 + (columns - 40) ** 2 > 38**2
    images[:, rim] = 12
    rimmed = replace(held_out, images=ImageArray(images))
    for seed in range(5):
        made = build("derm_skin", rimmed, seed=seed)
        assert all(image.min() > 12 for image in pixels(made))


def test_the_skin_of_an_image_does_not_depend_on_its_neighbours(held_out):
    whole = build("derm_skin", held_out, seed=0)
    alone = build("derm_skin", held_out.select(np.array([4])), seed=0)
    np.testing.assert_array_equal(pixels(alone)[0], pixels(whole)[4])


@pytest.mark.parametrize("name", DERIVED)
def test_another_mask_gives_another_key(name, held_out):
    before = build(name, held_out, seed=0).images.key(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    save_mask(held_out.masks, "lesion0", (rows < 30) & (columns > 20) & (columns < 79))
    assert build(name, held_out, seed=0).images.key(0) != before


def test_a_mask_of_another_size_is_stretched_over_the_image(held_out):
    small = np.zeros((6, 8), dtype=bool)
    small[2:4, 3:5] = True
    save_mask(held_out.masks, "lesion1", small)
    image = pixels(build("b_box", held_out, seed=0))[1]
    assert corners(image) == ((20, 30, 40, 50), True)


def test_images_without_lesion_are_left_out_and_counted(held_out):
    save_mask(held_out.masks, "lesion2", np.zeros((HEIGHT, WIDTH), dtype=bool))
    built = build("b_box", held_out, seed=0)
    assert (built.left_out, len(built)) == (1, 5)
    assert "b_box-lesion2" not in built.ids
    assert "1 image left out" in built.contents


def test_images_without_a_suitable_place_are_refused(held_out):
    for identity in held_out.ids:
        save_mask(held_out.masks, identity, np.ones((HEIGHT, WIDTH), dtype=bool))
    with pytest.raises(DataError, match="derm_skin"):
        build("derm_skin", held_out, seed=0)


@pytest.mark.parametrize("name", DERIVED)
def test_a_count_samples_in_order_without_repeats(name, held_out):
    built = build(name, held_out, seed=1, count=4)
    places = [held_out.ids.index(identity.removeprefix(f"{name}-")) for identity in built.ids]
    assert len(places) == 4
    assert places == sorted(set(places))


def test_the_paper_count_is_the_default(held_out, monkeypatch):
    monkeypatch.setitem(PAPER_COUNTS, "b_box", 5)
    assert len(build("b_box", held_out, seed=0)) == 5


@pytest.mark.parametrize(("name", "count"), [("b_box", 0), ("b-box", None)])
def test_a_count_below_one_and_an_unknown_set_are_usage_errors(held_out, name, count):
    with pytest.raises(UsageError, match=r"got 0|'b-box'"):
        build(name, held_out, seed=0, count=count)


def test_an_image_without_mask_is_located_automatically(held_out):
    (held_out.masks / "lesion0_segmentation.png").unlink()
    images = held_out.images.images.copy()
    images[0, 20:32, 30:44] //= 3
    darkened = replace(held_out, images=ImageArray(images))
    built = build("b_box", darkened, seed=0)
    assert "lesion located automatically in 1" in built.contents
    patch = np.zeros((HEIGHT, WIDTH), dtype=bool)
    patch[21:31, 31:43] = True
    assert covered(pixels(built)[0], patch) == 1


masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7)).filter(np.any)


def all_shares(mask):
    rows, columns = mask.shape
    for top, bottom in combinations(range(rows + 1), 2):
        for left, right in combinations(range(columns + 1), 2):
            yield mask[top:bottom, left:right].sum() / mask.sum()


@given(masks)
@settings(max_examples=150, deadline=None)
def test_a_box_covers_60_to_80_percent_whenever_any_box_does(mask):
    box = box_over_share(mask)
    share = mask[box.top : box.bottom, box.left : box.right].sum() / mask.sum()
    possible = any(0.6 <= other <= 0.8 for other in all_shares(mask))
    assert (0.6 <= share <= 0.8) or not possible


def test_a_box_over_a_share_has_the_shape_of_the_bounding_box():
    rows, columns = np.mgrid[:200, :300]
    mask = ((rows - 100) / 40) ** 2 + ((columns - 150) / 80) ** 2 <= 1
    box = box_over_share(mask)
    ratio = (box.right - box.left) / (box.bottom - box.top)
    assert ratio == pytest.approx(161 / 81, abs=0.1)
    assert (box.top + box.bottom, box.left + box.right) == pytest.approx((201, 301), abs=1)


@pytest.mark.parametrize(
    ("place", "corner"), [((0, 0), (0, 0)), ((39, 59), (7, 9)), ((20, 30), (4, 5))]
)
def test_a_box_over_the_image_is_centred_on_the_lesion_or_shifted_inside(place, corner):
    mask = np.zeros((40, 60), dtype=bool)
    mask[place] = True
    box = box_over_image(mask)
    assert (box.top, box.left) == corner
    assert (box.bottom - box.top, box.right - box.left) == (33, 51)


@given(arrays(bool, (9, 12), elements=st.sampled_from([False] * 30 + [True])), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_a_clean_square_is_of_the_largest_side_that_is_clean(soiled, seed):
    box = clean_square(soiled, np.random.default_rng(seed))
    clean = {
        side
        for side in (3, 2)  # 20 to 35 % of 9 rows
        for top in range(9 - side + 1)
        for left in range(12 - side + 1)
        if not any(soiled[r, c] for r in range(top, top + side) for c in range(left, left + side))
    }
    assert (box is None) == (not clean)
    if box is not None:
        assert box.bottom - box.top == box.right - box.left == max(clean)
        assert not soiled[box.top : box.bottom, box.left : box.right].any()


def test_every_place_of_a_clean_square_is_equally_likely():
    soiled = np.zeros((10, 10), dtype=bool)
    soiled[:5] = soiled[:, :6] = True  # rows 5 to 9, columns 6 to 9: sides 4, places 2 x 1
    drawn = [clean_square(soiled, np.random.default_rng(seed)) for seed in range(400)]
    assert {box[:2] for box in drawn} == {(5, 6), (6, 6)}
    assert 150 < sum(box.top == 5 for box in drawn) < 250


@given(masks, st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_a_scaled_box_is_the_scaled_mask_of_the_box(mask, rows, columns):
    box = bounding_box(mask)
    drawn = np.zeros(mask.shape, dtype=bool)
    drawn[box.top : box.bottom, box.left : box.right] = True
    scaled = Box(*box).scaled(mask.shape, (rows, columns))
    again = np.zeros((rows, columns), dtype=bool)
    again[scaled.top : scaled.bottom, scaled.left : scaled.right] = True
    np.testing.assert_array_equal(again, resized(drawn, (rows, columns)))


@given(masks, st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_a_resized_mask_has_the_pixel_under_each_centre(mask, rows, columns):
    height, width = mask.shape
    again = resized(mask, (rows, columns))
    for row in range(rows):
        for column in range(columns):
            under = mask[
                floor(Fraction(2 * row + 1, 2 * rows) * height),
                floor(Fraction(2 * column + 1, 2 * columns) * width),
            ]
            assert again[row, column] == under


def test_real_masks_are_covered_as_promised(real_data):
    dataset = load_dataset(f"isic2019:{real_data / 'isic2019-mini'}").select(np.arange(0, 2465, 40))
    for index, image in enumerate(pixels(build("b_box_70", dataset, seed=0))):
        path = dataset.masks / f"{dataset.ids[index]}_segmentation.png"
        before = dataset.images.read(index).image
        mask = np.asarray(Image.open(path).convert("L")) > 0
        changed = (image != before).any(axis=2) | (before == 0).all(axis=2)
        assert 0.59 <= changed[mask].mean() <= 0.81
