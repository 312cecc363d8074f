"""One trained model with all that belongs to it: a run folder of safetensors, JSON and CSV."""

import platform
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field, fields
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from misgiving.csv_tables import write_csv
from misgiving.data.preprocessing import AUGMENTATIONS, Preprocessing
from misgiving.data.splits import Split, read_split, write_split
from misgiving.errors import explain_damage
from misgiving.files import README, read_json, seal, verify, whole_folder, write_json, write_text
from misgiving.models.backbones import ModuleSource
from misgiving.models.joint import JointClassifier

RUN_FORMAT = 1
TRAIN_AGAIN = "train again"
SEALED = ("config.json", "model.safetensors", "split.csv")
WIDE = 4096  # a layer that is no wider costs little
VIEWS = "views.json"  # not sealed: a calibration may change it
RESULT_PACKAGES = (
    "misgiving",
    "numpy",
    "scipy",
    "scikit-learn",
    "pillow",
    "torch",
    "timm",
    "lightning-fabric",
)

MODEL_CARD = """\
---
library_name: misgiving
pipeline_tag: image-classification
tags:
- selective-prediction
---
# {}

A classifier ({}) of {}. `misgiving.load` reads this folder, and so do `misgiving calibrate`,
`evaluate` and `export`.
"""


@dataclass(frozen=True)
class EpochRecord:
    """One row of a run's `history.csv`: a set, measured in evaluation mode after an epoch.

    The training set is measured without augmentation or dropout on a fixed random draw of as many
    images as the monitored set has, so that both mean the same. What concerns the estimated losses
    is undefined (NaN, None when read) where no loss is estimated: the auxiliary loss, the Spearman
    correlation of predicted and true loss, sd(predicted) / sd(true) and R2 against a constant.
    """

    epoch: int
    set: str
    primary_loss: float
    auxiliary_loss: float | None
    accuracy: float
    balanced_accuracy: float
    rank_correlation: float | None
    spread_ratio: float | None
    r_squared: float | None


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Arguments of `JointClassifier` that build a model again, without its weights.

    Attributes:
        backbone: Name of a timm model, or of the class of a model that was trained elsewhere.
        num_classes: As in `JointClassifier`, and so are the others.
        attached: What builds the frozen classifier that was trained elsewhere; None for a timm
            model that was trained here.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  # of values in a file

    backbone: str
    num_classes: int
    image_size: int
    dropout: float = 0.4
    taps: tuple[int, ...] | tuple[str, ...] | None = None
    hidden: int = 128
    reads_logits: bool = False
    attached: ModuleSource | None = None

    def build(self, module: nn.Module | None = None) -> JointClassifier:
        """Build the model with random weights, or around the classifier that `attached` builds."""
        settings = {**vars(self), "pretrained": False}
        if (attached := settings.pop("attached")) is None:
            return JointClassifier(**settings)
        settings |= {"backbone": module or attached.build(), "mean": attached.mean}
        return JointClassifier(**settings, std=attached.std).freeze_classifier()


def versions(packages: Iterable[str] = RESULT_PACKAGES) -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    installed = {name: [each.version for each in distributions(name=name)] for name in packages}
    numbers = {name: each[0] if each else "not installed" for name, each in installed.items()}
    return {"python": platform.python_version(), **numbers}


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The data that a run was trained on.

    Attributes:
        name: As its user named it.
        fingerprint: That of the prepared images and their labels.
        group_columns: Columns that define the groups.
        images: Number of images in each set.
        skipped: Images that could not be read, and were left out.
    """

    name: str
    fingerprint: str
    group_columns: tuple[str, ...] = ()
    images: Mapping[str, int] = field(default_factory=dict)
    skipped: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The content of a run's `config.json`.

    Attributes:
        architecture: Architecture of the model.
        classes: Names of the classes, in the order of the logits.
        preprocessing: Preprocessing of its images.
        class_weights: Weight of each class in the loss that the estimator learned.
        estimates_losses: True if its loss estimator was trained (not in `vanilla`).
        keeps_best_epoch: True if the weights are those of the epoch with the best balanced accuracy
            on the monitored set, which is then no longer independent.
        data: The data that it was trained on.
        settings: Settings of the model, the training and the augmentation, for people; only
            `Checkpoint.other_views` reads them.
        versions: Of the packages that trained it.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  # of values in a file

    architecture: Architecture
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    class_weights: tuple[float, ...]
    estimates_losses: bool
    keeps_best_epoch: bool = False
    data: TrainingData
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: versions())

    def __post_init__(self) -> None:
        numbers = len(self.classes), len(self.class_weights), self.architecture.num_classes
        if len({*numbers}) > 1:
            raise ValueError(f"classes, weights and outputs differ in number: {numbers}")


@dataclass(frozen=True, kw_only=True)
class Checkpoint(RunConfig):
    """A trained model with its configuration and its split.

    Attributes:
        model: The model in evaluation mode, on the CPU.
        split: Content hash and set of each image of its data.
        views: Number of views of an image over which outputs are averaged.
    """

    model: JointClassifier
    split: Split
    views: int = 1

    @property
    def other_views(self) -> int:
        """The number to compare `views` with: the one that suits the augmentation, or else 1."""
        augmentation = self.settings.get("augmentation", {})
        usual = AUGMENTATIONS[augmentation.get("preset", "none")].views
        return 1 if self.views == usual else usual


RUN_CONFIG: TypeAdapter[RunConfig] = TypeAdapter(RunConfig)
VIEWS_CONTENT = TypeAdapter(dict[Literal["views"], Literal[1, 2, 8]])


def save(
    folder: Path, checkpoint: Checkpoint, *, history: Iterable[EpochRecord] | None = None
) -> None:
    """Write a run folder, with `history.csv` where a history is given, whole or not at all."""
    state = {name: tensor.contiguous() for name, tensor in checkpoint.model.state_dict().items()}
    config = {"format": RUN_FORMAT, **RUN_CONFIG.dump_python(checkpoint, mode="json")}
    with whole_folder(folder) as partial:
        save_file(state, partial / "model.safetensors")
        write_split(partial / "split.csv", checkpoint.split)
        write_json(partial / "config.json", config)
        write_views(partial, checkpoint.views)
        classes, architecture = ", ".join(checkpoint.classes), checkpoint.architecture
        write_text(partial / README, MODEL_CARD.format(folder.name, architecture.backbone, classes))
        seal(partial, SEALED)
        if history is not None:
            columns = [column.name for column in fields(EpochRecord)]
            write_csv(partial / "history.csv", columns, map(astuple, history))


def write_views(folder: Path, views: int) -> None:
    """Write the number of views of a run; one without the file has 1."""
    if views > 1 or (folder / VIEWS).exists():
        write_json(folder / VIEWS, {"views": views})


def _check_sizes(architecture: Architecture, weights: Path) -> None:
    """Check that there are weights of the sizes of an architecture, before these are made."""
    with safe_open(weights, framework="pt") as file:
        sizes = {size for name in file.keys() for size in file.get_slice(name).get_shape()}  # noqa: SIM118
    largest = max(architecture.hidden, architecture.num_classes)
    if largest > max(WIDE, *sizes):
        raise ValueError(f"no weights of the size {largest} that config.json has")


def load(folder: str | Path) -> Checkpoint:
    """Load a run folder: the model with its classes, preprocessing, split and configuration.

    Raises:
        DataError: The folder is not a run, or a file in it is missing or damaged.
    """
    folder, place = Path(folder), Path(folder) / "config.json"
    remedy = "give a folder that `misgiving train` or `misgiving attach` wrote, or train again"
    content = read_json(place, version=RUN_FORMAT, remedy=remedy)
    verify(folder, SEALED, remedy="restore it from a copy, or train again")
    with explain_damage(folder / "split.csv", remedy=TRAIN_AGAIN):
        split = read_split(folder / "split.csv")
    with explain_damage(place, remedy=TRAIN_AGAIN):
        del content["format"]
        config = RUN_CONFIG.validate_python(content)
    with explain_damage(folder / "model.safetensors", remedy=TRAIN_AGAIN):
        _check_sizes(config.architecture, folder / "model.safetensors")
    with explain_damage(place, remedy=TRAIN_AGAIN):
        model = config.architecture.build().eval()
    with explain_damage(folder / "model.safetensors", remedy=TRAIN_AGAIN):
        model.load_state_dict(load_file(folder / "model.safetensors"))
    views = 1
    if (folder / VIEWS).exists():
        with explain_damage(folder / VIEWS, remedy="remove it and calibrate again"):
            views = VIEWS_CONTENT.validate_json((folder / VIEWS).read_bytes())["views"]
    return Checkpoint(**vars(config), model=model, split=split, views=views)
