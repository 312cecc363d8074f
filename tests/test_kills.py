"""What is killed at random moments must end as if it had not been."""

import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from multiprocessing import active_children

import pytest
from waiting import until

from misgiving.reproduction.runner import threads_at

TRAIN = [
    *("train", "digits", "--backbone", "vgg16_mini", "--no-pretrained", "--device", "cpu"),
    *("--learning-rate", "1e-3", "--split", "paper", "--validation-share", "0.8"),
]
REPRODUCE = ["reproduce", "--trials", "1", "--epochs", "2", "--models", "vanilla,proposed"]
FILES = ("results.csv", "intervals.csv", "histories.csv", "confusions.csv")


def start(out, cache, *words, **options):
    """A command in a process of its own."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "misgiving", *words, "--out", str(out)]
    return subprocess.Popen(command, env=environment, **pipes, **options)


def finish(out, cache):
    process = start(out, cache, *REPRODUCE)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@pytest.mark.soak
def test_a_reproduction_killed_at_random_moments_ends_in_the_same_results(tmp_path):
    kills = 10
    started = time.monotonic()
    finish(tmp_path / "whole", tmp_path / "cache")
    seconds = time.monotonic() - started
    chance = random.Random(kills)
    killed = 0
    for _ in range(20 * kills):
        process = start(tmp_path / "killed", tmp_path / "cache", *REPRODUCE, start_new_session=True)
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


@pytest.fixture
def train(misgiving):
    """Train in this process, with one thread too; gives exit code and messages."""

    def run(out, epochs):
        with threads_at(1):
            code, _, said = misgiving(*TRAIN, "--epochs", epochs, "--out", out)
        return code, said

    return run


def until_saved(process, out):
    """Wait until a training has saved its first state, or has ended."""
    saved = out.with_name("run.unfinished.safetensors")
    until(lambda: process.poll() is not None or saved.exists())


def killed_after(moment, out, cache, epochs):
    """Kill a training a moment after its first state; False if it had ended and was removed."""
    process = start(out, cache, *TRAIN, "--epochs", str(epochs))
    until_saved(process, out)
    try:
        process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    shutil.rmtree(out)
    return False


@pytest.mark.parametrize(
    ("kills", "longest"),  # the latter as a share of the time of an undisturbed training
    [
        pytest.param(1, 0.1, id="one"),
        pytest.param(20, 0.3, id="twenty", marks=pytest.mark.soak),
    ],
)
def test_a_training_killed_at_random_moments_ends_in_the_same_weights(
    train, cache_home, tmp_path, kills, longest
):
    epochs = 4 * kills
    started = time.monotonic()
    code, said = train(tmp_path / "whole" / "run", epochs)
    assert code == 0, said
    seconds = time.monotonic() - started
    run = tmp_path / "killed" / "run"
    chance = random.Random(kills)
    killed = 0
    for _ in range(20 * kills):
        moment = chance.uniform(0.0, longest) * seconds
        killed += killed_after(moment, run, cache_home, epochs)
        if killed == kills:
            break
    assert killed == kills
    code, said = train(run, epochs)
    assert code == 0, said
    assert re.search(r"resuming in epoch \d+, after step \d+", said)
    for name in ("model.safetensors", "history.csv", "split.csv", "config.json"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / "run" / name).read_bytes()
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_a_training_that_is_terminated_says_so_in_one_line_and_resumes_there(
    train, cache_home, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    process = start(run, cache_home, *TRAIN, "--epochs", "10000")
    until_saved(process, run)
    process.terminate()
    _, said = process.communicate()
    assert process.returncode == 130
    assert not run.exists()
    *before, failure = said.splitlines()
    assert not any(line.startswith(("error", "Traceback", " ")) for line in before)
    assert failure.startswith("error: stopped")
    assert "same command" in failure
    place = re.search(r"in epoch \d+, after step \d+", failure)[0]
    at_once = nullcontext(lambda: True)
    monkeypatch.setattr("misgiving.training.train_run.stop_on_sigterm", lambda: at_once)
    code, said = train(run, 10_000)
    assert code == 130
    assert f"resuming {place}" in said


def test_a_reproduction_that_is_terminated_leaves_saved_trainings_and_no_process(
    misgiving, tmp_path
):
    def saved():  # folders may vanish meanwhile, which `walk` passes over
        names = itertools.chain.from_iterable(files for *_, files in os.walk(tmp_path))
        return [name for name in names if name.endswith(".unfinished.safetensors")]

    def terminate():
        try:
            until(lambda: len(saved()) == 2)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    command = ["reproduce", "--trials", "1", "--epochs", "10000", "--jobs", "2"]
    command += ["--models", "vanilla,proposed", "--validation-share", "0.8"]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(terminate)
        code, _, _ = misgiving(*command, "--out", tmp_path / "out")
    assert code == 130
    assert not active_children()
    assert len(saved()) == 2
    assert not list(tmp_path.rglob("unit.json"))
