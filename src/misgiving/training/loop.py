"""Train a classifier and its loss estimator together (paper, sections 3 and 4.1).

`train` is the whole training, `train_epoch` an epoch from batch to Eq. 2 to step.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn

from misgiving.checkpoint import EpochRecord
from misgiving.data.augmentation import augment
from misgiving.data.batching import batches, sampling_order
from misgiving.data.cache import ImageSet
from misgiving.data.preprocessing import AugmentationSettings
from misgiving.errors import StoppedError, TrainingError
from misgiving.metrics.classification import accuracy, balanced_accuracy
from misgiving.metrics.loss_estimation import r_squared, spearman, spread_ratio
from misgiving.models import processes
from misgiving.models.joint import JointClassifier, Output, outputs_of
from misgiving.models.processes import gathered
from misgiving.predictions.record import Predictions
from misgiving.training.config import TrainingConfig
from misgiving.training.devices import compiled, start_fabric, wrap_for_processes
from misgiving.training.objective import (
    ObjectiveFunction,
    objective_of,
    optimizer_of,
    schedule_of,
    usable_count,
)
from misgiving.training.resume import ResumeFile, TrainingState


class Step(NamedTuple):
    """A finished step of one of the epochs, with the mean losses of this epoch so far."""

    epoch: int
    epochs: int
    step: int
    steps: int
    primary: float
    auxiliary: float


@processes.explain_lost_process()
def train(
    model: JointClassifier,
    training: ImageSet,
    monitored: ImageSet,
    config: TrainingConfig,
    *,
    augmentation: AugmentationSettings | None = None,
    monitored_name: str = "validation",
    on_step: Callable[[Step], None] = lambda *_: None,
    resume: ResumeFile | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[EpochRecord]:
    """Train a model in place and return its history, two records for each epoch.

    The model ends in evaluation mode, on the CPU. With several processes, each sees a share of
    every batch, and the objective is that of the whole batch.

    Args:
        model: The model with its initial weights.
        training: Images to learn from.
        monitored: Images that are only measured, after every epoch.
        config: How to train.
        augmentation: Augmentation of the training images.
        monitored_name: Name of the monitored set in the history.
        on_step: Called after every step.
        resume: File of the state: read at the start, written after every epoch.
        stop: Asked after every step; if true, the state is saved and training ends.

    Raises:
        ProcessLostError: Another process has ended.
        StoppedError: `stop` returned true.
        TrainingError: The loss is no longer finite.
        UsageError: The device or precision is not available.
    """
    fabric = start_fabric(
        config.device, devices=config.devices, nodes=config.nodes, precision=config.precision
    )
    sets = {"train": _same_size_draw(training, monitored, config.seed), monitored_name: monitored}
    module, optimizer = wrap_for_processes(
        fabric,
        model,
        optimizer_of(model, config),
        partial(_outputs_used, model, training, config),
    )
    objective = objective_of(config, training, fabric.device)
    state = TrainingState(model=model, optimizer=optimizer)
    with seeded(_seed_of_process(config.seed)):
        if resume is not None:
            resume.restore(state)
        forward = compiled(module, fabric.device) if config.compiled else module
        while state.epoch <= config.epochs:
            for step in train_epoch(
                fabric, forward, state, training, config, objective, augmentation
            ):
                on_step(step)
                if processes.any_of(stop()):
                    _stop(state, resume)
            records = [
                measure(fabric, module, images, config, objective, epoch=state.epoch, set_name=name)
                for name, images in sets.items()
            ]
            state.end_epoch(records, keep_best=config.keep == "best")
            if resume is not None:
                resume.save(state)
    model.load_state_dict(state.best_weights or model.state_dict())
    model.to("cpu", torch.float32).eval()
    return state.history


def train_epoch(
    fabric: Fabric,
    forward: nn.Module,
    state: TrainingState,
    training: ImageSet,
    config: TrainingConfig,
    objective: ObjectiveFunction,
    augmentation: AugmentationSettings | None,
) -> Iterator[Step]:
    """Take the remaining steps of an epoch, each when the caller asks for it."""
    count = processes.count()
    order = sampling_order(
        training.labels, class_weighted=config.sampling, seed=config.seed, epoch=state.epoch
    )
    order = order[: usable_count(len(order), config.batch_size, count)]
    steps = math.ceil(len(order) / config.batch_size)
    remaining = order[state.step * config.batch_size :]
    share = remaining[processes.rank() :: count]
    if state.step == 0:
        state.augmentation.manual_seed(_mixed_seed(config.seed, state.epoch, 1))
    schedule = schedule_of(state.optimizer, config, steps)
    forward.train()
    for images, labels, _ in batches(
        training, batch_size=config.batch_size // count, order=share, device=fabric.device
    ):
        if augmentation is not None:
            images = augment(images, augmentation, state.augmentation)
        output = Output(*forward(images, detach_taps=config.detached))
        # Eq. 1 ranks the pairs of the whole batch: the shares of all processes are gathered.
        size, shares = len(labels) * count, (output.logits, output.predicted_losses, labels)
        batch = [gathered(values, size) for values in shares]
        losses = objective(*batch)  # Eq. 2: primary + lambda * auxiliary
        schedule.step_update((state.epoch - 1) * steps + state.step)  # the learning rate
        state.optimizer.zero_grad()
        # The gradients of all shares are averaged; those of the whole batch are their sum.
        fabric.backward(losses.total * count)
        state.optimizer.step()
        total, *means = torch.stack(losses[:3]).tolist()  # one copy: the GPU is waited for once
        state.step += 1
        if not math.isfinite(total):
            raise _not_finite(config, f"in epoch {state.epoch}, step {state.step}")
        state.loss_sums += means
        means = (state.loss_sums / state.step).tolist()
        yield Step(state.epoch, config.epochs, state.step, steps, *means)


@torch.no_grad()
def measure(
    fabric: Fabric,
    model: nn.Module,
    images: ImageSet,
    config: TrainingConfig,
    objective: ObjectiveFunction,
    *,
    epoch: int,
    set_name: str,
) -> EpochRecord:
    """Measure a set in evaluation mode after an epoch."""
    share = images.select(processes.share_of(len(images)))
    # No activations are kept, so that batches can be larger than in training.
    batch_size = max(config.batch_size // processes.count(), 64)
    batched = batches(share, batch_size=batch_size, device=fabric.device)
    output = outputs_of(model, (batch.images for batch in batched))
    logits = gathered(output.logits, len(images))
    predicted_losses = gathered(output.predicted_losses, len(images))
    return record_of(
        logits, predicted_losses, images, config, objective, epoch=epoch, set_name=set_name
    )


def record_of(
    logits: Float[Tensor, "n classes"],
    predicted_losses: Float[Tensor, " n"],
    labelled: ImageSet | Predictions,
    config: TrainingConfig,
    objective: ObjectiveFunction,
    *,
    epoch: int,
    set_name: str,
) -> EpochRecord:
    """History record of the outputs for a labelled set.

    Raises:
        TrainingError: A loss is not finite.
    """
    labels = np.asarray(labelled.labels)
    losses = objective(logits, predicted_losses, torch.from_numpy(labels))
    checked = [losses.primary]
    if config.estimates_losses:
        checked += [predicted_losses, losses.auxiliary]
    if not all(bool(values.isfinite().all()) for values in checked):
        raise _not_finite(config, f"in epoch {epoch}, on the {set_name} set")
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


def _outputs_used(model: JointClassifier, images: ImageSet, config: TrainingConfig) -> Tensor:
    """A sum that depends on all parameters that the objective depends on."""
    model.eval()  # draws no dropout and updates no statistics
    device = next(model.parameters()).device
    output = model(next(iter(batches(images, batch_size=1, device=device))).images)
    used = [output.logits, *([output.predicted_losses] if config.estimates_losses else [])]
    return torch.cat([values.flatten() for values in used]).sum()


def _same_size_draw(training: ImageSet, monitored: ImageSet, seed: int) -> ImageSet:
    size = min(len(training), len(monitored))
    drawn = np.random.default_rng(seed).permutation(len(training))[:size]
    return training.select(np.sort(drawn))


def _not_finite(config: TrainingConfig, place: str) -> TrainingError:
    return TrainingError(
        f"the loss is not finite {place}; lower `learning_rate` (now {config.learning_rate:g}) or "
        'use `precision="32-true"`'
    )


def _stop(state: TrainingState, resume: ResumeFile | None) -> NoReturn:
    place = f"stopped in epoch {state.epoch}, after step {state.step}"
    if resume is None:
        raise StoppedError(f"{place}; the training is not saved")
    resume.save(state)
    raise StoppedError(f"{place}; run the same command to resume")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers from a seed inside the block, and leave the caller's alone."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # all, without its warning
        torch.manual_seed(seed)
        yield


def _seed_of_process(seed: int) -> int:
    """Let processes draw different dropout masks; the first, or only one, has the seed itself."""
    rank = processes.rank()
    return _mixed_seed(seed, 0, rank) if rank else seed


def _mixed_seed(seed: int, *use: int) -> int:
    """A separate seed for each use of random numbers."""
    return int(np.random.SeedSequence([seed, *use]).generate_state(1)[0])
