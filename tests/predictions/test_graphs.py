"""The graph of a run, which predicts in the place of its model."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from bundled import checkpoint, noisy_set

from misgiving.errors import DataError
from misgiving.predictions import inference
from misgiving.predictions.inference import cached_network, predictions_of, write_compared_graph

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
    network = cached_network(made, 100, tmp_path)
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
    assert cached_network(made, 99, tmp_path) is None
    elsewhere = replace(made, model=made.architecture.build().to("meta"))
    assert cached_network(elsewhere, 100, tmp_path) is None
    assert not exports


def test_a_graph_is_kept_for_its_model(made, shifted, tmp_path, exports):
    squares = noisy_set(2, seed=1).images
    for _ in range(2):
        first, second = (cached_network(run, 100, tmp_path)(squares)[0] for run in (made, shifted))
        np.testing.assert_allclose(second - first, SHIFT, atol=1e-3)
    assert exports == [made.model, shifted.model]


@pytest.mark.parametrize("damage", ["cut", "of another model"])
def test_a_damaged_graph_is_written_again(made, shifted, written, damage, tmp_path):
    assert cached_network(made, 100, tmp_path)
    (path,) = (tmp_path / "graphs").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else written[shifted.model])
    logits = predictions_of(made, noisy_set(2, seed=1)).logits
    squares = noisy_set(2, seed=1).images
    np.testing.assert_allclose(cached_network(made, 100, tmp_path)(squares)[0], logits, atol=1e-3)
    assert path.read_bytes() == whole


def test_a_backbone_that_cannot_be_exported_predicts_itself(made, monkeypatch, tmp_path):
    def export(*_, **__):
        raise DataError("this backbone cannot be exported")

    monkeypatch.setattr(inference, "write_graph", export)
    assert cached_network(made, 100, tmp_path) is None
    assert not list((tmp_path / "graphs").iterdir())


def test_graphs_that_were_not_used_for_long_are_removed(made, tmp_path):
    (tmp_path / "graphs").mkdir()
    for number in range(6):
        (tmp_path / "graphs" / f"{number}.onnx").touch()
    cached_network(made, 100, tmp_path)
    assert len(list((tmp_path / "graphs").iterdir())) == inference.KEPT
