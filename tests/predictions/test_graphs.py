"""The graph of a run, which predicts in the place of its model."""

from dataclasses import replace
from hashlib import sha256
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
import torch
from bundled import checkpoint, noisy_set

from misgiving.errors import DataError
from misgiving.predictions import inference
from misgiving.predictions.inference import (
    kept_network,
    model_fingerprint,
    predictions_of,
    write_compared_graph,
)

SHIFT = 0.5


@pytest.fixture(scope="module")
def made():
    return checkpoint()


@pytest.fixture(scope="module")
def shifted(made):
    """The same network with a larger bias of its last layer."""
    model = made.architecture.build().eval()
    model.load_state_dict(made.model.state_dict())
    with torch.no_grad():
        model.backbone.get_classifier().bias += SHIFT
    return replace(made, model=model)


@pytest.fixture(scope="module")
def written(made, shifted, tmp_path_factory):
    """The graphs of both by model; one export, which takes long, serves both."""
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    write_compared_graph(made, path)
    graph = onnx.load(path)
    bias = made.model.backbone.get_classifier().bias.detach().numpy()
    for weight in graph.graph.initializer:
        if np.array_equal(onnx.numpy_helper.to_array(weight), bias):
            weight.CopyFrom(onnx.numpy_helper.from_array(bias + np.float32(SHIFT), weight.name))
    return {made.model: path.read_bytes(), shifted.model: graph.SerializeToString()}


@pytest.fixture(autouse=True)
def exports(written, monkeypatch):
    """Models that are exported, by copying their graph; this pays from 100 images on."""
    models = []

    def export(model, path, **_):
        models.append(model)
        path.write_bytes(written[model])

    monkeypatch.setattr(inference, "PAYS", 100 * 16**2)
    monkeypatch.setattr(inference, "write_graph", export)
    return models


@pytest.mark.parametrize("size", [1, 32, 75])
def test_a_graph_predicts_what_the_model_predicts(made, size, tmp_path):
    images, reports = noisy_set(size, seed=5), []
    network = kept_network(made, 100, tmp_path)
    predicted = predictions_of(
        made, images, network=network, on_image=lambda *done: reports.append(done)
    )
    expected = predictions_of(made, images)
    for name in ("logits", "features", "predicted_losses", "taps"):
        values, reference = getattr(predicted, name), getattr(expected, name)
        np.testing.assert_allclose(values, reference, atol=1e-4 * np.abs(reference).max())
    assert (predicted.ids, predicted.model) == (expected.ids, expected.model)
    assert reports[-1] == (size, size)


def test_for_few_images_and_other_devices_the_model_predicts(made, tmp_path, exports):
    assert kept_network(made, 99, tmp_path) is None
    elsewhere = replace(made, model=made.architecture.build().to("meta"))
    assert kept_network(elsewhere, 100, tmp_path) is None
    assert not exports


@pytest.mark.parametrize("damage", ["cut", "of another model"])
def test_a_graph_is_written_once_and_again_where_it_is_damaged(
    made, shifted, written, damage, tmp_path, exports
):
    for _ in range(2):
        assert kept_network(made, 100, tmp_path)
    assert exports == [made.model]
    assert kept_network(made, 100, tmp_path / "model.onnx") is None  # nothing can be written there
    path, whole = tmp_path / "model.onnx", written[made.model]
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else written[shifted.model])
    images = noisy_set(2, seed=1)
    logits = kept_network(made, 100, tmp_path)(images.images).logits
    np.testing.assert_allclose(logits, predictions_of(made, images).logits, atol=1e-3)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("failure", [DataError("no export"), OSError("read-only")])
def test_a_model_whose_graph_cannot_be_written_predicts_itself(
    made, monkeypatch, tmp_path, failure
):
    monkeypatch.setattr(inference, "write_graph", Mock(side_effect=failure))
    assert kept_network(made, 100, tmp_path) is None
    assert not [*tmp_path.iterdir()]


def test_a_fingerprint_is_of_the_bytes_of_all_weights_of_any_type(made):
    model = made.architecture.build()
    by_hand = sha256()
    for name, tensor in model.state_dict().items():
        by_hand.update(name.encode() + tensor.numpy().tobytes())
    assert model_fingerprint(model) == by_hand.hexdigest()
    assert model_fingerprint(model.bfloat16()) != by_hand.hexdigest()
