"""The files that `misgiving predict` writes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from misgiving.data.bad_images import FAIL, SKIP
from misgiving.errors import UsageError
from misgiving.files import refuse_unwritable, write_text
from misgiving.workflows.contact_sheet import contact_sheet as sheet_of
from misgiving.workflows.predict import Predicted, Report, answerer_of, predict_images
from misgiving.workflows.prediction_tables import PredictionTable, table_of, writer_for
from misgiving.workflows.unfinished_answers import Kept, kept_beside


def predict_files(
    model: Path,
    images: Sequence[Path],
    *,
    out: Path | None = None,
    resume: bool = False,
    contact_sheet: Path | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    on_image: Report = lambda *_: None,
    on_table: Callable[[PredictionTable], None] = lambda _: None,
    on_bad_image: str = FAIL,
) -> list[Predicted]:
    """Answer for images, and write a table and a sheet of them, each whole or not at all.

    Args:
        model: A run or a bundle.
        images: Files, and folders.
        out: The table; None for none. Answers are kept beside it until it is there.
        resume: Go on from answers that an earlier attempt has kept.
        contact_sheet: The page of images that were not accepted; None for none.
        device: Where a run computes.
        devices: Processes on each machine that share the images of a run.
        nodes: Machines.
        on_image: Told how many images are done, of how many.
        on_table: Told the table where it is not to be written.
        on_bad_image: `fail`, or `skip` for a column that says why an image cannot be read.
    """
    if resume and out is None:
        raise UsageError("--resume goes on with a file; name it by --out")
    deliver = on_table if out is None else partial(writer_for(out), out)
    if contact_sheet is not None:
        _refuse_sheet(contact_sheet, out)
    answerer = answerer_of(model, device=device, devices=devices, nodes=nodes)
    if not answerer.team.is_first:  # it keeps and writes for all
        out = contact_sheet = None
        deliver = on_table
    with _kept(out, answerer.fingerprint, resume=resume) as kept:
        predicted = predict_images(
            answerer, images, on_image=on_image, on_bad_image=on_bad_image, kept=kept
        )
        table = table_of(predicted, decides=answerer.decides, unreadable=on_bad_image == SKIP)
        deliver(table)
        if contact_sheet is not None:
            write_text(contact_sheet, sheet_of(predicted))
    return predicted


def _refuse_sheet(sheet: Path, out: Path | None) -> None:
    """Refuse what cannot be written, before anything is answered for it."""
    if out is not None and sheet.resolve() == out.resolve():
        raise UsageError(f"--contact-sheet {sheet}: is --out too; name another file")
    refuse_unwritable(sheet)


@contextmanager
def _kept(out: Path | None, fingerprint: str, *, resume: bool) -> Iterator[Kept]:
    if out is None:
        yield Kept()
    else:
        with kept_beside(out, fingerprint, resume=resume) as kept:
            yield kept
