"""Train the predictor and the loss estimator together (paper, sections 3 and 4.1)."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import StepLR

from misgiving import distributed
from misgiving.data.augmentation import augment
from misgiving.data.loading import ImageSet, batches, sampling_order
from misgiving.data.preprocessing import AugmentationSettings
from misgiving.distributed import gathered
from misgiving.errors import TrainingError
from misgiving.losses import (
    AUXILIARY_LOSSES,
    AuxiliaryLoss,
    Objective,
    joint_objective,
    ranking_loss,
)
from misgiving.metrics.classification import accuracy, balanced_accuracy
from misgiving.metrics.loss_estimation import r_squared, spearman, spread_ratio
from misgiving.models.joint import JointClassifier, Output, outputs_of
from misgiving.results.schema import EpochRecord
from misgiving.training.config import TrainingConfig, Weighting
from misgiving.training.devices import compiled, fabric_of, set_up
from misgiving.training.resume import ResumeFile
from misgiving.training.session import Session, stream


class Step(NamedTuple):
    """Where training is, and the mean losses of the running epoch so far."""

    epoch: int
    step: int
    steps: int
    primary: float
    auxiliary: float


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers from a seed inside the block, and leave the caller's alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@distributed.losses_explained()
def train(
    model: JointClassifier,
    training: ImageSet,
    validation: ImageSet,
    config: TrainingConfig,
    *,
    augmentation: AugmentationSettings | None = None,
    on_step: Callable[[Step], None] = lambda *_: None,
    resume: ResumeFile | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[EpochRecord]:
    """Train a model in place and return its history, two records for each epoch.

    The model ends in evaluation mode, on the CPU. With several processes, each sees a share of
    every batch, and the objective is that of the whole batch.

    Args:
        model: With its first weights.
        training: Images to learn from.
        validation: Images that are only measured, after every epoch.
        config: How to train.
        augmentation: What is done to training images; None for nothing.
        on_step: Called after every step.
        resume: Where the state is kept after every epoch, and found again; None for nowhere.
        stop: Asked after every step; on yes the state is kept and training ends.

    Raises:
        ProcessLostError: Another process has ended.
        StoppedError: `stop` said yes.
        TrainingError: The loss is no longer finite.
        UsageError: The device or precision is not to be had.
    """
    fabric = fabric_of(config)
    weights = class_weights(training.labels, len(training.classes), config.class_weights)
    optimizer = Adam(
        _parameter_groups(model, config),
        betas=(config.beta1, 0.999),
        weight_decay=config.weight_decay,
        fused=True,  # a third of the time on a processor, which for a VGG-16 is felt
    )
    scheduler = StepLR(optimizer, config.decay_every, config.decay_factor)
    reached = partial(_reached, model, training, config)
    module, wrapped = set_up(fabric, model, optimizer, reached)
    stepping = compiled(module, fabric.device) if config.compiled else module
    loop = _Loop(fabric, module, stepping, wrapped, config, weights.to(fabric.device), augmentation)
    watched = {
        "train": _same_size_draw(training, validation, config.seed),
        "validation": validation,
    }
    with seeded(_seed_of_process(config.seed)):
        session = Session(model, optimizer, scheduler, config, resume)
        while session.epoch <= config.epochs:
            for step in loop.epoch(session, training):
                on_step(step)
                if step.step < step.steps:
                    session.stop_if(distributed.any_of(stop()))
            scheduler.step()
            session.end_epoch([loop.measure(session.epoch, *part) for part in watched.items()])
            session.stop_if(session.epoch <= config.epochs and distributed.any_of(stop()))
    session.restore_best()
    model.to("cpu", torch.float32).eval()
    return session.history


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


@dataclass(frozen=True)
class _Loop:
    """One model with what its epochs need; Eq. 2 is on one screen in `epoch`."""

    fabric: Fabric
    module: Any
    stepping: Any  # the same module, compiled where that is asked for
    optimizer: Optimizer
    config: TrainingConfig
    class_weights: Float[Tensor, " classes"]
    augmentation: AugmentationSettings | None

    def epoch(self, session: Session, training: ImageSet) -> Iterator[Step]:
        """The steps of an epoch that are not done yet, each done when it is asked for."""
        joint = self.config.joint_epochs is None or session.epoch <= self.config.joint_epochs
        order = self._order(session.epoch, training)
        steps = math.ceil(len(order) / self.config.batch_size)
        todo = order[session.step * self.config.batch_size :]
        self.module.train()
        for batch in self._batches(training, todo):
            images = batch.images
            if self.augmentation is not None:
                images = augment(images, self.augmentation, session.augmentation)
            output = Output(*self.stepping(images, detach_taps=not joint))
            objective = self.objective(*self._of_all_processes(output, batch.labels))
            self.optimizer.zero_grad()
            # Each process has the gradient of its share, of which DistributedDataParallel takes
            # the mean; their sum is that of the whole batch.
            self.fabric.backward(objective.total * distributed.count())
            self.optimizer.step()
            means = session.end_step(self._finite(objective, session))
            yield Step(session.epoch, session.step, steps, *means)

    def _of_all_processes(
        self, output: Output, labels: Int[Tensor, " share"]
    ) -> tuple[Output, Int[Tensor, " batch"]]:
        """The whole batch, whose pairs Eq. 1 ranks and whose weights the primary loss sums."""
        total = len(labels) * distributed.count()
        ours = Output(output.logits, output.predicted_losses, output.features.detach()[:, :0])
        return Output(*(gathered(part, total) for part in ours)), gathered(labels, total)

    def objective(self, output: Output, labels: Int[Tensor, " batch"]) -> Objective:
        return joint_objective(
            output.logits,
            output.predicted_losses,
            labels,
            auxiliary=_auxiliary_loss(self.config),
            weight=self.config.auxiliary_weight,
            class_weights=self.class_weights.to(output.logits),
            target=self.config.target,
            mean=self.config.primary_mean,
        )

    def measure(self, epoch: int, part: str, images: ImageSet) -> EpochRecord:
        """Measure one part of the data in evaluation mode."""
        ours = images.select(distributed.share_of(len(images)))
        batched = (batch.images for batch in self._batches(ours))
        output = outputs_of(self.module, batched, keep_features=False)
        output = Output(*(gathered(part, len(images)) for part in output))
        labels = torch.from_numpy(np.asarray(images.labels))
        objective = self.objective(output, labels)
        self._check_finite(output, objective, epoch, part)
        choices = output.logits.argmax(dim=1).numpy()
        return EpochRecord(
            epoch,
            part,
            float(objective.primary),
            float(objective.auxiliary),
            float(accuracy(images.labels, choices)),
            float(balanced_accuracy(images.labels, choices, num_classes=len(images.classes))),
            *self._estimation(output, objective),
        )

    def _check_finite(self, output: Output, objective: Objective, epoch: int, part: str) -> None:
        checked = [objective.primary]
        if self.config.estimates_losses:
            checked += [output.predicted_losses, objective.auxiliary]
        if not all(bool(values.isfinite().all()) for values in checked):
            raise _not_finite(epoch, f"on the {part} part", self.config)

    def _estimation(self, output: Output, objective: Objective) -> tuple[float, float, float]:
        if not self.config.estimates_losses:
            return math.nan, math.nan, math.nan
        predicted = output.predicted_losses.double().numpy()
        true = objective.true_losses.double().numpy()
        measures = (spearman, spread_ratio, r_squared)
        first, second, third = (float(measure(predicted, true)) for measure in measures)
        return first, second, third

    def _order(self, epoch: int, training: ImageSet) -> Int[np.ndarray, " n"]:
        order = sampling_order(
            training.labels,
            class_weighted=self.config.sampling,
            seed=self.config.seed,
            epoch=epoch,
        )
        return order[: _usable(len(order), self.config.batch_size, distributed.count())]

    def _batches(self, images: ImageSet, order: Int[np.ndarray, " n"] | None = None) -> Any:
        if order is None:  # measuring keeps no activations: its batches can be larger
            return batches(images, batch_size=max(self._share, 64), device=self.fabric.device)
        ours = order[distributed.rank() :: distributed.count()]
        return batches(images, batch_size=self._share, order=ours, device=self.fabric.device)

    @property
    def _share(self) -> int:
        """Images of a batch that this process sees."""
        return self.config.batch_size // distributed.count()

    def _finite(self, objective: Objective, session: Session) -> Float[np.ndarray, " 2"]:
        # One copy: a GPU is waited for once in a step.
        total, *parts = torch.stack(objective[:3]).tolist()
        if not math.isfinite(total):
            raise _not_finite(session.epoch, f"in step {session.step + 1}", self.config)
        return np.array(parts)


def _auxiliary_loss(config: TrainingConfig) -> AuxiliaryLoss | None:
    """The auxiliary loss with its options, or None where there is none."""
    if not config.estimates_losses:
        return None
    if config.auxiliary != "ranking":
        return AUXILIARY_LOSSES[config.auxiliary]
    return partial(
        ranking_loss, margin=config.margin, pairs=config.pairs, reduction=config.reduction
    )


def _usable(images: int, batch_size: int, of_processes: int) -> int:
    """How many images of an epoch come into batches that every process has an equal share of.

    A last batch of one image (for each process) is left out: it has no pairs, and batch
    normalisation cannot take it. A set that is no larger is trained on all the same.

    >>> _usable(17, 8, 1), _usable(15, 8, 1), _usable(15, 8, 2), _usable(10, 8, 2)
    (16, 15, 14, 8)
    """
    shared = images - images % of_processes
    lonely = shared % batch_size == of_processes
    return shared - of_processes if lonely and shared > of_processes else shared


def _not_finite(epoch: int, where: str, config: TrainingConfig) -> TrainingError:
    return TrainingError(
        f"the loss is not finite in epoch {epoch}, {where}; lower --learning-rate "
        f"(now {config.learning_rate:g}) or use --precision 32-true"
    )


def _parameter_groups(model: JointClassifier, config: TrainingConfig) -> list[dict[str, Any]]:
    estimator = [] if model.loss_estimator is None else list(model.loss_estimator.parameters())
    groups = [
        {"params": list(model.backbone.parameters()), "lr": config.learning_rate},
        {"params": estimator, "lr": config.learning_rate * config.estimator_rate},
    ]
    return [group for group in groups if group["params"]]


def _reached(model: JointClassifier, images: ImageSet, config: TrainingConfig) -> Tensor:
    """Something that depends on all parameters that the objective depends on."""
    model.eval()  # nothing is drawn or counted
    output = model(next(iter(batches(images, batch_size=1))).images)
    used = [output.logits, *([output.predicted_losses] if config.estimates_losses else [])]
    return torch.cat([values.flatten() for values in used]).sum()


def _seed_of_process(seed: int) -> int:
    """Processes draw different dropout masks; the first draws what a single one would."""
    rank = distributed.rank()
    return seed if rank == 0 else stream(seed, 0, rank)


def _same_size_draw(training: ImageSet, validation: ImageSet, seed: int) -> ImageSet:
    size = min(len(training), len(validation))
    drawn = np.random.default_rng(seed).permutation(len(training))[:size]
    return training.select(np.sort(drawn))
