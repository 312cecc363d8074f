"""`misgiving evaluate` and `misgiving predict`: what a trained model is good for."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from misgiving.cli.bad_images import say_skipped
from misgiving.cli.options import (
    Cache,
    Data,
    Device,
    Devices,
    Nodes,
    OnBadImage,
    RunFolder,
    cache_folder,
    say,
)
from misgiving.cli.progress import Bar, progress_bars

if TYPE_CHECKING:
    from misgiving.metrics.subgroups import Subgroup
    from misgiving.results.decision_tables import DecisionTable
    from misgiving.results.schema import Measurement


def evaluate(
    run: RunFolder,
    data: Data,
    ood: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="A folder of images of another kind, to be told apart. Can be repeated.",
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="Measure only this part of the run's split (train, validation). Default: all "
            "images that the model was not trained on."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where to write measurements.csv and predictions. Default: RUN/evaluation.",
        ),
    ] = None,
    on_bad_image: OnBadImage = "fail",
    cache: Cache = None,
    device: Device = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
) -> None:
    """Measure a trained model on images that it was not trained on.

    Leaves out the images of DATA on which the model was trained (by content), and says how many
    that was. Classification, loss estimation (predicted loss, and MSP beside it) and, for each
    --ood folder, the five OOD metrics of several detectors with in-distribution as positives.

    Where the run has a policy (`misgiving calibrate`), also what it decides: shares accepted,
    deferred and called OOD, errors among the accepted, and all of that by class and by every
    column of metadata; groups that get a clearly worse deal are named. `decisions.csv` and
    `subgroups.csv` have the details.
    """
    from misgiving.workflows.evaluate import evaluate_run

    with progress_bars() as progress:
        evaluation = evaluate_run(
            run,
            data,
            ood=ood or [],
            set_name=part,
            out=out or run / "evaluation",
            cache=cache_folder(cache),
            device=device,
            devices=devices,
            nodes=nodes,
            on_image=Bar(progress, "preparing images").at,
            on_bad_image=on_bad_image,
        )
    for sentence in evaluation.account:
        say(sentence)
    _print_measurements(evaluation.measurements)
    if evaluation.subgroups:
        _print_subgroups(evaluation.subgroups)
    say(f"wrote {out or run / 'evaluation'}")


def predict(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A folder that `train` or `export` wrote."),
    ],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGES...", help="Image files, or folders of them.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write the table: .csv, .parquet or .jsonl. Default: the screen, as CSV.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where an earlier attempt to write FILE was stopped."),
    ] = False,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write the images that were not accepted as one page to look through, worst "
            "first.",
        ),
    ] = None,
    on_bad_image: OnBadImage = "fail",
    device: Device = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
) -> None:
    """Predict the class and the loss of images, as a table.

    Columns: path, predicted_class, probability (of that class), predicted_loss (higher = rather
    wrong; trained by ranking it has no unit; empty for a model without a trained loss estimator).

    Where the run has a policy (`misgiving calibrate`), the probability is calibrated, and there are
    also: decision (accept, defer or ood), reason (in words), error_probability (that the class
    is wrong), expected_loss (cross-entropy, in nats), ood_p_value (share of images like the
    calibration cases that look as unusual or more so), acceptance_score (higher means more likely
    correct) and ood_score (lower means more likely out-of-distribution).

    With --on-bad-image skip, an image that cannot be read has a row too: the last column,
    unreadable, says why, and the others are empty.

    In CSV, a text that a spreadsheet would compute, such as the path `=1.png` or `-2.png`, has an
    apostrophe before it; Parquet and JSON lines have the path as it is.

    Until FILE is whole, finished answers are kept in FILE.unfinished.jsonl, from which --resume
    goes on, whatever has stopped it. A bundle (`misgiving export`) needs no torch.
    """
    from misgiving.errors import BadImage
    from misgiving.workflows.contact_sheet import worst_first
    from misgiving.workflows.predict import predict_files

    stop = "stopped" if out is None else "stopped; say --resume to go on from here"
    with progress_bars(stop) as progress:

        def show(table: "DecisionTable") -> None:
            if out is None:
                progress.stop()  # while it runs, it takes what is written to the screen
                typer.echo(table.csv(), nl=False)

        table = predict_files(
            model,
            images,
            out=out,
            resume=resume,
            contact_sheet=contact_sheet,
            device=device,
            devices=devices,
            nodes=nodes,
            on_image=Bar(progress, "predicting").at,
            on_table=show,
            on_bad_image=on_bad_image,
        )
    decisions = table.decisions
    say_skipped([BadImage(one.path, one.unreadable) for one in decisions if one.unreadable])
    if out is not None:
        say(f"wrote {out} ({len(decisions)} images)")
    if contact_sheet is not None:
        say(f"wrote {contact_sheet} ({len(worst_first(decisions))} images that were not accepted)")


def _print_subgroups(subgroups: Sequence["Subgroup"]) -> None:
    table = Table("group", "cases", "accepted", "wrong among accepted", "deferred", "clearly worse")
    for group in subgroups:
        table.add_row(
            f"{group.name}: {group.value}",
            str(group.cases),
            f"{group.coverage:.0%} ({group.coverage_lower:.0%} to {group.coverage_upper:.0%})",
            f"{group.error:.0%} ({group.error_lower:.0%} to {group.error_upper:.0%})"
            if group.accepted
            else "-",
            f"{group.deferral:.0%}",
            ", ".join(group.worse),
        )
    Console().print(table)


def _print_measurements(measurements: Sequence["Measurement"]) -> None:
    table = Table("dataset", "detector", "metric", "value")
    for measurement in measurements:
        table.add_row(*measurement[:3], f"{measurement.value:.4g}")
    Console().print(table)
