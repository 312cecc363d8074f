"""The paper's three experiments over trials: all settings, and the units of work they make."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from misgiving.errors import Parameter, UsageError, separated
from misgiving.evaluation.measures import POLICY_SET
from misgiving.losses import auxiliary_loss
from misgiving.registry import Registry, own_function
from misgiving.reproduction.config import (
    OTHER_RATE,
    RATE_MODELS,
    UNSEEN_SET,
    OdinGrid,
    OodSource,
    Protocol,
    Unit,
    settings_of,
)
from misgiving.reproduction.ood_sets import OOD_SETS
from misgiving.reproduction.published import PAPER_NAMES
from misgiving.scores.odin import EPSILONS, TEMPERATURES
from misgiving.training.config import DataConfig, ModelConfig, Recipe, TrainingConfig

EXPERIMENTS = ("generalization", "ood_detection")  # those with images of their own

DERIVED = tuple(name for name in PAPER_NAMES if name in OOD_SETS)
RESERVED = ("train", "validation", "tune", "calibrate", "test", UNSEEN_SET, POLICY_SET)
"""Names of other sets in the results, which no OOD set can have."""
SET_NAME = re.compile(r"(?!unseen-)[A-Za-z0-9][\w.-]*")  # which names a file, too


DIGITS = Protocol(
    data="digits",
    in_distribution=("0", "1", "2", "3", "4", "5", "6"),
    unseen=("7", "8", "9"),
    ood_sets=("histology", "photographs", "boxes"),
    odin=OdinGrid(
        tuning_set="histology", temperatures=(1.0, 10.0, 1000.0), epsilons=(0.0, 0.0014, 0.004)
    ),
    model=ModelConfig(backbone="vgg16_mini", pretrained=False, dropout=0.0),
    training=TrainingConfig(
        epochs=28, batch_size=32, learning_rate=2e-3, decay_every=7, device="cpu"
    ),
    images=DataConfig(validation_share=0.75),
    trials=5,
    replicates=500,
    notes=(
        "A quarter of the digits is trained on, so that trainings end in a few seconds and errors "
        "remain to be ranked: with the paper's 90 % this easy task would leave next to none. A "
        "difference over trials counts 3 test images for each training image.",
        "The learning rate is twenty times the paper's, a batch has 32 images, training takes 28 "
        "epochs with a decay every 7 (the paper: 50 and 10), and there is no dropout (0.4), "
        "because this small network starts from random weights and has few images. With dropout "
        "it was still learning at the end. Without it twice the epochs changed the balanced "
        "accuracy by less than a point on average over the trials, of each of vanilla, mse and "
        "proposed; that was the rule by which these settings were chosen.",
    ),
)

DERMOSCOPY = Protocol(
    data="isic2019:ISIC_2019",
    in_distribution=("MEL", "NV", "BCC", "AK", "DF"),
    unseen=("BKL", "VASC", "SCC"),
    ood_sets=DERIVED,
    odin=OdinGrid(tuning_set="nct", temperatures=TEMPERATURES, epsilons=EPSILONS),
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
            raise UsageError(
                Parameter("ood"), f" {text}: {name!r} cannot be the name of a set; choose another"
            )
        if stands_for not in ("", *PAPER_NAMES):
            raise UsageError(
                Parameter("ood"),
                f" {text}: {stands_for!r} is not a set of the paper; choose from "
                f"{', '.join(PAPER_NAMES)}",
            )
        sources[name] = OodSource(
            name=name, location=location, stands_for=stands_for, about=texts.get(name, "")
        )
    return tuple(sources.values())


def _name_and_value(parameter: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError(Parameter(parameter), f" must be written NAME=..., got {text!r}")
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
    rows = dict(zip(protocol.ood_sets, protocol.ood_sets, strict=True))
    rows |= {source.name: source.row for source in sources}
    order = [*PAPER_NAMES, *rows.values()]  # a user's own sets come last
    ood_sets = tuple(sorted(rows, key=lambda name: order.index(rows[name])))
    usual = protocol.odin.tuning_set
    tuned_on = tuning_set or next((s.name for s in sources if s.row == usual), usual)
    if tuned_on not in ood_sets:
        raise UsageError(
            *("ODIN is tuned on an OOD set: choose ", Parameter("tuning_set")),
            f" from {', '.join(ood_sets)}, or name the images of NCT by ",
            *(Parameter("ood", "nct=FOLDER"), ", or a stand-in by "),
            Parameter("ood", "nct:NAME=FOLDER"),
        )
    recipe = Recipe(images=protocol.images, model=protocol.model, training=protocol.training)
    recipe = recipe.configure(images or {}, model or {}, training or {})
    protocol = replace(
        protocol,
        data=data,
        ood_sets=ood_sets,
        sources=sources,
        odin=replace(protocol.odin, tuning_set=tuned_on, **(odin or {})),
        **vars(recipe),
        **changes,
    )
    for name in protocol.scores:
        own_function(name)
    for name in protocol.models:
        auxiliary_loss(settings_of(name, TrainingConfig)["auxiliary"])  # fails if there is none
    return protocol


def rate_experiments(protocol: Protocol) -> list[str]:
    """The experiments at other learning rates; the protocol's own rate needs none."""
    own = protocol.training.learning_rate
    names = (f"{OTHER_RATE}{rate:g}" for rate in protocol.learning_rates if rate != own)
    return list(dict.fromkeys(names))


def units(protocol: Protocol) -> list[Unit]:
    """All units, trial by trial, so that the first trial's comparison is ready first."""
    models = protocol.models
    # Detectors read the classifier, and that of detached is the same as that of vanilla.
    told_apart = [it for it in models if it != "detached" or "vanilla" not in models]
    swept = [model for model in models if model in RATE_MODELS]
    rates = {name: swept for name in rate_experiments(protocol)}
    return [
        Unit(experiment, trial, model)
        for part in (dict(zip(EXPERIMENTS, (models, told_apart), strict=True)), rates)
        for trial in range(protocol.trials)
        for experiment, its_models in part.items()
        for model in its_models
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
        asked = {"experiment": experiment, "trial": trial, "model": model}
        given = {name: str(value) for name, value in asked.items() if value is not None}
        experiments = ", ".join((*EXPERIMENTS, *rate_experiments(protocol)))
        raise UsageError(
            *("no unit has ", *separated(map(Parameter, given, given.values()), " and ")),
            f"; choose from {experiments}, "
            f"trials 0 to {protocol.trials - 1}, models {', '.join(protocol.models)}",
        )
    return matching
