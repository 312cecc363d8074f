"""`misgiving predict`."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from misgiving.cli.failures import say_skipped
from misgiving.cli.options import (
    PREDICTION_FILE,
    BadImages,
    Context,
    Device,
    Values,
    check_source,
    command,
    is_prediction_file,
)
from misgiving.cli.progress import Bar, progress_bars, say
from misgiving.cli.sources import read_file
from misgiving.errors import BadImage, UsageError
from misgiving.files import check_not_input, check_writable, write_text

if TYPE_CHECKING:
    from misgiving.deferral.decision_tables import DecisionRow
    from misgiving.deferral.deferral import Deferral


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
        typer.Argument(
            metavar="IMAGES...",
            help=f"Image files, or folders of them; or one {PREDICTION_FILE}",
        ),
    ],
    settings: Annotated[Values, BadImages, Device],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File for the table: .csv, .parquet or .jsonl. Default: the screen, as CSV.",
        ),
    ] = None,
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
    likely wrong; trained by ranking, it has no unit; empty without a trained loss estimator).

    If the run has a policy (`misgiving calibrate`), the probability is calibrated, and there are
    also: decision (accept, defer or ood), reason (in words), error_probability (that the class
    is wrong), expected_loss (cross-entropy, in nats), ood_p_value (share of images like the
    calibration cases that look at least as unusual), acceptance_score (higher means more likely
    correct) and ood_score (lower means more likely out-of-distribution). The command also estimates
    how many answers are right, without labels, and says whether the images differ from the
    calibration cases: then the estimate is not to be trusted.

    With --on-bad-image skip, the last column, unreadable, has the reason why an image cannot be
    read. Until FILE is complete, finished parts are kept in FILE.parts: the same command resumes.
    A bundle (`misgiving export`) needs no torch.

    For a file of predictions, of which `calibrate --help` describes the columns, MODEL is a policy,
    and each row has a decision.
    """
    from misgiving.deferral.decision_tables import writer_for

    is_file = any(map(is_prediction_file, images))
    names = images if is_file else _image_names(model, images)
    for file, option in ((out, "out"), (contact_sheet, "contact_sheet")):
        if file is not None:
            check_writable(file, option=option)
            check_not_input(file, names, option=option)
    if out is not None and contact_sheet is not None and out.resolve() == contact_sheet.resolve():
        raise UsageError(f"{out}: is both table and sheet; choose another `contact_sheet`")
    if out is not None:
        writer_for(out)
    if is_file:
        _decide_predictions(context, model, images, out)
    else:
        _decide_images(model, list(map(str, names)), out, contact_sheet, **settings)


def _image_names(model: Path, images: list[Path]) -> list[Path]:
    """Files that are given or are in the given folders, after a look at the model."""
    from misgiving.bundle.bundle import is_bundle
    from misgiving.data.datasets.folders import image_names

    is_bundle(model)  # refuses another folder before images are listed
    return list(map(Path, image_names(images)))


def _decide_images(
    model: Path,
    names: list[str],
    out: Path | None,
    contact_sheet: Path | None,
    *,
    device: str,
    on_bad_image: str,
) -> None:
    """Decide on image files."""
    from misgiving.bundle.decide_files import decide_files, load_model

    stop = "stopped" if out is None else "stopped; the same command resumes"
    with _parts(out) as parts:
        with progress_bars(stop) as progress:
            loaded = load_model(model, count=len(names), device=device)
            decided = decide_files(
                loaded,
                names,
                parts,
                on_image=Bar(progress, "predicting").at,
                on_bad_image=on_bad_image,
            )
        deferral = loaded.deferral
        _write(decided, out, deferral, unreadable=on_bad_image == "skip")
        if contact_sheet is not None:
            from misgiving.report.contact_sheet import contact_sheet as sheet_of

            write_text(contact_sheet, sheet_of(decided))
        say_skipped([BadImage(row.path, row.unreadable) for row in decided if row.unreadable])
        _say_what_was_written(decided, out, contact_sheet, deferral)
        shutil.rmtree(parts, ignore_errors=True)


@contextmanager
def _parts(out: Path | None) -> Iterator[Path]:
    """The folder for the parts of a table, beside it or for this command alone."""
    if out is None:
        with TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        yield out.with_name(f"{out.name}.parts")


def _decide_predictions(context: Any, policy: Path, files: list[Path], out: Path | None) -> None:
    """Decide on a file of predictions."""
    from misgiving.bundle.decide_files import decide_rows
    from misgiving.deferral.deferral import Deferral

    if len(files) > 1:
        raise UsageError(f"give one file of predictions alone, not {len(files)} files")
    check_source(context, files[0])
    deferral = Deferral.load(policy)
    rows = list(decide_rows(deferral, read_file(files[0], deferral)))
    _write(rows, out, deferral)
    _say_what_was_written(rows, out, None, deferral)


def _write(
    rows: "Iterable[DecisionRow]",
    out: Path | None,
    deferral: "Deferral | None",
    *,
    unreadable: bool = False,
) -> None:
    """Write the table, or show it."""
    from misgiving.deferral.decision_tables import columns_of, csv_table, writer_for

    columns = columns_of(has_policy=deferral is not None, unreadable=unreadable)
    if out is None:
        typer.echo("".join(csv_table(columns, rows)), nl=False)
    else:
        writer_for(out)(out, columns, rows)


def _say_what_was_written(
    rows: "Iterable[DecisionRow]",
    out: Path | None,
    contact_sheet: Path | None,
    deferral: "Deferral | None",
) -> None:
    """Name the files, and the performance to expect where there is a policy."""
    from misgiving.deferral.drift import expected_performance
    from misgiving.report.sentences import performance_sentences

    counts = Counter(row.decision for row in rows)
    if out is not None:
        say(f"wrote {out} ({counts.total()} images)")
    if contact_sheet is not None:
        not_accepted = counts["defer"] + counts["ood"]
        say(f"wrote {contact_sheet} ({not_accepted} images that were not accepted)")
    if deferral is not None and (expected := expected_performance(deferral, rows)):
        for sentence in performance_sentences(expected, deferral):
            say(sentence)
