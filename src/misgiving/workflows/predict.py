"""`misgiving predict`: the decisions of a run or a bundle on image files.

Nothing here needs torch, unless the model is a run.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int64, UInt8

from misgiving.bundle.bundle import Bundle, is_bundle_not_run
from misgiving.data.bad_images import FAIL, ON_BAD_IMAGE, SKIP
from misgiving.data.datasets.dataset import file_key
from misgiving.data.datasets.folders import image_names
from misgiving.data.decoding import LOOK_AHEAD, in_order, read_bytes, returning_bad_images
from misgiving.data.preprocessing import Preprocessing
from misgiving.deferral.decisions import Decision, Decisions
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.expected_performance import ExpectedPerformance, expected_performance
from misgiving.errors import BadImage, DataError, UsageError
from misgiving.files import check_not_input, check_writable, default_cache, write_text
from misgiving.predictions.network import Squares
from misgiving.results.decision_journal import (
    DecisionJournal,
    Entry,
    JournalRows,
    Places,
    decision_journal,
)
from misgiving.results.decision_tables import DecidedNumbers, DecisionRow, DecisionTable, writer_for

if TYPE_CHECKING:
    from misgiving.checkpoint import Checkpoint

OnImage = Callable[[int, int], None]
Outputs = tuple[Float[np.ndarray, "n ..."], ...]  # as a `Network` gives them
Indices = Int64[np.ndarray, " n"]
EXCHANGED = 10_000  # decisions at a time, which bounds the memory
OF_DECISION = DecisionRow._fields[3:-1]  # as they are in a `Decision`


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictor:
    """A run or a bundle that is ready to decide.

    Attributes:
        decide: From preprocessed images to decisions.
        deferral: Decides; None: every image is deferred.
        preprocessing: Applied to an image before.
        fingerprint: Of the model and its policy.
        merged: Merges what all processes have found, by position of the image.
        rank: The number of this process among those of the command, from 0.
        processes: How many share the images.
    """

    decide: Callable[[Squares], Decisions]
    deferral: Deferral | None
    preprocessing: Preprocessing
    fingerprint: str
    merged: Callable[[dict[int, Any]], dict[int, Any]] = dict
    rank: int = 0
    processes: int = 1


def names_for(model: Path, images: Sequence[Path]) -> list[str]:
    """List the image files, after refusing a folder that is neither a run nor a bundle."""
    is_bundle_not_run(model)
    return image_names(images)


def predictor_of(
    model: Path, *, count: int = 0, device: str = "auto", devices: int = 1, nodes: int = 1
) -> Predictor:
    """Load the bundle or run in a folder, a run in as many processes as are asked for.

    Args:
        model: The folder.
        count: Number of images in all; many are scored by the run's graph (`cached_network`).
        device: Of a run.
        devices: Processes of a run on each machine.
        nodes: Machines.

    Raises:
        DataError: It is neither, or damaged.
        UsageError: A bundle with several processes or another device: it uses all cores.
    """
    if not is_bundle_not_run(model):
        return _predictor_of_run(model, count, device=device, devices=devices, nodes=nodes)
    if devices * nodes > 1:
        raise UsageError("`devices` and `nodes` are for runs; a bundle uses all cores already")
    if device not in ("auto", "cpu"):
        raise UsageError(f"`device={device}` is for runs; a bundle computes on the processor")
    bundle = Bundle.load(model)
    return Predictor(
        decide=bundle.decide_squares,
        deferral=bundle.deferral,
        preprocessing=bundle.preprocessing,
        fingerprint=_fingerprint(bundle.fingerprint, bundle.deferral),
    )


def _predictor_of_run(run: Path, count: int, *, device: str, devices: int, nodes: int) -> Predictor:
    from misgiving.checkpoint import load
    from misgiving.models import processes
    from misgiving.predictions.graphs import cached_network
    from misgiving.predictions.inference import fingerprint_of
    from misgiving.training.devices import start_processes

    checkpoint = load(run)
    fingerprint = fingerprint_of(checkpoint)
    deferral = Deferral.of_run(run, model=fingerprint)
    checkpoint.model.to(start_processes(device, devices=devices, nodes=nodes))
    network = cached_network(checkpoint, count, default_cache())
    return Predictor(
        decide=partial(_decide, network or partial(_outputs, checkpoint), checkpoint, deferral),
        deferral=deferral,
        preprocessing=checkpoint.preprocessing,
        fingerprint=_fingerprint(fingerprint, deferral),
        merged=processes.explain_lost_process()(processes.merged),
        rank=processes.rank(),
        processes=processes.count(),
    )


def _fingerprint(model: str, deferral: Deferral | None) -> str:
    return f"{model}|{deferral and deferral.fingerprint}"


def _decide(
    network: Callable[[Squares], Outputs],
    checkpoint: "Checkpoint",
    deferral: Deferral | None,
    squares: Squares,
) -> Decisions:
    """Run the model of a checkpoint on preprocessed images, and decide."""
    logits, predicted_losses, features, taps = network(squares)
    losses = predicted_losses if checkpoint.estimates_losses else None
    if deferral is None:
        return Decisions.without_policy(checkpoint.classes, logits, losses)
    return deferral.decide_outputs(logits, features, losses, taps)


def _outputs(checkpoint: "Checkpoint", squares: Squares) -> Outputs:
    """Outputs of the model itself, on its device, in the form that a graph gives them."""
    import torch

    from misgiving.models.joint import full_outputs_of
    from misgiving.predictions.inference import device_of

    images = torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255
    output = full_outputs_of(checkpoint.model, [images.to(device_of(checkpoint.model))])
    return tuple(of.numpy() for of in output)


class Predicted(NamedTuple):
    """Decisions, and the performance to expect of them; None where it cannot be estimated.

    The first of several processes has those of all.
    """

    table: DecisionTable
    expected: ExpectedPerformance | None


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
    batch_size: int = 64,
    on_image: OnImage = lambda *_: None,
    on_table: Callable[[DecisionTable], None] = lambda _: None,
    on_bad_image: str = FAIL,
) -> Predicted:
    """Decide on images, and write a table and a contact sheet.

    Each is written whole or not at all.

    Args:
        model: A run or a bundle.
        images: Files, and folders.
        out: The table; None for none. Decisions are kept beside it until it is there.
        resume: Start with the decisions that an earlier attempt has kept.
        contact_sheet: The page of images that were not accepted; None for none.
        device: Of a run.
        devices: Processes on each machine that share the images of a run.
        nodes: Machines.
        batch_size: Images in one forward pass.
        on_image: Called with the number of finished images and of all.
        on_table: Called with the table if `out` is None.
        on_bad_image: `fail`, or `skip` for a column that says why an image cannot be read.
    """
    _refuse_outputs(out, contact_sheet, resume=resume)
    names = names_for(model, images)
    if contact_sheet is not None:
        check_not_input(contact_sheet, map(Path, names), option="contact_sheet")
    predictor = predictor_of(model, count=len(names), device=device, devices=devices, nodes=nodes)
    with decision_journal(
        out,
        predictor.fingerprint,
        resume=resume,
        rank=predictor.rank,
        processes=predictor.processes,
    ) as journal:
        decisions = predict_images(
            predictor,
            names,
            batch_size=batch_size,
            on_image=on_image,
            on_bad_image=on_bad_image,
            journal=journal,
        )
        table = DecisionTable.of(
            decisions,
            has_policy=predictor.deferral is not None,
            unreadable=on_bad_image == SKIP,
        )
        if predictor.rank:  # the first process writes for all
            return Predicted(table, None)
        if out is None:
            on_table(table)
        else:
            writer_for(out)(out, table)
        if contact_sheet is not None:
            from misgiving.report.contact_sheet import contact_sheet as sheet_of

            write_text(contact_sheet, sheet_of(decisions))
    numbers = DecidedNumbers()
    deque(numbers.through(decisions), maxlen=0)
    return Predicted(table, expected_of(predictor.deferral, numbers))


def expected_of(deferral: Deferral | None, numbers: DecidedNumbers) -> ExpectedPerformance | None:
    """The performance to expect of images that were decided on; None without a policy."""
    return None if deferral is None else expected_performance(deferral, **numbers.arrays)


def _refuse_outputs(out: Path | None, contact_sheet: Path | None, *, resume: bool) -> None:
    """Refuse what cannot be written, before any work is done."""
    if resume and out is None:
        raise UsageError("`resume` needs `out`, the file to continue")
    if out is not None:
        writer_for(out)
        check_writable(out)
    if contact_sheet is None:
        return
    if out is not None and contact_sheet.resolve() == out.resolve():
        raise UsageError(
            f"{contact_sheet}: contact sheet and table cannot share a file; choose another"
        )
    check_writable(contact_sheet)


def predict_images(
    predictor: Predictor,
    names: Sequence[str],
    *,
    batch_size: int = 64,
    on_image: OnImage = lambda *_: None,
    on_bad_image: str = FAIL,
    journal: DecisionJournal | None = None,
) -> JournalRows:
    """Decide on image files, in their order.

    Args:
        predictor: A run or a bundle.
        names: Paths of the files.
        batch_size: Images in one forward pass.
        on_image: Called with the number of finished images and of all.
        on_bad_image: `fail`, or `skip` for a row without decision.
        journal: Decisions that are not made again; those that are made are added.

    Raises:
        BadImagesError: Images cannot be read, and they are not to be skipped, or none can.
    """
    rule = ON_BAD_IMAGE[on_bad_image]
    if batch_size < 1:
        raise UsageError(f"`batch_size` must be at least 1, got {batch_size}")
    journal = DecisionJournal() if journal is None else journal
    places = journal.find(map(_key_or_empty, names))
    kept = predictor.merged({predictor.rank: np.flatnonzero(places >= 0)})
    remaining = np.delete(np.arange(len(names)), np.concatenate([*kept.values()]))
    share = remaining[predictor.rank :: predictor.processes]
    done = len(names) - len(remaining)
    bad: dict[int, BadImage] = {}
    if done:
        on_image(done, len(names))
    for batch in _batches(names, share, predictor.preprocessing, batch_size):
        bad |= {index: one for index, one in batch if isinstance(one, BadImage)}
        read = {index: one for index, one in batch if isinstance(one, _ReadImage)}
        if read:
            squares = np.stack([image.pixels for image in read.values()])
            decided = predictor.decide(squares)
            places[list(read)] = journal.add(
                Entry(image.key, row_of(names[index], decision))
                for (index, image), decision in zip(read.items(), decided, strict=True)
            )
        done += len(batch)
        on_image(done, len(names))
    bad = predictor.merged(bad)
    rule([bad[index] for index in sorted(bad)], len(names))
    _gather(predictor, journal, places)
    return JournalRows(names, journal, places, {index: one.reason for index, one in bad.items()})


def _key_or_empty(name: str) -> str:
    """The key of an image file; empty if it is gone."""
    try:
        return file_key(Path(name))
    except DataError:
        return ""


def _gather(predictor: Predictor, journal: DecisionJournal, places: Places) -> None:
    """Add the decisions of all processes to the journal of the first."""
    for start in range(0, len(places) if predictor.processes > 1 else 0, EXCHANGED):
        some = range(start, min(start + EXCHANGED, len(places)))
        ours = {index: journal.at(int(places[index])) for index in some if places[index] >= 0}
        missing = {index: one for index, one in predictor.merged(ours).items() if index not in ours}
        if missing and predictor.rank == 0:
            places[list(missing)] = journal.add(missing.values())


class _ReadImage(NamedTuple):
    """A preprocessed image, and the key of its decision in the journal."""

    key: str
    pixels: UInt8[np.ndarray, "size size 3"]


def _batches(
    names: Sequence[str], share: Indices, preprocessing: Preprocessing, batch_size: int
) -> Iterator[list[tuple[int, _ReadImage | BadImage]]]:
    """Batches of images with their positions; threads read the next while one is decided on."""
    ours = [names[index] for index in share]

    def read(position: int) -> _ReadImage:
        path = Path(ours[position])
        key = file_key(path)  # comes first: a file that changes in between is read again
        return _ReadImage(key, preprocessing.from_file(read_bytes(path), ours[position]))

    ahead = max(batch_size, LOOK_AHEAD)
    readings: Generator[_ReadImage | BadImage] = in_order(
        returning_bad_images(read, ours), len(ours), ahead=ahead
    )
    with closing(readings):
        numbered = zip(map(int, share), readings, strict=True)
        while batch := list(islice(numbered, batch_size)):
            yield batch


def row_of(path: str, decision: Decision) -> DecisionRow:
    """The row of a table for a decision."""
    return DecisionRow(
        path,
        decision.predicted_class,
        decision.probability if math.isfinite(decision.probability) else None,
        *(getattr(decision, name) for name in OF_DECISION),
    )
