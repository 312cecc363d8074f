"""What tests of the command line share."""

import csv
import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from misgiving.checkpoint import SEALED
from misgiving.files import seal, write_json

CPU = ("--device", "cpu")
QUICK = (
    "--recipe", "paper", "--backbone", "vgg16_mini", "--no-pretrained", "--epochs", "1", *CPU,
)  # fmt: skip
TRAIN = (*QUICK, "--image-size", "16", "--validation-share", "0.25", "--batch-size", "8")


def rows_of(path):
    """Rows of a CSV file by column."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def write_rows(path, rows):
    """Write rows by column."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)


def of_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def one_line(error):
    """The line that an explained failure consists of, after lines on a training's progress."""
    progress = ("epoch ", "augmentation: ", "Warning: ")
    lines = [line for line in error.splitlines() if line.strip() and not line.startswith(progress)]
    assert len(lines) == 1, error
    return lines[0]


def reseal(run, **changes):
    """Make a run, some of whose files or values were changed on purpose, pass for untouched."""
    if changes:
        write_json(run / "config.json", {**of_json(run / "config.json"), **changes})
    seal(run, SEALED)


class Result(NamedTuple):
    """Exit code, standard output and standard error of a command."""

    code: int
    out: str
    err: str


def call(*arguments, cache):
    """Run the command line in this process, outside of any one test."""
    from misgiving import cli

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        patched.setenv("XDG_CACHE_HOME", str(cache))
        patched.setenv("COLUMNS", os.environ.get("COLUMNS", "200"))
        patched.setattr(sys, "argv", ["misgiving", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.run()
    return Result(stopped.value.code or 0, out.getvalue(), err.getvalue())


def trained_on_photos(place):
    """A folder `photos` with twelve images of each of two colours, and a `run` of it."""
    random = np.random.default_rng(0)
    for name, colour in (("red", 0), ("blue", 2)):
        (place / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 100, (20, 30, 3), dtype=np.uint8)
            pixels[..., colour] += 120
            Image.fromarray(pixels).save(place / "photos" / name / f"{number}.png")
    words = ("train", f"folder:{place / 'photos'}", "--out", place / "run", *TRAIN)
    done = call(*words, cache=place / "cache")
    assert done.code == 0, done.err
    return place
