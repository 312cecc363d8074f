"""The paper's three experiments over trials: all settings, and the units of work they make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

from misgiving.configuration import Registry, require
from misgiving.data.bad_images import FAIL, ON_BAD_IMAGE
from misgiving.data.ood_sets.ood_set import OOD_SETS
from misgiving.data.preprocessing import AugmentationSettings
from misgiving.data.splits import SPLITS
from misgiving.errors import UsageError
from misgiving.reproduction.config import ModelName, ProtocolConfig
from misgiving.reproduction.ood_sources import DERIVED, PAPER_SETS, OodPlace
from misgiving.scores.odin import Odin
from misgiving.scores.odin_tuning import EPSILONS, TEMPERATURES, odin_grid
from misgiving.training.config import ModelConfig, TrainingConfig

SWEPT = ("vanilla", "proposed")  # "allows training with higher learning rates" compares these two
SWEEP = "learning_rate/"  # an experiment of this kind is named by its rate


def sweep_name(rate: float) -> str:
    """The experiment that sweeps this learning rate.

    >>> sweep_name(3e-4)
    'learning_rate/0.0003'
    """
    return f"{SWEEP}{rate:g}"


@dataclass(frozen=True, kw_only=True)
class OdinSearch:
    """The grid over which ODIN is tuned, and the set it is tuned on (the paper's: NCT)."""

    tuning_set: str
    temperatures: Sequence[float] = TEMPERATURES
    epsilons: Sequence[float] = EPSILONS

    def grid(self) -> list[Odin]:
        """All points of the grid."""
        return odin_grid(self.temperatures, self.epsilons)


@dataclass(frozen=True, kw_only=True)
class Protocol(ProtocolConfig):
    """All settings of a reproduction.

    Attributes:
        data: The images, as in `misgiving train DATA`.
        ood_sets: Out-of-distribution sets of 4.2 in the order of the table.
        places: Origins of those that are neither derived nor embedded.
        search: ODIN's grid and tuning set.
        model: The network.
        training: How to train it, before the changes of each model.
        preprocessing: Changes of the data's own preprocessing.
        augmentation: None for the data's own.
        split: As in `DataConfig`, with the next two.
        validation_share: Share of images that the paper's split holds out.
        on_bad_image: `fail` or `skip`.
        replicates: Number of bootstrap samples for each interval.
        notes: Sentences about the choices, for the report.
    """

    data: str
    ood_sets: tuple[str, ...]
    places: tuple[OodPlace, ...] = ()
    search: OdinSearch
    model: ModelConfig
    training: TrainingConfig
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    augmentation: AugmentationSettings | None = None
    split: str = "paper"
    validation_share: float = 0.1
    on_bad_image: str = FAIL
    replicates: int = 1000
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        SPLITS[self.split]
        ON_BAD_IMAGE[self.on_bad_image]
        distinct = bool(self.ood_sets) and len(set(self.ood_sets)) == len(self.ood_sets)
        require(self, "ood_sets", distinct, "name at least one OOD set, and each once")
        for name in set(self.ood_sets) - {place.name for place in self.places}:
            OOD_SETS[name]
        if self.search.tuning_set not in self.ood_sets:
            raise UsageError(
                f"`tuning_set` must be one of the OOD sets {', '.join(self.ood_sets)}, got "
                f"{self.search.tuning_set!r}"
            )

    def row(self, ood_set: str) -> str:
        """The row of the paper's Table 1 that an OOD set belongs to, or its own name."""
        rows = {place.name: place.row for place in self.places}
        return rows.get(ood_set, ood_set)


DIGITS = Protocol(
    data="digits",
    in_distribution=("0", "1", "2", "3", "4", "5", "6"),
    unseen=("7", "8", "9"),
    ood_sets=("histology", "photographs", "boxes"),
    search=OdinSearch(
        tuning_set="histology", temperatures=(1.0, 10.0, 1000.0), epsilons=(0.0, 0.0014, 0.004)
    ),
    model=ModelConfig(backbone="vgg16_mini", pretrained=False),
    training=TrainingConfig(epochs=40, batch_size=16, learning_rate=1e-3, device="cpu"),
    validation_share=0.85,
    models=get_args(ModelName),
    replicates=500,
    notes=(
        "Only 15 % of the digits are trained on, so that enough validation errors (at least 30) "
        "remain to be ranked: with the paper's 90 % this easy task would leave next to none.",
        "The learning rate is ten times the paper's, batches have 16 images and 40 epochs replace "
        "its 50, because this small network starts from random weights and has few images.",
    ),
)

DERMOSCOPY = Protocol(
    data="isic2019:ISIC_2019",
    in_distribution=("MEL", "NV", "BCC", "AK", "DF"),
    unseen=("BKL", "VASC", "SCC"),
    ood_sets=DERIVED,
    search=OdinSearch(tuning_set=DERIVED[0]),  # `protocol_for` takes NCT or its stand-in
    model=ModelConfig(),
    training=TrainingConfig(),
    learning_rates=(3e-4, 1e-3),
)
"""The paper's own settings, section 4; they are the defaults of everything named here."""

_HAM_CLASSES: dict[str, Any] = {
    "in_distribution": ("MEL", "NV", "BCC", "AKIEC", "DF"),  # actinic keratosis with Bowen's
    "unseen": ("BKL", "VASC"),
}
PROTOCOLS: Registry[Protocol] = Registry(
    "protocol",
    digits=DIGITS,
    isic2019=DERMOSCOPY,
    ham10000=replace(DERMOSCOPY, **_HAM_CLASSES),
    medmnist=replace(DERMOSCOPY, **_HAM_CLASSES),
    folder=DERMOSCOPY,
    table=DERMOSCOPY,
)
"""By kind of data; a folder or a table of one's own must name its classes."""


def protocol_for(
    data: str,
    *,
    model: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    places: tuple[OodPlace, ...] = (),
    tuning_set: str | None = None,
    **changes: Any,
) -> Protocol:
    """The protocol for some data, with changes.

    Args:
        data: As in `misgiving train DATA`.
        model: Changes of the network.
        training: Changes of the training.
        preprocessing: Changes of the data's own preprocessing.
        places: OOD sets that come from somewhere, in addition to the protocol's.
        tuning_set: The set to tune ODIN on; by default NCT, or what stands in for it.
        changes: Of the other settings.

    Raises:
        UsageError: There is no protocol for this data, or a value cannot be used.
    """
    kind = data.partition(":")[0]
    protocol = PROTOCOLS[kind]
    if changes.get("split") == "grouped" and "validation_share" in changes:
        raise UsageError("`validation_share` has no effect on the grouped split; leave it out")
    if kind in ("folder", "table") and not {"in_distribution", "unseen"} <= changes.keys():
        changes |= {"in_distribution": (), "unseen": ()}  # refused with the remedy
    named = dict.fromkeys((*protocol.ood_sets, *(place.name for place in places)))
    ood_sets = _ordered(tuple(named), places)
    search = replace(protocol.search, tuning_set=_tuning_set(protocol, places, tuning_set))
    return replace(
        protocol,
        data=data,
        ood_sets=ood_sets,
        places=places,
        search=search,
        model=replace(protocol.model, **(model or {})),
        training=replace(protocol.training, **(training or {})),
        preprocessing=preprocessing or {},
        **changes,
    )


def _ordered(names: tuple[str, ...], places: tuple[OodPlace, ...]) -> tuple[str, ...]:
    """In the order of the paper's Table 1, then the user's own sets as they were named."""
    rows = {place.name: place.row for place in places}

    def position(name: str) -> int:
        row = rows.get(name, name)
        return PAPER_SETS.index(row) if row in PAPER_SETS else len(PAPER_SETS)

    return tuple(sorted(names, key=position))


def _tuning_set(protocol: Protocol, places: tuple[OodPlace, ...], asked: str | None) -> str:
    if asked is not None or protocol.data == "digits":
        return asked or protocol.search.tuning_set
    for place in places:
        if place.row == "nct":
            return place.name
    raise UsageError(
        'ODIN is tuned on NCT: name its images by `ood="nct=FOLDER"`, or a stand-in by '
        f'`ood="nct:NAME=FOLDER"`, or choose `tuning_set` from {", ".join(DERIVED)}'
    )


class Unit(NamedTuple):
    """One model of one trial; `ood_detection` units also serve 4.3, which uses the same models."""

    experiment: str
    trial: int
    model: str

    @property
    def folder(self) -> Path:
        """Folder of the unit, relative to that of the reproduction."""
        return Path("units", self.experiment, f"trial-{self.trial}", self.model)

    def __str__(self) -> str:
        return f"{self.experiment}, trial {self.trial}, {self.model}"


def units(protocol: Protocol) -> list[Unit]:
    """All units, trial by trial, so that the first trial's comparison is ready first."""
    return [
        *(
            Unit(experiment, trial, model)
            for trial in range(protocol.trials)
            for experiment in ("generalization", "ood_detection")
            for model in protocol.models
        ),
        *(
            Unit(sweep_name(rate), trial, model)
            for trial in range(protocol.trials)
            for rate in protocol.learning_rates
            if rate != protocol.training.learning_rate
            for model in protocol.models
            if model in SWEPT
        ),
    ]


def chosen_units(
    protocol: Protocol,
    *,
    experiment: str | None = None,
    trial: int | None = None,
    model: str | None = None,
) -> list[Unit]:
    """The units of one experiment, trial or model; None means all of them.

    `new_classes` has the units of `ood_detection`; `learning_rate` stands for the whole sweep.

    Raises:
        UsageError: There is no such unit.
    """
    wanted = "ood_detection" if experiment == "new_classes" else experiment
    found = [
        unit
        for unit in units(protocol)
        if wanted in (None, unit.experiment, unit.experiment.partition("/")[0])
        and trial in (None, unit.trial)
        and model in (None, unit.model)
    ]
    if not found:
        experiments = list(dict.fromkeys(unit.experiment for unit in units(protocol)))
        raise UsageError(
            f"no unit has experiment {experiment or 'any'}, trial "
            f"{'any' if trial is None else trial}, model {model or 'any'}; there are experiments "
            f"{', '.join(experiments)}, trials 0 to {protocol.trials - 1}, models "
            f"{', '.join(protocol.models)}"
        )
    return found
