"""Training losses: the primary cross-entropy, the auxiliary losses of the loss estimator, and both.

`joint_objective` is Eq. 2 of the paper and can be put into any training loop.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from misgiving.errors import UsageError
from misgiving.registry import Registry

Losses = Float[Tensor, " batch"]
Scalar = Float[Tensor, ""]
Pairs = Literal["all", "halves"]
Reduction = Literal["mean", "sum"]
Target = Literal["trained", "plain"]

ROWS_AT_ONCE = 1024  # rows of the matrix of pairs that are in memory at one time
PAIR_BY_PAIR = 384  # the largest batch whose pairs are listed; beyond, counting them is faster


AuxiliaryLoss = Callable[[Losses, Losses], Scalar]
"""Compares predicted with true losses; the true ones carry no gradient."""


def ranking_loss(
    predicted: Losses,
    true: Losses,
    *,
    margin: float = 1.0,
    pairs: Pairs = "all",
    reduction: Reduction = "mean",
    rows_at_once: int = ROWS_AT_ONCE,
) -> Scalar:
    """Penalise ordered pairs whose predicted losses are in the wrong order (paper, Eq. 1).

    A pair of equal true losses counts as "otherwise" (-1), as in Eq. 1. The paper leaves the pairs
    open: `all` takes every ordered pair i != j, `halves` pairs i with B-1-i once (Yoo & Kweon,
    2019; the middle of an odd batch has no partner). It prints a sum; the mean keeps the weight of
    this term independent of the batch size. A batch without a pair has nothing in the wrong order:
    its loss is 0. Up to `PAIR_BY_PAIR` samples pairs are listed, `rows_at_once` samples with all
    others at once; beyond, they are counted in O(B log B) time and O(B) memory.

    >>> true = torch.tensor([0.1, 2.0])
    >>> ranking_loss(torch.tensor([0.0, 5.0]), true).item()
    0.0
    >>> ranking_loss(torch.tensor([5.0, 0.0]), true).item()
    6.0
    """
    _check_ranking(margin, reduction)
    total, count = PAIRS[pairs](predicted, true.detach(), margin, rows_at_once)
    return total if reduction == "sum" else total / max(count, 1)


def mse_loss(predicted: Losses, true: Losses) -> Scalar:
    """Regress the loss itself; the paper's Figure 2 (left) says that this does not generalise."""
    return F.mse_loss(predicted, true.detach())


def _check_ranking(margin: float, reduction: str) -> None:
    if not margin >= 0:
        raise UsageError(f"margin must not be negative, got {margin}")
    if reduction not in ("mean", "sum"):
        raise UsageError(f"unknown reduction {reduction!r}; choose from mean, sum")


def _all_pairs(
    predicted: Losses, true: Losses, margin: float, rows_at_once: int
) -> tuple[Scalar, int]:
    size = len(predicted)
    if size > PAIR_BY_PAIR and predicted.device.type != "mps":  # which has no float64
        return _counted(predicted, true, margin), size * (size - 1)
    if size <= rows_at_once:
        return _rows_penalty(predicted, true, 0, size, margin), size * (size - 1)
    penalties = [
        # Recomputed in the backward pass: keeping every chunk would cost O(B^2) after all.
        checkpoint(
            _rows_penalty,
            *(predicted, true, start, min(start + rows_at_once, size), margin),
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for start in range(0, size, rows_at_once)
    ]
    return torch.stack(penalties).sum(), size * (size - 1)


def _rows_penalty(predicted: Losses, true: Losses, start: int, stop: int, margin: float) -> Scalar:
    """Sum the penalties of the pairs (i, j) with start <= i < stop and any j != i."""
    order = torch.where(true[start:stop, None] > true, 1.0, -1.0)
    gap = predicted[start:stop, None] - predicted
    margins = torch.full_like(order, margin, dtype=_at_least_single(predicted))
    margins.diagonal(start).zero_()  # of a sample and itself, which are not a pair
    return F.relu(margins - order * gap).sum()


def _counted(predicted: Losses, true: Losses, margin: float) -> Scalar:
    """Sum the penalties of all pairs without listing them, in O(B log B) time and O(B) memory.

    A pair with true_i < true_j is penalised by relu(margin + p_i - p_j) in both of its orders, and
    each order of a tie by the same with its own i and j. So with c_i, how often sample i is the
    lower one of a pair whose penalty is above 0, and d_i, how often the higher one, the sum is
    margin * sum(c) + sum(p * (c - d)). Its gradient is c - d, as counts change at the kinks alone.
    In float64, where p_i + margin is not rounded to p_i.
    """
    wide = predicted.double()
    lower, higher = _active_pairs(wide.detach(), true, margin)
    centred = wide - wide.detach().mean()  # sum(c - d) is 0; small numbers keep more digits
    total = margin * lower.sum().double() + (centred * (lower - higher)).sum()
    unordered = ~predicted.isfinite().all() | true.isnan().any()
    total = total.masked_fill(unordered, torch.nan)
    return total.to(_at_least_single(predicted))


def _at_least_single(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


@torch.no_grad()
def _active_pairs(predicted: Losses, true: Losses, margin: float) -> tuple[Tensor, Tensor]:
    """How often each sample is the lower, and the higher, one of a pair with a penalty above 0.

    Sorted by predicted loss, the partners of a lower sample i are among a prefix, p_j < p_i +
    margin, and those of a higher one among a suffix. Which of them have the higher (lower) true
    loss is found bit by bit of its rank, as in a wavelet matrix (Claude, Navarro & Ordonez, 2015):
    at the first bit in which two ranks differ, the higher has the one. After each bit, samples
    with a zero go before those with a one, and the ends of prefixes and suffixes follow their own.
    """
    ascending, order = predicted.sort()
    ranks = torch.searchsorted(true.sort().values, true)[order]
    size, places = len(ranks), torch.arange(len(ranks), device=ranks.device)
    prefix = torch.searchsorted(ascending, ascending + margin)
    suffix = torch.searchsorted(prefix, places, right=True)
    ends = torch.stack([torch.zeros_like(prefix), prefix, suffix, torch.full_like(prefix, size)])
    counts = places.new_full((2, size), -1)  # a sample and itself are not a pair
    parted = ranks
    for bit in reversed(range((size - 1).bit_length())):
        one, own = (parted >> bit) & 1, (ranks >> bit) & 1
        ones = F.pad(one.cumsum(0), (1, 0))
        among_ones = ones[ends].diff(dim=0)[::2]
        among_zeros = ends.diff(dim=0)[::2] - among_ones
        counts[0] += 2 * (1 - own) * among_ones[0]
        counts[1] += 2 * own * among_zeros[1]
        ends = _zeros_first(ends, ones, own)
        parted = torch.empty_like(parted).scatter_(0, _zeros_first(places, ones, one), parted)
    counts += ends.diff(dim=0)[::2]  # ties, each order once
    lower, higher = torch.empty_like(counts).index_copy_(1, order, counts)
    return lower, higher


def _zeros_first(
    places: Int[Tensor, "*rows batch"], ones: Int[Tensor, " _"], one: Int[Tensor, " batch"]
) -> Int[Tensor, "*rows batch"]:
    """Where places go as samples with a zero are put first; `ones` counts those before a place."""
    before = ones[places]
    return torch.where(one == 1, len(ones) - 1 - ones[-1] + before, places - before)


def _halves(
    predicted: Losses, true: Losses, margin: float, rows_at_once: int
) -> tuple[Scalar, int]:
    del rows_at_once  # one pair for two samples needs no chunks
    count = len(predicted) // 2
    order = torch.where(true > true.flip(0), 1.0, -1.0)[:count]
    gap = (predicted - predicted.flip(0))[:count]
    return F.relu(margin - order * gap).sum(), count


PAIRS: Registry[Callable[[Losses, Losses, float, int], tuple[Scalar, int]]] = Registry(
    "pairing", all=_all_pairs, halves=_halves
)
AUXILIARY_LOSSES: Registry[AuxiliaryLoss] = Registry(
    "auxiliary loss", ranking=ranking_loss, mse=mse_loss
)


def primary_losses(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    class_weights: Float[Tensor, " classes"] | None = None,
) -> Losses:
    """Cross-entropy of each sample, times its class's weight where there are weights."""
    return F.cross_entropy(logits, labels, class_weights, reduction="none")


class Objective(NamedTuple):
    """Eq. 2 and its parts; `true_losses` are what the estimator was asked to order, detached."""

    total: Scalar
    primary: Scalar
    auxiliary: Scalar
    true_losses: Losses


def joint_objective(
    logits: Float[Tensor, "batch classes"],
    predicted_losses: Losses,
    labels: Int[Tensor, " batch"],
    *,
    auxiliary: AuxiliaryLoss | None = ranking_loss,
    weight: float = 0.5,
    class_weights: Float[Tensor, " classes"] | None = None,
    target: Target = "trained",
    mean: Literal["weighted", "plain"] = "weighted",
) -> Objective:
    """Primary loss plus `weight` times the auxiliary loss (paper, Eq. 2).

    The primary loss is torch's weighted mean (sum of w l over sum of w) or, with mean="plain", the
    mean of w l. The estimator's target is each sample's primary loss as trained on, or with
    target="plain" its cross-entropy without class weights; always detached, so that the target is
    not pulled towards the estimate. With `auxiliary=None` (or weight 0) the auxiliary term is
    left out, and `auxiliary` in the result is NaN.

    >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    >>> objective = joint_objective(logits, torch.tensor([0.0, 3.0]), labels)
    >>> objective.auxiliary.item(), objective.true_losses
    (0.0, tensor([0.1269, 0.6931]))
    """
    losses = primary_losses(logits, labels, class_weights)
    primary = _mean(losses, labels, class_weights if mean == "weighted" else None)
    plain = target == "plain" and class_weights is not None
    true = (primary_losses(logits, labels) if plain else losses).detach()
    if auxiliary is None or weight == 0:
        return Objective(primary, primary, torch.full_like(primary, torch.nan), true)
    estimated = auxiliary(predicted_losses, true)
    return Objective(primary + weight * estimated, primary, estimated, true)


def _mean(
    losses: Losses, labels: Int[Tensor, " batch"], class_weights: Float[Tensor, " classes"] | None
) -> Scalar:
    if class_weights is None:
        return losses.mean()
    return losses.sum() / class_weights[labels].sum()
