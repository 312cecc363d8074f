"""Small classifiers that are not built by this package."""

import torch
from torch import nn


class InPlace(nn.Module):
    """A convolution whose output the next layer changes in place; one layer is called twice."""

    def __init__(self, classes=3):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(4, classes)

    def forward(self, images):
        hidden = self.relu(self.norm(self.first(images)))
        hidden = self.relu(self.twice(self.relu(self.twice(hidden))))
        return self.head(self.drop(hidden.mean(dim=(2, 3))))


class ChannelsLast(nn.Module):
    """Blocks whose outputs are (N, H, W, C), with as many channels as rows if asked to."""

    def __init__(self, width=6):
        super().__init__()
        self.embed = nn.Conv2d(3, width, 2, stride=2)
        self.block = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, images):
        return self.head(self.block(self.embed(images).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


class Wrapped(nn.Module):
    """Gives the logits of another module in another form."""

    def __init__(self, module, form):
        super().__init__()
        self.module, self.form = module, form

    def forward(self, images):
        return self.form(self.module(images))


def noise(count=2, side=16, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def learned_statistics(module):
    """The module after its batch normalisation has seen images, in the mode it was in."""
    with torch.no_grad():
        module.train()(noise(16))
    return module.eval()
