"""Train a classifier and its loss estimator together (paper, sections 3 and 4.1).

`train` is the whole training, `train_epoch` an epoch from batch to Eq. 2 to step.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from misgiving.checkpoint import EpochRecord
from misgiving.data.augmentation import augment
from misgiving.data.batching import batches, sampling_order
from misgiving.data.cache import ImageSet
from misgiving.data.preprocessing import AugmentationSettings
from misgiving.errors import StoppedError
from misgiving.models import processes
from misgiving.models.joint import JointClassifier, Output, outputs_of
from misgiving.models.processes import gathered
from misgiving.training.config import TrainingConfig
from misgiving.training.devices import start_fabric
from misgiving.training.objective import (
    ObjectiveFunction,
    check_finite,
    objective_of,
    optimizer_of,
    record_of,
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
    if model.loss_estimator is not None:  # processes would wait for its gradients in `vanilla`
        model.loss_estimator.requires_grad_(config.estimates_losses)
    module, optimizer = fabric.setup(model, optimizer_of(model, config))
    objective = objective_of(config, training, fabric.device)
    state = TrainingState(model=model, optimizer=optimizer)
    with seeded(_seed_of_process(config.seed)):
        if resume is not None:
            resume.restore(state)
        forward = cast(nn.Module, torch.compile(module)) if config.compiled else module
        while state.epoch <= config.epochs:
            for step in train_epoch(
                fabric, forward, state, training, config, objective, augmentation
            ):
                on_step(step)
                _end_if(stop(), state, resume)
            records = [
                measure(fabric, module, images, config, objective, state.epoch, name)
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
        terms = torch.stack(losses[:3]).detach().cpu().double()  # the GPU is waited for once
        state.step += 1
        check_finite(terms[0], config, state.epoch, f"step {state.step}")
        state.loss_sums += terms[1:].numpy()
        means = (state.loss_sums / state.step).tolist()
        yield Step(state.epoch, config.epochs, state.step, steps, *means)


@torch.no_grad()
def measure(
    fabric: Fabric,
    model: nn.Module,
    images: ImageSet,
    config: TrainingConfig,
    objective: ObjectiveFunction,
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
    return record_of(logits, predicted_losses, images, config, objective, epoch, set_name)


def _same_size_draw(training: ImageSet, monitored: ImageSet, seed: int) -> ImageSet:
    size = min(len(training), len(monitored))
    drawn = np.random.default_rng(seed).permutation(len(training))[:size]
    return training.select(np.sort(drawn))


def _end_if(stopped: bool, state: TrainingState, resume: ResumeFile | None) -> None:
    """Save the state and end the training in all processes, if one was asked to stop."""
    if not processes.any_of(stopped):
        return
    remedy = "the training is not saved" if resume is None else "run the same command to resume"
    if resume is not None:
        resume.save(state)
    raise StoppedError(f"stopped in epoch {state.epoch}, after step {state.step}; {remedy}")


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
