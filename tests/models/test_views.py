import numpy as np
import pytest
import torch
from refusals import naming
from torch import nn

from misgiving.errors import UsageError
from misgiving.models.joint import JointClassifier
from misgiving.models.views import mean_over_views, views_of

SYMMETRIES = [(flip, turns) for flip in (False, True) for turns in range(4)]
COUNTS = {1: SYMMETRIES[:1], 2: [(False, 0), (True, 0)], 8: SYMMETRIES}


def noise(count=3, side=6, seed=0, dtype=torch.float32):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)).to(dtype)


def classifier():
    """A small network that tells an image from its mirror image."""
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4)
    return JointClassifier(nn.Sequential(*layers), taps=["0"], image_size=6).eval()


@pytest.mark.parametrize("count", COUNTS)
def test_the_views_are_the_symmetries_of_the_square_and_the_image_comes_first(count):
    images = noise()
    views = views_of(images, count).unflatten(0, (count, 3))
    assert torch.equal(views[0], images)
    for number, image in enumerate(images.numpy()):
        expected = [
            np.rot90(image[:, :, ::-1] if flip else image, turns, axes=(1, 2)).tobytes()
            for flip, turns in COUNTS[count]
        ]
        assert {view[number].numpy().tobytes() for view in views} == {*expected}
        assert len({*expected}) == count


def test_another_number_of_views_is_refused():
    with pytest.raises(UsageError, check=naming("views")):
        views_of(noise(), 4)


@pytest.mark.parametrize("count", [2, 8])
def test_outputs_are_means_of_probabilities_energies_and_the_rest(count):
    """In float64, view by view; images of a batch are not mixed."""
    model, images = classifier().double(), noise(dtype=torch.float64)
    with torch.no_grad():
        logits, losses, features, taps = model.full_output(images, count)
        for row, image in enumerate(images):
            views = [model.full_output(view[None]) for view in views_of(image[None], count)]
            each = [torch.stack([view[place][0] for view in views]) for place in range(4)]
            torch.testing.assert_close(logits[row].softmax(0), each[0].softmax(1).mean(0))
            torch.testing.assert_close(logits[row].logsumexp(0), each[0].logsumexp(1).mean())
            for mean, values in zip((losses, features, taps), each[1:], strict=True):
                torch.testing.assert_close(mean[row], values.mean(0))
    assert not torch.allclose(logits, model.full_output(images)[0])


def test_the_mean_of_half_precision_is_in_single_precision():
    half = tuple(torch.rand(16, 4).bfloat16() for _ in range(2))
    logits, features = mean_over_views(half, 8)
    assert logits.dtype == features.dtype == torch.float32
    torch.testing.assert_close(features[0], half[1][::2].float().mean(0))


@pytest.mark.parametrize("count", [2, 8])
def test_a_model_that_is_blind_to_flips_and_turns_gives_the_same_for_all_views(count):
    torch.manual_seed(2)
    layers = nn.Conv2d(3, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    model = JointClassifier(nn.Sequential(*layers), taps=["0"], image_size=6).eval().double()
    images = noise(dtype=torch.float64)
    with torch.no_grad():
        outputs = zip(model.full_output(images, count), model.full_output(images), strict=True)
        for averaged, plain in outputs:
            torch.testing.assert_close(averaged, plain)


def test_a_model_without_estimator_has_no_taps_in_any_number_of_views():
    model = JointClassifier("vgg16_mini", num_classes=4, pretrained=False, taps=()).eval()
    with torch.no_grad():
        logits, losses, features, taps = model.full_output(noise(side=16), 8)
    assert (logits.shape, taps.shape, len(features)) == ((3, 4), (3, 0), 3)
    assert losses.isnan().all()
