"""One trained model with all that belongs to it: a run folder of safetensors, JSON and CSV."""

import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import nn

from misgiving.csv_tables import write_csv
from misgiving.data.preprocessing import Preprocessing
from misgiving.data.splits import Split, read_split, write_split
from misgiving.errors import DataError, explain_damage
from misgiving.files import read_json, whole_folder, write_json, write_text
from misgiving.manifests import README, seal, verify
from misgiving.models.backbones import ModuleSource
from misgiving.models.joint import JointClassifier

FORMAT = 1
AGAIN = "train again"
SEALED = ("config.json", "model.safetensors", "split.csv")
OWN_KEYS = (
    *("format", "architecture", "classes", "preprocessing", "class_weights"),
    *("estimates_losses", "versions"),
)
PACKAGES = (
    "misgiving",
    "numpy",
    "scipy",
    "scikit-learn",
    "pillow",
    "torch",
    "timm",
    "lightning-fabric",
)

CARD = """\
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

    def build(self) -> JointClassifier:
        """Build the model with random weights."""
        if self.attached is not None:
            return self.around(self.attached.build())
        settings = {option.name: getattr(self, option.name) for option in fields(self)}
        del settings["attached"]
        return JointClassifier(**settings, pretrained=False)

    def around(self, module: nn.Module) -> JointClassifier:
        """The model around a classifier that `attached` stands for, which is frozen."""
        model = JointClassifier(
            module,
            self.num_classes,
            taps=self.taps,
            hidden=self.hidden,
            reads_logits=self.reads_logits,
            image_size=self.image_size,
            mean=self.attached.mean if self.attached else None,
            std=self.attached.std if self.attached else None,
        )
        return model.freeze_classifier()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained model with its classes, split, preprocessing and configuration.

    Attributes:
        model: The model in evaluation mode, on the CPU.
        architecture: Its architecture.
        classes: Names of the classes, in the order of the logits.
        preprocessing: Preprocessing of its images.
        split: Content hash and set of each image of its data.
        class_weights: Weight of each class in the loss that the estimator learned.
        estimates_losses: True if its loss estimator was trained (not in `vanilla`).
        configuration: Settings of training and data, and the data's fingerprint.
    """

    model: JointClassifier
    architecture: Architecture
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    split: Split
    class_weights: tuple[float, ...]
    estimates_losses: bool
    configuration: Mapping[str, Any] = field(default_factory=dict)

    __pydantic_config__ = {"arbitrary_types_allowed": True}  # noqa: RUF012  # of values in a file


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def save(
    folder: Path, checkpoint: Checkpoint, *, history: Iterable[EpochRecord] | None = None
) -> None:
    """Write a run folder, with `history.csv` where a history is given, whole or not at all."""
    state = {name: tensor.contiguous() for name, tensor in checkpoint.model.state_dict().items()}
    config = {
        "format": FORMAT,
        "architecture": asdict(checkpoint.architecture),
        "classes": list(checkpoint.classes),
        "preprocessing": asdict(checkpoint.preprocessing),
        "class_weights": list(checkpoint.class_weights),
        "estimates_losses": checkpoint.estimates_losses,
        **checkpoint.configuration,
        "versions": versions(),
    }
    with whole_folder(folder) as partial:
        save_file(state, partial / "model.safetensors")
        write_split(partial / "split.csv", checkpoint.split)
        write_json(partial / "config.json", config)
        classes, architecture = ", ".join(checkpoint.classes), checkpoint.architecture
        write_text(partial / README, CARD.format(folder.name, architecture.backbone, classes))
        seal(partial, SEALED)
        if history is not None:
            columns = [column.name for column in fields(EpochRecord)]
            write_csv(partial / "history.csv", columns, map(astuple, history))


def load(folder: str | Path) -> Checkpoint:
    """Load a run folder: the model with its classes, preprocessing, split and configuration.

    Raises:
        DataError: The folder is not a run, or a file in it is missing or damaged.
    """
    folder, place = Path(folder), Path(folder) / "config.json"
    if not place.is_file():
        raise DataError(
            f"{folder}: not a run (it has no config.json); give a folder that `misgiving train` "
            "or `misgiving attach` wrote"
        )
    content = read_json(place, remedy=AGAIN)
    if "format" not in content and {"model_type", "architectures"} & content.keys():
        raise DataError(
            f"{folder}: a Hugging Face model, not a run; run `misgiving attach {folder} DATA --out "
            "RUN` first"
        )
    config = read_json(place, version=FORMAT, remedy=AGAIN)
    verify(folder, SEALED, remedy="restore it from a copy, or train again")
    with explain_damage(folder / "split.csv", remedy=AGAIN):
        split = read_split(folder / "split.csv")
    with explain_damage(place, remedy=AGAIN):
        architecture = TypeAdapter(Architecture).validate_python(config["architecture"])
        own = {key: config.pop(key, None) for key in OWN_KEYS}
        own |= {"architecture": architecture, "model": architecture.build().eval()}
        checkpoint = TypeAdapter(Checkpoint).validate_python(
            {**own, "split": split, "configuration": config}
        )
        if not len(checkpoint.classes) == len(checkpoint.class_weights) == architecture.num_classes:
            raise ValueError("classes, their weights and the outputs of the model differ in number")
    with explain_damage(folder / "model.safetensors", remedy=AGAIN):
        checkpoint.model.load_state_dict(load_file(folder / "model.safetensors"))
    return checkpoint
