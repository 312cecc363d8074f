"""A training in two processes against the same training in one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shared_training import train_all

from misgiving.errors import UsageError
from misgiving.training import processes
from misgiving.training.processes import start_fabric

SCRIPT = Path(__file__).with_name("shared_training.py")
TESTS = str(Path(__file__).parents[1])


def of_file(out):
    """Steps and history that a training reports, and the weights."""
    return json.loads(out.with_suffix(".json").read_text()), load_file(f"{out}.weights")


def start_two_processes(folder, every):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([TESTS, *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(SCRIPT), "2", str(folder), json.dumps(every)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    "every",
    [
        pytest.param([{}], id="proposed"),
        pytest.param(
            [
                {"auxiliary": "none"},
                {"pairs": "halves", "sampling": "none"},
                {"auxiliary": "mse", "primary_mean": "plain"},
                {"detached": True},
            ],
            id="others",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_two_processes_train_as_one_does_on_the_same_batches(tmp_path, every):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with start_two_processes(tmp_path / "two", every) as both:
        train_all(1, tmp_path / "one", every)
        output, errors = both.communicate(timeout=1200)
    assert (both.returncode, "Error" in errors) == (0, False), errors
    assert output.splitlines() == ["in the exchange: False"] * 2
    for number in map(str, range(len(every))):
        (one, weights), (two, shared) = (of_file(tmp_path / n / number) for n in ("one", "two"))
        # The 41st image of each epoch is left out by both: it has no pair, and cannot be shared.
        assert len(two["steps"]) == 20
        np.testing.assert_allclose(two["steps"], one["steps"], rtol=0, atol=1e-9)
        ours, theirs = ([[e, *rest] for e, _, *rest in each["history"]] for each in (two, one))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
        for name, weight in weights.items():
            torch.testing.assert_close(shared[name], weight, rtol=0, atol=1e-6)
        np.testing.assert_allclose(two["logits"], one["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("total", "count"), [(3, 1), (1, 2), (5, 2), (6, 3), (2, 4)])
def test_shares_are_of_one_size_and_hold_every_position(monkeypatch, total, count):
    monkeypatch.setattr(processes, "count", lambda: count)
    shares = []
    for rank in range(count):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        shares.append(processes.share_of(total))
    assert len({len(share) for share in shares}) == 1
    in_order = np.stack(shares, axis=1).ravel()[:total]  # as `gathered` puts them together
    assert in_order.tolist() == list(range(total))


def test_more_devices_than_there_are_is_explained():
    if torch.cuda.device_count() > 0:
        pytest.skip("this machine has a GPU")
    for device, devices in (("cuda", 1), ("cuda", 2), ("cpu", 0)):
        with pytest.raises(UsageError):
            start_fabric(device, devices=devices)


def test_machines_that_nothing_starts_are_not_waited_for(monkeypatch):
    """In a process of its own, the command would wait for a second machine without end."""
    for name in ("MASTER_ADDR", "LOCAL_RANK", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("lightning_fabric.Fabric.launch", lambda _: pytest.fail("it waits"))
    with pytest.raises(UsageError):
        start_fabric("cpu", nodes=2)
