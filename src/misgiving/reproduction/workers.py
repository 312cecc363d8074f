"""Processes that work for this one, and end with it."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from threading import Thread

from misgiving.errors import Parameter, TrainingError

MOST_JOBS = 8  # each needs the memory of a training


def usual_jobs() -> int:
    """The number of processes where none is given: one for each core, at most `MOST_JOBS`."""
    return min(os.cpu_count() or 1, MOST_JOBS)


@contextmanager
def worker_pool(jobs: int, *, ignore_interrupts: bool = False) -> Iterator[ProcessPoolExecutor]:
    """Processes, started when there is work; each imports only what its work needs.

    An error in the block terminates them; what has not begun is not done.

    Args:
        jobs: Their number, at least 1.
        ignore_interrupts: Leave Ctrl-C, which reaches all processes of a terminal, to this one.

    Raises:
        TrainingError: One of them was killed, as happens when memory runs out.
    """
    others = set(active_children())  # of this process, but not of this pool
    context = get_context("spawn")  # a forked process would inherit torch's dead threads
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (ignore_interrupts,))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise TrainingError(
            "a process was killed, perhaps because of low memory; run again with fewer ",
            Parameter("jobs"),
        ) from error
    except BaseException:
        for process in set(active_children()) - others:  # each saves the training that it is in
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(ignore_interrupts: bool) -> None:
    if ignore_interrupts:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker would wait forever for work from a process that was killed."""
    if parent := parent_process():
        parent.join()
        os._exit(1)
