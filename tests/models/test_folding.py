import pytest
import torch
from torch import nn

from misgiving.models.joint import JointClassifier
from misgiving.models.optimised import folded
from misgiving.scores.odin import Odin

SIZE = 32


def joint(*layers):
    """A joint classifier of these layers, with drawn statistics of its normalisations."""
    torch.manual_seed(0)
    layers = *layers, nn.Flatten(), nn.Linear(4 * SIZE**2, 3)
    model = JointClassifier(nn.Sequential(*layers), taps=["0"], image_size=SIZE)
    return with_drawn_statistics(model)


def with_drawn_statistics(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            for tensor in (module.running_mean, module.bias.data):
                tensor.normal_()
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 2)
    return model.eval()


def normalisations(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.backbone.modules())


def convolution(channels=3):
    return nn.Conv2d(channels, 4, 3, padding=1)


class UsedTwice(nn.Module):
    """The output of the convolution goes past its normalisation, too."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = convolution(), nn.BatchNorm2d(4)

    def forward(self, images):
        found = self.convolution(images)
        return self.norm(found) + found


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "resnet18", "mobilenetv3_small_050"])
def test_a_folded_classifier_gives_the_same_scores(backbone):
    torch.manual_seed(0)
    model = JointClassifier(backbone, 5, pretrained=False, taps=None)
    model = with_drawn_statistics(model).double()
    images = torch.rand(4, 3, SIZE, SIZE).double()
    copied = folded(model.float(), SIZE).double()
    assert (normalisations(model), normalisations(copied)) == (normalisations(model), 0)
    assert normalisations(model) > 10
    expected = model.double().classify(images)
    torch.testing.assert_close(copied.classify(images), expected, rtol=1e-4, atol=1e-5)
    ours, theirs = (Odin()(one.classify, images) for one in (copied, model))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "layers",
    [
        (convolution(), nn.ReLU(inplace=True), nn.BatchNorm2d(4)),  # the same tensor, changed
        (convolution(), nn.ReLU(), nn.BatchNorm2d(4)),
        (convolution(), nn.BatchNorm2d(4, track_running_stats=False)),
        (UsedTwice(),),
        (convolution(),),
    ],
)
def test_other_normalisations_stay(layers):
    model = joint(*layers)
    assert folded(model, SIZE) is model


def test_a_convolution_that_runs_twice_stays():
    shared, norm = convolution(4), nn.BatchNorm2d(4)
    model = joint(convolution(), nn.BatchNorm2d(4), shared, shared, norm)
    copied = folded(model, SIZE)
    assert (normalisations(model), normalisations(copied)) == (2, 1)
