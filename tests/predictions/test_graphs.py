"""The graph of a run, which predicts in the place of its model."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from bundled import checkpoint, noisy_set

from misgiving.errors import DataError
from misgiving.predictions import graphs
from misgiving.predictions.graphs import cached_network
from misgiving.predictions.inference import predictions_of


@pytest.fixture(scope="module")
def made():
    return checkpoint()


@pytest.fixture
def paying(monkeypatch):
    """A graph pays from 100 images on."""
    monkeypatch.setattr(graphs, "PAYS", 100 * 16**2)


@pytest.fixture(scope="module")
def both(made, tmp_path_factory):
    """The network and one with other weights, each with a cache that has its graph."""
    found = [(one, tmp_path_factory.mktemp("cache")) for one in (made, changed(made))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "PAYS", 0)
        for one, cache in found:
            assert cached_network(one, 1, cache) is not None
    return found


@pytest.fixture
def cache(both, tmp_path):
    return shutil.copytree(both[0][1], tmp_path / "cache")


@pytest.fixture
def no_export(monkeypatch):
    def export(*_, **__):
        raise AssertionError("a graph is written")

    monkeypatch.setattr(graphs, "write_graph", export)


@pytest.fixture
def copying(both, monkeypatch):
    """Each model's known graph is copied, which takes no time, in place of an export."""
    known = {one.model: next((cache / "graphs").iterdir()).read_bytes() for one, cache in both}

    def export(model, path, **_):
        path.write_bytes(known[model])

    monkeypatch.setattr(graphs, "write_graph", export)


def changed(made):
    """The same network with other weights."""
    model = made.architecture.build().eval()
    model.load_state_dict(made.model.state_dict())
    with torch.no_grad():
        model.backbone.get_classifier().bias += 0.5
    return replace(made, model=model)


@pytest.mark.usefixtures("paying")
@pytest.mark.parametrize("size", [1, 32, 75])
def test_a_graph_predicts_what_the_model_predicts(made, size, cache):
    images, done = noisy_set(size, seed=5), []
    network = cached_network(made, 100, cache)
    found = predictions_of(made, images, network=network, on_image=lambda *of: done.append(of))
    expected = predictions_of(made, images)
    for name in ("logits", "features", "predicted_losses", "taps"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    assert (found.ids, found.model) == (expected.ids, expected.model)
    assert done[-1] == (size, size)


@pytest.mark.usefixtures("paying", "no_export")
def test_for_few_images_and_other_devices_the_model_predicts(made, tmp_path):
    assert cached_network(made, 99, tmp_path) is None
    elsewhere = replace(made, model=made.architecture.build().to("meta"))
    assert cached_network(elsewhere, 100, tmp_path) is None


@pytest.mark.usefixtures("paying", "no_export")
def test_a_graph_is_kept_for_its_model(both, tmp_path):
    cache = tmp_path / "cache"
    for _, folder in both:
        shutil.copytree(folder, cache, dirs_exist_ok=True)
    squares = noisy_set(2, seed=1).images
    first, second = (cached_network(one, 100, cache)(squares)[0] for one, _ in both)
    np.testing.assert_allclose(second - first, 0.5, atol=1e-3)


@pytest.mark.usefixtures("paying", "copying")
@pytest.mark.parametrize("damage", ["cut", "of another model"])
def test_a_damaged_graph_is_written_again(both, damage, cache):
    (path,), (other,) = ((folder / "graphs").iterdir() for folder in (cache, both[1][1]))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else other.read_bytes())
    squares = noisy_set(2, seed=1).images
    model = both[0][0]
    logits = predictions_of(model, noisy_set(2, seed=1)).logits
    np.testing.assert_allclose(cached_network(model, 100, cache)(squares)[0], logits, atol=1e-3)
    assert len(path.read_bytes()) == len(whole)


@pytest.mark.usefixtures("paying")
def test_a_backbone_that_cannot_be_exported_predicts_itself(made, monkeypatch, tmp_path):
    def export(*_, **__):
        raise DataError("this backbone cannot be exported")

    monkeypatch.setattr(graphs, "write_graph", export)
    assert cached_network(made, 100, tmp_path) is None
    assert not list((tmp_path / "graphs").iterdir())


@pytest.mark.usefixtures("paying", "copying")
def test_graphs_that_were_not_used_for_long_are_removed(both, cache):
    folder = cache / "graphs"
    for number in range(6):
        (folder / f"{number}.onnx").touch()
    cached_network(both[1][0], 100, cache)
    assert len(list(folder.iterdir())) == graphs.KEPT
