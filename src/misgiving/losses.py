"""Training losses: the primary cross-entropy, the auxiliary losses of the loss estimator, and both.

`joint_objective` is Eq. 2 of the paper and can be put into any training loop.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from misgiving.configuration import Registry
from misgiving.errors import UsageError
from misgiving.ranking_by_counting import sum_of_penalties

Losses = Float[Tensor, " batch"]
Scalar = Float[Tensor, ""]
Pairs = Literal["all", "halves"]
Reduction = Literal["mean", "sum"]
Target = Literal["trained", "plain"]
Mean = Literal["weighted", "plain"]

LARGEST_MATRIX = 512  # samples; counting the pairs of a larger batch is faster than listing them

AuxiliaryLoss = Callable[[Losses, Losses], Scalar]
"""Loss of predicted against true losses; the true ones get no gradient."""


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
    O(B) memory (`ranking_by_counting`), except on MPS, which has no float64.

    >>> true = torch.tensor([0.1, 2.0])
    >>> ranking_loss(torch.tensor([0.0, 5.0]), true).item()
    0.0
    >>> ranking_loss(torch.tensor([5.0, 0.0]), true).item()
    6.0
    """
    if not margin >= 0:
        raise UsageError(f"`margin` must not be negative, got {margin}")
    _refuse_unknown("reduction", reduction, get_args(Reduction))
    at_least_single = torch.promote_types(predicted.dtype, torch.float32)
    total, count = PAIRS[pairs](predicted.to(at_least_single), true.detach(), margin)
    return total if reduction == "sum" else total / max(count, 1)


def _all_pairs(predicted: Losses, true: Losses, margin: float) -> tuple[Scalar, int]:
    """Every ordered pair: the matrix of penalties, or its sum by counting for a large batch."""
    count = len(true) * (len(true) - 1)
    if len(true) > LARGEST_MATRIX and true.device.type != "mps":  # which has no float64
        return sum_of_penalties(predicted, true, margin).to(predicted), count
    order = torch.where(true[:, None] > true, 1.0, -1.0)
    gap = predicted[:, None] - predicted
    margins = torch.full_like(gap, margin).fill_diagonal_(0)  # a sample forms no pair with itself
    return F.relu(margins - order * gap).sum(), count


def _halves(predicted: Losses, true: Losses, margin: float) -> tuple[Scalar, int]:
    count = len(predicted) // 2
    order = torch.where(true > true.flip(0), 1.0, -1.0)[:count]
    gap = (predicted - predicted.flip(0))[:count]
    return F.relu(margin - order * gap).sum(), count


PAIRS: Registry[Callable[[Losses, Losses, float], tuple[Scalar, int]]] = Registry(
    "pairing", all=_all_pairs, halves=_halves
)


def mse_loss(predicted: Losses, true: Losses) -> Scalar:
    """Mean squared error; it does not generalise, according to the paper's Figure 2 (left)."""
    return F.mse_loss(predicted, true.detach())


AUXILIARY_LOSSES: Registry[AuxiliaryLoss] = Registry(
    "auxiliary loss", ranking=ranking_loss, mse=mse_loss
)


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


def _refuse_unknown(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"`{name}` must be one of {', '.join(known)}, got {value!r}")


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
    _refuse_unknown("target", target, get_args(Target))
    _refuse_unknown("mean", mean, get_args(Mean))
    if weight < 0:
        raise UsageError(f"`weight` must not be negative, got {weight}")
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
