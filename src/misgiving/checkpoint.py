"""One trained model with all that is needed to use it: a folder of safetensors, JSON and CSV."""

import json
import math
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from misgiving.data.preprocessing import Preprocessing
from misgiving.data.splits import Split, read_split, write_split
from misgiving.deferral import DeferralPolicy
from misgiving.errors import DataError, ExplainedError
from misgiving.files import whole_file, whole_folder, write_json
from misgiving.manifests import seal, verify
from misgiving.models.joint import JointClassifier
from misgiving.results.formats import write_table
from misgiving.results.schema import EpochRecord

FORMAT = 3
SEALED = ("config.json", "model.safetensors", "split.csv")
POLICY_FOLDER, POLICY = "policy", "policy.json"
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


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What it takes to build the model again, without its weights."""

    backbone: str
    num_classes: int
    image_size: int
    dropout: float = 0.4
    taps: tuple[int, ...] | None = None
    hidden: int = 128
    reads_logits: bool = False

    def build(self, *, pretrained: bool = False) -> JointClassifier:
        """A model with first weights from torch's random numbers, or timm's ImageNet weights."""
        return JointClassifier(
            self.backbone,
            self.num_classes,
            pretrained=pretrained,
            dropout=self.dropout,
            taps=self.taps,
            hidden=self.hidden,
            reads_logits=self.reads_logits,
            image_size=self.image_size,
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained model with its classes, split, preprocessing and configuration.

    Attributes:
        model: In evaluation mode, on the CPU.
        architecture: How to build it.
        classes: Names of the classes, in the order of the logits.
        preprocessing: What an image goes through before the model.
        split: The content hash and part of each image of the data it was trained on.
        class_weights: Weight of each class in the loss that the estimator learned.
        estimates_losses: Whether its loss estimator was trained (not in `vanilla`).
        configuration: Settings of training and data, versions, and the data's fingerprint.
        folder: Where it was loaded from.
    """

    model: JointClassifier
    architecture: Architecture
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    split: Split
    class_weights: tuple[float, ...]
    estimates_losses: bool
    configuration: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def policy(self) -> DeferralPolicy | None:
        """Set by `misgiving calibrate`, and applied by `misgiving.DecisionEngine`; None without.

        Raises:
            DataError: It is damaged, or was edited.
        """
        path = None if self.folder is None else self.folder / POLICY_FOLDER / POLICY
        return DeferralPolicy.load(path) if path is not None and path.is_file() else None

    @property
    def weights(self) -> Float[Tensor, " classes"]:
        """The class weights as a tensor."""
        import torch

        return torch.tensor(self.class_weights)


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def save(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    history: Iterable[EpochRecord] | None = None,
) -> None:
    """Write a run folder, with `history.csv` where a history is given, whole or not at all."""
    with whole_folder(folder) as partial:
        write_checkpoint(partial, checkpoint)
        if history is not None:
            write_table(partial / "history.csv", EpochRecord, history)


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the files of a checkpoint into a folder that exists."""
    state = {name: tensor.contiguous() for name, tensor in checkpoint.model.state_dict().items()}
    with whole_file(folder / "model.safetensors") as partial:
        save_file(state, partial)
    write_split(folder / "split.csv", checkpoint.split)
    write_json(folder / "config.json", _config(checkpoint))
    seal(folder, SEALED)


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "architecture": asdict(checkpoint.architecture),
        "classes": list(checkpoint.classes),
        "preprocessing": checkpoint.preprocessing.to_dict(),
        "class_weights": list(checkpoint.class_weights),
        "estimates_losses": checkpoint.estimates_losses,
        **checkpoint.configuration,
        "versions": versions(),
    }


def load(folder: str | Path) -> Checkpoint:
    """Load a run folder: the model with classes, preprocessing, split, configuration and policy.

    Raises:
        DataError: The folder is not a run, or a file of it is missing or damaged.
    """
    folder = Path(folder)
    config = _read_config(folder)
    verify(folder, SEALED, remedy="restore it from a copy, or train again")
    try:
        architecture = _architecture(config["architecture"])
        checkpoint = Checkpoint(
            model=architecture.build(),
            architecture=architecture,
            classes=tuple(config["classes"]),
            preprocessing=Preprocessing.from_dict(config["preprocessing"]),
            split=_read_split(folder / "split.csv"),
            class_weights=tuple(config["class_weights"]),
            estimates_losses=config["estimates_losses"],
            configuration={key: config[key] for key in config if key not in _OWN_KEYS},
            folder=folder,
        )
        _check(checkpoint)
    except DataError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError, MemoryError) as error:
        first = " ".join(str(error).split())[:200]
        raise DataError(f"{folder / 'config.json'}: damaged ({first}); train again") from error
    _fill(checkpoint.model, folder / "model.safetensors")
    checkpoint.model.eval()
    return checkpoint


_OWN_KEYS = frozenset(
    {
        "format",
        "architecture",
        "classes",
        "preprocessing",
        "class_weights",
        "estimates_losses",
        "versions",
    }
)


def _check(checkpoint: Checkpoint) -> None:
    """Refuse what a table would be wrong with, before anything is measured."""
    count = checkpoint.architecture.num_classes
    names, weights = checkpoint.classes, checkpoint.class_weights
    if len(set(names)) != count or not all(isinstance(name, str) for name in names):
        raise ValueError(f"classes must be {count} different names")
    numbers = all(isinstance(weight, float | int) for weight in weights)
    if len(weights) != count or not numbers or not all(0 <= w < math.inf for w in weights):
        raise ValueError(f"class_weights must be {count} numbers of at least 0")
    if not isinstance(checkpoint.estimates_losses, bool):
        raise ValueError("estimates_losses must be true or false")
    if checkpoint.architecture.image_size != checkpoint.preprocessing.image_size:
        raise ValueError("architecture and preprocessing differ in image_size")


def _read_split(path: Path) -> Split:
    try:
        return read_split(path)
    except ExplainedError as error:
        raise DataError(f"{path}: damaged ({error}); train again") from error


def _architecture(values: Mapping[str, Any]) -> Architecture:
    taps = values.get("taps")
    return Architecture(**{**values, "taps": None if taps is None else tuple(taps)})


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise DataError(
            f"{folder}: not a run (it has no config.json); give a folder that "
            "`misgiving train` wrote"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); train again") from error
    _refuse_other_format(path, config)
    return dict(config)


def _refuse_other_format(path: Path, config: object) -> None:
    found = config.get("format") if isinstance(config, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise DataError(f"{path}: of format {found}, which a newer misgiving wrote; update yours")
    if found != FORMAT:
        raise DataError(f"{path}: not of format {FORMAT}; train again with this version")


def _fill(model: JointClassifier, path: Path) -> None:
    try:
        state = load_file(path)
        model.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:  # the last names every tensor
        first = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: missing or damaged weights ({first}); train again") from error
    if wrong := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise DataError(f"{path}: {wrong[0]} holds numbers that are not finite; train again")
