"""Run the study of docs/study, or as much of it as there is time for, and write its results.

    python benchmarks/study.py modern isic2019:FOLDER --weights FILE --ood FOLDER --out RUNS

A unit is one model of one experiment and trial. Its rows go into docs/study/PART.csv as soon as it
is finished; units with rows there are not run again, so the study resumes on another machine too.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from study_results import RATIO, write_page

from misgiving.configuration import default_cache
from misgiving.reproduction.protocol import (
    Protocol,
    chosen_units,
    ood_sources,
    protocol_for,
)
from misgiving.reproduction.ray import on_ray
from misgiving.reproduction.runner import on_this_machine, reproduce_units
from misgiving.reproduction.trial_data import Progress, TrialData
from misgiving.results.formats import read_table, write_table
from misgiving.results.schema import Result, Unit
from misgiving.training.recipes import RECIPES

HERE = Path(__file__).resolve().parent.parent / "docs" / "study"
TRIALS = 5
MODELS = {
    "modern": (
        "vanilla", "mse", "detached", "posthoc", "proposed", "proposed_halves", "proposed_sum",
        "proposed+logits", "held_out",
    ),
    "paper": ("vanilla", "mse", "proposed", "proposed_sum"),
}  # fmt: skip
NETWORKS = {
    "modern": {**RECIPES["modern"].model},
    "paper": {"backbone": "vgg16"},
}
TRAININGS = {
    "modern": {**RECIPES["modern"].training, "epochs": 6},
    "paper": {"epochs": 3, "decay_every": 1},
}
IMAGES = {
    "modern": {**RECIPES["modern"].images, "image_size": 128},
    "paper": {"split": "grouped", "image_size": 64},
}
FIRST = ("vanilla", "proposed", "posthoc", "proposed+logits", "held_out")
"""The models that run first in each trial; the hypotheses need the first two."""
ODIN = {
    "temperatures": (1.0, 10.0, 100.0, 1000.0),
    "epsilons": tuple(round(0.0005 * step, 4) for step in range(9)),
}
KEPT = {
    "accuracy", "balanced_accuracy", "spearman", "aurc", "coverage_at_risk", "error_auroc",
    "auroc", "fpr_at_tpr95", "detection_error", "aupr_in", "aupr_out", "coverage",
    "error_among_accepted", "nll", "ece", RATIO,
}  # fmt: skip


def protocol_of(part: str, data: str, weights: Path, ood: Path) -> Protocol:
    """All settings of a part of the study."""
    named = [
        f"nct:histology={ood / 'nct_crc_he'}",
        f"colon={ood / 'lc25000_colon'}",
        f"clin_skin:clinical_skin={ood / 'clinical_skin'}",
        "imagenet:photographs=scikit-image",
    ]
    return protocol_for(
        data,
        model={**NETWORKS[part], "weights": weights},
        training={**TRAININGS[part], "device": "cpu"},
        images=IMAGES[part],
        odin=ODIN,
        sources=ood_sources(named),
        trials=TRIALS,
        models=MODELS[part],
        learning_rates=(),
    )


def in_order(protocol: Protocol) -> list[Unit]:
    """Units of a part: trial by trial, those first that the hypotheses need."""

    def rank(unit: Unit) -> tuple[int, int, bool, bool]:
        measured = unit.experiment == "generalization"
        needed = unit.model in (FIRST if measured else FIRST[:2])
        # `posthoc` takes the classifier of `vanilla`, which should be finished by then
        return not needed, unit.trial, not measured, unit.model == "posthoc"

    return sorted(chosen_units(protocol), key=rank)


def kept_rows(results: Iterable[Result]) -> list[Result]:
    """The rows that the tables of the study use."""
    return [row for row in results if row.metric in KEPT]


def unit_of(row: Result) -> tuple[str, int, str]:
    """The unit that a row comes from; unseen classes are measured with OOD detection."""
    experiment = "ood_detection" if row.experiment == "new_classes" else row.experiment
    return experiment, row.trial, row.model


def add_rows(table: Path, found: Iterable[Result]) -> None:
    """Put the rows of finished units into a table, in place of older rows of these units."""
    new = kept_rows(found)
    units = {unit_of(row) for row in new}
    known = read_table(table, Result) if table.exists() else []
    rows = [row for row in known if unit_of(row) not in units] + new
    write_table(table, Result, sorted(rows))


def main() -> None:
    """Run the units that have no rows yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=MODELS)
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
    given = parser.parse_args()
    protocol = protocol_of(given.part, given.data, given.weights, given.ood)
    out, table = given.out / given.part, given.tables / f"{given.part}.csv"
    done = {unit_of(row) for row in read_table(table, Result)} if table.exists() else set()
    wanted = [
        unit
        for unit in in_order(protocol)
        if given.trial in (None, unit.trial)
        and (given.again or (unit.experiment, unit.trial, unit.model) not in done)
    ]

    def keep(unit: Unit) -> None:
        ratio = trial_data.split_ratio(unit.experiment)
        of_split = Result(*unit, "", "", RATIO, ratio)
        add_rows(table, [of_split, *read_table(out / unit.folder / "results.csv", Result)])
        write_page(given.tables)
        print(f"finished {unit.experiment}, trial {unit.trial}, {unit.model}", flush=True)

    trial_data = TrialData(protocol, given.cache, Progress(on_unit=keep))
    if given.collect:
        for unit in wanted:
            if (out / unit.folder / "results.csv").exists():
                keep(unit)
        return
    run = on_ray(given.ray) if given.ray else on_this_machine(jobs=given.jobs)
    reproduce_units(trial_data, out, run=run, chosen=wanted)


if __name__ == "__main__":
    main()
