"""Second opinions in `calibrate`, `evaluate`, `predict`, `export` and `serve`, on digits."""

from dataclasses import replace

import numpy as np
import pytest
from commands import CPU, QUICK, call, rows_of
from fastapi.testclient import TestClient
from PIL import Image

from misgiving.bundle.bundle import Bundle
from misgiving.checkpoint import load, save
from misgiving.data.datasets import load_dataset, read_ood_folder
from misgiving.deferral.deferral import Deferral
from misgiving.predictions.predict import TrainedRun
from misgiving.predictions.record import Predictions
from misgiving.serve.app import create_app
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.store import Store

CACHE = "cache"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs `weak` and `strong`, which see images of other sizes, and some images as files."""
    place = tmp_path_factory.mktemp("opinions")
    for name, size, rate in (("weak", 16, 0.001), ("strong", 24, 0.002)):
        words = (*QUICK, "--epochs", 4, "--validation-share", 0.6, "--learning-rate", rate)
        done = call(
            "train", "digits", "--out", place / name, "--image-size", size, *words,
            cache=place / CACHE,
        )  # fmt: skip
        assert done.code == 0, done.err
    (place / "images").mkdir()
    digits = load_dataset("digits").images
    for number in range(1000, 1100):
        Image.fromarray(digits[number].read().image).save(place / "images" / f"{number}.png")
    words = ("--second-opinion", place / "strong", "--max-error", "0.05", *CPU)
    said = call("calibrate", place / "weak", "digits", *words, cache=place / CACHE)
    assert said.code == 0, said.err
    (place / "said").write_text(said.err)
    words = ("--second-opinion", place / "strong", "--out", place / "bundle")
    assert call("export", place / "weak", *words, cache=place / CACHE).code == 0
    return place


@pytest.fixture
def cache_home(place):
    return place / CACHE


def test_calibrate_says_what_a_second_opinion_is_worth_and_the_policy_needs_it(
    fail, succeed, place, tmp_path
):
    calibration = Deferral.load(place / "weak").calibration_
    tried, (_, weight) = calibration.tried, calibration.opinions.weights
    assert tried["second_opinion"] < tried["error_estimator"]
    assert (
        f"Second opinion strong: weight {weight:.2f} of strong; AURC on the tuning set "
        f"{tried['second_opinion']:.4f} with it, "
        f"{tried['error_estimator']:.4f} without (cross-fitted)\n"
        f"Next: misgiving predict {place / 'weak'} NEW_IMAGES --second-opinion {place / 'strong'} "
    ) in (place / "said").read_text()
    for option, value in (("--device", "cpu"), ("--second-opinion", place / "strong")):
        words = ("predict", place / "bundle", place / "images", option, value)
        assert f"{option} has no effect" in fail(2, *words)
    needed = "the policy uses the second opinion of strong; give that model as --second-op"
    for words in (
        ("evaluate", place / "weak", "digits", *CPU),
        ("predict", place / "weak", place / "images", *CPU),
        ("export", place / "weak", "--out", tmp_path / "bundle"),
    ):
        assert needed in fail(2, *words)
    words = ("predict", place / "weak", place / "images", *CPU)
    other = fail(1, *words, "--second-opinion", f"strong={place / 'weak'}")
    assert "uses the second opinion strong of the model" in other
    words = ("digits", "--second-opinion", place / "strong", "--out", tmp_path / "report", *CPU)
    succeed("evaluate", place / "weak", *words)
    assert rows_of(tmp_path / "report" / "decisions.csv")


def test_a_bundle_of_two_graphs_and_the_two_runs_agree(succeed, place, tmp_path):
    assert {path.name for path in (place / "bundle").iterdir()} >= {"model.onnx", "opinion_1.onnx"}
    runs = ("--second-opinion", place / "strong", *CPU)
    for name, options in (("weak", runs), ("bundle", ())):
        table = tmp_path / f"{name}.csv"
        succeed("predict", place / name, place / "images", *options, "--out", table)
    by_run, by_bundle = (rows_of(tmp_path / f"{name}.csv") for name in ("weak", "bundle"))
    names = [name for name in by_run[0] if name.startswith("probability_")]
    shares = [
        np.array([[row[name] for name in names] for row in rows], float)
        for rows in (by_run, by_bundle)
    ]
    np.testing.assert_allclose(*shares, atol=1e-4)
    strong = TrainedRun(place / "strong", cache=place / CACHE / "misgiving")
    weak = TrainedRun(place / "weak", cache=strong.cache, opinions={"strong": strong})
    images = read_ood_folder(place / "images", name="images")
    predictions = weak.predict_unlabelled(images).predictions
    decided = Deferral.load(place / "weak").decide_for(predictions)  # a hundred may look drifted
    np.testing.assert_allclose(decided.probabilities, shares[1], atol=1e-4)
    certificate = Deferral.load(place / "weak").certificate_
    for run, bundle in zip(by_run, by_bundle, strict=True):
        far = abs(float(run["acceptance_score"]) - certificate.accept_threshold) > 1e-3
        far &= abs(float(run["ood_score"]) - certificate.ood_threshold) > 1e-4
        assert not far or run["decision"] == bundle["decision"]
    assert {row["decision"] for row in by_run} >= {"accept", "defer"}


def test_the_service_decides_with_both_graphs_and_shows_that_the_second_opinion_differs(
    place, tmp_path
):
    bundle = Bundle.load(place / "bundle", threads=1)
    paths = sorted((place / "images").iterdir())
    expected = bundle.decide([path.read_bytes() for path in paths], [path.name for path in paths])
    deferred = [x for x in range(len(paths)) if expected[x].decision == "defer"]
    differs = next(x for x in deferred if "second opinion prefers" in expected[x].reason)
    app = create_app(bundle, Store.open(str(tmp_path / "cases.sqlite")), ServiceSettings(threads=1))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        files = {"files": (paths[differs].name, paths[differs].read_bytes())}
        case = client.post("/decisions", files=files).json()["results"][0]["case"]
        assert client.get(f"/cases/{case['id']}/thumbnail").status_code == 200
    assert (case["decision"], case["reason"]) == ("defer", expected[differs].reason)
    assert case["probability"] == pytest.approx(expected[differs].probability)


def test_another_second_opinion_is_refused_in_one_line(fail, place, tmp_path, monkeypatch):
    strong = load(place / "strong")
    trained = strong.split._replace(sets=("train",) * len(strong.split.sets))
    words = ("calibrate", place / "weak", "digits", "--max-error", "0.05", "--overwrite", *CPU)
    for changes, says in (
        ({"split": trained}, "second opinion was trained on 'digit-"),
        ({"classes": tuple("1023456789")}, "the second opinion other is on 1, 0, 2"),
    ):
        other = tmp_path / str(len(says)) / "other"
        save(other, replace(strong, **changes))
        assert says in fail(1, *words, "--second-opinion", other)
        monkeypatch.setattr("misgiving.predictions.predict.load_dataset", None)  # not read again


def test_files_have_the_policy_of_the_runs_and_an_opinion_that_is_worth_nothing_is_left_out(
    succeed, place, tmp_path
):
    for name in ("weak", "strong"):
        run = TrainedRun(place / name, cache=place / CACHE / "misgiving")
        predicted = run.predict("digits").predictions
        predicted.write(tmp_path / f"{name}.npz")
    words = ("--second-opinion", tmp_path / "strong.npz", "--max-error", "0.05")
    succeed("calibrate", tmp_path / "weak.npz", *words, "--out", tmp_path / "policy")
    policies = [Deferral.load(place / "weak"), Deferral.load(tmp_path / "policy")]
    assert policies[0].certificate_ == policies[1].certificate_
    some = Predictions.read(tmp_path / "weak.npz").select(np.arange(100))
    some.write(tmp_path / "without.npz")
    some.with_opinion(predicted, "strong").write(tmp_path / "own.npz")
    measured = ("evaluate", tmp_path / "weak.npz", *words[:2], "--policy", tmp_path / "policy")
    for ood, code in (("own", 0), ("without", 1)):  # the ids are those of other images
        options = ("--ood", f"far={tmp_path / ood}.npz", "--out", tmp_path / "report")
        done = call(*measured, *options, cache=place / CACHE)
        assert (done.code, "without.npz: " in done.err) == (code, code == 1), done.err
    order = np.random.default_rng(0).permutation(len(predicted))
    replace(predicted, logits=predicted.logits[order]).write(tmp_path / "misled.npz")
    words = ("--second-opinion", tmp_path / "misled.npz", *words[2:], "--out", tmp_path / "other")
    said = succeed("calibrate", tmp_path / "weak.npz", *words).err
    assert "Second opinion misled: left out, as it is worth nothing" in said
