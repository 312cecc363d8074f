"""Whatever a file is like, the service answers in time, gives its memory back, and stops."""

import itertools
import random
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from mutated import FORMATS, mutated, originals
from services import ask, standin_at
from waiting import until

TIMEOUT = 30.0  # seconds of a request, as by default
CLIENTS = 4
GIVEN_BACK = 50.0  # MB


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="Linux tells the memory of a process")
@pytest.mark.parametrize(
    ("first", "count"),
    [
        pytest.param(0, 30, id="short"),
        pytest.param(random.randrange(10**9), 2000, id="long", marks=pytest.mark.soak),
    ],
)
def test_any_file_is_answered_in_time_and_leaves_nothing_behind(sqlite_place, first, count):
    seeds = list(itertools.product(FORMATS, range(first, first + count)))
    limits = {"timeout": TIMEOUT, "max_decoding_seconds": 2.0, "threads": 2}
    with standin_at(sqlite_place, **limits) as (process, where):
        send(where, [(data,) for kind in FORMATS for data in originals(kind)], bytes)
        before = megabytes(process.pid)
        with asking_for_health(where) as waits:
            answers = send(where, seeds, mutated)
        for seed, (status, seconds) in zip(seeds, answers, strict=True):
            assert status in (200, 422), f"mutated{seed}"
            assert seconds < TIMEOUT, f"mutated{seed}"
        assert max(waits) < 5  # seconds; usually 0.1
        until(lambda: megabytes(process.pid) < before + GIVEN_BACK, seconds=60)
        process.send_signal(signal.SIGTERM)
        process.wait(15)


def send(where, files, made):
    """Status and seconds of each file, from some clients at once."""

    def post(file):
        data, begun = made(*file), time.monotonic()
        return ask(where, "POST", "/decisions", data)[0], time.monotonic() - begun

    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(clients.map(post, files))


@contextmanager
def asking_for_health(where):
    """Ask until the block ends; gives the seconds of each answer."""
    waits, over = [], threading.Event()

    def health():
        while not over.wait(0.1):
            begun = time.monotonic()
            assert ask(where, "GET", "/health")[0] == 200
            waits.append(time.monotonic() - begun)

    with ThreadPoolExecutor(1) as thread:
        asking = thread.submit(health)
        try:
            yield waits
        finally:
            over.set()
        asking.result()


def megabytes(pid):
    """Memory of a process and of those that it started, without mapped files."""
    started = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0.0
    for number in [pid, *started]:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            status = Path(f"/proc/{number}/status").read_text()
            total += sum(map(int, re.findall(r"RssAnon:\s+(\d+)", status))) / 1024
    return total
