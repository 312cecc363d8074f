"""Views of an image: its mirror image, flips and quarter turns, over which outputs are averaged."""

import math

import torch
from torch import Tensor

from misgiving.errors import Parameter, UsageError


def views_of(images: Tensor, count: int) -> Tensor:
    """Square images in 1 view, 2 (with the mirror image) or 8 (all flips and quarter turns).

    The batch in its first view comes first, and after it that in each of the others.

    >>> views_of(torch.arange(4.0).view(1, 1, 2, 2), 2).tolist()
    [[[[0.0, 1.0], [2.0, 3.0]]], [[[1.0, 0.0], [3.0, 2.0]]]]
    """
    if count not in (1, 2, 8):
        raise UsageError(Parameter("views"), f" must be 1, 2 or 8, got {count}")
    views = images if count == 1 else torch.cat([images, images.flip(3)])
    if count == 8:
        views = torch.cat([views, views.flip(2)])
        views = torch.cat([views, views.transpose(2, 3)])
    return views


def mean_over_views(output: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """Mean of the outputs of so many views, of which the logits come first.

    The softmax of these logits is the mean of the probabilities, and their log-sum-exp, an OOD
    score, is the mean log-sum-exp. Other outputs are plain means.
    """
    if count == 1:
        return output
    wide = [each.to(torch.promote_types(each.dtype, torch.float32)) for each in output]
    logits, *others = (torch.unflatten(each, 0, (count, -1)) for each in wide)
    sums = logits.logsumexp(dim=-1, keepdim=True)
    mean = (logits - sums).logsumexp(dim=0) - math.log(count) + sums.mean(dim=0)
    return mean, *(each.mean(dim=0) for each in others)
