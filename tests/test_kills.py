"""What is killed at random moments must end as if it had not been."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from commands import one_line

TRAIN = [
    *(sys.executable, "-m", "misgiving", "train", "digits", "--backbone", "vgg16_mini"),
    *("--no-pretrained", "--device", "cpu", "--learning-rate", "1e-3"),
]
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
    "kills", [pytest.param(1, id="one"), pytest.param(10, id="ten", marks=pytest.mark.soak)]
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


def training(out, cache, epochs):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    command = [*TRAIN, "--epochs", str(epochs), "--out", str(out)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def trained(out, cache, epochs):
    """Train to the end; gives what was said."""
    process = training(out, cache, epochs)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return said


def stopped(out, cache, epochs, number, moment):
    """Train until a moment after the first state was kept; gives the exit code and what was said.

    None for a training that ended before its moment.
    """
    process = training(out, cache, epochs)
    while process.poll() is None and not out.with_name("run.unfinished.safetensors").exists():
        time.sleep(0.02)
    try:
        process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        _, said = process.communicate()
        return process.returncode, said
    shutil.rmtree(out)
    return None


@pytest.mark.parametrize(
    "kills", [pytest.param(1, id="one"), pytest.param(20, id="twenty", marks=pytest.mark.soak)]
)
def test_a_training_killed_at_random_moments_ends_in_the_same_weights(tmp_path, kills):
    epochs = 4 * kills
    trained(tmp_path / "whole" / "run", tmp_path / "cache", epochs)
    run = tmp_path / "killed" / "run"
    chance = random.Random(kills)
    killed = 0
    for _ in range(20 * kills):
        moment = chance.uniform(0.0, 8.0 if run.parent.exists() else 1.0)
        killed += stopped(run, tmp_path / "cache", epochs, signal.SIGKILL, moment) is not None
        if killed == kills:
            break
    assert killed == kills
    assert "goes on in epoch" in trained(run, tmp_path / "cache", epochs)
    for name in ("model.safetensors", "history.csv", "split.csv", "config.json"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / "run" / name).read_bytes()
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_a_training_that_the_system_ends_is_kept_first(tmp_path):
    run = tmp_path / "run"
    code, said = stopped(run, tmp_path / "cache", 10_000, signal.SIGTERM, 0.5)
    assert code == 130
    assert "the same command goes on there" in one_line(said)
    place = said.partition("stopped ")[2].partition(";")[0]
    code, again = stopped(run, tmp_path / "cache", 10_000, signal.SIGTERM, 8.0)
    assert f"goes on {place}" in again
