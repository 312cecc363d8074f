import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from commands import one_line
from safetensors.torch import save_file
from trained_elsewhere import (
    SIDE,
    hard_set,
    pixels_of,
    resnet,
    save_pretrained,
    timm_resnet,
    train,
    vit,
    write_folder,
)

from misgiving import Deferral
from misgiving.bundle.decide_files import Decider, decide_files
from misgiving.bundle.export_run import export_run
from misgiving.checkpoint import load
from misgiving.data.splits import read_split
from misgiving.errors import UsageError
from misgiving.models.joint import attach
from misgiving.predictions.inference import predict
from misgiving.predictions.predict import TrainedRun
from misgiving.training.attach import attach_run
from misgiving.training.config import ATTACHED, AttachConfig

MODELS = ["transformers", "torchvision", "timm"]
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


@pytest.mark.parametrize(
    "kind", ["transformers", *(pytest.param(k, marks=pytest.mark.soak) for k in MODELS[1:])]
)
def test_run_and_bundle_decide_alike(place, kind, tmp_path):
    run, data = attached(place, kind), f"folder:{place / 'new'}"
    predictions = TrainedRun.load(run, cache=place / "cache").predict(data).predictions
    assert set(read_split(run / "split.csv").sets) == {"train", "tune", "calibrate", "test"}
    assert 0.5 < 1 - predictions.errors.mean() < 0.99
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
    for ours, theirs in zip(by_run, by_bundle, strict=True):
        assert ours.decision == theirs.decision
        assert ours.predicted_class == theirs.predicted_class
        assert ours.predicted_loss == pytest.approx(theirs.predicted_loss, rel=1e-3, abs=1e-4)


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


def test_the_run_folder_says_what_it_was_made_from(place):
    run = attached(place, "torchvision")
    config = json.loads((run / "config.json").read_text())
    assert config["architecture"]["backbone"] == "resnet18"
    assert config["architecture"]["attached"]["library"] == "torchvision"
    assert config["model"]["weights"] == "resnet.safetensors"
    assert not list(run.glob("*.bin"))
    assert load(run).model.frozen


def test_classes_are_named_as_the_data_names_them(place, tmp_path):
    renamed = write_folder(
        tmp_path / "new", replace(hard_set(240, seed=3), classes=("z", "y", "x"))
    )
    checkpoint, _ = attach_run(
        str(place / "vit"),
        f"folder:{renamed}",
        tmp_path / "run",
        config=AttachConfig(classes=("z", "y", "x"), taps=("vit.layers.3",)),
        training=QUICK,
        cache=tmp_path / "cache",
    )
    assert checkpoint.classes == ("z", "y", "x")
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert history.accuracy.iloc[-1] > 0.5
    assert load(tmp_path / "run").model.taps == ("vit.layers.3",)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ("a", "b")},
        {"classes": ("a", "b", "b")},
        {"classes": ("a", "b", "c", "c")},
        {"classes": ("a", "b", "x")},
        {"taps": ("vit.layer.3",)},
        {"weights": Path("w.pt")},
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(place, changes):
    with pytest.raises(UsageError, match=next(iter(changes))):
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
    for model, run, expected in (
        (place / "vit", out, "exists"),
        ("resnet18", tmp_path / "other", "--weights"),
    ):
        code, _, error = misgiving("attach", model, data, "--out", run)
        assert code == 2
        assert expected in one_line(error)


def test_attaching_in_python_gives_the_same_logits_as_the_command(place):
    import transformers

    theirs = transformers.AutoModelForImageClassification.from_pretrained(place / "vit").eval()
    model = attach(theirs, classes=["a", "b", "c"], mean=[0.5] * 3, std=[0.5] * 3)
    images = pixels_of(hard_set(4, seed=5))
    by_command = load(attached(place, "transformers")).model  # trains, if no other test has
    with torch.no_grad():
        assert torch.equal(model(images).logits, by_command(images)[0])
    assert model.reader.channels == (SIDE,) * 4
