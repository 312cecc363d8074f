"""Configuration of a reproduction, the models that it compares, and its units of work."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from misgiving.errors import Parameter, UsageError, require, require_choices
from misgiving.registry import Registry
from misgiving.training.config import DataConfig, ModelConfig, TrainingConfig

MODELS: Registry[Mapping[str, Any]] = Registry(
    "model",
    vanilla={"auxiliary": "none"},
    mse={"auxiliary": "mse"},
    detached={"auxiliary": "ranking", "detached": True},
    proposed={"auxiliary": "ranking"},
    proposed_halves={"auxiliary": "ranking", "pairs": "halves"},
    proposed_sum={"auxiliary": "ranking", "reduction": "sum"},
    **{"proposed+logits": {"auxiliary": "ranking", "reads_logits": True}},
)
"""The columns of every table: settings of the training and of the network that define a model.

vanilla and detached have the same classifier; the estimator of detached learns beside it.

Eq. 1 as printed is a sum over pairs (`proposed_sum`). `proposed` takes the mean, which makes the
same weight B (B - 1) times weaker, 4,032 at a batch of 64; `proposed_halves` pairs each sample of
one half of the batch with one of the other, as LL4AL does (Yoo and Kweon, 2019).
"""


def settings_of(model: str, config: type[ModelConfig] | type[TrainingConfig]) -> dict[str, Any]:
    """The settings that define a model and are fields of this configuration.

    A model `module:function` is trained jointly with this auxiliary loss of the user's own.

    >>> settings_of("proposed+logits", ModelConfig)
    {'reads_logits': True}
    """
    names = {field.name for field in fields(config)}
    settings = {"auxiliary": model} if ":" in model else MODELS[model]
    return {name: value for name, value in settings.items() if name in names}


PAPER_MODELS: tuple[str, ...] = ("vanilla", "mse", "detached", "proposed")
"""`detached` shows the effect of joint training in `proposed`."""


FAILURES = "failures"  # the acceptance scores of the measured set
MSP = "msp"  # the baseline of every acceptance score
MAX_OOD_FALSE_ALARMS = 0.05  # to which the OOD rule of a policy is calibrated


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


@dataclass(frozen=True, kw_only=True)
class OodSource:
    """An OOD set of given images, which are not derived from the data.

    Attributes:
        name: Describes the content; the paper's names are for the published sets.
        location: A folder of images, data as in `misgiving train DATA`, or `scikit-image`.
        stands_for: The set of the paper that this one stands in for; empty for none.
        about: Content and number of sources, for the report.
    """

    name: str
    location: str
    stands_for: str = ""
    about: str = ""

    @property
    def row(self) -> str:
        """The row of the paper's Table 1 beside which it is shown; empty for a set of one's own."""
        return self.stands_for or self.name


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """All settings of a reproduction.

    Attributes:
        trials: Independent repetitions; trial t has the seed SEED + t. With fewer than 5 no claim
            is decided. Default: 5 for digits, else the paper's 3.
        models: Models to compare: vanilla, mse, detached, proposed; and proposed_halves,
            proposed_sum (other readings of Eq. 1), proposed+logits (the estimator also reads the
            classifier's output), MODULE:FUNCTION (an auxiliary loss of your own). Default: the
            first four.
        scores: Failure scores of your own, as MODULE:FUNCTION, measured beside the others in 4.1.
        challenger (MODEL): Also compare this model with each other one, by paired intervals.
        in_distribution: In-distribution classes of Sections 4.2 and 4.3; Section 4.1 uses all
            classes. Default: the paper's five.
        unseen: Classes of 4.3 that no model is trained on. Default: the paper's three.
        masks (FOLDER): Folder of lesion masks (ID_segmentation.png), or `automatic` to locate
            lesions. Default: the masks beside the data, else automatic.
        learning_rates: Other learning rates at which 4.1 is repeated; `none` for no sweep. Default:
            3e-4,1e-3; for digits none.
        seed: Seed of the first trial.
        data: The images, as in `misgiving train DATA`.
        ood_sets: Out-of-distribution sets of 4.2 in the order of the table.
        sources: Those that are given; one with the name of a derived set replaces it.
        odin: ODIN's grid, and the set that it is tuned on (the paper's: NCT).
        model: The network.
        training: How to train it, before the changes of each model.
        images: Their preparation and split.
        replicates: Number of bootstrap samples for each interval.
        notes: Sentences about the choices, for the report.
    """

    trials: int = 3
    models: tuple[str, ...] = PAPER_MODELS
    scores: tuple[str, ...] = ()
    challenger: str | None = None
    in_distribution: tuple[str, ...]
    unseen: tuple[str, ...]
    masks: str | None = None
    learning_rates: tuple[float, ...] = ()
    seed: int = 0
    data: str
    ood_sets: tuple[str, ...]
    sources: tuple[OodSource, ...] = ()
    odin: OdinGrid
    model: ModelConfig
    training: TrainingConfig
    images: DataConfig
    replicates: int = 1000
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self, "trials", self.trials >= 1, "be at least 1")
        for name in self.models:
            settings_of(name, TrainingConfig)  # refuses a name that is unknown
        choices = ", ".join(self.models)
        require(self, "challenger", self.challenger in (None, *self.models), f"be one of {choices}")
        if len(self.in_distribution) < 2 or not self.unseen:
            raise UsageError(
                "sections 4.2 and 4.3 need at least two in-distribution classes and one unseen "
                "class; set ",
                *(Parameter("in_distribution"), " and ", Parameter("unseen")),
            )
        if both := set(self.in_distribution) & set(self.unseen):
            raise UsageError(f"class {min(both)!r} cannot be both in-distribution and unseen")


UNSEEN_SET = "unseen_classes"
"""Name, in results, of the images of all classes that a model was not trained on."""

CHOSEN = "best_on_tuning"
"""Name, in results, of the detector with the highest AUROC on the tuning set."""

OTHER_RATE = "learning_rate/"
"""Before the value, in the name of an experiment that repeats 4.1 at another learning rate."""

RATE_MODELS = ("vanilla", "proposed")
"""The models that are also trained at other learning rates, as the paper compares them."""


def learning_rate_of(experiment: str) -> float | None:
    """The learning rate that an experiment repeats 4.1 at; None for the protocol's own.

    >>> learning_rate_of("learning_rate/0.001"), learning_rate_of("generalization")
    (0.001, None)
    """
    return float(experiment.removeprefix(OTHER_RATE)) if experiment.startswith(OTHER_RATE) else None


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
