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
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from misgiving.errors import DataError, Parameter, TrainingError, UsageError
from misgiving.files import clear_abandoned
from misgiving.reproduction.config import Protocol, Unit
from misgiving.reproduction.runner import Record, Runner, finish, is_finished, trial_data_of_process
from misgiving.reproduction.trial_data import TrialData
from misgiving.training.allocator import keep_freed_memory

UNIT_RETRIES = 3  # of a unit whose worker or node was lost
SHARED_FOLDER_SECONDS = 60.0  # until a shared folder shows what another node has written
CONNECT_SECONDS = 10.0


def on_ray(address: str, *, threads: int = 1, gpus_per_unit: float | None = None) -> Runner:
    """Run units as tasks of a Ray cluster, as many at the same time as it has room for.

    Args:
        address: Of the cluster's head, such as `10.0.0.1:6379`; `auto` for the cluster that
            `ray start` has started on this machine, or else a new one that ends with the run.
        threads: Threads and CPUs of each unit.
        gpus_per_unit: GPUs of each unit, such as 0.5 or 2. By default none if the device is the
            cpu, and otherwise one.

    Raises:
        UsageError: There is no cluster, or none of its nodes has room for a unit.
        TrainingError: The workers of a unit were lost repeatedly.
    """

    def run(trial_data: TrialData, records: Mapping[Unit, Record], out: Path) -> None:
        places = trial_data.cache, out.absolute(), Path.cwd()
        try:
            with _cluster(address):
                nodes = [node["Resources"] for node in ray.nodes()]
                device = trial_data.protocol.training.device
                gpus = gpus_of_unit(nodes, threads, gpus_per_unit, device)
                as_task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=UNIT_RETRIES)
                task, protocol = as_task(_finish_on_worker), ray.put(trial_data.protocol)
                waiting = {
                    task.options(name=str(unit)).remote(
                        protocol, *places, threads, unit, record
                    ): unit
                    for unit, record in records.items()
                }
                while waiting:
                    (done, *_), _ = ray.wait(list(waiting))
                    unit = waiting.pop(done)
                    _raise_failure(done, unit)
                    await_unit(out / unit.folder, records[unit])
                    trial_data.progress.on_unit(unit)
        finally:
            clear_abandoned(out / unit.folder for unit in records)

    return run


def gpus_of_unit(
    nodes: Sequence[Mapping[str, float]], threads: int, asked: float | None, device: str
) -> float:
    """GPUs of each unit; by default one if the device is or may be a GPU of the cluster.

    Raises:
        UsageError: No node has enough CPUs and GPUs: Ray would wait for ever.
    """
    available = any(node.get("GPU", 0) > 0 for node in nodes)
    by_default = float(device.startswith("cuda") or (device == "auto" and available))
    gpus = by_default if asked is None else asked
    if not any(node.get("CPU", 0) >= threads and node.get("GPU", 0) >= gpus for node in nodes):
        raise UsageError(
            f"no node of the Ray cluster has the {threads} CPUs and {gpus:g} GPUs of a unit; "
            "ask for fewer with ",
            *(Parameter("threads"), " and ", Parameter("gpus_per_unit")),
        )
    return gpus


def await_unit(folder: Path, record: Record, *, seconds: float = SHARED_FOLDER_SECONDS) -> None:
    """Wait until this node sees the unit that another has written.

    Raises:
        DataError: The folder is not shared.
    """
    deadline = time.monotonic() + seconds
    while not is_finished(folder, record):
        if time.monotonic() >= deadline:
            raise DataError(
                f"{folder}: was finished by a worker but is not here; ",
                *(Parameter("out"), " must be a folder that all nodes of the cluster share"),
            )
        time.sleep(0.2)


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    """Join a cluster, or start one that ends with the block, without dashboard and output.

    Running tasks end with the connection and are not cancelled one by one: Ray 2.60 aborts the
    whole process if a task is cancelled just as it ends.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    on_termination = signal.getsignal(signal.SIGTERM)
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdecimal() and "://" not in address:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
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
    try:
        yield
    finally:
        ray.shutdown()


def _raise_failure(done: Any, unit: Unit) -> None:
    """Raise the failure of a task of this unit, if it failed."""
    try:
        ray.get(done)
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"{unit}: its workers were lost, perhaps because of low memory ({reason}); "
            "run again with more ",
            *(Parameter("threads"), " for each, so that fewer run at the same time"),
        ) from error


def _finish_on_worker(
    protocol: Protocol,
    cache: Path,
    out: Path,
    started_in: Path,
    threads: int,
    unit: Unit,
    record: Record,
) -> None:
    """Finish a unit; relative paths start from the working folder of the command."""
    keep_freed_memory()
    os.chdir(started_in)
    trial_data = trial_data_of_process(protocol, cache, threads)
    check_worker(trial_data.record(unit), record)
    finish(trial_data, unit, out, record, threads=threads)


def check_worker(record: Record, expected: Record) -> None:
    """Refuse a worker with other images, versions or code than the command's own process."""
    other = [name for name in expected if record.get(name) != expected[name]]
    if other:
        raise DataError(
            f"a worker differs from the command in {', '.join(other)}; "
            "all nodes of the cluster need the same data and the same installation"
        )
