"""Failures of the machine: one clear line each, no partial files, and the next run works."""

import errno
import os
import resource
import sys

import numpy as np
import pytest
import torch
from commands import TRAIN, one_line

from misgiving import checkpoint
from misgiving.cli import explanation
from misgiving.data import cache

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has a total of 79 GiB"


@pytest.fixture
def train(misgiving, photos, tmp_path):
    return lambda: misgiving("train", f"folder:{photos}", "--out", tmp_path / "run", *TRAIN)


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # names no file


def nothing_is_left(folder):
    return not (folder / "run").exists() and not [*folder.rglob("*.partial")]


@pytest.mark.parametrize(("module", "name"), [(cache, "seal"), (checkpoint, "save_file")])
def test_a_disk_that_is_full_at_any_moment_is_one_line_and_the_next_run_works(
    train, tmp_path, monkeypatch, module, name
):
    with monkeypatch.context() as patched:
        patched.setattr(module, name, full)
        code, _, error = train()
    assert code == 1
    assert ": No space left on device; check the path, free space" in one_line(error)
    assert str(tmp_path) in error
    assert nothing_is_left(tmp_path)
    code, _, error = train()
    assert code == 0, error


def test_a_limit_on_the_size_of_files_stops_the_weights_and_nothing_else(
    train, tmp_path, monkeypatch
):
    """Weights are written by a library that has its own kind of error."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it would be cut off
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        code, _, error = train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1
    assert ": File too large; check the path" in one_line(error)
    assert str(tmp_path / "run") in error  # it, or what a stopped training goes on from
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError(OUT_OF_MEMORY), "the GPU is out of memory"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "the GPU is out of"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "the machine is"),
        (np._core._exceptions._ArrayMemoryError((9,), np.dtype("u1")), "the machine is out of"),
        (RuntimeError("size mismatch"), ""),
        (ValueError("out of memory"), ""),
    ],
)
def test_a_lack_of_memory_is_recognised_and_an_unforeseen_failure_is_not_explained(error, says):
    assert says in (explanation(error) or "")
    assert (explanation(error) is None) == (not says)


def test_a_process_that_helps_another_names_its_number_in_errors(misgiving, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    _, _, error = misgiving("train", "nothing:here", "--out", "run")
    assert one_line(error).startswith("process 1: error: ")
