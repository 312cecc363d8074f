"""The units of a reproduction: each (experiment, trial, model) has a folder, finished or not there.

A folder appears when its unit is finished, and is used again as long as settings, data and code
are the same; so a reproduction that was killed goes on where it stopped.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from misgiving.checkpoint import Checkpoint, load
from misgiving.decisions.engine import detectors_of
from misgiving.errors import DataError, TrainingError, UsageError
from misgiving.evaluation import (
    measure_classification,
    measure_detection,
    predictions_of,
)
from misgiving.files import whole_folder
from misgiving.registry import Registry
from misgiving.reproduction.generalization import measure_generalization
from misgiving.reproduction.new_classes import TOGETHER, unseen_images, unseen_sets
from misgiving.reproduction.ood_detection import chosen_points, detect, grid_rows
from misgiving.reproduction.policies import measure_ood_rule, ood_limit, policy_sets
from misgiving.reproduction.protocol import Protocol, Unit, units
from misgiving.reproduction.trial_data import TrialData
from misgiving.results.formats import read_document, write_document, write_table
from misgiving.results.schema import Measurement, OdinPoint, Result, UnitTiming
from misgiving.results.scores import save_scores
from misgiving.scores.confidences import all_confidences
from misgiving.training.devices import device_named
from misgiving.training.resume import resume_path
from misgiving.workflows.train import Run, train_run

MOST_THREADS = 1024


Records = Mapping[Unit, dict[str, Any]]
"""The units to finish, each with what must be the same for it to be used again."""

Runner = Callable[[TrialData, Records, Path], None]
"""Finishes units somewhere, into the reproduction's folder, and reports progress."""


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
        run: Where units run; None for one after the other in this process.
        chosen: Only these units; None for all.

    Raises:
        TrainingError: A process was killed, as happens when memory runs out.
    """
    asked = list(units(trial_data.protocol) if chosen is None else chosen)
    records = {unit: trial_data.record(unit) for unit in asked}
    todo = [unit for unit in asked if not is_finished(out / unit.folder, records[unit])]
    trial_data.listener.on_start(len(todo), len(asked))
    if todo:
        (run or on_this_machine())(trial_data, {unit: records[unit] for unit in todo}, out)


def on_this_machine(*, jobs: int = 1, threads: int | None = None) -> Runner:
    """Units one after the other in this process, or in as many processes as there are jobs.

    Results are equal where the number of threads is: it decides in which order sums are rounded.

    Args:
        jobs: Units at one time.
        threads: Of each unit; by default torch's own number for one job, else an equal share of
            the processor's cores.
    """
    if jobs < 1:
        raise UsageError(f"jobs must be at least 1, got {jobs}")
    if jobs == 1:
        return partial(_in_turn, threads=threads_of(threads, torch.get_num_threads()))
    share = max(1, (os.cpu_count() or 1) // jobs)
    return partial(_in_processes, jobs=jobs, threads=threads_of(threads, share))


def threads_of(asked: int | None, otherwise: int) -> int:
    """The number of threads that is asked for, unless no machine has as many."""
    if asked is not None and not 1 <= asked <= MOST_THREADS:
        raise UsageError(f"threads must be from 1 to {MOST_THREADS}, got {asked}")
    return otherwise if asked is None else asked


def is_finished(folder: Path, record: dict[str, Any]) -> bool:
    """Whether a unit's folder holds the results of exactly these settings, data and code."""
    return _record_of(folder) == record


def is_trained(folder: Path, record: dict[str, Any]) -> bool:
    """Whether its model needs only to be measured anew: no setting or code of training differs."""
    known, wanted = (
        {key: value for key, value in (found or {}).items() if key not in MEASURED}
        for found in (_record_of(folder), record)
    )
    return known == wanted and (folder / "run" / "model.safetensors").is_file()


MEASURED = ("code", "detection")  # what of a record bears on measuring alone


def _record_of(folder: Path) -> dict[str, Any] | None:
    try:
        return read_document(folder / "unit.json", dict[str, Any])
    except DataError:
        return None


def finish(
    trial_data: TrialData, unit: Unit, out: Path, record: dict[str, Any], *, threads: int
) -> None:
    """Train and measure a unit, and put its folder in its place.

    The number of threads is kept beside the results and not in the record: a reproduction may go
    on with another number, as it may on another machine.
    """
    started = time.monotonic()
    with whole_folder(out / unit.folder) as unfinished, threads_at(threads):
        if is_trained(out / unit.folder, record):
            shutil.copytree(out / unit.folder / "run", unfinished / "run")
        _do(trial_data, unit, unfinished)
        seconds = round(time.monotonic() - started, 1)
        timing = UnitTiming(seconds=seconds, threads=threads)
        write_document(unfinished / "timing.json", timing)
        write_document(unfinished / "unit.json", record)
    resume_path(out / unit.folder).unlink(missing_ok=True)


@contextmanager
def threads_at(threads: int) -> Iterator[None]:
    """Let torch, and the libraries below numpy and scipy, use so many threads, and no others."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):  # torch does not limit them
            yield
    finally:
        torch.set_num_threads(before)


def _do(trial_data: TrialData, unit: Unit, folder: Path) -> None:
    """Train and measure; a loss that is no longer finite is a result too."""
    try:
        EXPERIMENTS[unit.experiment.partition("/")[0]](trial_data, unit, folder)
    except TrainingError:
        _write_results(folder, {unit.experiment: [_diverged(trial_data, yes=True)]}, unit)


def _in_turn(trial_data: TrialData, records: Records, out: Path, *, threads: int) -> None:
    for unit, record in records.items():
        finish(trial_data, unit, out, record, threads=threads)
        trial_data.listener.on_unit(unit)


def _in_processes(
    trial_data: TrialData, records: Records, out: Path, *, jobs: int, threads: int
) -> None:
    context = get_context("spawn")  # a forked process would inherit torch's dead threads
    setup = (trial_data.protocol, trial_data.cache, threads)
    with ProcessPoolExecutor(jobs, context, _set_up_process, setup) as pool:
        futures = {
            pool.submit(_finish_in_process, unit, out, record, threads): unit
            for unit, record in records.items()
        }
        try:
            for future in as_completed(futures):
                future.result()
                trial_data.listener.on_unit(futures[future])
        except BrokenProcessPool as error:
            raise TrainingError(
                "a process was killed, perhaps for want of memory; run again with fewer --jobs"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_trial_data_of_process: TrialData | None = None


def _set_up_process(protocol: Protocol, cache: Path, threads: int) -> None:
    global _trial_data_of_process  # a process's only way to keep what all its units use
    with threads_at(threads):
        _trial_data_of_process = TrialData(protocol, cache)


def _finish_in_process(unit: Unit, out: Path, record: dict[str, Any], threads: int) -> None:
    if _trial_data_of_process is None:
        raise RuntimeError("the process was not set up")
    finish(_trial_data_of_process, unit, out, record, threads=threads)


def _generalization(trial_data: TrialData, unit: Unit, folder: Path) -> None:
    run, checkpoint = _train(trial_data, unit, folder)
    measurements = measure_generalization(run, checkpoint, folder)
    _write_results(folder, {unit.experiment: measurements}, unit)


def _learning_rate(trial_data: TrialData, unit: Unit, folder: Path) -> None:
    """4.1 at another learning rate."""
    run, checkpoint = _train(trial_data, unit, folder)
    measured = run.roles.measured
    predictions = predictions_of(checkpoint, run.part(measured))
    predictions.save(folder / "predictions" / f"{measured}.safetensors")
    measurements = [
        *measure_classification(predictions, measured),
        _diverged(trial_data, yes=False),
    ]
    (folder / "run" / "model.safetensors").unlink()  # only curves are compared, and disks are small
    _write_results(folder, {unit.experiment: measurements}, unit)


def _diverged(trial_data: TrialData, *, yes: bool) -> Measurement:
    return Measurement(trial_data.roles.measured, "", "diverged", float(yes))


def _ood_detection(trial_data: TrialData, unit: Unit, folder: Path) -> None:
    """Sections 4.2 and 4.3: the same model, the same inliers, two kinds of outliers."""
    run, checkpoint = _train(trial_data, unit, folder)
    inliers = run.part(run.roles.measured)
    predictions = predictions_of(checkpoint, inliers)
    predictions.save(folder / "predictions" / f"{run.roles.measured}.safetensors")
    together = unseen_images(trial_data.images, trial_data.protocol.unseen)
    outliers = {name: set_.images for name, set_ in trial_data.outliers(unit.trial).items()}
    search = trial_data.protocol.search
    parts = policy_sets(run, checkpoint, predictions)
    detectors = detectors_of(parts.training)
    limit = ood_limit(parts.calibration, detectors, seed=run.training.seed)
    detection = detect(
        checkpoint,
        inliers,
        outliers | {TOGETHER: together},
        search,
        detectors=detectors,
        tuning_inliers=run.part(run.roles.tuning) if run.roles.tunes_apart else None,
    )
    write_table(folder / "odin_grid.csv", OdinPoint, grid_rows(detection.choices.tuning))
    save_scores(folder, run.roles.measured, detection.inliers, inliers.groups)
    results = {
        "ood_detection": [
            *measure_classification(predictions, run.roles.measured),
            *chosen_points(detection.choices, search.tuning_set),
            Measurement(search.tuning_set, detection.chosen, "chosen", 1.0),
            *measure_ood_rule(  # of the measured part only what did not set the limit
                all_confidences(parts.test, detectors), limit, run.roles.measured
            ),
        ],
        "new_classes": [],
    }
    for name, images in outliers.items():
        scores = detection.outliers[name]
        save_scores(folder, name, scores, images.groups)
        results["ood_detection"] += measure_detection(detection.inliers, scores, name)
        results["ood_detection"] += measure_ood_rule(scores, limit, name)
    for name, rows in unseen_sets(together, trial_data.protocol.unseen).items():
        scores = {key: values[rows] for key, values in detection.outliers[TOGETHER].items()}
        save_scores(folder, name, scores, together.select(rows).groups)
        results["new_classes"] += measure_detection(detection.inliers, scores, name)
        results["new_classes"] += measure_ood_rule(scores, limit, name)
    _write_results(folder, results, unit)


EXPERIMENTS: Registry[Callable[[TrialData, Unit, Path], None]] = Registry(
    "experiment",
    generalization=_generalization,
    ood_detection=_ood_detection,
    learning_rate=_learning_rate,
)


def _train(trial_data: TrialData, unit: Unit, folder: Path) -> tuple[Run, Checkpoint]:
    """Train the model of a unit, unless it lies there already and only measuring has changed."""
    run = trial_data.run(unit)
    trained = folder / "run"
    checkpoint = (
        load(trained)
        if trained.is_dir()
        else train_run(
            run,
            trained,
            kept=resume_path(folder.with_name(unit.model)),
            anew=True,
            on_step=trial_data.listener.on_step,
        )
    )
    checkpoint.model.to(device_named(run.training.device))
    return run, checkpoint


def _write_results(folder: Path, results: dict[str, list[Measurement]], unit: Unit) -> None:
    rows = [
        Result(experiment, unit.trial, unit.model, *measurement)
        for experiment, measurements in results.items()
        for measurement in measurements
    ]
    write_table(folder / "results.csv", Result, rows)
