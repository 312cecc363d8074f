"""Eq. 2 with the options of a training, its optimizer, and the schedule of its learning rate.

`record_of` measures Eq. 2 and what the loss estimator has learned, for the history of a training.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from misgiving.checkpoint import EpochRecord
from misgiving.data.cache import ImageSet
from misgiving.errors import TrainingError
from misgiving.losses import AUXILIARY_LOSSES, Objective, joint_objective, ranking_loss
from misgiving.metrics.classification import accuracy, balanced_accuracy
from misgiving.metrics.loss_estimation import r_squared, spearman, spread_ratio
from misgiving.models.joint import JointClassifier
from misgiving.predictions.record import Predictions
from misgiving.training.config import TrainingConfig, Weighting

ObjectiveFunction = Callable[..., Objective]
"""Computes Eq. 2 from logits, predicted losses and labels."""


def objective_of(
    config: TrainingConfig, training: ImageSet | Predictions, device: torch.device
) -> ObjectiveFunction:
    """Eq. 2 with the options of a training."""
    weights = class_weights(training.labels, len(training.classes), config.class_weights)
    auxiliary = AUXILIARY_LOSSES[config.auxiliary] if config.estimates_losses else None
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


def optimizer_of(model: JointClassifier, config: TrainingConfig) -> Optimizer:
    """The optimizer of a training, with the loss estimator's own learning rate."""
    groups: list[dict[str, Any]] = []
    for module, rate in ((model.backbone, 1.0), (model.loss_estimator, config.estimator_rate)):
        if module is None:
            continue
        decayed: Any = [{"params": list(module.parameters())}]
        if config.optimizer == "adamw":  # leaves out biases and normalisation
            decayed = param_groups_weight_decay(module, config.weight_decay)
        groups += [{**group, "lr": config.learning_rate * rate} for group in decayed]
    kind = Adam if config.optimizer == "adam" else AdamW
    return kind(
        groups,
        betas=(config.beta1, 0.999),
        weight_decay=config.weight_decay,
        fused=True,  # a third of the time on a CPU, which matters for a VGG-16
    )


def schedule_of(optimizer: Optimizer, config: TrainingConfig, steps: int) -> Scheduler:
    """The learning rate at each step; an epoch has so many `steps`."""
    warmup = int(config.warmup * config.epochs * steps)
    settings: dict[str, Any] = {"t_in_epochs": False, "warmup_t": warmup}
    if config.schedule == "cosine":
        return CosineLRScheduler(optimizer, t_initial=config.epochs * steps, **settings)
    return StepLRScheduler(
        optimizer,
        decay_t=config.decay_every * steps,
        decay_rate=config.decay_factor,
        warmup_prefix=False,
        **settings,
    )


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


def record_of(
    logits: Float[Tensor, "n classes"],
    predicted_losses: Float[Tensor, " n"],
    labelled: ImageSet | Predictions,
    config: TrainingConfig,
    objective: ObjectiveFunction,
    epoch: int,
    set_name: str,
) -> EpochRecord:
    """History record of the outputs for a labelled set after an epoch.

    Raises:
        TrainingError: A loss is not finite.
    """
    labels = np.asarray(labelled.labels)
    losses = objective(logits, predicted_losses, torch.from_numpy(labels))
    estimates = [predicted_losses.sum(), losses.auxiliary] if config.estimates_losses else []
    check_finite(torch.stack([losses.primary, *estimates]), config, epoch, f"on the {set_name} set")
    estimation = [math.nan, math.nan, math.nan]
    if config.estimates_losses:
        pair = (predicted_losses.double().numpy(), losses.true_losses.double().numpy())
        estimation = [float(metric(*pair)) for metric in (spearman, spread_ratio, r_squared)]
    predicted = logits.argmax(dim=1).numpy()
    return EpochRecord(
        epoch,
        set_name,
        float(losses.primary),
        float(losses.auxiliary),
        float(accuracy(labels, predicted)),
        float(balanced_accuracy(labels, predicted, num_classes=len(labelled.classes))),
        *estimation,
    )


def check_finite(losses: Tensor, config: TrainingConfig, epoch: int, place: str) -> None:
    """Check that training can continue.

    Raises:
        TrainingError: A loss is not finite; `place` says where in the epoch.
    """
    if not losses.isfinite().all():
        raise TrainingError(
            f"the loss is not finite in epoch {epoch}, {place}; lower `learning_rate` (now "
            f'{config.learning_rate:g}) or use `precision="32-true"`'
        )
