"""`misgiving evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from misgiving.cli.options import (
    BadImages,
    Cache,
    DataOrNone,
    Devices,
    RunOrPredictions,
    Values,
    command,
    is_prediction_file,
    refuse_data,
    require_data,
)
from misgiving.cli.progress import Bar, progress_bars, say, show_table
from misgiving.configuration import default_cache
from misgiving.errors import UsageError

if TYPE_CHECKING:
    from misgiving.metrics.subgroups import Subgroup


@command
def evaluate(
    run: RunOrPredictions,
    settings: Annotated[Values, BadImages, Devices],
    data: DataOrNone = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="POLICY",
            help="For a file of predictions: the policy to measure, a folder that `calibrate` "
            "wrote. A run has its own.",
        ),
    ] = None,
    ood: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PATH",
            help="A folder of out-of-distribution images, such as `b_box=FOLDER`; for a file of "
            "predictions, another such file. Default name: that of the folder or file. Can be "
            "repeated.",
        ),
    ] = None,
    set_name: Annotated[
        str | None,
        typer.Option(
            "--set",
            help="Measure only this set of the run's split, or of the column set, such as "
            "validation or test. Default: all images that the model was not trained on; of a file "
            "of predictions its set test, if it has one.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for measurements.csv and predictions. Default: RUN/evaluation; required "
            "for a file of predictions.",
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

    A file of predictions in place of RUN and DATA is measured in the same way; `calibrate --help`
    describes its columns.
    """
    if is_prediction_file(run):
        from misgiving.workflows.predictions import evaluate_table

        refuse_data(run, data)
        if out is None:
            raise UsageError(f"{run}: give `out`, the folder for the measurements")
        evaluation = evaluate_table(run, out=out, policy=policy, ood=ood or [], set_name=set_name)
    else:
        from misgiving.workflows.evaluate import evaluate_run

        if policy is not None:
            raise UsageError("`policy` is for a file of predictions; a run has its own")
        out = out or run / "evaluation"
        with progress_bars() as progress:
            evaluation = evaluate_run(
                run,
                require_data(run, data),
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
