import json
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
from graphs import (
    CLASSES,
    COLOURS,
    TORCH,
    Normalised,
    colour_graph,
    colour_logits,
    torch_model,
    torch_outputs,
    write_colour_graph,
    write_images,
    write_policy,
    write_predictions,
    write_torch_graph,
)
from onnx import helper

from misgiving.bundle.bundle import Bundle
from misgiving.bundle.decide_files import decide_files, load_model
from misgiving.bundle.export_graph import UNCHECKED, export_graph, read_preprocessing
from misgiving.data.datasets.folders import image_names
from misgiving.errors import DataError, UsageError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, graphs, and their predictions."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def images(place):
    return write_images(place / "images", 240, seed=1)


@pytest.fixture(scope="module")
def new_images(place):
    return write_images(place / "new", 60, seed=2)


@pytest.fixture(scope="module")
def model(images):
    return Normalised(torch_model(*images))


@pytest.fixture(scope="module")
def torch_files(place, images, model):
    graph = write_torch_graph(model.eval(), place / "net.onnx")
    logits, features = (values.numpy() for values in torch_outputs(model, images[0]))
    sets = np.repeat(["train", "tune", "calibrate"], 80)
    columns = {"logits": logits, "features": features, "label": images[1], "classes": CLASSES}
    names = [str(path) for path in images[0]]
    np.savez(place / "torch.npz", **columns, set=sets, path=names)
    return graph, place / "torch.npz"


@pytest.fixture(scope="module")
def torch_policy(place, torch_files):
    return place / "torch-policy", write_policy(place / "torch-policy", torch_files[1])


@pytest.fixture(scope="module")
def colour_files(place, images):
    graph = write_colour_graph(place / "colours.onnx")
    return graph, write_predictions(place / "colours.csv", *images, colour_logits(images[0]))


@pytest.fixture(scope="module")
def colour_policy(place, colour_files):
    return place / "policy", write_policy(place / "policy", colour_files[1])


def decisions_of(bundle, paths):
    return bundle.decide([path.read_bytes() for path in paths], [path.name for path in paths])


def assert_same_decisions(found, expected):
    assert len({decision.decision for decision in expected}) >= 2
    for name in ("decision", "predicted_class"):
        assert [getattr(ours, name) for ours in found] == [getattr(row, name) for row in expected]
    for name in ("error_probability", "acceptance_score", "ood_p_value"):
        ours, theirs = ([getattr(row, name) for row in rows] for rows in (found, expected))
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3)


def test_a_torchvision_model_decides_through_the_bundle_as_on_its_predictions(
    torch_files, torch_policy, new_images, model, place, tmp_path
):
    graph, predictions = torch_files
    folder, engine = torch_policy
    assert engine.ood_detector_ == "knn"
    bundle = export_graph(
        graph, tmp_path / "b", preprocessing=TORCH, predictions=predictions, policy=folder
    )
    assert bundle.card["compared"] == 32
    outputs = [values.double().numpy() for values in torch_outputs(model, new_images[0])]
    expected = engine.decide_outputs(*outputs)
    assert_same_decisions(decisions_of(bundle, new_images[0]), expected)
    rows = decide_files(load_model(tmp_path / "b"), image_names([place / "new"]), tmp_path / "p")
    assert [row.decision for row in rows] == [row.decision for row in expected]


def test_a_graph_decides_as_its_policy_on_its_predictions(
    colour_files, colour_policy, new_images, tmp_path
):
    folder, engine = colour_policy
    make = partial(export_graph, colour_files[0], preprocessing=COLOURS, policy=folder)
    checked = make(tmp_path / "b1", predictions=colour_files[1])
    unchecked = make(tmp_path / "b2")
    expected = engine.decide_outputs(colour_logits(new_images[0]))
    decisions = decisions_of(checked, new_images[0])
    assert_same_decisions(decisions, expected)
    assert decisions_of(unchecked, new_images[0]) == decisions
    assert [bundle.card["compared"] for bundle in (checked, unchecked)] == [32, 0]
    for name, says_so in (("b1", False), ("b2", True)):
        assert (UNCHECKED in (tmp_path / name / "card.md").read_text()) == says_so
    # weights beside the graph are taken into the bundle
    graph = onnx.load(colour_files[0])
    beside = {"save_as_external_data": True, "location": "net.data", "size_threshold": 0}
    onnx.save(graph, tmp_path / "net.onnx", **beside)
    export_graph(tmp_path / "net.onnx", tmp_path / "b3", preprocessing=COLOURS, policy=folder)
    (tmp_path / "net.data").unlink()
    assert decisions_of(Bundle.load(tmp_path / "b3"), new_images[0]) == decisions


def test_predictions_of_other_preprocessing_are_refused(torch_files, torch_policy, tmp_path):
    graph, predictions = torch_files
    make = partial(export_graph, graph, tmp_path / "b", policy=torch_policy[0])
    for changes in ({"crop": 0.8}, {"interpolation": "nearest"}):
        with pytest.raises(DataError, match="logits of the predictions"):
            make(preprocessing=replace(TORCH, **changes), predictions=predictions)
    assert list(tmp_path.iterdir()) == []


def test_a_policy_for_other_outputs_is_refused(colour_files, torch_policy, images, place, tmp_path):
    """For probabilities, or for the features of another graph."""
    make = partial(export_graph, colour_files[0], tmp_path / "b", preprocessing=COLOURS)
    logits = np.exp(colour_logits(images[0]))
    outputs = logits / logits.sum(axis=1, keepdims=True)
    predictions = write_predictions(place / "p.csv", *images, outputs, prefix="probability")
    write_policy(tmp_path / "policy", predictions)
    with pytest.raises(UsageError, match="probabilities"):
        make(policy=tmp_path / "policy")
    with pytest.raises(UsageError, match="'features'"):
        make(policy=torch_policy[0])


SAME = helper.make_node("Identity", ["logits"], ["scores"])
TWICE = helper.make_node("Concat", ["scores", "scores"], ["logits"], axis=1)
LOGARITHM = helper.make_node("Log", ["scores"], ["logits"])  # infinite
GRAPHS = (
    colour_graph(shape=(1, 3, 16, 16)),  # takes one image
    colour_graph(shape=("n", 16, 16, 3)),
    colour_graph(shape=("n", 3, 20, 20)),
    colour_graph(SAME, output="scores"),
    colour_graph(TWICE, gives="scores", width="k"),
    colour_graph(LOGARITHM, gives="scores"),
)


def test_a_graph_that_is_not_plain_is_refused_and_nothing_is_written(colour_policy, tmp_path):
    path = tmp_path / "net.onnx"
    for graph in GRAPHS:
        onnx.save(graph, path)
        with pytest.raises(DataError, match=r"net\.onnx") as refused:
            export_graph(path, tmp_path / "b", preprocessing=COLOURS, policy=colour_policy[0])
        assert "\n" not in str(refused.value)
        assert [*tmp_path.iterdir()] == [path]


def test_a_preprocessing_is_that_of_a_run(exported, tmp_path):
    recorded = json.loads((exported[0] / "config.json").read_text())["preprocessing"]
    path = tmp_path / "preprocessing.json"
    path.write_text(json.dumps(recorded))
    assert read_preprocessing(path) == Bundle.load(exported[1]).preprocessing
    for changes in ({"crop": None}, {"crop": 2}, {"size": 16}):
        path.write_text(json.dumps(recorded | changes))
        with pytest.raises(DataError, match=next(iter(changes))):
            read_preprocessing(path)
    path.write_text(json.dumps({"crop": 0.9}))
    with pytest.raises(DataError, match="'image_size'"):
        read_preprocessing(path)
