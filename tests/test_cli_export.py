import json
import subprocess
import sys
from dataclasses import asdict

import pytest
from commands import one_line
from graphs import (
    COLOURS,
    colour_logits,
    write_colour_graph,
    write_images,
    write_predictions,
)

from misgiving import Deferral, Predictions


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A graph with its preprocessing and its predictions."""
    place = tmp_path_factory.mktemp("elsewhere")
    write_colour_graph(place / "net.onnx")
    (place / "preprocessing.json").write_text(json.dumps(asdict(COLOURS)))
    images = write_images(place / "held-out", 240, seed=1)
    write_predictions(place / "held-out.csv", *images, colour_logits(images[0]))
    return place


@pytest.fixture(scope="module")
def graph(elsewhere):
    """The graph and its options."""
    fitted = Deferral(max_error=0.2, max_ood_false_alarms=0.1)
    fitted.fit(Predictions.read(elsewhere / "held-out.csv")).save(elsewhere / "policy")
    options = ("--preprocessing", elsewhere / "preprocessing.json")
    tables = ("--predictions", elsewhere / "held-out.csv", "--policy", elsewhere / "policy")
    return elsewhere / "net.onnx", *options, *tables


@pytest.mark.parametrize(
    ("arguments", "expected", "says"),
    [
        ((".", "--policy", "p"), 2, "--policy has no effect for a run"),
        (("net.onnx", "--preprocessing", "none.json", "--policy", "new"), 1, "none.json"),
        (("net.onnx", "--preprocessing", "preprocessing.json"), 2, "--policy"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(
    misgiving, elsewhere, tmp_path, monkeypatch, arguments, expected, says
):
    monkeypatch.chdir(elsewhere)
    code, _, error = misgiving("export", *arguments, "--out", tmp_path / "b")
    assert code == expected
    assert says in one_line(error)
    assert not (tmp_path / "b").exists()


LISTING = """
import atexit, sys
atexit.register(lambda: print("imported:", *{"torch", "timm", "sklearn"} & set(sys.modules)))
from misgiving import cli
cli.run()
"""


def test_a_graph_is_exported_without_torch_and_its_targets_are_reported(graph, tmp_path):
    command = [sys.executable, "-c", LISTING, "export", *graph, "--out", tmp_path / "bundle"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["imported:"]
    assert "32 images were predicted again" in run.stderr
    assert "at most 20 %" in run.stderr
    assert (tmp_path / "bundle" / "model.onnx").is_file()
