"""A reproduction that is killed at random moments must end in the same results."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

COMMAND = [sys.executable, "-m", "misgiving", "reproduce", "--trials", "1", "--epochs", "2"]
FILES = ("results.csv", "intervals.csv", "histories.csv", "confusions.csv")


def start(out, cache):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, "--models", "vanilla,proposed", "--out", str(out)]
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, start_new_session=True, text=True
    )


def finish(out, cache):
    process = start(out, cache)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@pytest.mark.parametrize(
    "kills", [pytest.param(2, id="two"), pytest.param(10, id="ten", marks=pytest.mark.soak)]
)
def test_a_reproduction_killed_at_random_moments_ends_in_the_same_results(tmp_path, kills):
    started = time.monotonic()
    finish(tmp_path / "whole", tmp_path / "cache")
    seconds = time.monotonic() - started
    chance = random.Random(kills)
    killed = 0
    for _ in range(20 * kills):
        process = start(tmp_path / "killed", tmp_path / "cache")
        try:
            process.communicate(timeout=chance.uniform(0.2, 1.0) * seconds)
            shutil.rmtree(tmp_path / "killed")  # it ended before its moment: begin anew
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            killed += 1
        if killed == kills:
            break
    assert killed == kills
    finish(tmp_path / "killed", tmp_path / "cache")
    for name in FILES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    leftovers = [path for path in (tmp_path / "killed").rglob("*.partial") if path.is_dir()]
    assert not leftovers
