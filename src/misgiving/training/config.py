"""Configuration of a training: the images, the network and the joint training itself."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from misgiving.configuration import option, require, require_choices
from misgiving.errors import UsageError

Weighting = Literal["inverse", "sqrt", "none"]

LARGEST = 1e30  # what single precision can still multiply a little


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Preparation and split of the images of a training; None keeps the data set's own setting."""

    image_size: int | None = option(
        None, "Side of the square images in pixels. Default: 224; digits: 16.", panel="Data"
    )
    crop: float | None = option(
        None,
        "Share of both sides that the centre crop keeps. Recipe paper: 0.85; digits: 1.",
        panel="Data",
    )
    color_constancy: Literal["shades_of_gray", "gray_world", "none"] | None = option(
        None, "Colour correction. Recipe paper: shades_of_gray; digits: none.", panel="Data"
    )
    augment: bool = option(
        True,
        "Augment by flips, colour jitter, rotation and translation; digits without flips, and of "
        "`medmnist:` only DermaMNIST.",
        panel="Data",
    )
    split: Literal["paper", "grouped"] = option(
        "paper",
        "Random by image and stratified by class, into train and validation (paper); or by group "
        "and near duplicate, into train, tune, calibrate and test (grouped).",
        panel="Data",
    )
    validation_share: float = option(
        0.1,
        "Share of the images, drawn by class, that the paper's split holds out.",
        panel="Data",
    )
    on_bad_image: Literal["fail", "skip"] = option(
        "fail",
        "If images cannot be read: list all of them and fail, or list them, record them and "
        "continue without them.",
        panel="Data",
    )

    def __post_init__(self) -> None:
        require_choices(self)
        require(self, "validation_share", 0 < self.validation_share < 1, "be in (0, 1)")

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Changes of the data set's own preprocessing."""
        changes = {name: getattr(self, name) for name in ("image_size", "crop", "color_constancy")}
        return {name: value for name, value in changes.items() if value is not None}


def refuse_unused_share(split: str, given: Collection[str]) -> None:
    """Refuse a share, among the given settings, that the split would not use."""
    if split == "grouped" and "validation_share" in given:
        raise UsageError("`validation_share` has no effect on the grouped split; leave it out")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of the network and its initial weights."""

    backbone: str = option("vgg16", "Any timm model, or vgg16_mini.", panel="Model")
    pretrained: bool = option(True, "Start from timm's ImageNet weights.", panel="Model")
    weights: Path | None = option(
        None,
        "Start from a local safetensors file or torch state dict (timm's names) instead.",
        panel="Model",
        metavar="FILE",
    )
    dropout: float = option(0.4, "Dropout rate.", panel="Model")
    taps: tuple[int, ...] | None = option(
        None,
        "timm feature levels that the loss estimator reads. Default: the paper's four of a VGG, "
        "the last four of other backbones.",
        panel="Model",
        metavar="I,J,...",
    )
    hidden: int = 128  # units of the loss estimator for each tap
    reads_logits: bool = option(
        False,
        "Give the loss estimator one more tap: the classifier's own output, detached.",
        panel="Model",
    )

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON, of the path of the weights only the file's name."""
        return {**asdict(self), "weights": self.weights.name if self.weights else None}


@dataclass(frozen=True, kw_only=True)
class AttachConfig:
    """A classifier that was trained elsewhere, and what its loss estimator reads."""

    weights: Path | None = option(
        None,
        "Trained weights of a model by name: a local safetensors file or torch state dict.",
        panel="Model",
        metavar="FILE",
    )
    classes: tuple[str, ...] | None = option(
        None,
        "Names of the model's classes in the order of its logits, as DATA names them. Default: the "
        "model's own; of a model by name those of DATA.",
        panel="Model",
        metavar="A,B,...",
    )
    image_size: int | None = option(
        None,
        "Side of the images of a model by name in pixels. Default: the model's.",
        panel="Model",
    )
    taps: tuple[str, ...] | None = option(
        None,
        "Names of the submodules that the loss estimator reads. Default: the last four blocks.",
        panel="Model",
        metavar="NAME,NAME,...",
    )
    hidden: int = 128  # units of the loss estimator for each tap
    reads_logits: bool = option(
        True,
        "Give the loss estimator one more tap: the classifier's own output.",
        panel="Model",
    )
    on_bad_image: Literal["fail", "skip"] = option(
        "fail",
        "If images cannot be read: list all of them and fail, or list them, record them and "
        "continue without them.",
        panel="Data",
    )

    def __post_init__(self) -> None:
        require_choices(self)

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON, of the path of the weights only the file's name."""
        return {**asdict(self), "weights": self.weights.name if self.weights else None}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of a training; the defaults are those of section 4.1, or ours where it is silent.

    One deviates: Eq. 1 is printed as a sum over pairs, and the default is their mean. It makes the
    same `auxiliary_weight` B (B - 1) times weaker, 4,032 times at a batch of 64.
    """

    auxiliary: Literal["ranking", "mse", "none"] = option(
        "ranking",
        "What the loss estimator learns: the order of the losses (ranking, Eq. 1), the losses "
        "themselves (mse), or nothing (none: the plain classifier).",
        panel="Objective",
    )
    auxiliary_weight: float = option(
        0.5,
        "Lambda of Eq. 2. With the mean over pairs it is B (B - 1) times weaker than with the sum "
        "that the paper prints, 4,032 times at a batch of 64.",
        panel="Objective",
    )
    margin: float = option(1.0, "Gamma of Eq. 1.", panel="Objective")
    pairs: Literal["all", "halves"] = option(
        "all",
        "Pairs of Eq. 1: all ordered pairs of the batch, or each sample of one half with one of "
        "the other.",
        panel="Objective",
    )
    reduction: Literal["mean", "sum"] = option(
        "mean",
        "Mean over the pairs, or their sum, as the paper prints Eq. 1.",
        panel="Objective",
    )
    target: Literal["trained", "plain"] = option(
        "trained",
        "The loss that the estimator learns: the one trained on, with class weights, or the plain "
        "cross-entropy.",
        panel="Objective",
    )
    detached: bool = option(
        False,
        "Keep the estimator's gradient out of the backbone, instead of training both jointly.",
        panel="Objective",
    )
    class_weights: Weighting = option(
        "inverse",
        "Class weights in the loss: N / (K n_k) for a class of n_k of N images (inverse), its "
        "square root, or none.",
        panel="Objective",
    )
    primary_mean: Literal["weighted", "plain"] = option(
        "weighted",
        "Mean of the weighted cross-entropy: divided by the sum of the weights, or by the number "
        "of samples.",
        panel="Objective",
    )
    sampling: Weighting = option(
        "inverse",
        "Draw images with weights 1 / n_k (inverse), 1 / sqrt(n_k) (sqrt), or each once (none).",
        panel="Optimisation",
    )
    epochs: int = option(
        50,
        "Number of epochs; each draws as many images as the training set contains.",
        panel="Optimisation",
    )
    batch_size: int = option(
        64, "Images in one step, of all processes together.", panel="Optimisation"
    )
    optimizer: Literal["adam", "adamw"] = option(
        "adam",
        "Adam with an L2 penalty, or AdamW with decoupled weight decay of all but biases and "
        "normalisation.",
        panel="Optimisation",
    )
    learning_rate: float = option(1e-4, "Initial learning rate.", panel="Optimisation")
    schedule: Literal["steps", "cosine"] = option(
        "steps",
        "Reduce the learning rate by steps, or along a cosine from its initial value to zero.",
        panel="Optimisation",
    )
    warmup: float = option(
        0.0, "Share of the steps in which the learning rate rises from zero.", panel="Optimisation"
    )
    decay_every: int = option(
        10, "Epochs between reductions of the learning rate by steps.", panel="Optimisation"
    )
    decay_factor: float = option(0.5, "Factor of each reduction.", panel="Optimisation")
    estimator_rate: float = option(
        1.0,
        "The loss estimator's learning rate as a multiple of the classifier's.",
        panel="Optimisation",
    )
    beta1: float = option(0.9, "Adam's decay of the first moment (momentum).", panel="Optimisation")
    weight_decay: float = option(
        5e-4, "Adam's L2 penalty, or AdamW's weight decay.", panel="Optimisation"
    )
    keep: Literal["last", "best"] = option(
        "last",
        "Keep the weights of the last epoch, or of the one with the best balanced accuracy on the "
        "monitored set, which then is no longer an independent test.",
        panel="Optimisation",
    )
    seed: int = option(
        0,
        "Seed of the split, the initial weights, the order of images, augmentation and dropout. "
        "On a CPU, the same seed gives the same run.",
        panel="Machine",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = option(
        "auto", "Device to compute on.", panel="Machine"
    )
    precision: str = option(
        "32-true", "Precision of training: 32-true, bf16-mixed, 16-mixed, ...", panel="Machine"
    )
    compiled: bool = option(
        False,
        "Compile the steps with torch.compile: slow to start, then faster on some machines.",
        panel="Machine",
        flag="--compile",
    )
    devices: int = option(
        1, "Processes on this machine that share the work, one for each device.", panel="Machine"
    )
    nodes: int = option(
        1,
        "Machines that share the work, each with as many processes; started by torchrun or "
        "SLURM, or with MASTER_ADDR and NODE_RANK set.",
        panel="Machine",
    )

    def __post_init__(self) -> None:
        require_choices(self)
        for name in ("epochs", "decay_every", "devices", "nodes"):
            require(self, name, getattr(self, name) >= 1, "be at least 1")
        require(self, "batch_size", self.batch_size >= 2, "be at least 2")  # one image has no pair
        processes = self.devices * self.nodes
        rule = f"be a multiple of the {processes} processes, and at least 2 for each"
        divisible = self.batch_size % processes == 0 and self.batch_size >= 2 * processes
        require(self, "batch_size", divisible, rule)
        for name in ("learning_rate", "decay_factor", "estimator_rate"):
            require(self, name, 0 < getattr(self, name) <= LARGEST, "be positive, at most 1e30")
        for name in ("weight_decay", "auxiliary_weight", "margin"):
            require(self, name, 0 <= getattr(self, name) <= LARGEST, "be from 0 to 1e30")
        require(self, "seed", 0 <= self.seed < 2**32, "be from 0 to 2**32 - 1")
        for name in ("beta1", "warmup"):
            require(self, name, 0 <= getattr(self, name) < 1, "be in [0, 1)")

    @property
    def estimates_losses(self) -> bool:
        """True if the loss estimator is trained."""
        return self.auxiliary != "none" and self.auxiliary_weight > 0

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class EstimatorConfig(TrainingConfig):
    """Settings of the training of a loss estimator alone."""

    auxiliary: Literal["ranking", "mse"] = option(
        "ranking",
        "What the loss estimator learns: the order of the losses (ranking, Eq. 1), or the losses "
        "themselves (mse).",
        panel="Objective",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "auxiliary_weight", self.auxiliary_weight > 0, "be positive")


OF_STEPS = ("decay_every", "decay_factor")
OF_RANKING = ("margin", "pairs", "reduction")
OF_ESTIMATOR = (*OF_RANKING, "detached", "estimator_rate", "reads_logits")


def refuse_unused_settings(training: TrainingConfig, given: Collection[str]) -> None:
    """Refuse settings of the training or network, among those given, that it would not use."""
    reasons: dict[str, str] = {}
    if training.schedule == "cosine":
        why = 'with `schedule="cosine"`; use `schedule="steps"` or leave it out'
        reasons |= dict.fromkeys(OF_STEPS, why)
    if training.auxiliary == "mse":
        reasons |= dict.fromkeys(OF_RANKING, 'with `auxiliary="mse"`; leave it out')
    if not training.estimates_losses:
        weight = ("auxiliary_weight",) if training.auxiliary == "none" else ()
        why = "where no loss estimator is trained; leave it out"
        reasons |= dict.fromkeys((*OF_ESTIMATOR, *weight), why)
    for name in given:
        if name in reasons:
            raise UsageError(f"`{name}` has no effect {reasons[name]}")
