import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import rows_of
from PIL import Image

from misgiving.cli.sources import named_places


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, chance = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(36):
        pixels = chance.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


def test_a_folder_may_be_named_as_data_are(succeed, exported, photos, monkeypatch):
    tables = [succeed("predict", exported[1], f"{kind}{photos}").out for kind in ("", "folder:")]
    assert tables[0] == tables[1] != ""
    words = [f"{name}{kind}{photos}" for kind in ("", "folder:") for name in ("", "noise=")]
    places = [named_places("ood", [word]) for word in words]
    assert places == [{photos.name: photos}, {"noise": photos}] * 2
    monkeypatch.chdir(photos.parent)
    assert named_places("ood", [f"folder:{photos.name}"]) == {photos.name: Path(photos.name)}


def test_a_contact_sheet_has_the_images_that_are_not_accepted(succeed, exported, photos, tmp_path):
    sheet = tmp_path / "sheet.html"
    output = succeed("predict", exported[1], photos, "--contact-sheet", sheet).out
    decided = [row["decision"] for row in csv.DictReader(output.splitlines())]
    articles = sheet.read_text().count("<article>")
    assert articles == sum(decision != "accept" for decision in decided) > 0


SLOWLY = """
import sys, time
from misgiving import cli
from misgiving.bundle.bundle import Bundle
answer = Bundle.score_inputs
def slowly(self, squares):
    time.sleep(0.15)
    return answer(self, squares)
Bundle.score_inputs = slowly
from misgiving.bundle import decide_files
decide_files.PART = 4
cli.run()
"""


def parts_kept(out):
    return len(list(out.with_name(f"{out.name}.parts").glob("*.safetensors")))


def killed_after(bundle, photos, out, moment, count):
    """Kill an attempt once it has kept more parts than were there; gives how many there are."""
    command = [sys.executable, "-c", SLOWLY, "predict", bundle, photos, "--out", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    while parts_kept(out) <= count and process.poll() is None:
        time.sleep(0.02)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return parts_kept(out)


@pytest.mark.parametrize(
    "kills", [pytest.param(1, id="one"), pytest.param(12, id="twelve", marks=pytest.mark.soak)]
)
def test_a_prediction_that_was_killed_loses_and_doubles_nothing(
    fail, succeed, exported, photos, tmp_path, kills, monkeypatch
):
    out, chance = tmp_path / "killed.csv", random.Random(kills)
    count = 0
    for _ in range(kills):
        kept = killed_after(exported[1], photos, out, chance.uniform(0, 0.1), count)
        if out.exists():
            break
        assert kept > count
        count = kept
    assert out.exists() or 0 < count < 9
    monkeypatch.setattr("misgiving.bundle.decide_files.PART", 4)
    succeed("predict", exported[1], photos, "--out", out, "--overwrite")
    rows = rows_of(out)
    assert [Path(row["path"]).name for row in rows] == [f"{n:03d}.png" for n in range(36)]
    assert "or --overwrite" in fail(2, "predict", exported[1], photos, "--out", out)
    succeed("predict", exported[1], photos, "--out", tmp_path / "whole.csv")
    for ours, theirs in zip(rows, rows_of(tmp_path / "whole.csv"), strict=True):
        assert ours["decision"] == theirs["decision"]
        assert float(ours["acceptance_score"]) == pytest.approx(
            float(theirs["acceptance_score"]), rel=1e-4
        )
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["killed.csv", "whole.csv"]
