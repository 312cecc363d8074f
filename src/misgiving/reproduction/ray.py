"""Run the units of a reproduction on a Ray cluster, each as a task that is retried if it is lost.

This is the only module that imports Ray. Workers get the settings and return nothing: they write
results into the reproduction's folder, which all nodes share, each unit whole or not at all.
"""

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from misgiving.errors import DataError, TrainingError, UsageError
from misgiving.files import clear_abandoned
from misgiving.reproduction.config import Unit
from misgiving.reproduction.protocol import Protocol
from misgiving.reproduction.runner import (
    Records,
    Runner,
    finish,
    is_finished,
    threads_of,
    trial_data_of_process,
)
from misgiving.reproduction.trial_data import TrialData
from misgiving.training.allocator import keep_freed_memory

RETRIES = 3  # of a unit whose worker or node was lost
PATIENCE = 60.0  # seconds until a shared folder shows what another node has written
CONNECT_TIMEOUT = 10.0  # seconds


class Task(NamedTuple):
    """Settings that all units of a reproduction share.

    Attributes:
        protocol: All settings; data is named as the user named it.
        cache: Folder of each node for its prepared images.
        out: Folder of the reproduction.
        started_in: Base of relative paths on every node.
        threads: Threads of each unit.
    """

    protocol: Protocol
    cache: Path
    out: Path
    started_in: Path
    threads: int


def on_ray(
    address: str, *, threads: int | None = None, gpus_per_unit: float | None = None
) -> Runner:
    """Run units as tasks of a Ray cluster, as many at the same time as it has room for.

    Args:
        address: Of the cluster's head, such as `10.0.0.1:6379`; `auto` for the cluster that
            `ray start` has started on this machine, or else a new one that ends with the run.
        threads: Threads and CPUs of each unit; by default one.
        gpus_per_unit: GPUs of each unit, such as 0.5 or 2. By default none if the device is the
            cpu, and otherwise one.

    Raises:
        UsageError: There is no cluster, or none of its nodes has room for a unit.
        TrainingError: The workers of a unit were lost repeatedly.
    """
    gpus = gpus_per_unit
    if gpus is not None and not (0 <= gpus <= 1 or gpus == int(gpus) > 0):
        raise UsageError(f"`gpus_per_unit` must be from 0 to 1 or a whole number, got {gpus:g}")
    return partial(_on_ray, address=address, threads=threads_of(threads, 1), gpus=gpus)


def _on_ray(
    trial_data: TrialData,
    records: Records,
    out: Path,
    *,
    address: str,
    threads: int,
    gpus: float | None,
) -> None:
    task = Task(trial_data.protocol, trial_data.cache, out.absolute(), Path.cwd(), threads)
    try:
        with _cluster(address):
            device = trial_data.protocol.training.device
            share = gpus_of_unit(gpus, device, ray.cluster_resources().get("GPU", 0.0))
            check_nodes([node["Resources"] for node in ray.nodes()], threads, share)
            for unit in _finished(_submit(task, records, share)):
                await_unit(out / unit.folder, records[unit])
                trial_data.progress.on_unit(unit)
    finally:
        clear_abandoned(out / unit.folder for unit in records)


def gpus_of_unit(asked: float | None, device: str, available: float) -> float:
    """GPUs of each unit; by default one if the device is or may be a GPU."""
    if asked is not None:
        return asked
    return float(device.startswith("cuda") or (device == "auto" and available > 0))


def check_nodes(nodes: Sequence[Mapping[str, float]], threads: int, gpus: float) -> None:
    """Refuse units for which no node has enough CPUs and GPUs: Ray would wait for ever."""
    if not any(node.get("CPU", 0) >= threads and node.get("GPU", 0) >= gpus for node in nodes):
        raise UsageError(
            f"no node of the Ray cluster has the {threads} CPUs and {gpus:g} GPUs of a unit; "
            "ask for fewer with `threads` and `gpus_per_unit`"
        )


def await_unit(folder: Path, record: Mapping[str, Any], *, patience: float = PATIENCE) -> None:
    """Wait until this node sees the unit that another has written.

    Args:
        folder: The unit's folder.
        record: The unit's settings, data and code.
        patience: Seconds.

    Raises:
        DataError: The folder is not shared.
    """
    deadline = time.monotonic() + patience
    while not is_finished(folder, dict(record)):
        if time.monotonic() >= deadline:
            raise DataError(
                f"{folder}: was finished by a worker but is not here; "
                "`out` must be a folder that all nodes of the cluster share"
            )
        time.sleep(0.2)


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Join a cluster, or start one that ends with the block.

    Running tasks end with the connection and are not cancelled one by one: Ray 2.60 aborts the
    whole process if a task is cancelled just as it ends.
    """
    try:
        _join(address)
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    """Connect without dashboard, usage statistics and the output of workers."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    on_termination = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(
            None if address == "auto" else address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"no Ray cluster can be used at {address}: {reason}") from error
    signal.signal(signal.SIGTERM, on_termination)  # Ray's own handler would exit without a message


def _knock(address: str) -> None:
    """Fail at once if nothing listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()


def _submit(task: Task, records: Records, gpus: float) -> dict[Any, Unit]:
    as_task = ray.remote(num_cpus=task.threads, num_gpus=gpus, max_retries=RETRIES)
    remote = as_task(_finish_on_worker)
    shared = ray.put(task)
    return {
        remote.options(name=str(unit)).remote(shared, unit, record): unit
        for unit, record in records.items()
    }


def _finished(submitted: Mapping[Any, Unit]) -> Iterator[Unit]:
    """Units in the order in which they finish; the first failure is raised."""
    waiting = list(submitted)
    while waiting:
        (done, *_), waiting = ray.wait(waiting)
        _require_success(done, submitted[done])
        yield submitted[done]


def _require_success(task: Any, unit: Unit) -> None:
    try:
        ray.get(task)
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"{unit}: its workers were lost, perhaps because of low memory ({reason}); "
            "run again with more `threads` for each, so that fewer run at the same time"
        ) from error


def _finish_on_worker(task: Task, unit: Unit, record: dict[str, Any]) -> None:
    keep_freed_memory()
    enter(task.started_in)
    trial_data = trial_data_of_process(task.protocol, task.cache, task.threads)
    check_worker(trial_data.record(unit), record)
    finish(trial_data, unit, task.out, record, threads=task.threads)


def enter(folder: Path) -> None:
    """Make a folder the worker's working folder, which relative paths start from."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise UsageError(
            f"{folder}: a worker cannot enter it ({error.strerror}); "
            "start the command in a folder that all nodes of the cluster share"
        ) from error


def check_worker(record: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a worker with other images, versions or code than the command's own process."""
    other = [name for name in expected if record.get(name) != expected[name]]
    if other:
        raise DataError(
            f"a worker differs from the command in {', '.join(other)}; "
            "all nodes of the cluster need the same data and the same installation"
        )
