"""`misgiving predict`."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from misgiving.cli.failures import say_skipped
from misgiving.cli.options import (
    IMAGES,
    BadImages,
    Context,
    Devices,
    TableFile,
    Values,
    command,
    is_prediction_file,
    refuse_image_options,
)
from misgiving.cli.progress import Bar, progress_bars, say
from misgiving.errors import BadImage, UsageError

if TYPE_CHECKING:
    from misgiving.deferral.expected_performance import ExpectedPerformance
    from misgiving.results.decision_tables import DecisionRow, DecisionTable


@command
def predict(
    context: Context,
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A folder that `train` or `export` wrote; for predictions, also one that "
            "`calibrate` wrote.",
        ),
    ],
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGES...", help=IMAGES),
    ],
    settings: Annotated[Values, BadImages, Devices],
    out: TableFile = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an earlier attempt to write FILE that stopped."),
    ] = False,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Also write the images that were not accepted as one page, worst first.",
        ),
    ] = None,
) -> None:
    """Predict the class and loss of each image, and write a table.

    Columns: path, predicted_class, probability (of that class), predicted_loss (higher means more
    likely wrong; trained by ranking, it has no unit; empty for a model without a trained loss
    estimator).

    If the run has a policy (`misgiving calibrate`), the probability is calibrated, and there are
    also: decision (accept, defer or ood), reason (in words), error_probability (that the class
    is wrong), expected_loss (cross-entropy, in nats), ood_p_value (share of images like the
    calibration cases that look at least as unusual), acceptance_score (higher means more likely
    correct) and ood_score (lower means more likely out-of-distribution).

    With a policy, the command also estimates how many answers are right, without labels, and says
    whether the images differ from the calibration cases: then the estimate is not to be trusted.

    With --on-bad-image skip, an image that cannot be read has a row too: the last column,
    unreadable, has the reason, and the others are empty.

    In CSV, text that a spreadsheet would evaluate as a formula, such as the path `=1.png` or
    `-2.png`, is prefixed with an apostrophe; Parquet and JSON lines have the path unchanged.

    Until FILE is complete, finished rows are kept in FILE.unfinished.jsonl, from which --resume
    continues; with --devices or --nodes, each further process has such a file, too. A bundle
    (`misgiving export`) needs no torch.

    For a file of predictions, of which `calibrate --help` describes the columns, MODEL is a policy,
    and each row has a decision.
    """
    from misgiving.workflows.predict import predict_files

    stop = "stopped" if out is None else "stopped; add --resume to continue"
    with progress_bars(stop) as progress:

        def show(table: "DecisionTable") -> None:
            if out is None:
                progress.stop()  # while it runs, it captures what is written to the screen
                typer.echo(table.csv(), nl=False)

        if any(map(is_prediction_file, images)):
            _decide_table(context, model, images, out, show)
            return
        table, expected = predict_files(
            model,
            images,
            out=out,
            resume=resume,
            contact_sheet=contact_sheet,
            on_image=Bar(progress, "predicting").at,
            on_table=show,
            **settings,
        )
    _say_what_was_written(table.decisions, out, contact_sheet)
    _say_expected(expected)


def _say_what_was_written(
    decisions: Iterable["DecisionRow"],
    out: Path | None,
    contact_sheet: Path | None,
) -> None:
    bad, counts = [], Counter[str | None]()
    for one in decisions:
        counts[one.decision] += 1
        if one.unreadable:
            bad.append(BadImage(one.path, one.unreadable))
    say_skipped(bad)
    if out is not None:
        say(f"wrote {out} ({counts.total()} images)")
    if contact_sheet is not None:
        not_accepted = counts["defer"] + counts["ood"]
        say(f"wrote {contact_sheet} ({not_accepted} images that were not accepted)")


def _decide_table(
    context: Any,
    policy: Path,
    files: list[Path],
    out: Path | None,
    show: Callable[["DecisionTable"], None],
) -> None:
    """Decide on a file of predictions."""
    from misgiving.workflows.predictions import predict_table

    if len(files) > 1:
        raise UsageError(f"give one file of predictions alone, not {len(files)} files")
    refuse_image_options(context, files[0])
    count, expected = predict_table(policy, files[0], out=out, on_table=show)
    if out is not None:
        say(f"wrote {out} ({count} images)")
    _say_expected(expected)


def _say_expected(expected: "ExpectedPerformance | None") -> None:
    from misgiving.report.drift import performance_sentences

    for sentence in performance_sentences(expected) if expected else ():
        say(sentence)
