"""Eq. 1 for large batches: penalised pairs are counted, not listed.

The sum of Eq. 1 over all ordered pairs has one term relu(margin + p_i - p_j) for each of the two
orders of a pair with true_i < true_j. A pair of equal true losses has that term once, and once the
same with i and j exchanged. All these terms are found in two sequences of the batch, both sorted
by true loss: in one, samples of equal true losses ascend by predicted loss, in the other they
descend. In either sequence, each i forms a pair with each j after it.

With c_i, the number of pairs with a positive term in which sample i comes first, and d_i, the
number in which it comes second, the sum is margin * sum(c) + sum(p * (c - d)) and its gradient
c - d. The counts come from a merge sort by predicted loss: before two sorted blocks are merged, the
partners of a sample of the first block are a prefix of the second. Memory is O(B).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sum_of_penalties(
    predicted: Float[Tensor, " batch"], true: Float[Tensor, " batch"], margin: float
) -> Float[Tensor, ""]:
    """Sum Eq. 1 over all ordered pairs of two samples, in float64.

    Float64 keeps p_i + margin apart from p_i; it is not available on MPS.
    """
    wide = predicted.double()
    pairs, first_minus_second = _penalised_pairs(wide.detach(), true, margin)
    centred = wide - wide.detach().mean()  # sum(c - d) is 0; small numbers keep more digits
    total = margin * pairs.double() + (centred * first_minus_second).sum()
    return total.masked_fill(~predicted.isfinite().all() | true.isnan().any(), torch.nan)


@torch.no_grad()
def _penalised_pairs(
    predicted: Float[Tensor, " batch"], true: Float[Tensor, " batch"], margin: float
) -> tuple[Int[Tensor, ""], Int[Tensor, " batch"]]:
    """Count the pairs with a positive penalty, and c - d for each sample."""
    ascending, order = predicted.sort()
    # From here on a sample is its rank by predicted loss, and `reach` the rank from which on its
    # partners are too far above it to be penalised.
    reach = torch.searchsorted(ascending, ascending + margin)
    by_rank, size = true[order], len(true)
    ascending_ties = by_rank.argsort(stable=True)
    descending_ties = size - 1 - by_rank.flip(0).argsort(stable=True)
    blocks = torch.stack([ascending_ties, descending_ties])
    padded = 1 << (size - 1).bit_length()
    padding = torch.arange(size, padded, device=order.device)  # never penalised: the reach is 0
    blocks = torch.cat([blocks, padding.expand(2, -1)], dim=1)
    reach = torch.cat([reach, torch.zeros_like(padding)])
    pairs, difference = reach.new_zeros(()), torch.zeros_like(reach)
    half = 1
    while half < padded:
        first, second = (side.contiguous() for side in blocks.view(-1, 2, half).unbind(1))
        c = torch.searchsorted(second, reach[first])
        places = torch.arange(half, device=order.device).expand_as(c).contiguous()
        d = half - torch.searchsorted(c, places, right=True)  # c ascends, as the reach does
        difference.index_add_(0, blocks.flatten(), torch.stack([c, -d], dim=1).flatten())
        pairs += c.sum()
        half *= 2
        blocks = blocks.view(-1, half).sort(dim=1).values
    return pairs, torch.empty_like(order).index_copy_(0, order, difference[:size])
