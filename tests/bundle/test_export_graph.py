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
from misgiving.bundle.decide_files import Decider, decide_files
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
    rows = decide_files(Decider.load(tmp_path / "b"), image_names([place / "new"]), tmp_path / "p")
    assert [row.decision for row in rows] == [row.decision for row in expected]


def test_a_graph_decides_as_its_policy_on_its_predictions(
    colour_files, colour_policy, new_images, tmp_path
):
    folder, engine = colour_policy
    make = partial(export_graph, colour_files[0], preprocessing=COLOURS, policy=folder)
    checked = make(tmp_path / "b1", predictions=colour_files[1])
    unchecked = make(tmp_path / "b2")
    expected = engine.decide_outputs(colour_logits(new_images[0]))
    assert_same_decisions(decisions_of(checked, new_images[0]), expected)
    assert decisions_of(unchecked, new_images[0]) == decisions_of(checked, new_images[0])
    assert [bundle.card["compared"] for bundle in (checked, unchecked)] == [32, 0]
    assert [UNCHECKED in (tmp_path / b / "card.md").read_text() for b in ("b1", "b2")] == [
        *(False, True)
    ]


def test_weights_beside_the_graph_are_taken_into_the_bundle(colour_files, colour_policy, tmp_path):
    graph, _ = colour_files
    onnx.save(
        onnx.load(graph),
        tmp_path / "net.onnx",
        save_as_external_data=True,
        location="net.data",
        size_threshold=0,
    )
    make = partial(export_graph, preprocessing=COLOURS, policy=colour_policy[0])
    assert (tmp_path / "net.data").is_file()
    bundle = make(tmp_path / "net.onnx", tmp_path / "b")
    squares = np.full((1, 16, 16, 3), 40, dtype=np.uint8)
    expected = make(graph, tmp_path / "b2").decide_inputs(squares)
    assert bundle.decide_inputs(squares) == expected
    (tmp_path / "net.data").unlink()
    assert Bundle.load(tmp_path / "b").decide_inputs(squares) == expected


@pytest.mark.parametrize("changes", [{"crop": 0.8}, {"interpolation": "nearest"}])
def test_predictions_of_other_preprocessing_are_refused(
    torch_files, torch_policy, tmp_path, changes
):
    graph, predictions = torch_files
    with pytest.raises(DataError, match="logits of the predictions"):
        export_graph(graph, tmp_path / "b", preprocessing=replace(TORCH, **changes),
                     predictions=predictions, policy=torch_policy[0])  # fmt: skip
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


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs, [output], **attributes)


GRAPHS = {
    "a fixed number of images": colour_graph(shape=(1, 3, 16, 16)),
    "channels last": colour_graph(shape=("n", 16, 16, 3)),
    "another size": colour_graph(shape=("n", 3, 20, 20)),
    "no logits": colour_graph(node("Identity", ["logits"], "scores"), output="scores"),
    "other classes": colour_graph(
        node("Concat", ["scores", "scores"], "logits", axis=1), gives="scores", width="k"
    ),
    "infinite logits": colour_graph(node("Log", ["scores"], "logits"), gives="scores"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_is_not_plain_is_refused_and_nothing_is_written(colour_policy, tmp_path, name):
    onnx.save(GRAPHS[name], tmp_path / "net.onnx")
    with pytest.raises(DataError, match=r"net\.onnx") as refused:
        export_graph(tmp_path / "net.onnx", tmp_path / "bundle", preprocessing=COLOURS,
                     policy=colour_policy[0])  # fmt: skip
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


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
    with pytest.raises(DataError, match="no 'image_size'"):
        read_preprocessing(path)
