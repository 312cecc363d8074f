"""Run the units of a reproduction: one model of one experiment and trial each.

The folder of a unit appears when it is finished. It is used again as long as settings, data and
code are the same, so a reproduction that was killed resumes. Where only the code that measures is
another, the trained model is measured again.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from misgiving.checkpoint import Checkpoint, load
from misgiving.errors import DataError, StoppedError, TrainingError
from misgiving.evaluation.measures import Measurement
from misgiving.files import whole_folder, write_json
from misgiving.predictions.inference import predictions_of
from misgiving.predictions.record import Predictions
from misgiving.registry import Registry
from misgiving.reproduction.config import Protocol, Unit
from misgiving.reproduction.generalization import measure_generalization, measure_other_rate
from misgiving.reproduction.ood_detection import measure_detectors
from misgiving.reproduction.protocol import units
from misgiving.reproduction.tables import predictions_path, table_of, write_table
from misgiving.reproduction.trial_data import (
    MEASURING,
    TrainedUnit,
    TrialData,
    read_record,
)
from misgiving.reproduction.workers import usual_jobs, worker_pool
from misgiving.training.processes import device_named
from misgiving.training.resume import resume_path
from misgiving.training.train_run import initial_model, train_run

Record = dict[str, Any]
"""Settings, data and code that a unit depends on."""

Runner = Callable[[TrialData, Mapping[Unit, Record], Path], None]
"""Finishes units in the reproduction's folder, and reports progress."""

MEASURES: Registry[Callable[[TrainedUnit], dict[str, list[Measurement]]]] = Registry(
    "experiment",
    generalization=measure_generalization,
    ood_detection=measure_detectors,
    learning_rate=measure_other_rate,
)
"""Measurements by experiment; a learning rate is named after the slash of an experiment."""


def reproduce_units(
    trial_data: TrialData,
    out: Path,
    *,
    run: Runner | None = None,
    chosen: Iterable[Unit] | None = None,
) -> None:
    """Finish every unit that is not finished yet; each appears whole in `out/units`.

    Args:
        trial_data: The prepared images.
        out: Folder of the reproduction.
        run: Runs the units; None for one after the other in this process.
        chosen: Only these units; None for all.

    Raises:
        UsageError: A unit is finished with other settings or data.
        TrainingError: A process was killed, as happens when memory runs out.
    """
    records = trial_data.records(units(trial_data.protocol) if chosen is None else chosen, out)
    todo = {unit: it for unit, it in records.items() if not is_finished(out / unit.folder, it)}
    trial_data.progress.on_start(len(todo), len(records))
    if todo:
        (run or on_this_machine())(trial_data, todo, out)


def on_this_machine(*, jobs: int = 1, threads: int | None = None) -> Runner:
    """Run units one after the other in this process, or in several processes.

    Results depend on the number of threads: it decides the order in which sums are rounded.

    Args:
        jobs: Units that run at the same time.
        threads: Threads of each unit; by default torch's own number for one job, and an equal
            share of the cores for several.
    """
    share = torch.get_num_threads() if jobs == 1 else max(1, (os.cpu_count() or 1) // jobs)
    each = threads or share

    def run(trial_data: TrialData, records: Mapping[Unit, Record], out: Path) -> None:
        if jobs == 1:
            for unit, record in records.items():
                finish(trial_data, unit, out, record, threads=each)
                trial_data.progress.on_unit(unit)
            return
        work = partial(_finish_in_process, trial_data.protocol, trial_data.cache, each, out)
        with worker_pool(jobs) as pool:
            futures = {pool.submit(work, unit, record): unit for unit, record in records.items()}
            for future in as_completed(futures):
                future.result()
                trial_data.progress.on_unit(futures[future])

    return run


def jobs_for(protocol: Protocol, count: int) -> int:
    """The number of units, of so many, to run at the same time on this machine.

    One process leaves cores idle between the steps of a training and while it measures. Units on a
    GPU would share its memory.
    """
    if device_named(protocol.training.device).type != "cpu":
        return 1
    return max(1, min(count, usual_jobs()))


def is_finished(folder: Path, record: Record) -> bool:
    """Check that a unit's folder has the results of exactly these settings, data and code."""
    return read_record(folder / "unit.json") == record


def finish(trial_data: TrialData, unit: Unit, out: Path, record: Record, *, threads: int) -> None:
    """Train and measure a unit, and put its folder in its place.

    A model that was trained in the same way is only measured. The number of threads is written
    beside the results and is not part of the record: a reproduction may resume with another number,
    as it may on another machine.
    """
    started, earlier = time.monotonic(), out / unit.folder
    with whole_folder(earlier) as unfinished, threads_at(threads):
        checkpoint = trained_before(earlier, record)
        if checkpoint is not None:
            shutil.copytree(earlier / "run", unfinished / "run")
            started -= read_record(earlier / "timing.json").get("seconds", 0.0)
        results = _results(trial_data, unit, unfinished, checkpoint)
        write_table(unfinished / "results.csv", table_of(results, "results.csv"))
        seconds = round(time.monotonic() - started, 1)
        write_json(unfinished / "timing.json", {"seconds": seconds, "threads": threads})
        write_json(unfinished / "unit.json", record)
    resume_path(out / unit.folder).unlink(missing_ok=True)


def trained_before(folder: Path, record: Record) -> Checkpoint | None:
    """The model of a unit's folder if it was trained as in this record.

    None where it is damaged, where training diverged, and where its weights are not kept.
    """
    earlier = read_record(folder / "unit.json")
    if any(earlier.get(name) != record[name] for name in record.keys() - MEASURING):
        return None
    try:
        return load(folder / "run")
    except DataError:
        return None


@contextmanager
def threads_at(threads: int) -> Iterator[None]:
    """Limit torch, and the libraries of numpy and scipy, to this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):  # torch does not limit them
            yield
    finally:
        torch.set_num_threads(before)


def _finish_in_process(
    protocol: Protocol, cache: Path, threads: int, out: Path, unit: Unit, record: Record
) -> None:
    if _stopped.is_set():
        raise StoppedError("stopped before this unit")
    trial_data = trial_data_of_process(protocol, cache, threads)
    try:
        finish(trial_data, unit, out, record, threads=threads)
    except StoppedError:
        _stopped.set()
        raise


_stopped = Event()  # a worker that was told to end must not start with the unit that is next


@lru_cache(maxsize=1)
def trial_data_of_process(protocol: Protocol, cache: Path, threads: int) -> TrialData:
    """Prepared images, kept for all units of this process."""
    with threads_at(threads):
        return TrialData(protocol, cache)


def _results(
    trial_data: TrialData, unit: Unit, folder: Path, checkpoint: Checkpoint | None
) -> list[tuple[object, ...]]:
    """Train, unless there is a trained model, and measure; a diverged training is a result too."""
    setup, measured = trial_data.setup(unit), trial_data.evaluation_sets.measured
    try:
        if checkpoint is None:
            side = setup.preprocessing.image_size
            model = initial_model(setup.model, setup.training, len(setup.images.classes), side)
            checkpoint = train_run(
                setup,
                model,
                folder / "run",
                resume_file=resume_path(folder.with_name(unit.model)),
                overwrite=True,
                on_step=trial_data.progress.on_step,
            )
        checkpoint = replace(checkpoint, views=1)  # as in the paper
        checkpoint.model.to(device_named(setup.training.device))
        predictions = predictions_of(checkpoint, setup.images_of(measured))
        predictions.write(predictions_path(folder, measured))
        write_table(folder / "confusion.csv", _confusion(predictions))
        trained = TrainedUnit(trial_data, unit, setup, checkpoint, predictions, folder)
        results = MEASURES[unit.experiment.partition("/")[0]](trained)
    except TrainingError:
        results = {unit.experiment: [Measurement(measured, "", "diverged", 1.0)]}
    return [
        (experiment, unit.trial, unit.model, *measurement)
        for experiment, measurements in results.items()
        for measurement in measurements
    ]


def _confusion(predictions: Predictions) -> pd.DataFrame:
    """The images of each true class by predicted class, where there are any."""
    classes = np.array(predictions.classes)
    pairs = {"true": classes[predictions.labels], "predicted": classes[predictions.choices]}
    return pd.DataFrame(pairs).value_counts(sort=False).rename("images").reset_index()
