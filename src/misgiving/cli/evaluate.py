"""`misgiving evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from misgiving.cli.options import BadImages, Cache, Data, Devices, RunFolder, Values, command
from misgiving.cli.progress import Bar, progress_bars, say, show_table
from misgiving.configuration import default_cache

if TYPE_CHECKING:
    from misgiving.metrics.subgroups import Subgroup


@command
def evaluate(
    run: RunFolder,
    data: Data,
    settings: Annotated[Values, BadImages, Devices],
    ood: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FOLDER",
            help="A folder of out-of-distribution images, such as `b_box=FOLDER`. Default name: "
            "that of the folder. Can be repeated.",
        ),
    ] = None,
    set_name: Annotated[
        str | None,
        typer.Option(
            "--set",
            help="Measure only this set of the run's split, such as validation or test. Default: "
            "all images that the model was not trained on.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for measurements.csv and predictions. Default: RUN/evaluation.",
        ),
    ] = None,
    cache: Cache = None,
) -> None:
    """Measure a trained model on images that it was not trained on.

    Leaves out the images of DATA on which the model was trained (recognised by their content) and
    reports how many. Measures classification, loss estimation (predicted loss, and MSP for
    comparison) and, for each --ood folder, the five OOD metrics of several detectors, with
    in-distribution as the positive class.

    If the run has a policy (`misgiving calibrate`), also measures its decisions: shares accepted,
    deferred and called OOD, and errors among the accepted, by class and by every column of
    metadata; groups that fare significantly worse are named. Details are in `decisions.csv` and
    `subgroups.csv`.
    """
    from misgiving.workflows.evaluate import evaluate_run

    out = out or run / "evaluation"
    stop = f"stopped; {out} contains what was finished, as whole files, or else nothing new"
    with progress_bars(stop) as progress:
        evaluation = evaluate_run(
            run,
            data,
            ood=ood or [],
            set_name=set_name,
            out=out,
            cache=cache or default_cache(),
            on_image=Bar(progress, "preparing images").at,
            **settings,
        )
    for sentence in evaluation.summary:
        say(sentence)
    measurements = ((*row[:3], f"{row.value:.4g}") for row in evaluation.measurements)
    show_table(("dataset", "detector", "metric", "value"), measurements)
    if evaluation.subgroups:
        header = ("group", "cases", "accepted", "wrong among accepted", "deferred", "fares worse")
        show_table(header, map(_subgroup_row, evaluation.subgroups))
    say(f"wrote {out}")


def _subgroup_row(group: "Subgroup") -> tuple[object, ...]:
    error = f"{group.error:.0%} ({group.error_lower:.0%} to {group.error_upper:.0%})"
    return (
        f"{group.name}: {group.value}",
        group.cases,
        f"{group.coverage:.0%} ({group.coverage_lower:.0%} to {group.coverage_upper:.0%})",
        error if group.accepted else "-",
        f"{group.deferral:.0%}",
        ", ".join(group.worse),
    )
