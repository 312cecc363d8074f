from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import functional as TF

from misgiving.data import batching
from misgiving.data.batching import augment
from misgiving.data.preprocessing import AUGMENTATIONS, AugmentationSettings

NONE = AUGMENTATIONS["none"]


def images(batch=6, height=12, width=12, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(batch, 3, height, width, generator=generator, dtype=dtype)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw_all(monkeypatch, *values):
    """Let every image draw: two flips, angle, two shifts, brightness, contrast, saturation."""
    monkeypatch.setattr(batching, "_draw", lambda count, _: torch.tensor([values] * count))


@pytest.mark.parametrize("values", [1, 3 * 12 * 12 * 4])
def test_a_batch_is_varied_alike_in_chunks_of_any_size(monkeypatch, values):
    whole = augment(images(6), AugmentationSettings(), generator())
    monkeypatch.setattr(batching, "CHUNK_VALUES", values)
    in_parts = augment(images(6), AugmentationSettings(), generator())
    torch.testing.assert_close(in_parts, whole)


@pytest.mark.parametrize("name", ["flips", "jitter", "rotation", "translation"])
def test_every_image_of_a_batch_has_its_own_draw(name):
    same = images(1).expand(16, -1, -1, -1)
    varied = augment(
        same, replace(NONE, **{name: getattr(AugmentationSettings(), name)}), generator()
    )
    assert len({image.numpy().tobytes() for image in varied}) > (3 if name == "flips" else 15)


@pytest.mark.parametrize(
    ("settings", "views"),
    [
        (AUGMENTATIONS["none"], 1),
        (AUGMENTATIONS["light"], 1),  # a digit has a right side
        (AUGMENTATIONS["dermoscopy"], 8),
        (replace(AUGMENTATIONS["light"], flips=True), 2),
        (replace(NONE, rotation=180.0), 1),  # of a mirrored image nothing was learned
        (replace(NONE, flips=True, rotation=90.0), 8),
        (replace(NONE, flips=True, rotation=89.0), 2),
    ],
)
def test_the_views_of_an_image_are_among_its_variations(settings, views):
    assert settings.views == views


def test_each_flip_happens_to_half_of_the_images():
    flipped = augment(images(1).expand(2000, -1, -1, -1), replace(NONE, flips=True), generator())
    upright = (flipped - images(1)).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert abs(upright.float().mean().item() - 0.25) < 0.04


@pytest.mark.parametrize(("width", "middle"), [(9, slice(0, 9)), (21, slice(6, 15))])
@pytest.mark.parametrize(("drawn", "quarters"), [(0.0, -1), (0.5, 0), (1.0, 1)])
def test_rotation_turns_the_pixels_up_to_its_limit_either_way(
    monkeypatch, width, middle, drawn, quarters
):
    draw_all(monkeypatch, 0.9, 0.9, drawn, *[0.5] * 5)
    wide = images(2, 9, width)
    turned = augment(wide, replace(NONE, rotation=90.0), generator())[..., middle]
    expected = torch.rot90(wide[..., middle], quarters, (2, 3))
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=0)


def test_translation_moves_by_a_share_of_the_side_and_mirrors_beyond_the_edges(monkeypatch):
    draw_all(monkeypatch, 0.9, 0.9, 0.5, 1.0, 0.0, *[0.5] * 3)
    moved = augment(images(2, 10, 20), replace(NONE, translation=0.1), generator())
    torch.testing.assert_close(moved[:, :, 1:, :-2], images(2, 10, 20)[:, :, :-1, 2:])
    draw_all(monkeypatch, 0.9, 0.9, 0.5, 1.0, 0.5, *[0.5] * 3)
    moved = augment(images(2, 10, 20), replace(NONE, translation=0.1), generator())
    torch.testing.assert_close(moved[:, :, :, -2:], images(2, 10, 20)[:, :, :, -2:].flip(3))


def test_jitter_is_brightness_then_contrast_then_saturation(monkeypatch):
    draw_all(monkeypatch, *[0.5] * 5, 1.0, 0.25, 0.75)
    # Coloured, and soft, so that nothing is clipped on the way.
    soft = 0.3 + torch.tensor([0.1, 0.2, 0.4])[:, None, None] * images(2, dtype=torch.float64)
    expected = TF.adjust_saturation(TF.adjust_contrast(TF.adjust_brightness(soft, 1.2), 0.9), 1.1)
    jittered = augment(soft, replace(NONE, jitter=0.2), generator())
    # torchvision's weights of red, green and blue sum to 0.9999
    torch.testing.assert_close(jittered, expected, atol=2e-4, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_does_not_change_the_result():
    here = augment(images(), AugmentationSettings(), generator())
    there = augment(images().cuda(), AugmentationSettings(), generator())
    torch.testing.assert_close(here, there.cpu(), atol=1e-4, rtol=0)


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


def drawn_images(batch):
    count, height, width, seed = batch
    return torch.rand(count, 3, height, width, generator=generator(seed))


def varied(images, chosen, seed):
    return augment(images, AugmentationSettings(**chosen), generator(seed))


@given(batches, settings, seeds)
def test_any_variation_is_by_the_seed_alone_keeps_the_shape_and_stays_in_0_to_1(
    batch, chosen, seed
):
    given_images = drawn_images(batch)
    result = varied(given_images, chosen, seed)
    torch.manual_seed(99)
    assert torch.equal(result, varied(given_images, chosen, seed))
    assert torch.equal(given_images, drawn_images(batch))
    assert (result.shape, result.dtype) == (given_images.shape, given_images.dtype)
    assert 0 <= result.min() <= result.max() <= 1
    assert torch.equal(varied(given_images, {**STILL, **UNLIT}, seed), given_images)


@given(batches, seeds)
def test_flips_alone_give_one_of_the_four_mirror_images(batch, seed):
    given_images = drawn_images(batch)
    mirrored = varied(given_images, {**STILL, **UNLIT, "flips": True}, seed)
    for image, result in zip(given_images, mirrored, strict=True):
        choices = [image.flip(axes) for axes in ([], [1], [2], [1, 2])]
        assert min((choice - result).abs().max() for choice in choices) < 1e-4
