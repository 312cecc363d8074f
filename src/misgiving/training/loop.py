"""Train a classifier and its loss estimator together (paper, sections 3 and 4.1).

`train` is the whole training, `train_epoch` an epoch from batch to Eq. 2 to step. What they need
follows: Eq. 2 with the options of a training, optimizer and schedule, and a record of the history.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, StepLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from misgiving.checkpoint import EpochRecord
from misgiving.data.batching import augment, batches, sampling_order
from misgiving.data.cache import ImageSet
from misgiving.data.preprocessing import AugmentationSettings
from misgiving.errors import Parameter, StoppedError, TrainingError, UsageError
from misgiving.losses import (
    Objective,
    auxiliary_loss,
    joint_objective,
    ranking_loss,
)
from misgiving.metrics.classification import accuracy, balanced_accuracy
from misgiving.metrics.loss_estimation import r_squared, spearman, spread_ratio
from misgiving.models.joint import JointClassifier, Output, evaluated
from misgiving.predictions.record import Predictions
from misgiving.training import processes
from misgiving.training.config import TrainingConfig, Weighting
from misgiving.training.processes import gathered, start_fabric
from misgiving.training.resume import NO_FILE, ResumeFile, TrainingState

ObjectiveFunction = Callable[..., Objective]
"""Computes Eq. 2 from logits, predicted losses and labels."""


class Step(NamedTuple):
    """A finished step of one of the epochs, with the mean losses of this epoch so far."""

    epoch: int
    epochs: int
    step: int
    steps: int
    primary: float
    auxiliary: float


def train(
    model: JointClassifier,
    training: ImageSet,
    monitored: ImageSet,
    config: TrainingConfig,
    *,
    augmentation: AugmentationSettings | None = None,
    monitored_name: str = "validation",
    on_step: Callable[[Step], None] = lambda *_: None,
    on_epoch: Callable[[EpochRecord], None] = lambda *_: None,
    resume: ResumeFile = NO_FILE,
    stop: Callable[[], bool] = lambda: False,
) -> list[EpochRecord]:
    """Train a model in place and return its history, two records for each epoch.

    The model ends in evaluation mode, on the CPU. With several processes, each sees a share of
    every batch, and the objective is that of the whole batch.

    Args:
        model: The model with its initial weights.
        training: Images to learn from.
        monitored: Images that are only measured, after every epoch; where they are more than those
            to learn from, so many of them, drawn once.
        config: How to train.
        augmentation: Augmentation of the training images.
        monitored_name: Name of the monitored set in the history.
        on_step: Called after every step.
        on_epoch: Called after every epoch with the record of the monitored set.
        resume: File of the state, from which the training resumes; it is written after every epoch,
            and where `stop` ends the training.
        stop: Asked after every step; if true, the training ends.

    Raises:
        StoppedError: `stop` returned true.
        TrainingError: The loss is no longer finite.
        UsageError: The device or precision is not available, or the model lacks the loss estimator
            that is to be trained.
    """
    fabric = start_fabric(
        config.device, devices=config.devices, nodes=config.nodes, precision=config.precision
    )
    generator, count = np.random.default_rng(config.seed), min(len(training), len(monitored))
    sets = {
        name: images.select(np.sort(generator.permutation(len(images))[:count]))
        for name, images in (("train", training), (monitored_name, monitored))
    }
    if model.loss_estimator is not None:  # processes would wait for its gradients in `vanilla`
        model.loss_estimator.requires_grad_(config.estimates_losses)
    module, optimizer = fabric.setup(model, optimizer_of(model, config))
    measure = partial(measured, fabric, module, config)
    objective = objective_of(config, training, fabric.device)
    state = TrainingState(model=model, optimizer=optimizer)
    rank = processes.rank()  # processes draw different dropout masks
    with seeded(_mixed_seed(config.seed, 0, rank) if rank else config.seed):
        resume.restore(state)
        while state.epoch <= config.epochs:
            for step in train_epoch(
                fabric, module, state, training, config, objective, augmentation
            ):
                on_step(step)
                if processes.stacked(torch.tensor(stop())).any():  # if any process is to stop
                    resume.save(state)
                    place = f"epoch {step.epoch}, after step {step.step}"
                    raise StoppedError(f"stopped in {place}; run the same command to resume")
            state.history += [
                record_of(*measure(images), images, config, objective, state.epoch, name)
                for name, images in sets.items()
            ]
            accuracies = [record.balanced_accuracy for record in state.history[1::2]]
            if config.keep == "best" and max(accuracies) > max(accuracies[:-1], default=-1.0):
                weights = model.state_dict().items()
                state.best_weights = {name: tensor.cpu().clone() for name, tensor in weights}
            state.epoch, state.step, state.loss_sums = state.epoch + 1, 0, np.zeros(2)
            on_epoch(state.history[-1])
            resume.save(state)
    model.load_state_dict(state.best_weights or model.state_dict())
    model.to("cpu", torch.float32).eval()
    return state.history


def train_epoch(
    fabric: Fabric,
    module: nn.Module,
    state: TrainingState,
    training: ImageSet,
    config: TrainingConfig,
    objective: ObjectiveFunction,
    augmentation: AugmentationSettings | None,
) -> Iterator[Step]:
    """Take the remaining steps of an epoch, each when the caller asks for it."""
    num_processes = processes.count()
    order = sampling_order(
        training.labels, weighting=config.sampling, seed=config.seed, epoch=state.epoch
    )
    order = order[: usable_count(len(order), config.batch_size, num_processes)]
    steps = math.ceil(len(order) / config.batch_size)
    remaining = order[state.step * config.batch_size :]
    share = remaining[processes.rank() :: num_processes]
    if state.step == 0:
        state.augmentation.manual_seed(_mixed_seed(config.seed, state.epoch, 1))
    schedule = schedule_of(state.optimizer, config, steps)
    module.train()
    for images, labels in batches(
        training, batch_size=config.batch_size // num_processes, order=share, device=fabric.device
    ):
        if augmentation is not None:
            images = augment(images, augmentation, state.augmentation)
        output = Output(*module(images, detach_taps=config.detached))
        # Eq. 1 ranks the pairs of the whole batch: the shares of all processes are gathered.
        size, shares = len(labels) * num_processes, (output.logits, output.predicted_losses, labels)
        batch = [gathered(values, size) for values in shares]
        losses = objective(*batch)  # Eq. 2: primary + lambda * auxiliary
        schedule.step_update((state.epoch - 1) * steps + state.step)  # the learning rate
        state.optimizer.zero_grad()
        # The gradients of all shares are averaged; those of the whole batch are their sum.
        fabric.backward(losses.total * num_processes)
        state.optimizer.step()
        terms = torch.stack(losses[:3]).detach().cpu().double()  # the GPU is waited for once
        state.step += 1
        check_finite(terms[0], config, state.epoch, f"step {state.step}")
        state.loss_sums += terms[1:].numpy()
        means = (state.loss_sums / state.step).tolist()
        yield Step(state.epoch, config.epochs, state.step, steps, *means)


@torch.no_grad()
def measured(
    fabric: Fabric, model: nn.Module, config: TrainingConfig, images: ImageSet
) -> tuple[Float[Tensor, "n classes"], Float[Tensor, " n"]]:
    """Logits and predicted losses of a set in evaluation mode."""
    share = images.select(processes.share_of(len(images)))
    # No activations are kept, so that batches can be larger than in training.
    batch_size = max(config.batch_size // processes.count(), 64)
    batched = batches(share, batch_size=batch_size, device=fabric.device)
    logits, losses = evaluated(model, (model(pixels)[:2] for pixels, _ in batched))
    return gathered(logits, len(images)), gathered(losses, len(images))


def objective_of(
    config: TrainingConfig, training: ImageSet | Predictions, device: torch.device
) -> ObjectiveFunction:
    """Eq. 2 with the options of a training."""
    weights = class_weights(training.labels, len(training.classes), config.class_weights)
    auxiliary = auxiliary_loss(config.auxiliary)
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
    """The optimizer of a training, with the loss estimator's own learning rate.

    Raises:
        UsageError: The model lacks the loss estimator that is to be trained.
    """
    if config.estimates_losses and model.loss_estimator is None:
        raise UsageError(
            *(Parameter("taps"), " of a loss estimator cannot be none; or use "),
            Parameter("auxiliary", "none"),
        )
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
            f"the loss (with {config.auxiliary}) is not finite in epoch {epoch}, {place}; lower ",
            *(Parameter("learning_rate"), f" (now {config.learning_rate:g}) or use "),
            Parameter("precision", "32-true"),
        )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers from a seed inside the block, and leave the caller's alone."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # all, without its warning
        torch.manual_seed(seed)
        yield


def _mixed_seed(seed: int, *use: int) -> int:
    """A separate seed for each use of random numbers."""
    return int(np.random.SeedSequence([seed, *use]).generate_state(1)[0])
