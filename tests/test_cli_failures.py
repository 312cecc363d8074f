"""Failures of the machine and bad images: one clear line, no partial files."""

import errno
import os
import resource
import shutil
import sys

import numpy as np
import pytest
import torch
from commands import CPU, TRAIN, of_json, one_line, reseal, rows_of
from PIL import Image

from misgiving import checkpoint
from misgiving.cli import explanation
from misgiving.data import cache

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has a total of 79 GiB"
BAD = {"blue/3.png": b"", "blue/8.png": b"not an image", "red/2.png": b"\x89PNG\r\n\x1a\ncut"}
SKIP = ("--on-bad-image", "skip")


@pytest.fixture
def train(misgiving, photos, tmp_path):
    return lambda: misgiving("train", f"folder:{photos}", "--out", tmp_path / "run", *TRAIN)


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # names no file


def nothing_is_left(folder):
    return not (folder / "run").exists() and not [*folder.rglob("*.partial")]


@pytest.mark.parametrize(("module", "name"), [(cache, "write_json"), (checkpoint, "save_file")])
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


@pytest.fixture
def damaged(photos):
    """The photos, of which three cannot be read."""
    for name, content in BAD.items():
        (photos / name).write_bytes(content)
    return photos


@pytest.mark.parametrize(
    "words",
    [
        ("train", "folder:{photos}", "--out", "{new}", *TRAIN),
        ("evaluate", "{run}", "folder:{photos}", "--out", "{new}"),
        ("predict", "{run}", "{photos}", "--out", "{new}"),
        ("calibrate", "{run}", "folder:{photos}", "--max-error", "0.3"),
        ("data", "prepare", "folder:{photos}"),
        ("data", "ood", "mine", "folder:{photos}", "--place", "{photos}", "--out", "{new}"),
    ],
    ids=lambda words: words[1] if words[0] == "data" else words[0],
)
def test_all_bad_images_are_listed_below_one_line(misgiving, run_folder, damaged, tmp_path, words):
    places = {"photos": damaged, "run": run_folder, "new": tmp_path / "new"}
    code, output, error = misgiving(*(word.format(**places) for word in words))
    assert (code, output) == (1, "")
    first, *others = error.strip().splitlines()
    assert "3 of 24 images cannot be read" in first
    assert "--on-bad-image skip" in first
    assert all(name in line for name, line in zip(sorted(BAD), sorted(others), strict=True))
    assert not (tmp_path / "new").exists()
    assert not (run_folder / "policy").exists()


def test_train_without_bad_images_says_and_records_which(succeed, damaged, tmp_path):
    out = tmp_path / "new"
    _, _, error = succeed("train", f"folder:{damaged}", "--out", out, *TRAIN, *SKIP)
    assert "left out: 3 images that cannot be read" in error
    data = of_json(out / "config.json")["data"]
    assert [row["image"] for row in data["skipped"]] == sorted(BAD)
    assert len({row["id"] for row in rows_of(out / "split.csv")} - BAD.keys()) == 21


def test_evaluate_without_bad_images_accounts_for_them(succeed, run_folder, damaged, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "broken.png").write_bytes(b"")
    for name in "ab":
        Image.new("RGB", (20, 20), "white").save(tmp_path / "scans" / f"{name}.png")
    words = ("evaluate", run_folder, f"folder:{damaged}", "--ood", tmp_path / "scans")
    error = succeed(*words, *SKIP, *CPU).err
    assert "left out: 3 of 24 images of folder:" in error
    assert "left out: 1 of 3 images of scans that cannot be read" in error
    skipped = rows_of(run_folder / "evaluation" / "skipped.csv")
    names = [row["image"].removeprefix(f"{tmp_path}/") for row in skipped]
    assert names == [*sorted(BAD), "scans/broken.png"]


def test_predict_has_a_row_for_a_bad_image(succeed, run_folder, damaged, tmp_path):
    succeed("predict", run_folder, damaged, "--out", tmp_path / "bad.csv", *SKIP, *CPU)
    rows = rows_of(tmp_path / "bad.csv")
    unreadable = {row["path"] for row in rows if row["unreadable"]}
    assert (len(rows), unreadable) == (24, {str(damaged / name) for name in BAD})


def test_calibrate_does_not_pass_over_bad_images_of_the_training_data(
    fail, run_folder, photos, tmp_path
):
    held_out = {row["id"] for row in rows_of(run_folder / "split.csv") if row["set"] != "train"}
    others = shutil.copytree(photos, tmp_path / "others")
    for path in others.rglob("*.png"):
        if path.relative_to(others).as_posix() not in held_out:
            path.unlink()
    training = shutil.copytree(photos, tmp_path / "training")
    (training / "red" / "0.png").write_bytes(b"")
    data = of_json(run_folder / "config.json")["data"]
    reseal(run_folder, data={**data, "name": f"folder:{training}"})
    words = ("calibrate", run_folder, f"folder:{others}", "--max-error", "0.5", *CPU)
    assert "red/0.png: the file is empty" in fail(1, *words)
