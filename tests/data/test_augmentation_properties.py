"""Laws of the random variation of training images."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from misgiving.data.augmentation import augment
from misgiving.data.preprocessing import AugmentationSettings

seeds = st.integers(0, 2**32 - 1)
batches = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), seeds)
settings = st.fixed_dictionaries(
    {
        "flips": st.booleans(),
        "jitter": st.floats(0, 1),
        "rotation": st.floats(0, 180),
        "translation": st.floats(0, 1),
    }
)
STILL = {"flips": False, "rotation": 0.0, "translation": 0.0}
UNLIT = {"jitter": 0.0}


def generator(seed):
    return torch.Generator().manual_seed(seed)


def drawn_images(batch):
    count, height, width, seed = batch
    return torch.rand(count, 3, height, width, generator=generator(seed))


def varied(images, chosen, seed):
    return augment(images, AugmentationSettings(**chosen), generator(seed))


@given(batches, settings, seeds)
def test_any_variation_has_the_shape_of_the_images_and_stays_in_0_to_1(batch, chosen, seed):
    images = drawn_images(batch)
    result = varied(images, chosen, seed)
    assert (result.shape, result.dtype) == (images.shape, images.dtype)
    assert 0 <= result.min() <= result.max() <= 1


@given(batches, seeds)
def test_without_any_variation_images_stay_bit_for_bit(batch, seed):
    images = drawn_images(batch)
    assert torch.equal(varied(images, {**STILL, **UNLIT}, seed), images)


@given(batches, settings, seeds)
def test_the_same_seed_varies_alike_and_leaves_the_images_given(batch, chosen, seed):
    images = drawn_images(batch)
    first, again = (varied(images, chosen, seed) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(images, drawn_images(batch))


@given(batches, settings, seeds)
def test_an_image_is_varied_as_if_those_after_it_were_not_there(batch, chosen, seed):
    images = drawn_images(batch)
    together, alone = (varied(of, chosen, seed) for of in (images, images[:1]))
    torch.testing.assert_close(alone, together[:1], atol=1e-6, rtol=0)


@given(batches, seeds)
def test_flips_alone_give_one_of_the_four_mirror_images(batch, seed):
    images = drawn_images(batch)
    mirrored = varied(images, {**STILL, **UNLIT, "flips": True}, seed)
    for image, result in zip(images, mirrored, strict=True):
        choices = [image.flip(axes) for axes in ([], [1], [2], [1, 2])]
        assert min((choice - result).abs().max() for choice in choices) < 1e-4


@given(batches, settings, seeds, st.floats(0, 1))
def test_moving_an_image_of_one_colour_changes_nothing(batch, chosen, seed, level):
    images = torch.full_like(drawn_images(batch), level)
    torch.testing.assert_close(varied(images, {**chosen, **UNLIT}, seed), images)


@given(batches, settings, seeds)
def test_moving_an_image_makes_nothing_brighter_or_darker_than_it_was(batch, chosen, seed):
    images = drawn_images(batch)
    moved = varied(images, {**chosen, **UNLIT}, seed)
    lowest, highest = images.amin(dim=(2, 3)), images.amax(dim=(2, 3))
    assert (moved.amin(dim=(2, 3)) >= lowest - 1e-5).all()
    assert (moved.amax(dim=(2, 3)) <= highest + 1e-5).all()


@given(batches, settings, seeds)
def test_grays_stay_gray_and_black_stays_black(batch, chosen, seed):
    gray = drawn_images(batch)[:, :1].expand(-1, 3, -1, -1)
    result = varied(gray, chosen, seed)
    torch.testing.assert_close(result[:, 0], result[:, 2], atol=1e-5, rtol=0)
    assert (varied(torch.zeros_like(gray), chosen, seed) == 0).all()
