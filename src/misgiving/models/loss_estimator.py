"""The loss estimator G: from a classifier's activations to one predicted loss per sample."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LossEstimator(nn.Module):
    """Pool, project and concatenate the tapped activations, then predict each sample's loss.

    Each tap goes through global average pooling, a linear layer of `hidden` units and ReLU; one
    linear layer reads them all (paper, section 3; Figure 1). The output is unbounded: a ranking
    needs no scale, and a squared error finds its own.
    """

    def __init__(self, channels: Sequence[int], hidden: int = 128) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(width, hidden) for width in channels)
        self.head = nn.Linear(len(channels) * hidden, 1)

    def forward(
        self, activations: Sequence[Float[Tensor, "batch _ _ _"]]
    ) -> Float[Tensor, " batch"]:
        pooled = [activation.mean(dim=(2, 3)) for activation in activations]
        projected = [
            project(vector).relu() for project, vector in zip(self.projections, pooled, strict=True)
        ]
        predicted: Tensor = self.head(torch.cat(projected, dim=1))
        return predicted.squeeze(1)
