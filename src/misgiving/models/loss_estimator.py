"""The loss estimator G: one predicted loss per sample from the activations of a classifier."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LossEstimator(nn.Module):
    """Pool, project and concatenate the tapped activations, then predict each sample's loss.

    Each tap, of shape (N, C, ...), goes through global average pooling, a linear layer of `hidden`
    units and ReLU; one linear layer reads them all (paper, section 3; Figure 1). A tap of shape
    (N, C) is taken as an average. The output is unbounded: a ranking needs no scale, and a squared
    error finds its own.

    With `num_classes` there is one more tap, which the paper does not have: the classifier's own
    output (`shape_of_logits`), through as many units.
    """

    def __init__(
        self, channels: Sequence[int], hidden: int = 128, *, num_classes: int | None = None
    ) -> None:
        super().__init__()
        widths = [*channels, *([] if num_classes is None else [num_classes + 2])]
        self.projections = nn.ModuleList(nn.Linear(width, hidden) for width in widths)
        self.head = nn.Linear(len(widths) * hidden, 1)
        self.reads_logits = num_classes is not None

    def forward(
        self,
        activations: Sequence[Float[Tensor, "batch _ ..."]],
        logits: Float[Tensor, "batch classes"] | None = None,
    ) -> Float[Tensor, " batch"]:
        taps = averages(activations)
        if self.reads_logits and logits is not None:
            taps.append(shape_of_logits(logits))
        projected = [
            project(vector).relu() for project, vector in zip(self.projections, taps, strict=True)
        ]
        predicted: Tensor = self.head(torch.cat(projected, dim=1))
        return predicted.squeeze(1)


def averages(activations: Sequence[Float[Tensor, "batch _ ..."]]) -> list[Tensor]:
    """Mean of each activation over its positions; what has none is an average already."""
    return [
        _average(activation) if activation.dim() > 2 else activation for activation in activations
    ]


class _Average(torch.autograd.Function):
    """Mean over all positions, whose gradient is a view of one number per channel.

    The gradient of `Tensor.mean` is a full tensor with channels first. Added to the backbone's own
    gradient, it changes the memory format of that too, and the backward pass of a VGG-16 takes a
    sixth longer.
    """

    @staticmethod
    def forward(ctx: Any, activation: Tensor) -> Tensor:
        ctx.shape = activation.shape
        return activation.mean(dim=tuple(range(2, activation.dim())))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        positions = ctx.shape[2:]
        shares: Tensor = gradient / positions.numel()
        return shares[(..., *[None] * len(positions))].expand(ctx.shape)


_average: Callable[[Tensor], Tensor] = _Average.apply


def shape_of_logits(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch width"]:
    """Sorted log-probabilities, entropy and log-sum-exp of each sample, regardless of class order.

    Detached: the estimator learns from the classifier's output without changing it. In single
    precision or better, as the averages of a module in half precision are.

    >>> shape_of_logits(torch.tensor([[0.0, 0.0]])).exp().round(decimals=2)
    tensor([[0.5000, 0.5000, 2.0000, 2.0000]])
    """
    logits = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    log_probabilities = logits.log_softmax(dim=1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=1, keepdim=True)
    ordered = log_probabilities.sort(dim=1, descending=True).values
    return torch.cat([ordered, entropy, logits.logsumexp(dim=1, keepdim=True)], dim=1)
