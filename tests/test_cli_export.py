import csv
import json
import subprocess
import sys

import pytest
from commands import one_line
from graphs import (
    CLASSES,
    tensorflow_probabilities,
    write_images,
    write_predictions,
    write_tensorflow_graph,
)

SETTINGS = {"scale": 255, "crop_shape": "both", "outputs": "probabilities"}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A graph with settings, its predictions, and those of new images."""
    place = tmp_path_factory.mktemp("elsewhere")
    write_tensorflow_graph(place / "net.onnx")
    (place / "settings.json").write_text(json.dumps(SETTINGS))
    for name, seed in (("held-out", 1), ("new", 2)):
        images = write_images(place / name, 160, seed=seed)
        outputs = tensorflow_probabilities(images[0])
        write_predictions(place / f"{name}.csv", *images, outputs, prefix="probability")
    return place


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_export_reports_the_bundle_and_its_targets(misgiving, exported, tmp_path):
    run, _ = exported
    code, output, error = misgiving("export", run, "--out", tmp_path / "bundle")
    assert code == 0, error
    assert output == ""
    assert "of 3 classes that estimates its own loss" in error
    assert "at most 45 %" in error
    assert f"wrote {tmp_path / 'bundle'}" in error


def test_export_of_what_is_no_run_is_refused_in_one_line(misgiving, tmp_path):
    code, _, error = misgiving("export", tmp_path, "--out", tmp_path / "bundle")
    assert code == 1
    assert "not a run" in one_line(error)


def test_a_graph_from_elsewhere_decides_on_files_as_its_policy_on_predictions(
    misgiving, elsewhere, tmp_path
):
    targets = ("--max-error", "0.15", "--max-ood-false-alarms", "0.1")
    given = ("--predictions", elsewhere / "held-out.csv", "--out", tmp_path / "bundle")
    described = ("--preprocessing", elsewhere / "settings.json")
    code, _, error = misgiving("export", elsewhere / "net.onnx", *given, *described, *targets)
    assert code == 0, error
    assert "the predictions of the 32 images that were compared" in error
    assert "at most 15 %" in error
    for command in (
        ("calibrate", elsewhere / "held-out.csv", *targets, "--out", tmp_path / "policy"),
        ("predict", tmp_path / "policy", elsewhere / "new.csv", "--out", tmp_path / "1.csv"),
        ("predict", tmp_path / "bundle", elsewhere / "new", "--out", tmp_path / "2.csv"),
    ):
        code, _, error = misgiving(*command)
        assert code == 0, error
    ours, theirs = table(tmp_path / "2.csv"), table(tmp_path / "1.csv")
    assert {row["decision"] for row in theirs} >= {"accept", "defer"}
    for name in ("decision", "predicted_class"):
        assert [row[name] for row in ours] == [row[name] for row in theirs]
    errors = [[float(row["error_probability"]) for row in of] for of in (ours, theirs)]
    assert errors[0] == pytest.approx(errors[1], abs=2e-3)
    misgiving(
        *("export", elsewhere / "net.onnx", "--policy", tmp_path / "policy", *described),
        *("--out", tmp_path / "second"),
    )
    misgiving("predict", tmp_path / "second", elsewhere / "new", "--out", tmp_path / "3.csv")
    assert table(tmp_path / "3.csv") == ours


@pytest.mark.parametrize(
    ("options", "expected", "says"),
    [
        ((), 2, "--predictions"),
        (("--policy", "nothing"), 1, "contains no policy"),
        (("--policy", "p", "--max-error", "0.1"), 2, "leave out"),
        (("--predictions", "none.csv", "--max-error", "0.1"), 1, "none.csv: no such file"),
        (("--rule", "balanced"), 2, "--rule is for a new policy; give its --max-error as well"),
        (("--seed", "0"), 2, "--seed is for a new policy; give its --max-error as well"),
        (("--preprocessing", "none.json"), 1, "none.json: missing or damaged"),
        (("--scale", "0"), 2, "--scale must be above 0"),
        (("--mean", "1,2"), 2, "--mean must be one number or three"),
        (("--layout", "hwc"), 2, "'hwc' is not one of"),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_one_line(
    misgiving, elsewhere, tmp_path, options, expected, says
):
    code, _, error = misgiving("export", elsewhere / "net.onnx", "--out", tmp_path / "b", *options)
    assert code == expected
    assert says in one_line(error)


@pytest.mark.parametrize("option", [("--scale", "255"), ("--seed", "0"), ("--simultaneous",)])
def test_options_of_a_graph_are_refused_for_a_run(misgiving, exported, tmp_path, option):
    run, _ = exported
    code, _, error = misgiving("export", run, "--out", tmp_path / "b", *option)
    assert code == 2
    assert f"{option[0]} is for an ONNX graph" in one_line(error)


def test_costs_imply_their_rule(misgiving, elsewhere, tmp_path):
    code, _, error = misgiving(
        *("export", elsewhere / "net.onnx", "--predictions", elsewhere / "held-out.csv"),
        *("--preprocessing", elsewhere / "settings.json", "--max-error", "0.3"),
        *("--cost", f"{CLASSES[0]}=5", "--out", tmp_path / "bundle"),
    )
    assert code == 0, error
    policy = json.loads((tmp_path / "bundle" / "policy.json").read_text())
    assert (policy["rule"], policy["costs"]) == ("costs", {CLASSES[0]: 5.0})


def test_a_missing_onnx_is_named_with_its_extra(misgiving, elsewhere, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, error = misgiving(
        *("export", elsewhere / "net.onnx", "--predictions", elsewhere / "new.csv"),
        *("--max-error", "0.1", "--out", tmp_path / "b"),
    )
    assert code == 1
    assert "pip install 'misgiving[onnx]'" in one_line(error)


LISTING = """
import atexit, sys
atexit.register(lambda: print("imported:", *{"torch", "timm"} & set(sys.modules)))
from misgiving import cli
cli.run()
"""


def test_a_graph_is_exported_without_torch(elsewhere, tmp_path):
    arguments = (
        *("export", elsewhere / "net.onnx", "--predictions", elsewhere / "held-out.csv"),
        *("--preprocessing", elsewhere / "settings.json", "--max-error", "0.15"),
        *("--out", tmp_path / "bundle"),
    )
    command = [sys.executable, "-c", LISTING, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["imported:"]
    assert (tmp_path / "bundle" / "model.onnx").is_file()
