"""Eight views of each image: the same in a run, its graph, its bundle and a service of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from bundled import checkpoint, noisy_set, policy_of, write_run
from fastapi.testclient import TestClient
from PIL import Image

from misgiving.bundle.bundle import Bundle
from misgiving.bundle.decide_files import decide_files, load_model
from misgiving.bundle.export_run import export_run
from misgiving.checkpoint import load, write_views
from misgiving.data.datasets.dataset import ArrayImage, Dataset
from misgiving.deferral.deferral import Deferral
from misgiving.errors import DataError
from misgiving.predictions import predict as predict_module
from misgiving.predictions.inference import fingerprint_of, odin_scores, predictions_of
from misgiving.predictions.network import GRAPH_BATCH
from misgiving.predictions.predict import TrainedRun
from misgiving.scores.odin import Odin
from misgiving.serve.app import create_app
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.store import Store

ARRAYS = ("logits", "features", "predicted_losses", "taps")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A run that was calibrated for eight views, its bundle, and photographs."""
    place, made = tmp_path_factory.mktemp("views"), replace(checkpoint(), views=8)
    write_run(place / "run", made, policy_of(made))
    export_run(place / "run", place / "bundle")
    (place / "photos").mkdir()
    for number, pixels in enumerate(noisy_set(40, seed=31).images):
        Image.fromarray(pixels).save(place / "photos" / f"{number:02d}.png")
    return place


@pytest.fixture(scope="module")
def photos(places):
    return sorted((places / "photos").iterdir())


@pytest.fixture(scope="module")
def decisions(places, photos):
    """Decisions of `predict` by the run and by the bundle."""
    return {
        name: decide_files(
            load_model(places / name, device="cpu"), [*map(str, photos)], places / f"of {name}"
        )
        for name in ("run", "bundle")
    }


def numbers(decisions):
    return decisions.filter(regex="^(probability_|error_probability$|ood_p_value$)")


def test_graph_and_model_give_the_same_means_for_any_number_of_images(places):
    made, bundle = load(places / "run"), Bundle.load(places / "bundle", threads=1)
    for count in (1, 7, GRAPH_BATCH // 8 + 1, 70):  # a run of the graph, or of the model, has less
        images = noisy_set(count, seed=count)
        expected, repeated = predictions_of(made, images), bundle.network(images.images)
        for name in ARRAYS:
            values, reference = getattr(repeated, name), getattr(expected, name)
            margin = 1e-4 * np.abs(reference).max()
            np.testing.assert_allclose(values, reference, rtol=0, atol=margin)
    plain = predictions_of(replace(made, views=1), images)
    assert np.abs(plain.probabilities - expected.probabilities).max() > 0.01


def test_a_run_of_the_graph_has_no_more_views_than_one_of_plain_images(places, monkeypatch):
    network, sizes = Bundle.load(places / "bundle", threads=1).network, []
    run = network._session.run
    session = type(
        "Session", (), {"run": lambda _, names, images, *_more: run(names, count(images))}
    )

    def count(images):
        sizes.append(len(images["images"]))
        return images

    monkeypatch.setattr(network, "_session", session())
    network(noisy_set(9, seed=0).images)
    assert sizes == [4, 4, 1]


def test_run_and_bundle_decide_alike(decisions):
    assert decisions["run"]["decision"].nunique() > 1
    by_run, by_bundle = decisions.values()
    assert by_run["decision"].tolist() == by_bundle["decision"].tolist()
    assert numbers(by_run).shape == (40, 3 + 2)  # of three classes
    np.testing.assert_allclose(numbers(by_run), numbers(by_bundle), atol=1e-4)


def test_a_service_answers_what_predict_answers(places, photos, decisions):
    app = create_app(
        Bundle.load(places / "bundle"), Store.open(str(places / "c.sqlite")), ServiceSettings()
    )
    with TestClient(app, base_url="http://localhost") as client:
        for path, expected in zip(photos[:5], decisions["bundle"].to_dict("records"), strict=False):
            answer = client.post("/decisions", files=[("files", (path.name, path.read_bytes()))])
            (case,) = (result["case"] for result in answer.json()["results"])
            assert case["decision"] == expected["decision"]
            shares = {name: expected[f"probability_{name}"] for name in case["probabilities"]}
            assert case["probabilities"] == pytest.approx(shares, abs=1e-5)


def test_a_policy_for_eight_views_refuses_the_outputs_of_another_number(places):
    made, deferral = load(places / "run"), Deferral.load(places / "run" / "policy")
    images = noisy_set(3, seed=5)
    deferral.decide(predictions_of(made, images))
    models = {views: fingerprint_of(replace(made, views=views)) for views in (1, 2, 8)}
    assert len({*models.values()}) == 3
    for views in (1, 2):
        with pytest.raises(DataError, match=models[views][:12]):
            deferral.decide(predictions_of(replace(made, views=views), images))


def test_a_run_whose_number_of_views_was_changed_has_to_be_calibrated_again(places, tmp_path):
    made = load(places / "run")
    run = write_run(tmp_path / "run", made, policy_of(made))
    write_views(run, 2)
    for use in (load_model, lambda folder: export_run(folder, tmp_path / "bundle")):
        with pytest.raises(DataError, match="misgiving calibrate"):
            use(run)


def test_the_card_names_the_views(places):
    assert Bundle.load(places / "bundle").card["views"] == 8
    assert "| views | 8 |" in (places / "bundle" / "README.md").read_text()


def test_odin_scores_one_view(places):
    made, images = load(places / "run"), noisy_set(4, seed=9)
    eight, plain = (
        odin_scores(replace(made, views=views), images, [Odin()])[Odin()] for views in (8, 1)
    )
    np.testing.assert_array_equal(eight, plain)


def test_kept_predictions_and_graphs_of_different_numbers_of_views_are_not_mixed(
    places, tmp_path, monkeypatch
):
    """Nor does the state of a random generator matter."""
    run = write_run(tmp_path / "run", load(places / "run"))
    noisy = noisy_set(60, seed=41)
    facts = {name: getattr(noisy, name) for name in ("classes", "labels", "ids", "groups")}
    data = Dataset(name="noisy", images=tuple(map(ArrayImage, noisy.images)), **facts)
    calls, predict = [], predict_module.predictions_of
    monkeypatch.setattr(
        predict_module,
        "predictions_of",
        lambda source, *rest, **options: (
            calls.append(source.views) or predict(source, *rest, **options)
        ),
    )
    logits = {}
    for seed, views in enumerate((8, 1, 2, 8, 1, 2)):
        torch.manual_seed(seed)
        source = TrainedRun(run, cache=tmp_path / "cache", views=views)
        own = source.predict(data).predictions.logits
        np.testing.assert_array_equal(logits.setdefault(views, own), own)
    assert calls == [8, 1, 2]
    assert np.abs(logits[8] - logits[1]).max() > 0.1
    assert len([*(run / "predictions").iterdir()]) == 3
    default = TrainedRun(run, cache=tmp_path / "cache").predict(data).predictions
    np.testing.assert_array_equal(default.logits, logits[8])
