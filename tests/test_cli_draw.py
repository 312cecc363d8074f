"""`draw` and `plan --looks`, and what `calibrate` makes of their labels."""

import shlex

import numpy as np
import pytest
from commands import rows_of, write_rows
from policies import CLASSES, outputs

from misgiving import Deferral, Predictions

LOGITS, LABELS = outputs(2000, 0, 1.5)
NAMES = [f"image-{row}" for row in range(2000)]
TRUTH = {name: CLASSES[label] for name, label in zip(NAMES, LABELS, strict=True)}


def write_pool(path, labelled=0):
    """Predictions for 2,000 images, the first of which are labelled."""
    labels = [TRUTH[name] for name in NAMES[:labelled]] + [""] * (2000 - labelled)
    columns = {"logits": LOGITS, "classes": CLASSES, "id": NAMES, "label": labels}
    Predictions.of(columns | {"path": [f"{name}.png" for name in NAMES]}).write(path)
    return path


def fill(table, count=None):
    """Label the first rows, as in a spreadsheet, which sorts them."""
    rows = rows_of(table)
    for row in rows[:count]:
        row["label"] = TRUTH[row["id"]]
    rows.sort(key=lambda row: row["id"])
    write_rows(table, rows)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pool(tmp_path / "pool.csv")
    return tmp_path


def test_from_a_pool_without_labels_to_a_policy(succeed, place):
    said = succeed("draw", "pool.csv", "--max-error", "0.2", "--out", "tune.csv").err
    assert "100 to tune on" in said
    assert "draw pool.csv --labels tune.csv" in said
    assert len(rows_of(place / "tune.csv")) == 100
    fill(place / "tune.csv")
    draw = "draw", "pool.csv", "--labels", "tune.csv", "--max-error", "0.2", "--cases", "200"
    said = succeed(*draw, "--out", "to_label.csv").err
    rows = rows_of(place / "to_label.csv")
    assert [*rows[0]] == ["id", "path", "label"]
    assert len(rows) == 200
    assert {row["id"] for row in rows}.isdisjoint(row["id"] for row in rows_of(place / "tune.csv"))
    fill(place / "to_label.csv", 195)
    said = succeed(*shlex.split(said.partition("Then misgiving ")[2])).err
    certificate = Deferral.load(place / "policy").certificate_
    assert certificate.cases == 200
    assert f"{certificate.accepted_images} of 1900 cases of the pool" in said
    decided = succeed("predict", "policy", "pool.csv").out.splitlines()
    assert 100 < sum(",accept," in line for line in decided) < 2000


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max-error", "0.1"), "--max-error has no effect with --labels"),
        (("--seed", "1"), "--seed has no effect with --labels"),
        (("--guarantee", "average"), "--guarantee has no effect with --labels"),
    ],
)
def test_a_draw_fixes_the_targets(fail, options, words):
    command = "calibrate", "pool.csv", "--labels", "x.csv", "--out", "policy", *options
    assert words in fail(2, *command)


def test_a_table_of_labels_that_cannot_be_used_is_named(fail, succeed, place):
    write_pool(place / "pool.csv", labelled=100)
    succeed("draw", "pool.csv", "--max-error", "0.2", "--cases", "50", "--out", "to_label.csv")
    calibrate = "calibrate", "pool.csv", "--out", "policy", "--labels"
    (place / "renamed.csv").write_bytes((place / "to_label.csv").read_bytes())
    assert "no renamed.csv.draw beside it" in fail(2, *calibrate, "renamed.csv")
    assert "no label is filled in" in fail(1, *calibrate, "to_label.csv")
    rows = rows_of(place / "to_label.csv")
    for changes, words in (
        ([{"label": "naevus"}], "to_label.csv: image-"),
        ([{"id": "other.png", "label": "MEL"}], "to_label.csv: 'other.png'"),
        ([rows[1] | {"label": "MEL"}], "occurs more than once"),
    ):
        changed = [rows[0] | change for change in changes]
        write_rows(place / "to_label.csv", [*changed, *rows[1:]])
        assert words in fail(1, *calibrate, "to_label.csv")
    assert "no case of this draw has a label" in fail(1, "predict", "to_label.csv.draw", "pool.csv")


def test_a_table_that_is_there_is_kept(succeed, fail, place):
    write_pool(place / "pool.csv", labelled=100)
    draw = "draw", "pool.csv", "--max-error", "0.2", "--out", "to_label.csv"
    succeed(*draw)
    before = (place / "to_label.csv").read_bytes()
    assert "exists" in fail(2, *draw, "--seed", "1")
    assert (place / "to_label.csv").read_bytes() == before
    succeed(*draw, "--seed", "1", "--overwrite")
    assert (place / "to_label.csv").read_bytes() != before


def test_looks_are_planned_before_the_first_label_and_each_is_one_calibration(succeed, fail, place):
    rows = np.arange(400)
    sets = ["tune" if row < 100 else "calibrate" for row in rows]
    columns = {"logits": LOGITS[:400], "classes": CLASSES, "id": NAMES[:400], "set": sets}
    labels = [TRUTH[name] for name in NAMES[:400]]
    plan = "plan", "held.npz", "--max-error", "0.25", "--looks", "150,300"
    calibrate = "calibrate", "held.npz", "--max-error", "0.25", "--out", "policy", "--overwrite"

    def write(count):
        names = {name: values[:count] for name, values in columns.items()}
        Predictions.of(names | {"classes": CLASSES, "label": labels[:count]}).write("held.npz")

    write(250)
    assert "1.67 %" in succeed(*plan).out
    succeed(*calibrate)
    assert Deferral.load(place / "policy").certificate_.level == pytest.approx(0.05 / 3)
    write(300)
    assert "150, 300" in fail(1, *calibrate)
    write(400)
    assert "calibrated before" not in succeed(*calibrate).err
    assert Deferral.load(place / "policy").certificate_.looks == (150, 300)
    assert "calibrated before" in fail(2, *plan)
