import json
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from graphs import (
    CLASSES,
    COLOURS,
    colour_graph,
    colour_logits,
    colour_means,
    write_colour_graph,
    write_images,
    write_policy,
    write_predictions,
)
from onnx import helper

from misgiving import Deferral, Predictions
from misgiving.bundle.bundle import Bundle
from misgiving.bundle.export import export_graph, read_preprocessing
from misgiving.errors import DataError, UsageError
from misgiving.scores.outputs import Outputs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with graphs, and with images that their policies do not know in `new`."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def images(place):
    return write_images(place / "images", 240, seed=1)


@pytest.fixture(scope="module")
def new_images(place):
    return write_images(place / "new", 60, seed=2)[0]


@pytest.fixture(scope="module")
def features_made(place, images):
    """A graph that gives features, too, and a policy that is fitted to these."""
    predictions, means = place / "features.npz", colour_means(images[0])
    onnx.save(colour_graph(FEATURES, outputs=("logits", "features")), place / "net.onnx")
    sets = np.repeat(["train", "tune", "calibrate"], 80)
    columns = {"logits": colour_logits(images[0]), "label": images[1], "classes": CLASSES}
    paths = [str(path) for path in images[0]]
    np.savez(predictions, **columns, features=means, set=sets, path=paths)
    files = {"predictions": predictions, "policy": place / "knn-policy"}
    policy = write_policy(files["policy"], predictions)
    return SimpleNamespace(policy=policy, export=partial(export_graph, place / "net.onnx", **files))


@pytest.fixture(scope="module")
def colours_made(place, images):
    """The same of a graph of one layer."""
    graph, predictions = write_colour_graph(place / "colours.onnx"), place / "colours.csv"
    write_predictions(predictions, *images, colour_logits(images[0]))
    policy = write_policy(place / "policy", predictions)
    export = partial(export_graph, preprocessing=COLOURS, policy=place / "policy")
    return SimpleNamespace(graph=graph, predictions=predictions, policy=policy, export=export)


def decisions_of(bundle, paths):
    return bundle.decide([path.read_bytes() for path in paths], [path.name for path in paths])


def assert_same_decisions(found, expected):
    assert len({decision.decision for decision in expected}) >= 2
    for ours, row in zip(found, expected, strict=True):
        assert (ours.decision, ours.predicted_class) == (row.decision, row.predicted_class)
        assert (ours.error_probability is None) == (row.error_probability is None)
        for name in ("acceptance_score", "ood_p_value"):
            assert getattr(ours, name) == pytest.approx(getattr(row, name), rel=2e-3, abs=2e-3)


def test_a_graph_with_features_decides_through_the_bundle_as_on_its_predictions(
    features_made, new_images, tmp_path
):
    assert features_made.policy.policy_.ood_detector == "knn"
    bundle = features_made.export(tmp_path / "b", preprocessing=COLOURS)
    assert bundle.card["compared"] == 32
    outputs = Outputs(logits=colour_logits(new_images), features=colour_means(new_images))
    expected = features_made.policy.policy_.decide(outputs)
    assert_same_decisions(decisions_of(bundle, new_images), expected)


def test_a_graph_decides_as_its_policy_on_its_predictions(colours_made, new_images, tmp_path):
    graph, export = colours_made.graph, colours_made.export
    checked = export(graph, tmp_path / "b1", predictions=colours_made.predictions)
    unchecked = export(graph, tmp_path / "b2")
    expected = colours_made.policy.decide(colour_logits(new_images))
    decisions = decisions_of(checked, new_images)
    assert_same_decisions(decisions, expected)
    assert decisions_of(unchecked, new_images) == decisions
    assert [bundle.card["compared"] for bundle in (checked, unchecked)] == [32, 0]
    for name, says_so in (("b1", False), ("b2", True)):
        assert ("It was not checked" in (tmp_path / name / "README.md").read_text()) == says_so
    # weights beside the graph are taken into the bundle
    beside = {"save_as_external_data": True, "location": "net.data", "size_threshold": 0}
    onnx.save(onnx.load(graph), tmp_path / "net.onnx", **beside)
    export(tmp_path / "net.onnx", tmp_path / "b3")
    (tmp_path / "net.data").unlink()
    assert decisions_of(Bundle.load(tmp_path / "b3"), new_images) == decisions


def test_the_command_exports_a_graph_without_torch_and_reports_its_targets(
    colours_made, place, tmp_path
):
    (tmp_path / "preprocessing.json").write_text(json.dumps(asdict(COLOURS)))
    words = ["export", colours_made.graph, "--preprocessing", tmp_path / "preprocessing.json"]
    words += ["--predictions", colours_made.predictions, "--policy", place / "policy"]
    loaded = "print({'torch', 'timm', 'sklearn'} & {*sys.modules})"
    script = f"import atexit, sys, misgiving.cli as it; atexit.register(lambda: {loaded}); it.run()"
    command = [sys.executable, "-c", script, *words, "--out", tmp_path / "bundle"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "set()\n"), run.stderr
    assert "32 images were predicted again" in run.stderr
    assert "at most 20 %" in run.stderr
    assert (tmp_path / "bundle" / "model.onnx").is_file()


def test_predictions_of_other_preprocessing_are_refused(features_made, tmp_path):
    for changes in ({"crop": 0.8}, {"interpolation": "nearest"}):
        with pytest.raises(DataError):
            features_made.export(tmp_path / "b", preprocessing=replace(COLOURS, **changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("features_made")
def test_a_policy_for_other_outputs_is_refused(colours_made, images, place, tmp_path):
    """For probabilities, for the features of another graph, or for second opinions."""
    logits = np.exp(colour_logits(images[0]))
    outputs = logits / logits.sum(axis=1, keepdims=True)
    predictions = write_predictions(place / "p.csv", *images, outputs, prefix="probability")
    write_policy(tmp_path / "policy", predictions)
    table = Predictions.read(colours_made.predictions)
    other = replace(table, logits=table.logits + 5 * np.eye(len(CLASSES))[table.labels])
    Deferral().fit(table.with_opinion(other, "other")).save(tmp_path / "judged")
    for policy, culprit in (
        (tmp_path / "policy", "probabilities"),
        ("knn-policy", "feature_0"),
        (tmp_path / "judged", "second opinion"),
    ):
        with pytest.raises(UsageError, match=culprit):
            colours_made.export(colours_made.graph, tmp_path / "b", policy=place / policy)


FEATURES = helper.make_node("Identity", ["means"], ["features"])
TWICE = helper.make_node("Concat", ["scores", "scores"], ["logits"], axis=1)
GRAPHS = (
    colour_graph(shape=(1, 3, 16, 16)),  # takes one image
    colour_graph(shape=(2, 3, 16, 16)),
    colour_graph(shape=("n", 16, 16, 3)),
    colour_graph(shape=("n", 3, 20, 20)),
    colour_graph(helper.make_node("Identity", ["logits"], ["scores"]), outputs=("scores",)),
    colour_graph(TWICE, gives="scores", width="k"),
    colour_graph(helper.make_node("Log", ["scores"], ["logits"]), gives="scores"),  # infinite
)


def test_a_graph_that_is_not_plain_is_refused_and_nothing_is_written(colours_made, tmp_path):
    path = tmp_path / "net.onnx"
    for graph in GRAPHS:
        onnx.save(graph, path)
        with pytest.raises(DataError, match=r"\A.*net\.onnx.*\Z"):
            colours_made.export(path, tmp_path / "b")
        assert [*tmp_path.iterdir()] == [path]


def test_a_preprocessing_is_that_of_a_run(exported, tmp_path):
    recorded = json.loads((exported[0] / "config.json").read_text())["preprocessing"]
    path = tmp_path / "preprocessing.json"
    path.write_text(json.dumps(recorded))
    assert read_preprocessing(path) == Bundle.load(exported[1]).preprocessing
    path.write_text(json.dumps({**recorded, "size": 16}))
    with pytest.raises(DataError, match="size"):
        read_preprocessing(path)
