"""Eq. 2 with the options of a training."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from misgiving.data.cache import ImageSet
from misgiving.losses import (
    AUXILIARY_LOSSES,
    AuxiliaryLoss,
    Objective,
    joint_objective,
    ranking_loss,
)
from misgiving.predictions.record import Predictions
from misgiving.training.config import TrainingConfig, Weighting

ObjectiveFunction = Callable[..., Objective]
"""Computes Eq. 2 from logits, predicted losses and labels."""


def objective_of(
    config: TrainingConfig, training: ImageSet | Predictions, device: torch.device
) -> ObjectiveFunction:
    """Eq. 2 with the options of a training."""
    weights = class_weights(training.labels, len(training.classes), config.class_weights)
    auxiliary: AuxiliaryLoss | None = None
    if config.estimates_losses:
        auxiliary = AUXILIARY_LOSSES[config.auxiliary]
    if auxiliary is ranking_loss:
        auxiliary = partial(
            ranking_loss, margin=config.margin, pairs=config.pairs, reduction=config.reduction
        )
    return partial(
        joint_objective,
        auxiliary=auxiliary,
        weight=config.auxiliary_weight,
        class_weights=weights.to(device),
        target=config.target,
        mean=config.primary_mean,
    )


def class_weights(
    labels: Int[np.ndarray, " n"], num_classes: int, weighting: Weighting
) -> Float[Tensor, " classes"]:
    """Weights of the primary loss: N / (K n_k), its square root, or ones; 0 for absent classes.

    >>> class_weights(np.array([0, 0, 0, 1]), 2, "inverse")
    tensor([0.6667, 2.0000])
    """
    counts = np.bincount(labels, minlength=num_classes).astype(np.float64)
    if weighting == "none":
        return torch.ones(num_classes)
    balanced = np.divide(
        len(labels), num_classes * counts, out=np.zeros(num_classes), where=counts > 0
    )
    powers = {"inverse": 1.0, "sqrt": 0.5}
    return torch.tensor(balanced ** powers[weighting], dtype=torch.float32)


def usable_count(images: int, batch_size: int, processes: int = 1) -> int:
    """Number of images of an epoch in batches that all processes share equally.

    A last batch of one image (for each process) is left out: it has no pairs, and batch
    normalisation cannot take it. A set that is no larger is used anyway.

    >>> usable_count(17, 8), usable_count(15, 8)
    (16, 15)
    >>> usable_count(15, 8, processes=2), usable_count(10, 8, processes=2)
    (14, 8)
    """
    shared = images - images % processes
    single = shared % batch_size == processes
    return shared - processes if single and shared > processes else shared
