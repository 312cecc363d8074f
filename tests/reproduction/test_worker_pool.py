import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import active_children, get_context
from pathlib import Path

import pytest
from waiting import until

from misgiving.errors import TrainingError
from misgiving.reproduction.workers import worker_pool


def written(paths):
    return all(path.exists() and path.read_text() for path in paths)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def write_pid(path):
    path.write_text(str(os.getpid()))
    time.sleep(600)  # work that only a kill ends


def test_a_killed_process_is_an_error_that_says_so():
    with pytest.raises(TrainingError), worker_pool(2) as pool:
        list(pool.map(os._exit, [1, 2]))


def test_an_error_ends_the_processes_and_what_waits_but_no_process_of_others(tmp_path):
    paths = [tmp_path / str(number) for number in range(6)]
    other = get_context("spawn").Process(target=write_pid, args=(tmp_path / "other",))
    other.start()
    try:
        until(lambda: written([tmp_path / "other"]))
        with suppress(ZeroDivisionError), worker_pool(2, ignore_interrupts=True) as pool:
            pool.map(write_pid, paths)
            until(lambda: written(paths[:2]))
            raise ZeroDivisionError
        assert sum(path.exists() for path in paths) < len(paths)
        other.join(timeout=1)  # a signal takes a moment
        assert active_children() == [other]
    finally:
        other.kill()
        other.join()


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path):
    paths = [tmp_path / "0", tmp_path / "1"]
    command = [sys.executable, __file__, *map(str, paths)]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ) as main:
        until(lambda: written(paths))
        main.send_signal(signal.SIGKILL)
    workers = [int(path.read_text()) for path in paths]
    until(lambda: not any(map(is_alive, workers)))


if __name__ == "__main__":
    with worker_pool(2) as pool:
        list(pool.map(write_pid, map(Path, sys.argv[1:])))
