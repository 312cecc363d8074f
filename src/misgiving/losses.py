"""Training losses: the primary cross-entropy, the auxiliary losses of the loss estimator, and both.

`joint_objective` is Eq. 2 of the paper and can be put into any training loop.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from misgiving.errors import Parameter, UsageError
from misgiving.registry import Registry, own_function
from misgiving.tensors import Labels, Logits, Losses, Scalar

Pairs = Literal["all", "halves"]
Reduction = Literal["mean", "sum"]
Target = Literal["trained", "plain"]
Mean = Literal["weighted", "plain"]

MAX_PAIRS = 2**18  # that are in memory at a time

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

    The pairs of more than 512 samples are listed in blocks of rows, so that memory stays bounded.

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
    elif size * size <= MAX_PAIRS:
        total = _sum_over_rows(predicted, true, margin, slice(0, size))
    else:
        total = _sum_in_blocks(predicted, true, margin)
    total = total.masked_fill(true.isnan().any(), torch.nan)  # NaN is neither higher nor lower
    return total if reduction == "sum" else total / max(count, 1)


def _sum_in_blocks(predicted: Losses, true: Losses, margin: float) -> Scalar:
    """Sum of Eq. 1 over all ordered pairs, with the gradient of each block before the next."""
    height = max(MAX_PAIRS // len(true), 1)
    copy, sums, slope = predicted.detach().requires_grad_(), [], torch.zeros_like(predicted)
    for start in range(0, len(true), height):
        with torch.enable_grad():
            total = _sum_over_rows(copy, true, margin, slice(start, start + height))
        slope += torch.autograd.grad(total, copy)[0]
        sums.append(total.detach())
    zero = (slope * (predicted - copy.detach())).sum()  # its gradient is that of the sum
    return torch.stack(sums).sum() + zero


def _sum_over_rows(predicted: Losses, true: Losses, margin: float, rows: slice) -> Scalar:
    """Sum of Eq. 1 over the ordered pairs whose first samples are these rows of the batch."""
    order = torch.where(true[rows, None] > true, 1.0, -1.0)
    gap = predicted[rows, None] - predicted
    margins = torch.full_like(gap, margin)
    margins.diagonal(rows.start).zero_()  # a sample has no pair with itself
    return F.relu(margins - order * gap).sum()


def mse_loss(predicted: Losses, true: Losses) -> Scalar:
    """Mean squared error; it does not generalise, according to the paper's Figure 2 (left)."""
    return F.mse_loss(predicted, true.detach())


AUXILIARY_LOSSES: Registry[AuxiliaryLoss | None] = Registry(
    "auxiliary loss", ranking=ranking_loss, mse=mse_loss, none=None
)
"""None trains no loss estimator."""


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


class Objective(NamedTuple):
    """Eq. 2 and its terms; `true_losses` are the estimator's targets, detached."""

    total: Scalar
    primary: Scalar
    auxiliary: Scalar
    true_losses: Losses


def joint_objective(
    logits: Logits,
    predicted_losses: Losses,
    labels: Labels,
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
    losses = F.cross_entropy(logits, labels, class_weights, reduction="none")
    if class_weights is None or mean == "plain":
        primary = losses.mean()
    else:
        primary = losses.sum() / class_weights[labels].sum()
    unweighted = target == "plain" and class_weights is not None
    true = F.cross_entropy(logits, labels, reduction="none") if unweighted else losses
    true = true.detach()
    if auxiliary is None or weight == 0:
        return Objective(primary, primary, torch.full_like(primary, torch.nan), true)
    estimated = auxiliary(predicted_losses, true)
    return Objective(primary + weight * estimated, primary, estimated, true)
