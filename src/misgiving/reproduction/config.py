"""Configuration of a reproduction, the models that it compares, and its units of work."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from misgiving.errors import UsageError, require, require_choices
from misgiving.registry import Registry

ModelName = Literal[
    "vanilla",
    "mse",
    "detached",
    "proposed",
    "proposed_halves",
    "proposed_sum",
    "proposed+logits",
]
"""The models that a reproduction compares, in the order of its tables."""


class ModelVariant(NamedTuple):
    """Changes of the training and of the network that define a model of the tables."""

    training: Mapping[str, Any]
    model: Mapping[str, Any] = {}


MODELS: Registry[ModelVariant] = Registry(
    "model",
    **{
        "vanilla": ModelVariant({"auxiliary": "none"}),
        "mse": ModelVariant({"auxiliary": "mse"}),
        "detached": ModelVariant({"auxiliary": "ranking", "detached": True}),
        "proposed": ModelVariant({"auxiliary": "ranking"}),
        "proposed_halves": ModelVariant({"auxiliary": "ranking", "pairs": "halves"}),
        "proposed_sum": ModelVariant({"auxiliary": "ranking", "reduction": "sum"}),
        "proposed+logits": ModelVariant({"auxiliary": "ranking"}, {"reads_logits": True}),
    },
)
"""The columns of every table.

vanilla and detached have the same classifier; the estimator of detached learns beside it.

Eq. 1 as printed is a sum over pairs (`proposed_sum`). `proposed` takes the mean, which makes the
same weight B (B - 1) times weaker, 4,032 at a batch of 64; `proposed_halves` pairs each sample of
one half of the batch with one of the other, as LL4AL does (Yoo and Kweon, 2019).
"""

DEFINING = {name for variant in MODELS.values() for name in (*variant.training, *variant.model)}
"""Settings that tell the models apart."""


def check_beside_model(name: ModelName, settings: Iterable[str]) -> None:
    """Check that no setting is one that a model defines, or that would make another model of it."""
    for setting in settings:
        if setting in DEFINING:
            raise UsageError(f"`{setting}` is defined by `model` {name}; leave one of them out")


PAPER_MODELS: tuple[ModelName, ...] = ("vanilla", "mse", "detached", "proposed")
"""`detached` shows the effect of joint training in `proposed`."""


FAILURES = "failures"  # the acceptance scores of the measured set

MOST_JOBS = 8
"""Units that run at the same time where no number is given; each needs the memory of a training."""


RATE_MODELS: tuple[ModelName, ...] = ("vanilla", "proposed")
"""The models that are also trained at other learning rates, as the paper compares them."""

RATE = "learning_rate/"  # before the value, in the name of an experiment


def learning_rate_of(experiment: str) -> float | None:
    """The learning rate that an experiment repeats 4.1 at; None for the protocol's own.

    >>> learning_rate_of("learning_rate/0.001"), learning_rate_of("generalization")
    (0.001, None)
    """
    return float(experiment.removeprefix(RATE)) if experiment.startswith(RATE) else None


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """Trials, models and classes of a reproduction.

    Attributes:
        trials: Independent repetitions; trial t has the seed SEED + t. With fewer than 5 no claim
            is decided. Default: 5 for digits, else the paper's 3.
        models: Models to compare: vanilla, mse, detached, proposed; and proposed_halves,
            proposed_sum (other readings of Eq. 1), proposed+logits (the estimator also reads the
            classifier's output). Default: the first four.
        in_distribution: In-distribution classes of Sections 4.2 and 4.3; Section 4.1 uses all
            classes. Default: the paper's five.
        unseen: Classes of 4.3 that no model is trained on. Default: the paper's three.
        masks: Folder of lesion masks (ID_segmentation.png), or `automatic` to locate lesions.
            Default: the masks beside the data, else automatic.
        learning_rates: Other learning rates at which 4.1 is repeated; `none` for no sweep. Default:
            3e-4,1e-3 for dermoscopy, else none.
        seed: Seed of the first trial.
    """

    trials: int = 3
    models: tuple[ModelName, ...] = PAPER_MODELS
    in_distribution: tuple[str, ...]
    unseen: tuple[str, ...]
    masks: str | None = None
    learning_rates: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, "trials", self.trials >= 1, "be at least 1")
        for name in self.models:
            MODELS[name]
        if len(self.in_distribution) < 2 or not self.unseen:
            raise UsageError(
                "sections 4.2 and 4.3 need at least two in-distribution classes and one unseen "
                "class; set `in_distribution` and `unseen`"
            )
        if both := set(self.in_distribution) & set(self.unseen):
            raise UsageError(f"class {min(both)!r} cannot be both in-distribution and unseen")


@dataclass(frozen=True, kw_only=True)
class OdinGrid:
    """ODIN's grid, and the OOD set and the criterion by which its best point was chosen.

    Attributes:
        tuning_set: OOD set on which it is tuned.
        temperatures: Temperatures of the grid.
        epsilons: Perturbations of the grid, in units of a pixel in [0, 1].
        criterion: Tune ODIN for the highest AUROC, or for the lowest FPR@TPR95; the paper names
            neither.
    """

    tuning_set: str
    temperatures: tuple[float, ...]
    epsilons: tuple[float, ...]
    criterion: Literal["auroc", "fpr_at_tpr95"] = "auroc"

    def __post_init__(self) -> None:
        require_choices(self)


class Unit(NamedTuple):
    """One model of one trial of one experiment.

    Units of `ood_detection` also serve `new_classes`, which measures the same models.
    """

    experiment: str
    trial: int
    model: str

    @property
    def folder(self) -> Path:
        """Folder of the unit, relative to that of the reproduction."""
        return Path("units", self.experiment, f"trial-{self.trial}", self.model)

    def __str__(self) -> str:
        return f"{self.experiment}, trial {self.trial}, {self.model}"
