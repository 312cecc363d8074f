"""Run a part of the study, or as much of it as there is time for, and write its results.

    python study/study.py modern isic2019:FOLDER --weights FILE --ood FOLDER --out RUNS

A unit is one model of one experiment and trial. Its rows go into study/PART.csv as soon as it is
finished; units with rows there are not run again, so the study resumes on another machine too. The
part `confirmation` and the variants that the package no longer has were run by commit 44cd948.
"""

import argparse
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from study_epochs import BEST_EPOCH, CURVES, add_curves, measure_epochs
from study_folds import (
    FOLDS,
    IMAGES,
    LOSS_SUM,
    RIGHT,
    SOURCES,
    VARIANCE,
    class_counts,
    joint_variances,
    with_areas,
)
from study_hypotheses import RATIO, Result, read_results
from study_results import write_page

from misgiving.files import default_cache
from misgiving.metrics.selective import ACCEPTED_ERRORS
from misgiving.reproduction.config import MODELS, Protocol, Unit
from misgiving.reproduction.protocol import chosen_units, ood_sources, protocol_for
from misgiving.reproduction.ray import on_ray
from misgiving.reproduction.runner import MEASURES, on_this_machine, reproduce_units
from misgiving.reproduction.tables import table_of, write_table
from misgiving.reproduction.trial_data import Progress, TrialData
from misgiving.training.config import RECIPES

HERE = Path(__file__).resolve().parent
# In worker processes too, which import this script.
MEASURES["generalization"] = measure_epochs
MODELS["proposed_0.1"] = {"auxiliary": "ranking", "auxiliary_weight": 0.1}


class Setting(NamedTuple):
    """Changes of a part's training and network, or other models than the part's."""

    training: Mapping[str, Any] = {}
    model: Mapping[str, Any] = {}
    models: tuple[str, ...] = ()


class Part(NamedTuple):
    """A part of the study; a unit is one model of one experiment and trial, at one setting.

    Attributes:
        models: Names of the models.
        model: Settings of the network.
        training: Settings of the training.
        images: Settings of split and preprocessing.
        trials: Number of trials.
        experiments: Those that are run.
        settings: Changes, by name.
        without_4_2: Models that Section 4.2 is not run for.
        threads: Of each unit, on which rounding depends; None for an equal share of the cores.
    """

    models: tuple[str, ...]
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    images: Mapping[str, Any]
    trials: int = 5
    experiments: frozenset[str] = frozenset({"generalization", "ood_detection"})
    settings: Mapping[str, Setting] = {"": Setting()}
    without_4_2: tuple[str, ...] = ()
    threads: int | None = None


def changes_of(config: object) -> dict[str, Any]:
    """The settings of a configuration that are not its defaults."""
    usual = type(config)()
    return {name: x for name, x in vars(config).items() if x != getattr(usual, name)}


MODERN = changes_of(RECIPES["modern"].training)
NETWORK = changes_of(RECIPES["modern"].model)
MODERN_IMAGES = {"color_constancy": "none", "crop": 1.0, "split": "grouped"}
GRID = {
    f"lambda {weight:g}, margin {margin:g}": Setting({"auxiliary_weight": weight, "margin": margin})
    for weight in (0.1, 0.5, 2.5)
    for margin in (0.1, 1.0, 10.0)
}
PARTS = {
    "modern": Part(
        (
            "vanilla", "mse", "detached", "proposed", "proposed_halves", "proposed_sum",
            "proposed+logits",
        ),
        NETWORK,
        {**MODERN, "epochs": 6},
        {**MODERN_IMAGES, "image_size": 128},
        without_4_2=("detached",),  # it has the classifier of `vanilla`, so its detection
    ),
    "folds": Part(
        ("vanilla", "proposed", "proposed_sum"),
        NETWORK,
        MODERN,
        {**MODERN_IMAGES, "image_size": 96, "split": "folds"},
        trials=FOLDS,
    ),
    "paper": Part(
        ("vanilla", "mse", "proposed", "proposed_sum"),
        {"backbone": "vgg16"},
        {"epochs": 3, "decay_every": 1, "precision": "bf16-mixed"},
        {"split": "grouped", "image_size": 64},
        without_4_2=("mse",),  # it names one class for every image
    ),
    "paper_folds": Part(
        ("vanilla", "proposed", "proposed_0.1", "mse", "proposed_sum"),
        {"backbone": NETWORK["backbone"]},
        {"keep": "best"},  # the last epoch is measured too
        {"split": "folds", "image_size": 64},
        trials=FOLDS,
        experiments=frozenset({"generalization"}),
        threads=1,
    ),
    "sensitivity": Part(
        ("proposed",),
        NETWORK,
        {**MODERN, "epochs": 4},
        {**MODERN_IMAGES, "image_size": 64},
        trials=3,
        experiments=frozenset({"generalization"}),
        settings={
            **GRID,
            "estimator's rate x 1": Setting({"estimator_rate": 1.0}),
            "estimator's rate x 100": Setting({"estimator_rate": 100.0}),
            "last tap": Setting(model={"taps": (4,)}),
            "last two taps": Setting(model={"taps": (3, 4)}),
            "no estimator": Setting(models=("vanilla",)),
        },
    ),
}  # fmt: skip
NEEDED = ("vanilla", "proposed")
"""The models of the hypotheses, which run first."""
ODIN = {
    "temperatures": (1.0, 10.0, 100.0, 1000.0),
    "epsilons": tuple(round(0.0005 * step, 4) for step in range(9)),
}
KEPT = {
    "accuracy", "balanced_accuracy", "spearman", "aurc", "coverage_at_risk/0.1", "error_auroc",
    "auroc", "coverage", *ACCEPTED_ERRORS, "nll", "ece", RATIO, IMAGES, RIGHT, VARIANCE,
    LOSS_SUM, "loss", "weighted_loss",
}  # fmt: skip
KEPT_OF_ODIN = {"fpr_at_tpr95", "detection_error", "aupr_in", "aupr_out"}


def protocol_of(part: Part, setting: Setting, data: str, weights: Path, ood: Path) -> Protocol:
    """All settings of a part of the study."""
    with_setting = [
        f"nct:histology={ood / 'nct_crc_he'}",
        f"colon={ood / 'lc25000_colon'}",
        f"clin_skin:clinical_skin={ood / 'clinical_skin'}",
        "imagenet:photographs=scikit-image",
    ]
    return protocol_for(
        data,
        model={**part.model, **setting.model, "weights": weights},
        training={**part.training, **setting.training, "device": "cpu"},
        images=part.images,
        odin=ODIN,
        sources=ood_sources(with_setting),
        trials=part.trials,
        models=setting.models or part.models,
        learning_rates=(),
    )


def in_order(part: Part, protocol: Protocol) -> list[Unit]:
    """Units of a part: those first that the hypotheses need, trial by trial; then other models."""

    def rank(unit: Unit) -> tuple[int, bool, int]:
        later = 0 if unit.model in NEEDED else 1 + protocol.models.index(unit.model)
        return later, unit.experiment != "generalization", unit.trial

    chosen = (
        unit
        for unit in chosen_units(protocol)
        if unit.experiment == "generalization" or unit.model not in part.without_4_2
    )
    return sorted(chosen, key=rank)


def kept_rows(results: Iterable[Result]) -> list[Result]:
    """The rows that the tables of the study use."""
    return [
        row
        for row in results
        if row.metric in KEPT or (row.detector == "odin" and row.metric in KEPT_OF_ODIN)
    ]


def unit_of(row: Result) -> tuple[str, int, str]:
    """The unit that a row comes from: one unit may measure two experiments."""
    units = {"new_classes": "ood_detection", BEST_EPOCH: "generalization"}
    return units.get(row.experiment, row.experiment), row.trial, row.model


def add_rows(table: Path, results: Iterable[Result]) -> None:
    """Put the rows of finished units into a table, in place of older rows of these units."""
    new = kept_rows(results)
    units = {unit_of(row) for row in new}
    earlier = read_results(table) if table.exists() else []
    rows = [row for row in earlier if unit_of(row) not in units] + new
    write_table(table, table_of(sorted(rows), "results.csv"))


def with_setting(row: Result, setting: str) -> Result:
    """A row whose experiment is the setting, where the part has several."""
    return row._replace(experiment=setting) if setting else row


def main() -> None:
    """Run the units that have no rows yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("data")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--ood", type=Path, required=True, help="folder of the given OOD sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--tables", type=Path, default=HERE, help="folder of PART.csv")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--ray", metavar="ADDRESS")
    parser.add_argument("--trial", type=int)
    parser.add_argument("--again", action="store_true", help="measure finished units again")
    parser.add_argument("--collect", action="store_true", help="only read units that are finished")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # trainings are saved
    part = PARTS[options.part]
    if options.ray and part.training.get("keep") == "best":
        parser.error("a cluster would measure the best epoch alone: use --jobs")
    for name, setting in part.settings.items():
        protocol = protocol_of(part, setting, options.data, options.weights, options.ood)
        run_setting(part, protocol, name, options)


def run_setting(part: Part, protocol: Protocol, setting: str, options: argparse.Namespace) -> None:
    """Run the units of one setting that have no rows yet, and keep their rows."""
    out, table = options.out / options.part / setting, options.tables / f"{options.part}.csv"
    done = {unit_of(row) for row in read_results(table)} if table.exists() else set()
    units = [
        unit
        for unit in in_order(part, protocol)
        if options.trial in (None, unit.trial)
        and unit.experiment in part.experiments
        and (options.again or (setting or unit.experiment, unit.trial, unit.model) not in done)
    ]

    def keep(unit: Unit) -> None:
        rows = rows_of(trial_data, unit, out, options.tables / SOURCES)
        add_rows(table, [with_setting(row, setting) for row in rows])
        if protocol.training.keep == "best":
            add_curves(table.with_name(f"{options.part}{CURVES}"), out, unit)
        write_page(options.tables)
        label = setting or unit.experiment
        print(f"finished {label}, trial {unit.trial}, {unit.model}", flush=True)

    trial_data = TrialData(protocol, options.cache, Progress(on_unit=keep))
    if options.collect:
        for unit in units:
            if (out / unit.folder / "results.csv").exists():
                keep(unit)
        return
    here = on_this_machine(jobs=options.jobs, threads=part.threads)
    run = on_ray(options.ray) if options.ray else here
    reproduce_units(trial_data, out, run=run, chosen=units)


def rows_of(trial_data: TrialData, unit: Unit, out: Path, sources: Path) -> list[Result]:
    """The rows of a finished unit; in folds also those of all folds, when these are finished."""
    size = trial_data.size(unit.experiment)
    of_split = Result(*unit, "", "", RATIO, size["measured"] / size["trained"])
    rows = [of_split, *read_results(out / unit.folder / "results.csv")]
    if trial_data.protocol.images.split == "folds":
        rows += class_counts(out, unit)
        if unit.experiment == "ood_detection":
            rows += joint_variances(with_areas(sources, out, unit))
    return [*dict.fromkeys(rows)]


if __name__ == "__main__":
    main()
