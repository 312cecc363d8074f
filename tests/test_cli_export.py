import json
import subprocess
import sys
from dataclasses import asdict

import pytest
from graphs import (
    COLOURS,
    colour_logits,
    write_colour_graph,
    write_images,
    write_policy,
    write_predictions,
)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A graph and its options."""
    place = tmp_path_factory.mktemp("elsewhere")
    write_colour_graph(place / "net.onnx")
    (place / "preprocessing.json").write_text(json.dumps(asdict(COLOURS)))
    images = write_images(place / "held-out", 240, seed=1)
    write_predictions(place / "held-out.csv", *images, colour_logits(images[0]))
    write_policy(place / "policy", place / "held-out.csv")
    options = ("--preprocessing", place / "preprocessing.json")
    tables = ("--predictions", place / "held-out.csv", "--policy", place / "policy")
    return place / "net.onnx", *options, *tables


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
