import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from refusals import naming
from sklearn.metrics import roc_auc_score
from trained_elsewhere import (
    SIDE,
    hard_set,
    pixels_of,
    save_pretrained,
    timm_network,
    train,
    vit,
    write_folder,
)

from misgiving import Deferral
from misgiving.bundle.decide_files import decide_files, load_model
from misgiving.bundle.export_run import export_run
from misgiving.checkpoint import load
from misgiving.data.splits import read_split
from misgiving.errors import DataError, UsageError
from misgiving.models.backbones import ModuleSource
from misgiving.predictions.inference import predictions_of
from misgiving.predictions.predict import TrainedRun
from misgiving.predictions.record import Predictions
from misgiving.training.attach import attach, attach_run, check_answers
from misgiving.training.config import ATTACHED, AttachConfig
from misgiving.training.trained_models import USUAL_PREPARATIONS, TrainedModel

IMAGENET = (
    torch.tensor([0.485, 0.456, 0.406])[:, None, None],
    torch.tensor([0.229, 0.224, 0.225])[:, None, None],
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images that are new to two models, which were trained without this package."""
    folder = tmp_path_factory.mktemp("elsewhere")
    write_folder(folder / "new", hard_set(360, seed=3))
    transformer = train(vit(), lambda output: output.logits, 0.5, 0.5, steps=20)
    save_pretrained(folder / "vit", transformer)
    network = train(timm_network(), lambda logits: logits, *IMAGENET, steps=30)
    torch.save(network.state_dict(), folder / "timm.pt")
    return folder


def attached(place, model, run, data="new", **options):
    return attach_run(
        str(model),
        f"folder:{place / data}",
        run,
        config=AttachConfig(**options),
        training=replace(ATTACHED, epochs=5, device="cpu"),
        cache=place / "cache",
    )


@pytest.fixture(scope="module")
def of_transformers(place):
    attached(place, place / "vit", place / "run-vit")
    return place / "run-vit"


@pytest.fixture(scope="module")
def of_timm(place):
    run, options = place / "run-timm", {"weights": place / "timm.pt", "image_size": 16}
    attached(place, "test_efficientnet", run, **options)
    return run


def test_run_and_bundle_decide_alike(place, of_transformers, tmp_path):
    run, data = of_transformers, f"folder:{place / 'new'}"
    predictions = TrainedRun(run, cache=place / "cache").predict(data).predictions
    assert set(read_split(run / "split.csv").sets) == {"train", "tune", "calibrate", "test"}
    Deferral(max_error=0.15, max_ood_false_alarms=0.2).fit(predictions).save(run / "policy")
    export_run(run, tmp_path / "bundle")
    # a calibration image may lie exactly at a threshold, where rounding decides
    files = sorted(write_folder(tmp_path / "later", hard_set(40, seed=13)).rglob("*.png"))
    by_run, by_bundle = (
        decide_files(load_model(model), [*map(str, files)], tmp_path / "parts")
        for model in (run, tmp_path / "bundle")
    )
    assert by_run["decision"].nunique() > 1
    for name in ("decision", "predicted_class", "predicted_loss"):
        ours, theirs = (made[name].tolist() for made in (by_run, by_bundle))
        close = pytest.approx(theirs, rel=1e-3, abs=1e-4) if name == "predicted_loss" else theirs
        assert ours == close


def test_the_logits_of_a_run_are_the_models_and_its_estimator_knows_errors_of_new_images(
    place, of_transformers, of_timm
):
    """Bit for bit; of a transformer also those of the model that is attached in Python."""
    images, (mean, std) = pixels_of(hard_set(10, seed=5)), IMAGENET
    transformer = transformers.AutoModelForImageClassification.from_pretrained(place / "vit").eval()
    in_python = attach(transformer, classes=["a", "b", "c"], mean=[0.5] * 3, std=[0.5] * 3)
    network = timm_network()
    network.load_state_dict(torch.load(place / "timm.pt"))
    for run, expected in (
        (of_transformers, transformer((images - 0.5) / 0.5).logits),
        (of_transformers, in_python(images).logits),
        (of_timm, network((images - mean) / std)),
    ):
        model = load(run).model
        assert torch.equal(model(images).logits, expected)
        assert torch.equal(model.classify(images), expected)
        assert model.frozen
    assert in_python.reader.channels == (SIDE,) * 4
    assert in_python.taps == tuple(f"vit.layers.{number}" for number in range(4))
    config = json.loads((of_timm / "config.json").read_text())
    assert config["architecture"]["attached"]["library"] == "timm"
    assert config["settings"]["model"]["weights"] == "timm.pt"
    for run in (of_transformers, of_timm):
        predictions = predictions_of(load(run).model, hard_set(300, seed=11))
        assert 0.03 < predictions.errors.mean() < 0.6
        assert roc_auc_score(predictions.errors, predictions.predicted_losses) > 0.65


def test_classes_are_named_as_the_data_names_them(place, tmp_path):
    write_folder(place / "renamed", replace(hard_set(240, seed=3), classes=("z", "y", "x")))
    options = {"classes": ("z", "y", "x"), "taps": ("vit.layers.3",)}
    checkpoint, _ = attached(place, place / "vit", tmp_path / "run", "renamed", **options)
    assert checkpoint.classes == ("z", "y", "x")
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    assert history.accuracy.iloc[-1] > 0.5
    assert load(tmp_path / "run").model.taps == ("vit.layers.3",)


def test_settings_that_do_not_fit_the_model_are_refused(place, tmp_path):
    for name, value in (
        *(("classes", tuple(names)) for names in ("ab", "abb", "abcc", "abx")),
        ("taps", ("vit.layer.3",)),
        ("weights", Path("w.pt")),
    ):
        with pytest.raises(UsageError, check=naming(name)):
            attached(place, place / "vit", tmp_path / "run", **{name: value})


def outcomes(pairs):
    """Predictions of three classes, given the numbers of images by answer and true class."""
    answers, labels, counts = map(np.array, zip(*pairs, strict=True))
    logits = 4 * np.eye(3)[np.repeat(answers, counts)]
    return Predictions.of((logits, np.repeat(labels, counts)), classes="abc")


def test_answers_are_compared_with_chance_whatever_the_mix_of_classes():
    """A weak classifier may be right less often than the answer of the most frequent class."""
    preprocessing, mean, std = USUAL_PREPARATIONS["timm"]("test_efficientnet", 3, 16)
    source = ModuleSource(library="timm", config={}, mean=mean, std=std)
    trained = TrainedModel(torch.nn.Identity(), "net", source, tuple("abc"), preprocessing)
    weak = [(0, 0, 170), (1, 0, 60), (2, 0, 40), (1, 1, 35), (2, 1, 25), (2, 2, 45), (1, 2, 25)]
    check_answers(outcomes(weak), trained)
    for pairs in ([(0, 0, 300), (0, 1, 60), (0, 2, 40)], [(0, 0, 40), (1, 0, 40), (0, 1, 45)]):
        with pytest.raises(DataError):
            check_answers(outcomes(pairs), trained)


def test_a_model_that_is_prepared_wrongly_is_refused_with_what_helps(place, tmp_path):
    options = {"weights": place / "timm.pt", "image_size": 16}
    for name, wrong in (("std", (99.0,) * 3), ("classes", tuple("cab"))):
        with pytest.raises(DataError, check=naming(name)):
            attached(place, "test_efficientnet", tmp_path / "run", **options, **{name: wrong})
        assert not (tmp_path / "run").exists()


def test_the_command_attaches_and_names_its_options(place, fail, succeed, tmp_path):
    data, out = f"folder:{place / 'new'}", tmp_path / "run"
    words = ("attach", place / "vit", data, "--taps", "vit.layers.0", "--overwrite", "--out", out)
    assert "no label was spent on a loss estimator" in succeed(*words).err
    checkpoint = load(out)
    shares = {name: checkpoint.split.sets.count(name) / 360 for name in {*checkpoint.split.sets}}
    expected = {"train": 0.3, "tune": 0.15, "calibrate": 0.45, "test": 0.1}
    assert shares == pytest.approx(expected, abs=0.01)
    assert len(checkpoint.model.reader.channels) == 1
    assert not (out / "history.csv").exists()
    assert predictions_of(checkpoint, hard_set(3, seed=5)).predicted_losses is None
    assert "--epochs has no effect" in fail(2, *words, "--epochs", 2)
    assert checkpoint.views == 1
    assert "--views" in fail(2, *words, "--views", 4)
    succeed(*words, "--auxiliary", "ranking", "--epochs", 2, "--views", 2)
    assert load(out).estimates_losses
    assert (load(out).views, load(out).settings["model"]["views"]) == (2, 2)
    assert load(out).split.sets.count("train") == pytest.approx(0.7 * 360, abs=4)
    assert "--weights" in fail(2, "attach", "resnet18", data, "--out", tmp_path / "other")
