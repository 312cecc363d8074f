"""Training losses: the primary cross-entropy, the auxiliary losses of the loss estimator, and both.

`joint_objective` is Eq. 2 of the paper and can be put into any training loop.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from misgiving.errors import Parameter, UsageError
from misgiving.registry import Registry, own_function

Losses = Float[Tensor, " batch"]
Scalar = Float[Tensor, ""]
Pairs = Literal["all", "halves"]
Reduction = Literal["mean", "sum"]
Target = Literal["trained", "plain"]
Mean = Literal["weighted", "plain"]

MAX_MATRIX_SAMPLES = 512  # counting the pairs of a larger batch is faster than listing them

AuxiliaryLoss = Callable[[Losses, Losses], Scalar]
"""Loss of predicted against true losses; the true ones get no gradient."""


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise UsageError(
            Parameter(name), f" must be one of {', '.join(get_args(choices))}, got {value!r}"
        )


def ranking_loss(
    predicted: Losses,
    true: Losses,
    *,
    margin: float = 1.0,
    pairs: Pairs = "all",
    reduction: Reduction = "mean",
) -> Scalar:
    """Penalise ordered pairs whose predicted losses are in the wrong order (paper, Eq. 1).

    A pair of equal true losses counts as "otherwise" (-1), as in Eq. 1. The paper leaves the pairs
    open: `all` takes every ordered pair i != j, `halves` pairs i with B-1-i once (Yoo & Kweon,
    2019; the middle of an odd batch has no partner). It prints a sum over pairs, which over all of
    them is B (B - 1) times the mean (4,032 times at B = 64); the mean keeps the weight of this term
    independent of the batch size. The loss of a batch without a pair is 0.

    Up to 512 samples all pairs are in memory as a matrix; pairs of larger batches are counted in
    O(B) memory, except on MPS, which has no float64.

    >>> true = torch.tensor([0.1, 2.0])
    >>> ranking_loss(torch.tensor([0.0, 5.0]), true).item()
    0.0
    >>> ranking_loss(torch.tensor([5.0, 0.0]), true).item()
    6.0
    """
    if not margin >= 0:
        raise UsageError(Parameter("margin"), f" must not be negative, got {margin}")
    _check_choice("pairs", pairs, Pairs)
    _check_choice("reduction", reduction, Reduction)
    predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
    true, size = true.detach(), len(true)
    count = size // 2 if pairs == "halves" else size * (size - 1)
    if pairs == "halves":
        order = torch.where(true > true.flip(0), 1.0, -1.0)[:count]
        gap = (predicted - predicted.flip(0))[:count]
        total = F.relu(margin - order * gap).sum()
    elif size > MAX_MATRIX_SAMPLES and true.device.type != "mps":
        total = _sum_by_counting(predicted, true, margin).to(predicted)
    else:
        order = torch.where(true[:, None] > true, 1.0, -1.0)
        gap = predicted[:, None] - predicted
        margins = torch.full_like(gap, margin).fill_diagonal_(0)  # a sample has no pair with itself
        total = F.relu(margins - order * gap).sum()
    return total if reduction == "sum" else total / max(count, 1)


def _sum_by_counting(predicted: Losses, true: Losses, margin: float) -> Scalar:
    """Sum Eq. 1 over all ordered pairs in float64, with pairs counted instead of listed.

    The sum has one term relu(margin + p_i - p_j) for each of the two orders of a pair with
    true_i < true_j. A pair of equal true losses has that term once, and once the same with i and j
    exchanged. All these terms are found in two sequences of the batch, both sorted by true loss: in
    one, samples of equal true losses ascend by predicted loss, in the other they descend. In either
    sequence, each i forms a pair with each j after it.

    With c_i, the number of pairs with a positive term in which sample i comes first, and d_i, the
    number in which it comes second, the sum is margin * sum(c) + sum(p * (c - d)) and its gradient
    c - d. Float64 keeps p_i + margin apart from p_i.
    """
    wide = predicted.double()
    pairs, first_minus_second = _penalised_pairs(wide.detach(), true, margin)
    centred = wide - wide.detach().mean()  # sum(c - d) is 0; small numbers keep more digits
    total = margin * pairs.double() + (centred * first_minus_second).sum()
    return total.masked_fill(~predicted.isfinite().all() | true.isnan().any(), torch.nan)


@torch.no_grad()
def _penalised_pairs(
    predicted: Losses, true: Losses, margin: float
) -> tuple[Int[Tensor, ""], Int[Tensor, " batch"]]:
    """Count the pairs with a positive penalty, and c - d for each sample.

    The counts come from a merge sort by predicted loss: before two sorted blocks are merged, the
    partners of a sample of the first block are a prefix of the second. Memory is O(batch).
    """
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


def mse_loss(predicted: Losses, true: Losses) -> Scalar:
    """Mean squared error; it does not generalise, according to the paper's Figure 2 (left)."""
    return F.mse_loss(predicted, true.detach())


def correctness_ranking_loss(logits: Float[Tensor, "batch classes"], correctness: Losses) -> Scalar:
    """Penalise neighbours whose confidences are not ordered as their correctness.

    Correctness is the share of a sample's earlier occurrences in training in which it was
    classified correctly; confidence is the largest softmax probability. Each sample forms a pair
    with the next one of the batch, the last with the first. Of a pair, the sample of the higher
    correctness must have the higher confidence, by the difference of the two correctnesses (Moon et
    al., 2020, with their code's pairs and mean; SURE, Li et al., 2024).

    >>> logits = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    >>> round(correctness_ranking_loss(logits, torch.tensor([1.0, 0.5])).item(), 4)
    0.9526
    """
    confidence = logits.softmax(dim=1).amax(dim=1)
    gap, difference = (values - values.roll(-1) for values in (confidence, correctness))
    return F.relu(difference.abs() - difference.sign() * gap).mean()


AUXILIARY_LOSSES: Registry[AuxiliaryLoss | None] = Registry(
    "auxiliary loss", ranking=ranking_loss, mse=mse_loss, correctness_ranking=None, none=None
)
"""None trains no loss estimator: `correctness_ranking_loss` reads the classifier's own logits."""


def auxiliary_loss(name: str) -> AuxiliaryLoss | None:
    """A loss of `AUXILIARY_LOSSES`, or the user's own `module:function`.

    Raises:
        UsageError: There is none, or it gives no loss that can be trained by.
    """
    if ":" not in name:
        return AUXILIARY_LOSSES[name]
    own: AuxiliaryLoss = own_function(name)
    loss: Any = own(torch.linspace(-2, 4, 64, requires_grad=True), torch.linspace(0, 6, 64))
    if not (isinstance(loss, Tensor) and loss.shape == () and loss.requires_grad):
        raise UsageError(f"{name!r} must return one number that depends on the predicted losses")
    if not loss.isfinite():
        raise UsageError(f"{name!r} returns {loss.item()} for predicted losses from -2 to 4")
    return own


def primary_losses(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    class_weights: Float[Tensor, " classes"] | None = None,
) -> Losses:
    """Cross-entropy of each sample, times the weight of its class if there are weights."""
    return F.cross_entropy(logits, labels, class_weights, reduction="none")


class Objective(NamedTuple):
    """Eq. 2 and its terms; `true_losses` are the estimator's targets, detached."""

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
    mean: Mean = "weighted",
) -> Objective:
    """Primary loss plus `weight` times the auxiliary loss (paper, Eq. 2).

    The primary loss is torch's weighted mean (sum of w l over sum of w) or, with mean="plain", the
    mean of w l. The estimator's target is each sample's primary loss as trained on, or with
    target="plain" its cross-entropy without class weights; always detached, so that the target is
    not pulled towards the estimate. With `auxiliary=None` (or weight 0) the auxiliary term is
    left out, and `auxiliary` in the result is NaN.

    Raises:
        UsageError: `target` or `mean` is none of these, or `weight` is negative.

    >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    >>> objective = joint_objective(logits, torch.tensor([0.0, 3.0]), labels)
    >>> objective.auxiliary.item(), objective.true_losses
    (0.0, tensor([0.1269, 0.6931]))
    """
    _check_choice("target", target, Target)
    _check_choice("mean", mean, Mean)
    if weight < 0:
        raise UsageError(Parameter("weight"), f" must not be negative, got {weight}")
    if class_weights is not None:
        class_weights = class_weights.to(logits)
    losses = primary_losses(logits, labels, class_weights)
    if class_weights is None or mean == "plain":
        primary = losses.mean()
    else:
        primary = losses.sum() / class_weights[labels].sum()
    unweighted = target == "plain" and class_weights is not None
    true = (primary_losses(logits, labels) if unweighted else losses).detach()
    if auxiliary is None or weight == 0:
        return Objective(primary, primary, torch.full_like(primary, torch.nan), true)
    estimated = auxiliary(predicted_losses, true)
    return Objective(primary + weight * estimated, primary, estimated, true)
