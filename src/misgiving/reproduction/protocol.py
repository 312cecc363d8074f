"""The paper's three experiments over trials: all settings, and the units of work they make."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from misgiving.data.ood_sets import OOD_SETS
from misgiving.errors import UsageError
from misgiving.evaluation.evaluate import POLICY_SET
from misgiving.evaluation.measures import UNSEEN_SET
from misgiving.registry import Registry
from misgiving.reproduction.config import RATE, RATE_MODELS, OdinGrid, ProtocolConfig, Unit
from misgiving.scores.odin_tuning import EPSILONS, TEMPERATURES
from misgiving.training.config import (
    DataConfig,
    ModelConfig,
    TrainingConfig,
)

PAPER_SETS = ("nct", "b_box", "b_box_70", "b_box_70_image", "imagenet", "clin_skin", "derm_skin")
"""The rows of the paper's Table 1 in its order; `b_box_70_image` is its B-Box-70 read otherwise."""

EXPERIMENTS = ("generalization", "ood_detection")  # those with images of their own

PUBLISHED = "published set"
DERIVED = tuple(name for name in PAPER_SETS if name in OOD_SETS)
RESERVED = ("train", "validation", "tune", "calibrate", "test", UNSEEN_SET, POLICY_SET)
"""Names of other sets in the results, which no OOD set can have."""
SET_NAME = re.compile(r"(?!unseen-)[A-Za-z0-9][\w.-]*")  # which names a file, too


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
class Protocol(ProtocolConfig):
    """All settings of a reproduction.

    Attributes:
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
        super().__post_init__()
        for name in set(self.ood_sets) - {source.name for source in self.sources}:
            OOD_SETS[name]
        if self.odin.tuning_set not in self.ood_sets:
            raise UsageError(
                f"`tuning_set` must be one of the OOD sets {', '.join(self.ood_sets)}, got "
                f"{self.odin.tuning_set!r}"
            )

    def row(self, ood_set: str) -> str:
        """The row of the paper's Table 1 that an OOD set belongs to, or its own name."""
        rows = {source.name: source.row for source in self.sources}
        return rows.get(ood_set, ood_set)

    def origin(self, ood_set: str) -> str:
        """Origin of an OOD set, as in `SetFacts`."""
        if all(source.name != ood_set for source in self.sources):
            return "made here"
        return PUBLISHED if ood_set in PAPER_SETS else "given"


DIGITS = Protocol(
    data="digits",
    in_distribution=("0", "1", "2", "3", "4", "5", "6"),
    unseen=("7", "8", "9"),
    ood_sets=("histology", "photographs", "boxes"),
    odin=OdinGrid(
        tuning_set="histology", temperatures=(1.0, 10.0, 1000.0), epsilons=(0.0, 0.0014, 0.004)
    ),
    model=ModelConfig(backbone="vgg16_mini", pretrained=False),
    training=TrainingConfig(
        epochs=12, batch_size=16, learning_rate=1e-3, decay_every=3, device="cpu"
    ),
    images=DataConfig(validation_share=0.5),
    trials=5,
    replicates=500,
    notes=(
        "Half of the digits are trained on, so that enough validation errors remain to be ranked "
        "(20 or more in each trial of each model when this was chosen): with the paper's 90 % this "
        "easy task would leave next to none. With 15 %, a "
        "difference over trials would count 5.7 test images for each training image, and nothing "
        "could be decided.",
        "The learning rate is ten times the paper's, a batch has 16 images, and training takes 12 "
        "epochs with a decay every 3 (the paper: 50 and 10), because this small network starts "
        "from random weights and has few images.",
    ),
)

DERMOSCOPY = Protocol(
    data="isic2019:ISIC_2019",
    in_distribution=("MEL", "NV", "BCC", "AK", "DF"),
    unseen=("BKL", "VASC", "SCC"),
    ood_sets=DERIVED,
    # `protocol_for` takes NCT or its stand-in
    odin=OdinGrid(tuning_set=DERIVED[0], temperatures=TEMPERATURES, epsilons=EPSILONS),
    model=ModelConfig(),
    training=TrainingConfig(),
    images=DataConfig(),
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


def ood_sources(sets: Sequence[str], about: Sequence[str] = ()) -> tuple[OodSource, ...]:
    """OOD sets from `NAME=PLACE` or `STANDS_FOR:NAME=PLACE`, with descriptions `NAME=TEXT`.

    >>> ood_sources(["nct:histology=tiles"], ["histology=two sources"])[0].stands_for
    'nct'
    """
    texts = dict(_name_and_value("about", text) for text in about)
    sources: dict[str, OodSource] = {}
    for text in sets:
        names, location = _name_and_value("ood", text)
        stands_for, _, name = names.rpartition(":")
        if not SET_NAME.fullmatch(name) or name in (*RESERVED, *sources):
            raise UsageError(f"`ood` {text}: {name!r} cannot be the name of a set; choose another")
        if stands_for and stands_for not in PAPER_SETS:
            choices = ", ".join(PAPER_SETS)
            raise UsageError(
                f"`ood` {text}: {stands_for!r} is not a set of the paper; choose from {choices}"
            )
        described = texts.pop(name, "")
        sources[name] = OodSource(
            name=name, location=location, stands_for=stands_for, about=described
        )
    for name in texts:
        raise UsageError(f"`about` {name}=...: no `ood` set has this name")
    return tuple(sources.values())


def _name_and_value(parameter: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError(f"`{parameter}` must be written NAME=..., got {text!r}")
    return name, value


def protocol_for(
    data: str,
    *,
    model: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    images: Mapping[str, Any] | None = None,
    odin: Mapping[str, Any] | None = None,
    sources: tuple[OodSource, ...] = (),
    tuning_set: str | None = None,
    **changes: Any,
) -> Protocol:
    """The protocol for some data, with changes.

    Args:
        data: As in `misgiving train DATA`.
        model: Changes of the network.
        training: Changes of the training.
        images: Changes of their preparation and split.
        odin: Changes of ODIN's tuning.
        sources: OOD sets in addition to the protocol's.
        tuning_set: The set to tune ODIN on; by default NCT, or what stands in for it.
        changes: Of the other settings.

    Raises:
        UsageError: There is no protocol for this data, or a value cannot be used.
    """
    kind = data.partition(":")[0]
    protocol = PROTOCOLS[kind]
    if kind in ("folder", "table") and not {"in_distribution", "unseen"} <= changes.keys():
        changes |= {"in_distribution": (), "unseen": ()}  # refused with the remedy
    return replace(
        protocol,
        data=data,
        ood_sets=_ordered(protocol.ood_sets, sources),
        sources=sources,
        odin=replace(
            protocol.odin, tuning_set=_tuning_set(protocol, sources, tuning_set), **(odin or {})
        ),
        model=replace(protocol.model, **(model or {})),
        training=replace(protocol.training, **(training or {})),
        images=replace(protocol.images, **(images or {})),
        **changes,
    )


def _ordered(names: tuple[str, ...], sources: tuple[OodSource, ...]) -> tuple[str, ...]:
    """In the order of the paper's Table 1, then the user's own sets as they were named."""
    rows = {name: name for name in names} | {source.name: source.row for source in sources}
    order = {name: position for position, name in enumerate(PAPER_SETS)}
    return tuple(sorted(rows, key=lambda name: order.get(rows[name], len(order))))


def _tuning_set(protocol: Protocol, sources: tuple[OodSource, ...], asked: str | None) -> str:
    if asked is not None or protocol.data == "digits":
        return asked or protocol.odin.tuning_set
    for source in sources:
        if source.row == "nct":
            return source.name
    raise UsageError(
        'ODIN is tuned on NCT: name its images by `ood="nct=FOLDER"`, or a stand-in by '
        f'`ood="nct:NAME=FOLDER"`, or choose `tuning_set` from {", ".join(DERIVED)}'
    )


def rate_experiments(protocol: Protocol) -> list[str]:
    """The experiments at other learning rates; the protocol's own rate needs none."""
    own = protocol.training.learning_rate
    names = (f"{RATE}{rate:g}" for rate in protocol.learning_rates if rate != own)
    return list(dict.fromkeys(names))


def units(protocol: Protocol) -> list[Unit]:
    """All units, trial by trial, so that the first trial's comparison is ready first."""
    swept = [model for model in protocol.models if model in RATE_MODELS]
    return [
        Unit(experiment, trial, model)
        for experiments, models in (
            (EXPERIMENTS, protocol.models),
            (rate_experiments(protocol), swept),
        )
        for trial in range(protocol.trials)
        for experiment in experiments
        for model in models
    ]


def chosen_units(
    protocol: Protocol,
    *,
    experiment: str | None = None,
    trial: int | None = None,
    model: str | None = None,
) -> list[Unit]:
    """The units of one experiment, trial or model; None means all of them.

    `new_classes` has the units of `ood_detection`; `learning_rate` means all other rates.

    Raises:
        UsageError: There is no such unit.
    """
    asked_experiment = "ood_detection" if experiment == "new_classes" else experiment
    matching = [
        unit
        for unit in units(protocol)
        if asked_experiment in (None, unit.experiment, unit.experiment.partition("/")[0])
        and trial in (None, unit.trial)
        and model in (None, unit.model)
    ]
    if not matching:
        raise UsageError(
            f"no unit has `experiment` {experiment}, `trial` {trial} and `model` {model}; choose "
            f"from {', '.join((*EXPERIMENTS, *rate_experiments(protocol)))}, trials 0 to "
            f"{protocol.trials - 1}, models {', '.join(protocol.models)}"
        )
    return matching
