"""Configuration of a training: the images, the network, the joint training itself, and recipes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from misgiving.errors import Parameter, UsageError, require, require_choices
from misgiving.registry import Registry

RecipeName = Literal["modern", "paper"]
Weighting = Literal["inverse", "sqrt", "none"]

MAX_SETTING = 1e30  # what single precision can still multiply a little


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Preparation and split of the images of a training; None keeps the data set's own setting.

    Attributes:
        image_size: Side of the square images in pixels. Default: 224; digits: 16.
        crop: Share of both sides that the centre crop keeps. Recipe paper: 0.85; digits: 1.
        color_constancy: Colour correction. Recipe paper: shades_of_gray; digits: none.
        augment: Vary training images: colours, small shifts and rotations (light), also flips and
            any rotation (dermoscopy), or none. Default: by the kind of DATA; of a folder, light.
        split: By image into train and validation (paper), or by group and near duplicate into
            train, tune, calibrate and test (grouped); or so in ten folds, of which the last digit
            of the seed is tested (folds).
        split_shares: Percent of the groups that the grouped split gives to train, tune, calibrate
            and test, in steps of 5, such as 60/10/20/10.
        validation_share: Share of the images, drawn by class, that the paper's split holds out.
        on_bad_image: If images cannot be read: list all of them and fail, or continue without them.
        frame: Frame of a DICOM file that has several, from 1.
        group_tag: DICOM tag whose hash groups the images of FOLDERs.
        tags: DICOM tags that become metadata, such as Modality,PatientSex.
    """

    image_size: int | None = None
    crop: float | None = None
    color_constancy: Literal["shades_of_gray", "gray_world", "none"] | None = None
    augment: Literal["none", "light", "dermoscopy"] | None = None
    split: Literal["paper", "grouped", "folds"] = "paper"
    split_shares: tuple[int, ...] = (70, 5, 15, 10)
    validation_share: float = 0.1
    on_bad_image: Literal["fail", "skip"] = "fail"
    frame: int | None = None
    group_tag: str | None = None
    tags: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        require_choices(self)
        require(self, "validation_share", 0 < self.validation_share < 1, "be in (0, 1)")
        possible = all(share > 0 == share % 5 for share in self.split_shares)
        possible = possible and (len(self.split_shares), sum(self.split_shares)) == (4, 100)
        require(self, "split_shares", possible, "be four multiples of 5 with the sum 100")

    @property
    def preprocessing_changes(self) -> dict[str, Any]:
        """Fields of the data set's own preprocessing that are replaced, and their values."""
        names = ("image_size", "crop", "color_constancy", "frame", "group_tag", "tags")
        changes = {name: getattr(self, name) for name in names}
        return {name: value for name, value in changes.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of the network and its initial weights.

    Attributes:
        backbone: Any timm model, or vgg16_mini.
        pretrained: Start from timm's ImageNet weights.
        weights: Start from a safetensors file or torch state dict (timm's names) instead.
        dropout: Dropout rate.
        taps: timm feature levels that the loss estimator reads. Default: the paper's four of a VGG,
            the last four of other backbones.
        reads_logits: Give the loss estimator one more tap: the classifier's own output, detached.
    """

    backbone: str = "vgg16"
    pretrained: bool = True
    weights: Path | None = None
    dropout: float = 0.4
    taps: tuple[int, ...] | None = None
    reads_logits: bool = False

    @property
    def architecture(self) -> dict[str, Any]:
        """The settings by which the network is built again, all but its initial weights."""
        initial = ("pretrained", "weights")
        return {name: value for name, value in vars(self).items() if name not in initial}


@dataclass(frozen=True, kw_only=True)
class AttachConfig:
    """A classifier that was trained elsewhere, and what its loss estimator reads.

    Attributes:
        weights: Trained weights of a model by name: a local safetensors file or torch state dict.
        classes: Names of the model's classes in the order of its logits, as DATA names them.
            Default: the model's own; of a model by name those of DATA.
        image_size: Side of the images of a model by name in pixels. Default: the model's.
        crop: Share of both sides that the centre crop keeps, for a model by name. Default: the
            model's.
        interpolation: Filter that resizes images, for a model by name. Default: the model's.
        mean: Mean of each channel by which images in [0, 1] are normalised, for a model by name.
            Default: the model's.
        std: Standard deviation of each channel, likewise.
        taps: Names of the submodules that are read. Default: the last four blocks.
        reads_logits: Give the loss estimator one more tap: the classifier's own output.
        views: Views of each image over which outputs are averaged: 2 with its mirror image, 8 with
            all flips and quarter turns. Only where these are of the same class.
        on_bad_image: If images cannot be read: list all of them and fail, or continue without them.
    """

    weights: Path | None = None
    classes: tuple[str, ...] | None = None
    image_size: int | None = None
    crop: float | None = None
    interpolation: Literal["bilinear", "bicubic", "lanczos", "box", "nearest"] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    taps: tuple[str, ...] | None = None
    reads_logits: bool = True
    views: Literal[1, 2, 8] = 1
    on_bad_image: Literal["fail", "skip"] = "fail"

    def __post_init__(self) -> None:
        require_choices(self)

    def given(self, *names: str) -> dict[str, Any]:
        """Values of these fields that replace the model's own."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of a training; the defaults are those of section 4.1, or ours where it is silent.

    One deviates: Eq. 1 is printed as a sum over pairs, and the default is their mean.

    Attributes:
        auxiliary: What the loss estimator learns: the order of the losses (ranking, Eq. 1),
            the losses themselves (mse), nothing (none: the plain classifier), or a loss of your own
            (MODULE:FUNCTION, from predicted and true losses to one number).
        auxiliary_weight: Lambda of Eq. 2. With the mean over pairs it is B (B - 1) times weaker
            than with the sum that the paper prints, 4,032 times at a batch of 64.
        margin: Gamma of Eq. 1.
        pairs: Pairs of Eq. 1: all ordered pairs of the batch, or each sample of one half with one
            of the other.
        reduction: Mean over the pairs, or their sum, as the paper prints Eq. 1.
        target: The loss that the estimator learns: the one trained on, with class weights, or the
            plain cross-entropy.
        detached: Keep the estimator's gradient out of the backbone, instead of training both
            jointly.
        class_weights: Class weights in the loss: N / (K n_k) for a class of n_k of N images
            (inverse), its square root, or none.
        primary_mean: Mean of the weighted cross-entropy: divided by the sum of the weights, or by
            the number of samples.
        sampling: Draw images with weights 1 / n_k (inverse), 1 / sqrt(n_k) (sqrt), or each once
            (none): in an epoch as many as the training set contains.
        epochs: Number of epochs.
        batch_size: Images in one step, of all processes together.
        optimizer: Adam with an L2 penalty, or AdamW with decoupled weight decay of all but biases
            and normalisation.
        learning_rate: Initial learning rate.
        schedule: Reduce the learning rate by steps, or along a cosine from its initial value to
            zero.
        warmup: Share of the steps in which the learning rate rises from zero.
        decay_every: Epochs between reductions of the learning rate by steps.
        decay_factor: Factor of each reduction.
        estimator_rate: The loss estimator's learning rate as a multiple of the classifier's.
        beta1: Adam's decay of the first moment (momentum).
        weight_decay: Adam's L2 penalty, or AdamW's weight decay.
        keep: Keep the weights of the last epoch, or of the one with the best balanced accuracy on
            the monitored set, which then is no longer an independent test.
        seed: The same seed gives the same run, on a CPU.
        device: Device to compute on.
        precision: Precision of training: 32-true, bf16-mixed, 16-mixed, ...
        devices: Processes on this machine that share the work, one for each device.
        nodes: Machines that share the work, each with as many processes; started by torchrun or
            SLURM, or with MASTER_ADDR and NODE_RANK set.
    """

    auxiliary: str = "ranking"
    auxiliary_weight: float = 0.5
    margin: float = 1.0
    pairs: Literal["all", "halves"] = "all"
    reduction: Literal["mean", "sum"] = "mean"
    target: Literal["trained", "plain"] = "trained"
    detached: bool = False
    class_weights: Weighting = "inverse"
    primary_mean: Literal["weighted", "plain"] = "weighted"
    sampling: Weighting = "inverse"
    epochs: int = 50
    batch_size: int = 64
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 1e-4
    schedule: Literal["steps", "cosine"] = "steps"
    warmup: float = 0.0
    decay_every: int = 10
    decay_factor: float = 0.5
    estimator_rate: float = 1.0
    beta1: float = 0.9
    weight_decay: float = 5e-4
    keep: Literal["last", "best"] = "last"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: str = "32-true"
    devices: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        require_choices(self)
        for name in ("epochs", "decay_every", "devices", "nodes"):
            require(self, name, getattr(self, name) >= 1, "be at least 1")
        processes = self.devices * self.nodes
        rule = f"be a multiple of the number of processes ({processes}), and at least 2 for each"
        shared = self.batch_size % processes == 0 and self.batch_size >= 2 * processes
        require(self, "batch_size", shared, rule)  # one image has no pair
        for name in ("learning_rate", "decay_factor", "estimator_rate"):
            require(self, name, 0 < getattr(self, name) <= MAX_SETTING, "be positive, at most 1e30")
        for name in ("weight_decay", "auxiliary_weight", "margin"):
            require(self, name, 0 <= getattr(self, name) <= MAX_SETTING, "be from 0 to 1e30")
        require(self, "seed", 0 <= self.seed < 2**32, "be from 0 to 2**32 - 1")
        for name in ("beta1", "warmup"):
            require(self, name, 0 <= getattr(self, name) < 1, "be in [0, 1)")

    @property
    def estimates_losses(self) -> bool:
        """True if the loss estimator is trained."""
        return self.auxiliary != "none" and self.auxiliary_weight > 0


def recorded(config: ModelConfig | AttachConfig | TrainingConfig) -> dict[str, Any]:
    """The values of a configuration as JSON, of the path of a file only its name."""
    values = asdict(config).items()
    return {name: value.name if isinstance(value, Path) else value for name, value in values}


OF_RANKING = ("margin", "pairs", "reduction")
WITHOUT_EFFECT = {
    ("split", "grouped"): ("validation_share",),
    ("split", "folds"): ("validation_share", "split_shares"),
    ("split", "paper"): ("split_shares",),
    ("schedule", "cosine"): ("decay_every", "decay_factor"),
    ("auxiliary", "mse"): OF_RANKING,
    ("auxiliary", "none"): (
        *("auxiliary_weight", *OF_RANKING, "detached", "estimator_rate", "reads_logits"),
    ),
}
"""Settings that have no effect beside a value of another."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of a training that belong together."""

    images: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()

    def configure(
        self, images: Mapping[str, Any], model: Mapping[str, Any], training: Mapping[str, Any]
    ) -> "Recipe":
        """This recipe with the given settings in place of its own.

        Raises:
            UsageError: A given setting has no effect beside the others.
        """
        configured = Recipe(
            images=replace(self.images, **images),
            model=replace(self.model, **model),
            training=replace(self.training, **training),
        )
        values = vars(configured.images) | vars(configured.training)
        own = configured.training.auxiliary
        rules = WITHOUT_EFFECT | ({("auxiliary", own): OF_RANKING} if ":" in own else {})
        for (other, value), names in rules.items():
            for name in names if values[other] == value else ():
                if name in {**images, **model, **training}:
                    raise UsageError(
                        Parameter(name), " has no effect with ", Parameter(other, value)
                    )
        return configured


RECIPES: Registry[Recipe] = Registry(
    "recipe",
    modern=Recipe(
        images=DataConfig(color_constancy="none", crop=1.0, split="grouped"),
        model=ModelConfig(backbone="tf_efficientnet_lite0", dropout=0.2),
        training=TrainingConfig(
            epochs=12,
            batch_size=32,
            optimizer="adamw",
            weight_decay=0.05,
            learning_rate=1e-3,
            estimator_rate=10.0,
            schedule="cosine",
            warmup=0.08,
            class_weights="none",
            sampling="none",
            target="plain",
        ),
    ),
    paper=Recipe(),
)
"""`paper` is section 4.1 of the paper, and the default of `reproduce`; `modern` that of `train`,
chosen in trainings on half of ISIC 2019 (docs/explanation/loss_estimator.md)."""

ATTACHED = replace(RECIPES["modern"].training, epochs=50, batch_size=64, estimator_rate=1.0)
"""Default for the loss estimator of a classifier that was trained elsewhere."""
