import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import one_line
from fastapi.testclient import TestClient
from safetensors.torch import save_file
from trained_elsewhere import (
    SIDE,
    hard_set,
    image_processor,
    pixels_of,
    resnet,
    save_pretrained,
    timm_resnet,
    train,
    vit,
    write_folder,
)

from misgiving import Deferral
from misgiving.bundle.bundle import Bundle
from misgiving.bundle.decide_files import Decider, decide_files
from misgiving.bundle.export_run import export_run
from misgiving.checkpoint import load
from misgiving.data.splits import read_split
from misgiving.errors import UsageError
from misgiving.evaluation.evaluate import evaluate
from misgiving.models.joint import attach
from misgiving.predictions.inference import predict
from misgiving.predictions.predict import TrainedRun
from misgiving.serve.app import create_app
from misgiving.serve.settings import Settings
from misgiving.serve.store import Store
from misgiving.training.attach import attach_run
from misgiving.training.config import AttachConfig
from misgiving.training.recipes import ATTACHED

QUICK = replace(ATTACHED, epochs=5, device="cpu")
IMAGENET = (
    torch.tensor([0.485, 0.456, 0.406])[:, None, None],
    torch.tensor([0.229, 0.224, 0.225])[:, None, None],
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images that are new to three models, which were trained without this package."""
    folder = tmp_path_factory.mktemp("elsewhere")
    write_folder(folder / "new", hard_set(360, seed=3))
    transformer = train(vit(), lambda output: output.logits, 0.5, 0.5, steps=20)
    save_pretrained(folder / "vit", transformer)
    network = train(resnet(), lambda logits: logits, *IMAGENET, steps=30)
    save_file(network.state_dict(), folder / "resnet.safetensors")
    network = train(timm_resnet(), lambda logits: logits, *IMAGENET, steps=30)
    torch.save(network.state_dict(), folder / "timm.pt")
    return folder


def attached(place, kind, **changes):
    model, options = {
        "transformers": (str(place / "vit"), {}),
        "torchvision": (
            "torchvision:resnet18",
            {"weights": place / "resnet.safetensors", "image_size": 16},
        ),
        "timm": ("resnet10t", {"weights": place / "timm.pt", "image_size": 16}),
    }[kind]
    run = place / f"run-{kind}"
    if not run.exists() or changes:
        attach_run(
            model,
            f"folder:{place / 'new'}",
            place / "other" if changes else run,
            config=AttachConfig(**options | changes),
            training=QUICK,
            cache=place / "cache",
        )
    return run


@pytest.mark.parametrize("kind", ["transformers", "torchvision", "timm"])
def test_run_bundle_and_service_decide_alike(place, kind, tmp_path):
    run, data = attached(place, kind), f"folder:{place / 'new'}"
    predictions = TrainedRun.load(run, cache=place / "cache").predict(data).predictions
    policy = Deferral(max_error=0.15, max_ood_false_alarms=0.2).fit(predictions)
    policy.save(run / "policy")
    export_run(run, tmp_path / "bundle")
    # a calibration image may lie exactly at a threshold, where rounding decides
    files = sorted(write_folder(tmp_path / "later", hard_set(40, seed=13)).rglob("*.png"))
    by_run, by_bundle = (
        list(decide_files(Decider.load(model), [*map(str, files)], tmp_path / "parts"))
        for model in (run, tmp_path / "bundle")
    )
    assert len({row.decision for row in by_run}) > 1
    store = Store.open(str(tmp_path / "cases.sqlite"))
    app = create_app(Bundle.load(tmp_path / "bundle"), store, Settings(threads=1))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for file, ours, theirs in zip(files, by_run, by_bundle, strict=True):
            answer = client.post(
                "/decisions", content=file.read_bytes(), headers={"Content-Type": "image/png"}
            ).json()
            served = answer["results"][0]["case"]
            assert ours.decision == theirs.decision == served["decision"]
            assert ours.predicted_class == theirs.predicted_class
            assert ours.predicted_loss == pytest.approx(theirs.predicted_loss, rel=1e-3, abs=1e-4)
            assert ours.predicted_loss == pytest.approx(
                served["predicted_loss"], rel=1e-3, abs=1e-4
            )


def logits_by_transformers(place, images):
    import transformers

    model = transformers.AutoModelForImageClassification.from_pretrained(place / "vit").eval()
    return model((images - 0.5) / 0.5).logits


def logits_by_timm(place, images):
    model = timm_resnet()
    model.load_state_dict(torch.load(place / "timm.pt"))
    mean, std = IMAGENET
    return model((images - mean) / std)


@pytest.mark.parametrize(
    ("kind", "theirs"), [("transformers", logits_by_transformers), ("timm", logits_by_timm)]
)
def test_the_logits_of_the_run_are_bit_for_bit_the_models(place, kind, theirs):
    model = load(attached(place, kind)).model
    images = pixels_of(hard_set(10, seed=5))
    with torch.no_grad():
        expected = theirs(place, images)
        assert torch.equal(model(images).logits, expected)
        assert torch.equal(model.classify(images), expected)


@pytest.mark.parametrize("kind", ["transformers", "timm"])
def test_the_estimator_knows_errors_of_images_that_are_new_to_both(place, kind):
    checkpoint = load(attached(place, kind))
    found = predict(checkpoint.model, hard_set(300, seed=11))
    wrong, losses = found.errors, found.predicted_losses
    assert 0.03 < wrong.mean() < 0.6
    pairs = losses[wrong][:, None] > losses[~wrong]
    assert pairs.mean() > 0.65  # AUROC for errors


def test_a_run_is_measured_on_its_test_set(place):
    run = attached(place, "transformers")
    trained = TrainedRun.load(run, cache=place / "cache")
    predictions = trained.predict(f"folder:{place / 'new'}").predictions
    evaluation = evaluate(predictions)
    split = read_split(run / "split.csv")
    assert set(split.sets) == {"train", "tune", "calibrate", "test"}
    accuracy = next(row for row in evaluation.measurements if row.metric == "accuracy")
    assert 0.5 < accuracy.value < 0.99


def test_the_run_folder_says_what_it_was_made_from(place):
    run = attached(place, "torchvision")
    config = json.loads((run / "config.json").read_text())
    assert config["architecture"]["backbone"] == "resnet18"
    assert config["architecture"]["attached"]["library"] == "torchvision"
    assert config["model"]["weights"] == "resnet.safetensors"
    assert not list(run.glob("*.bin"))
    assert load(run).model.frozen


def test_classes_are_named_as_the_data_names_them(place, tmp_path):
    folder = place / "vit"
    renamed = write_folder(
        tmp_path / "new", replace(hard_set(240, seed=3), classes=("z", "y", "x"))
    )
    options = {"training": QUICK, "cache": tmp_path / "cache"}
    with pytest.raises(UsageError, match="classes x, y, z, and the model a, b, c"):
        attach_run(
            str(folder), f"folder:{renamed}", tmp_path / "run", config=AttachConfig(), **options
        )
    made = attach_run(
        str(folder),
        f"folder:{renamed}",
        tmp_path / "run",
        config=AttachConfig(classes=("z", "y", "x"), taps=("vit.layers.3",)),
        **options,
    )
    assert made.checkpoint.classes == ("z", "y", "x")
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert history.accuracy.iloc[-1] > 0.5
    assert load(tmp_path / "run").model.taps == ("vit.layers.3",)


REFUSED = {
    "too few classes": ({"classes": ("a", "b")}, "`classes` must be 3 different names"),
    "a class twice": ({"classes": ("a", "b", "b")}, "`classes` must be 3 different names"),
    "one more, twice": ({"classes": ("a", "b", "c", "c")}, "`classes` must be 3 different names"),
    "an unknown tap": ({"taps": ("vit.layer.3",)}, "no 'vit.layer.3'; try vit.layers.3"),
    "weights beside a folder": ({"weights": Path("w.pt")}, "leave them out"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_that_do_not_fit_the_model_are_refused(place, changes, message):
    with pytest.raises(UsageError, match=message):
        attached(place, "transformers", **changes)


def test_the_command_attaches_and_names_its_options(place, misgiving, tmp_path):
    data = f"folder:{place / 'new'}"
    out = tmp_path / "run"
    code, _, told = misgiving(
        "attach", place / "vit", data, "--out", out, "--epochs", 2, "--taps", "vit.layers.0"
    )
    assert code == 0, told
    assert "the loss estimator reads vit.layers.0" in told
    assert len(load(out).model.reader.channels) == 1
    code, _, error = misgiving("attach", place / "vit", data, "--out", out)
    assert code == 2
    assert "exists" in one_line(error)
    code, _, error = misgiving("attach", "resnet18", data, "--out", tmp_path / "other")
    assert code == 2
    assert "--weights" in one_line(error)
    (place / "vit" / "config.json").rename(tmp_path / "config.json")
    code, _, error = misgiving("attach", place / "vit", data, "--out", tmp_path / "other")
    (tmp_path / "config.json").rename(place / "vit" / "config.json")
    assert code == 1
    assert "config.json" in one_line(error)


def test_attaching_without_an_estimator_is_not_offered(misgiving, tmp_path):
    options = ("--out", tmp_path / "run", "--auxiliary", "none")
    code, _, error = misgiving("attach", "resnet18", "digits", *options)
    assert code == 2
    assert "'--auxiliary': 'none' is not one of 'ranking', 'mse'" in one_line(error)


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("change", [{"auxiliary": "none"}, {"auxiliary_weight": 0.0}])
def test_settings_that_train_no_estimator_are_refused_before_an_image_is_read(change):
    with pytest.raises(UsageError, match=f"`{next(iter(change))}` must be"):
        replace(ATTACHED, **change)


def test_an_option_of_the_ranking_is_refused_beside_the_squared_error(misgiving, tmp_path):
    options = ("--out", tmp_path / "run", "--auxiliary", "mse", "--margin", "2")
    code, _, error = misgiving("attach", "resnet18", "digits", *options)
    assert code == 2
    assert "--margin has no effect with --auxiliary mse; leave it out" in one_line(error)


def test_attaching_in_python_gives_the_same_logits_as_the_command(place):
    import transformers

    theirs = transformers.AutoModelForImageClassification.from_pretrained(place / "vit").eval()
    model = attach(theirs, classes=["a", "b", "c"], mean=[0.5] * 3, std=[0.5] * 3)
    images = pixels_of(hard_set(4, seed=5))
    by_command = load(attached(place, "transformers")).model  # trains, if no other test has
    with torch.no_grad():
        assert torch.equal(model(images).logits, by_command(images)[0])
    assert model.reader.channels == (SIDE,) * 4
    assert np.allclose(image_processor().image_mean, 0.5)
