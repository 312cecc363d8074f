"""Train the predictor and the loss estimator together (paper, sections 3 and 4.1)."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import StepLR

from misgiving.data.augmentation import augment
from misgiving.data.loading import ImageSet, batches, sampling_order
from misgiving.data.preprocessing import AugmentationSettings
from misgiving.errors import TrainingError, UsageError
from misgiving.losses import (
    AUXILIARY_LOSSES,
    PAIRS,
    AuxiliaryLoss,
    Objective,
    Pairs,
    Reduction,
    Target,
    joint_objective,
    ranking_loss,
)
from misgiving.metrics.classification import accuracy, balanced_accuracy
from misgiving.metrics.loss_estimation import r_squared, spearman, spread_ratio
from misgiving.models.joint import JointClassifier, Output, outputs_of

Weighting = Literal["inverse", "sqrt", "none"]

LARGEST = 1e30  # what single precision can still multiply a little


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train; the defaults are the paper's settings (4.1), or ours where it is silent.

    Attributes:
        epochs: Passes over as many images as the training part has.
        batch_size: Images in one step, at least 2: one image has no pair.
        learning_rate: Adam's, at the start.
        decay_every: Epochs between two reductions of the learning rate.
        decay_factor: What each reduction multiplies it by.
        beta1: Adam's first moment ("momentum").
        weight_decay: Adam's L2 penalty.
        auxiliary: `ranking` (Eq. 1), `mse`, or `none` for the plain classifier.
        auxiliary_weight: Lambda of Eq. 2.
        margin: Gamma of Eq. 1.
        pairs: `all` ordered pairs of the batch, or `halves`.
        reduction: `mean` or `sum` over the pairs.
        target: The estimator learns the loss as `trained` on (with class weights) or `plain`.
        joint_epochs: Epochs in which the estimator's gradient enters the backbone: None for
            always, 0 for never (`detached`), or a number.
        estimator_rate: The estimator's learning rate as a multiple of the classifier's.
        sampling: Draw images with weights 1 / n_k (`inverse`), 1 / sqrt(n_k) (`sqrt`), or each
            once (`none`).
        class_weights: Weigh the loss by N / (K n_k) (`inverse`), its square root, or not.
        primary_mean: torch's `weighted` mean of the weighted losses, or the `plain` one.
        keep: Keep the weights of the `last` epoch, or of the one with the `best` balanced accuracy
            on the validation part (which is then no longer an honest test).
        seed: Of the first weights, the order of images, augmentation and dropout.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: lightning-fabric's name, such as `32-true` or `bf16-mixed`.
    """

    epochs: int = 50
    batch_size: int = 64
    learning_rate: float = 1e-4
    decay_every: int = 10
    decay_factor: float = 0.5
    beta1: float = 0.9
    weight_decay: float = 5e-4
    auxiliary: str = "ranking"
    auxiliary_weight: float = 0.5
    margin: float = 1.0
    pairs: Pairs = "all"
    reduction: Reduction = "mean"
    target: Target = "trained"
    joint_epochs: int | None = None
    estimator_rate: float = 1.0
    sampling: Weighting = "inverse"
    class_weights: Weighting = "inverse"
    primary_mean: Literal["weighted", "plain"] = "weighted"
    keep: Literal["last", "best"] = "last"
    seed: int = 0
    device: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        for name in ("epochs", "decay_every"):
            _require(self, name, "be at least 1", getattr(self, name) >= 1)
        _require(self, "batch_size", "be at least 2", self.batch_size >= 2)
        for name in ("learning_rate", "decay_factor", "estimator_rate"):
            _require(self, name, "be positive, at most 1e30", 0 < getattr(self, name) <= LARGEST)
        for name in ("weight_decay", "auxiliary_weight", "margin"):
            _require(self, name, "be from 0 to 1e30", 0 <= getattr(self, name) <= LARGEST)
        _require(self, "seed", "be from 0 to 2**32 - 1", 0 <= self.seed < 2**32)
        _require(self, "beta1", "be in [0, 1)", 0 <= self.beta1 < 1)
        _require(self, "joint_epochs", "not be negative", (self.joint_epochs or 0) >= 0)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            _require(self, name, f"be one of {', '.join(choices)}", value in choices)

    @property
    def estimates_losses(self) -> bool:
        """Whether the loss estimator is trained at all."""
        return self.auxiliary != "none" and self.auxiliary_weight > 0

    def auxiliary_loss(self) -> AuxiliaryLoss | None:
        """The auxiliary loss with its options, or None where there is none."""
        if not self.estimates_losses:
            return None
        if self.auxiliary != "ranking":
            return AUXILIARY_LOSSES[self.auxiliary]
        return partial(ranking_loss, margin=self.margin, pairs=self.pairs, reduction=self.reduction)

    def to_dict(self) -> dict[str, Any]:
        """As written to `config.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainingConfig":
        """From `config.json`; unknown names are refused."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise UsageError(f"unknown training settings {', '.join(unknown)}")
        return cls(**values)


_WEIGHTINGS = ("inverse", "sqrt", "none")
_CHOICES: dict[str, tuple[str, ...]] = {
    "auxiliary": (*AUXILIARY_LOSSES, "none"),
    "pairs": tuple(PAIRS),
    "reduction": ("mean", "sum"),
    "target": ("trained", "plain"),
    "sampling": _WEIGHTINGS,
    "class_weights": _WEIGHTINGS,
    "primary_mean": ("weighted", "plain"),
    "keep": ("last", "best"),
    "device": ("auto", "cpu", "cuda", "mps"),
}


def _require(config: TrainingConfig, name: str, rule: str, holds: bool) -> None:
    if not holds:
        raise UsageError(f"{name} must {rule}, got {getattr(config, name)!r}")


def unheard(*_: object) -> None:
    """What is called as work goes on, where nobody wants to know."""


class Step(NamedTuple):
    """Where training is, and the mean losses of the running epoch so far."""

    epoch: int
    step: int
    steps: int
    primary: float
    auxiliary: float


class EpochRecord(NamedTuple):
    """One row of `history.csv`: a part of the data, measured in evaluation mode after an epoch.

    The training part is measured without augmentation or dropout on a fixed random draw of as many
    images as the validation part has, so that both columns mean the same. Auxiliary loss, rank
    correlation (Spearman, of predicted and true loss), sd(predicted) / sd(true) and R2 against a
    constant are NaN where no loss is estimated.
    """

    epoch: int
    part: str
    primary_loss: float
    auxiliary_loss: float
    accuracy: float
    balanced_accuracy: float
    rank_correlation: float
    spread_ratio: float
    r_squared: float


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers from a seed inside the block, and leave the caller's alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def train(
    model: JointClassifier,
    training: ImageSet,
    validation: ImageSet,
    config: TrainingConfig,
    *,
    augmentation: AugmentationSettings | None = None,
    on_step: Callable[[Step], None] = unheard,
) -> list[EpochRecord]:
    """Train a model in place and return its history, two records for each epoch.

    The model ends in evaluation mode, on the CPU.

    Raises:
        TrainingError: The loss is no longer finite.
        UsageError: The device or precision is not to be had.
    """
    fabric = _fabric(config)
    weights = class_weights(training.labels, len(training.classes), config.class_weights)
    optimizer = Adam(
        _parameter_groups(model, config),
        betas=(config.beta1, 0.999),
        weight_decay=config.weight_decay,
    )
    scheduler = StepLR(optimizer, config.decay_every, config.decay_factor)
    module, wrapped = fabric.setup(model, optimizer)
    loop = _Loop(fabric, module, wrapped, config, weights.to(fabric.device), augmentation)
    watched = {
        "train": _same_size_draw(training, validation, config.seed),
        "validation": validation,
    }
    history: list[EpochRecord] = []
    best = _Best()
    with seeded(config.seed):
        for epoch in range(1, config.epochs + 1):
            loop.run_epoch(epoch, training, on_step)
            scheduler.step()
            history += [loop.measure(epoch, part, images) for part, images in watched.items()]
            if config.keep == "best":
                best.see(history[-1].balanced_accuracy, model)
    best.restore(model)
    model.to("cpu", torch.float32).eval()
    return history


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
    """One model with what its epochs need; Eq. 2 is on one screen in `run_epoch`."""

    fabric: Fabric
    module: Any
    optimizer: Optimizer
    config: TrainingConfig
    class_weights: Float[Tensor, " classes"]
    augmentation: AugmentationSettings | None

    def run_epoch(self, epoch: int, training: ImageSet, on_step: Callable[[Step], None]) -> None:
        joint = self.config.joint_epochs is None or epoch <= self.config.joint_epochs
        random = torch.Generator().manual_seed(_stream(self.config.seed, epoch))
        order = self._order(epoch, training)
        steps = math.ceil(len(order) / self.config.batch_size)
        sums = np.zeros(2)
        self.module.train()
        for step, batch in enumerate(self._batches(training, order), start=1):
            images = batch.images
            if self.augmentation is not None:
                images = augment(images, self.augmentation, random)
            output = self.module(images, detach_taps=not joint)
            objective = self.objective(output, batch.labels)
            self.optimizer.zero_grad()
            self.fabric.backward(objective.total)
            self.optimizer.step()
            sums += self._finite(objective, epoch, step)
            on_step(Step(epoch, step, steps, *(sums / step).tolist()))

    def objective(self, output: Output, labels: Int[Tensor, " batch"]) -> Objective:
        return joint_objective(
            output.logits,
            output.predicted_losses,
            labels,
            auxiliary=self.config.auxiliary_loss(),
            weight=self.config.auxiliary_weight,
            class_weights=self.class_weights.to(output.logits.device),
            target=self.config.target,
            mean=self.config.primary_mean,
        )

    def measure(self, epoch: int, part: str, images: ImageSet) -> EpochRecord:
        """Measure one part of the data in evaluation mode."""
        batched = (batch.images for batch in self._batches(images))
        output = outputs_of(self.module, batched, keep_features=False)
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
        # A last batch of one image has no pairs, and batch normalisation cannot take it.
        lonely = len(order) > 1 and len(order) % self.config.batch_size == 1
        return order[:-1] if lonely else order

    def _batches(self, images: ImageSet, order: Int[np.ndarray, " n"] | None = None) -> Any:
        # Measuring keeps no activations, so that its batches can be larger than those of a step.
        size = self.config.batch_size if order is not None else max(self.config.batch_size, 64)
        return batches(images, batch_size=size, order=order, device=self.fabric.device)

    def _finite(self, objective: Objective, epoch: int, step: int) -> Float[np.ndarray, " 2"]:
        if not torch.isfinite(objective.total):
            raise _not_finite(epoch, f"in step {step}", self.config)
        return np.array([objective.primary.item(), objective.auxiliary.item()])


def _not_finite(epoch: int, where: str, config: TrainingConfig) -> TrainingError:
    return TrainingError(
        f"the loss is not finite in epoch {epoch}, {where}; lower --learning-rate "
        f"(now {config.learning_rate:g}) or use --precision 32-true"
    )


class _Best:
    """Weights of the epoch with the best validation balanced accuracy (the first of equals)."""

    def __init__(self) -> None:
        self.value = -math.inf
        self.state: dict[str, Tensor] | None = None

    def see(self, value: float, model: JointClassifier) -> None:
        if value > self.value:
            self.value = value
            self.state = {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}

    def restore(self, model: JointClassifier) -> None:
        if self.state is not None:
            model.load_state_dict(self.state)


def device_named(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `mps` stands for on this machine."""
    return _fabric(TrainingConfig(device=name)).device


def _fabric(config: TrainingConfig) -> Fabric:
    try:
        return Fabric(accelerator=config.device, devices=1, precision=config.precision)  # type: ignore[arg-type]  # checked by Fabric itself
    except (ValueError, RuntimeError, ImportError) as error:
        raise UsageError(
            f"--device {config.device} with --precision {config.precision} is not to be had here "
            f"({error}); try --device cpu --precision 32-true"
        ) from error


def _parameter_groups(model: JointClassifier, config: TrainingConfig) -> list[dict[str, Any]]:
    estimator = [] if model.loss_estimator is None else list(model.loss_estimator.parameters())
    groups = [
        {"params": list(model.backbone.parameters()), "lr": config.learning_rate},
        {"params": estimator, "lr": config.learning_rate * config.estimator_rate},
    ]
    return [group for group in groups if group["params"]]


def _same_size_draw(training: ImageSet, validation: ImageSet, seed: int) -> ImageSet:
    size = min(len(training), len(validation))
    drawn = np.random.default_rng(seed).permutation(len(training))[:size]
    return training.select(np.sort(drawn))


def _stream(seed: int, epoch: int) -> int:
    """A seed for the augmentation of one epoch that differs from the one of its sampling order."""
    return int(np.random.SeedSequence([seed, epoch, 1]).generate_state(1)[0])
