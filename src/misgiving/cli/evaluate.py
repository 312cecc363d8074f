"""`misgiving evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from misgiving.cli.options import (
    BadImages,
    Cache,
    Context,
    DataOrNone,
    Devices,
    RunOrPredictions,
    Values,
    command,
    is_prediction_file,
    refuse_data,
    refuse_image_options,
    require_data,
)
from misgiving.cli.progress import Bar, progress_bars, say
from misgiving.errors import UsageError, visible


@command
def evaluate(
    context: Context,
    run: RunOrPredictions,
    settings: Annotated[Values, BadImages, Devices],
    cache: Cache,
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
            help="Folder for report.html, measurements.csv and predictions. Default: "
            "RUN/evaluation; required for a file of predictions.",
        ),
    ] = None,
) -> None:
    """Measure a trained model on images that it was not trained on, and write a report.

    Leaves out the images of DATA on which the model was trained (recognised by their content), near
    duplicates of them, and new images of the same patients or lesions, and reports how many.
    Measures classification, loss estimation (predicted loss, and MSP for comparison) and, for each
    --ood folder, the OOD metrics of several detectors, with in-distribution as the positive
    class.

    If the run has a policy (`misgiving calibrate`), also measures its decisions: shares accepted,
    deferred and called OOD, and errors among the accepted, by class and by every column of
    metadata; groups that fare significantly worse are named. Details are in `decisions.csv` and
    `subgroups.csv`. Images of groups that the policy was fitted on are left out of this, near
    duplicates of its images only where these are in DATA, too; the others are `policy_test` in
    `measurements.csv`, where errors are those of the classes that the policy names.

    `report.html` is one file that needs no network: the findings in five sentences, risk and
    coverage, classes and groups in the order of harm, confusion, reliability, and the images of
    the most confident errors and of the most doubtful answers.

    A file of predictions in place of RUN and DATA is measured in the same way; `calibrate --help`
    describes its columns.
    """
    if is_prediction_file(run):
        refuse_data(run, data)
        refuse_image_options(context, run)
        if out is None:
            raise UsageError(f"{run}: give `out`, the folder for the measurements")
        from misgiving.workflows.predictions import evaluate_table

        evaluation = evaluate_table(run, out=out, policy=policy, ood=ood or [], set_name=set_name)
    else:
        images = require_data(run, data)
        if policy is not None:
            raise UsageError("`policy` is for a file of predictions; a run has its own")
        from misgiving.workflows.evaluate import evaluate_run

        out = out or run / "evaluation"
        stop = f"stopped; {out} contains what was finished, in complete files"
        with progress_bars(stop) as progress:
            evaluation = evaluate_run(
                run,
                images,
                ood=ood or [],
                set_name=set_name,
                out=out,
                cache=cache,
                on_image=Bar(progress, "preparing images").at,
                on_predicted=Bar(progress, "predicting").at,
                **settings,
            )
    for sentence in evaluation.summary:
        say(sentence)
    for sentence in evaluation.findings:
        typer.echo(visible(sentence))
    say(f"the report is {evaluation.report}" if evaluation.report else "there is no report")
    say(f"every measurement is in {out}")
