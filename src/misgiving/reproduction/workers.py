"""Processes that work for this one, and end with it."""

import os
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread

KILLED = "a process was killed, perhaps because of low memory; run again with fewer `jobs`"


def worker_pool(jobs: int, *, ignore_interrupts: bool = False) -> ProcessPoolExecutor:
    """Processes, started when there is work; each imports only what its work needs.

    Args:
        jobs: Their number, at least 1.
        ignore_interrupts: Leave Ctrl-C, which reaches all processes of a terminal, to this one.
    """
    context = get_context("spawn")  # a forked process would inherit torch's dead threads
    return ProcessPoolExecutor(jobs, context, _start_worker, (ignore_interrupts,))


def _start_worker(ignore_interrupts: bool) -> None:
    if ignore_interrupts:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker would wait forever for work from a process that was killed."""
    if parent := parent_process():
        parent.join()
        os._exit(1)
