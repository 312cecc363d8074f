from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from misgiving.checkpoint import load
from misgiving.data.preprocessing import AugmentationSettings, Preprocessing
from misgiving.errors import DataError, UsageError
from misgiving.training.config import DataConfig, ModelConfig, TrainingConfig
from misgiving.training.train_run import TrainingSetup, prepare_training, train_run

MODEL = ModelConfig(backbone="vgg16_mini", pretrained=False)
IMAGES = DataConfig()
JSON_FILES = ("config.json", "checksums.json")
TRAINING = TrainingConfig(epochs=1, batch_size=8, device="cpu")


@pytest.fixture
def run(images):
    parts = np.array(["train"] * 18 + ["validation"] * 6)
    return TrainingSetup(
        data="coloured",
        images=images,
        sets=parts,
        preprocessing=Preprocessing(image_size=16, crop=1.0, color_constancy="none"),
        augmentation=AugmentationSettings.none(),
        model=MODEL,
        training=TRAINING,
    )


def test_a_run_folder_holds_model_configuration_split_and_history(run, tmp_path):
    train_run(run, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "checksums.json",
        "config.json",
        "history.csv",
        "model.safetensors",
        "split.csv",
    }
    checkpoint = load(tmp_path / "run")
    assert checkpoint.split.hashes == run.images.hashes
    assert list(checkpoint.split.sets) == list(run.sets)
    data = checkpoint.configuration["data"]
    assert data["fingerprint"] == run.images.fingerprint
    assert data["images"] == {"train": 18, "validation": 6}
    assert TrainingConfig(**checkpoint.configuration["training"]) == TRAINING


def test_undefined_values_are_empty_cells_in_the_history(run, tmp_path):
    vanilla = replace(run, training=replace(TRAINING, auxiliary="none"))
    train_run(vanilla, tmp_path / "run")
    assert "nan" not in (tmp_path / "run" / "history.csv").read_text()


def test_the_seed_alone_decides_the_run(run, tmp_path):
    for name in ("first", "second"):
        train_run(run, tmp_path / name)
    for file in ("model.safetensors", "history.csv", "split.csv"):
        first, second = ((tmp_path / name / file).read_bytes() for name in ("first", "second"))
        assert first == second


def prepared(cache, images=IMAGES, model=MODEL, training=TRAINING):
    return prepare_training("digits", images=images, model=model, training=training, cache=cache)


def test_preparing_a_run_splits_by_class_with_the_seed(tmp_path):
    runs = [prepared(tmp_path, training=replace(TRAINING, seed=seed)) for seed in (0, 0, 1)]
    assert np.array_equal(runs[0].sets, runs[1].sets)
    assert not np.array_equal(runs[0].sets, runs[2].sets)
    assert len(runs[0].images_of("validation")) == pytest.approx(180, abs=1)
    counts = np.bincount(runs[0].images_of("validation").labels)
    assert counts.min() >= 17


def test_settings_change_the_datas_own_preprocessing(tmp_path):
    run = prepared(tmp_path, DataConfig(image_size=24, augment=False))
    assert run.images_of("train").images.shape[1:] == (24, 24, 3)
    assert run.preprocessing.color_constancy == "none"
    assert run.augmentation == AugmentationSettings.none()


@pytest.mark.parametrize(
    ("model", "training", "culprit"),
    [
        ({"backbone": "resnet19"}, {}, "resnet19"),
        ({"dropout": 1.0}, {}, "dropout"),
        ({"taps": (77,)}, {}, "77"),
        ({"taps": ()}, {}, "taps"),
        ({"backbone": "vgg16"}, {}, "16 pixels"),
        ({"weights": Path("nowhere.safetensors")}, {}, "nowhere.safetensors"),
        ({}, {"precision": "transformer-engine"}, "precision"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_images_are_prepared(
    tmp_path, model, training, culprit
):
    with pytest.raises((DataError, UsageError), match=culprit):
        prepared(tmp_path, model=replace(MODEL, **model), training=replace(TRAINING, **training))
    assert not any(tmp_path.iterdir())


def test_the_loss_that_the_estimator_learned_is_plain_where_its_target_was(run, tmp_path):
    plain = replace(run, training=replace(TRAINING, target="plain"))
    assert set(train_run(plain, tmp_path / "run").class_weights) == {1.0}
