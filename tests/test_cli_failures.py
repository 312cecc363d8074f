"""Failures of the machine: one clear line each, no partial files, and the next run works."""

import errno
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import TRAIN, one_line

from misgiving import checkpoint
from misgiving.cli import explanation
from misgiving.data import cache
from misgiving.files import disk_errors

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has a total of 79 GiB"


@pytest.fixture
def train(misgiving, photos, tmp_path):
    return lambda: misgiving("train", f"folder:{photos}", "--out", tmp_path / "run", *TRAIN)


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")


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
    assert "No space left on device; check the path, free space" in one_line(error)
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


def test_the_error_of_a_library_about_a_disk_becomes_the_systems(tmp_path):
    told = RuntimeError("serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(OSError, match="No space left") as caught, disk_errors(tmp_path / "x"):
        raise told
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "x"))
    with pytest.raises(RuntimeError) as caught, disk_errors(tmp_path):
        raise RuntimeError("invalid header")
    assert explanation(caught.value) is None


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 64 kB, where one can be made."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "misgiving-test", place]
    try:
        done = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        done = False
    if not done:
        pytest.skip("no file system can be mounted here: that takes an administrator")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_read_only_disk_is_refused_before_training_and_its_cache_is_used(
    misgiving, succeed, photos, small_disk, tmp_path
):
    cache = ["--cache", small_disk / "cache"]
    assert misgiving("data", "prepare", f"folder:{photos}", "--image-size", "16", *cache)[0] == 0
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    code, _, error = misgiving("train", f"folder:{photos}", "--out", small_disk / "run", *TRAIN)
    assert code == 2
    assert "; choose another --out" in one_line(error)
    code, _, error = misgiving("data", "prepare", f"folder:{photos}", "--image-size", "8", *cache)
    assert code == 1
    assert "Read-only file system; check the path" in one_line(error)
    data = ["train", f"folder:{photos}", "--out", tmp_path / "run", *TRAIN, *cache]
    _, _, error = succeed(*data)


def test_a_flipped_bit_in_the_cache_is_one_line_and_the_next_run_works(train, cache_home, tmp_path):
    assert train()[0] == 0
    (stored,) = cache_home.rglob("images.npy")
    pixels = np.load(stored)
    pixels[:, 0, 0, 0] ^= 4  # of each image, as not all need be drawn
    np.save(stored, pixels)
    (tmp_path / "run").rename(tmp_path / "first")
    code, _, error = train()
    assert code == 1
    assert "run the same command again" in one_line(error)
    code, _, error = train()
    assert code == 0, error
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("first", "run")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError(OUT_OF_MEMORY), "the GPU is out of memory"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "the GPU is out of"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"), "the GPU is out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "the machine is"),
        (MemoryError(), "the machine is out of memory"),
        (np._core._exceptions._ArrayMemoryError((9,), np.dtype("u1")), "the machine is out of"),
    ],
)
def test_a_lack_of_memory_is_recognised_in_all_its_wordings(error, says):
    assert says in explanation(error)
    assert "--batch-size" in explanation(error)


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), KeyError("x"), ValueError("y")])
def test_a_failure_that_nobody_foresaw_is_not_explained_away(error):
    assert explanation(error) is None


def test_a_process_that_helps_another_names_its_number_in_errors(misgiving, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    _, _, error = misgiving("train", "nothing:here", "--out", "run")
    assert one_line(error).startswith("process 1: error: ")


def test_a_stop_before_the_work_begins_is_said(misgiving, monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    module = sys.modules["misgiving.cli.train"]  # the package has a function of this name
    monkeypatch.setattr(module, "check_replaceable", stop)
    code, _, error = misgiving("train", "digits", "--out", tmp_path / "run")
    assert (code, one_line(error)) == (130, "error: stopped")
