from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from misgiving.checkpoint import load
from misgiving.data.datasets import load_dataset, write_sample
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import DataError
from misgiving.training.config import DataConfig, ModelConfig, Recipe, TrainingConfig
from misgiving.training.train_run import TrainingSetup, initial_model, prepare_training, train_run

MODEL = ModelConfig(backbone="vgg16_mini", pretrained=False)
TRAINING = TrainingConfig(epochs=1, batch_size=8, device="cpu")


@pytest.fixture
def run(images):
    parts = np.array(["train"] * 18 + ["validation"] * 6)
    return TrainingSetup(
        data="coloured",
        images=images,
        sets=parts,
        preprocessing=Preprocessing(image_size=16, crop=1.0, color_constancy="none"),
        augmentation="light",
        model=MODEL,
        training=TRAINING,
    )


def trained(run, folder):
    return train_run(run, initial_model(run.model, run.training, 3, 16), folder)


def test_a_run_folder_holds_model_configuration_split_and_history(run, tmp_path):
    training = replace(TRAINING, keep="best")
    trained(replace(run, training=training), tmp_path / "run")
    files = {"checksums.json", "config.json", "history.csv", "model.safetensors", "split.csv"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*files, "README.md"}
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert (card.data.library_name, card.data.license) == ("misgiving", None)
    assert "(vgg16_mini) of a, b, c." in card.text
    checkpoint = load(tmp_path / "run")
    assert checkpoint.split.hashes == run.images.hashes
    assert list(checkpoint.split.sets) == list(run.sets)
    assert checkpoint.data.fingerprint == run.images.fingerprint
    assert checkpoint.data.images == {"train": 18, "validation": 6}
    strengths = {"flips": False, "jitter": 0.2, "rotation": 10.0, "translation": 0.1}
    assert checkpoint.settings["augmentation"] == {"preset": "light", **strengths}
    assert TrainingConfig(**checkpoint.settings["training"]) == training
    assert checkpoint.keeps_best_epoch


@pytest.mark.parametrize(("augmentation", "views"), [("light", 1), ("dermoscopy", 8)])
def test_a_run_has_the_views_that_its_augmentation_allows(run, tmp_path, augmentation, views):
    made = trained(replace(run, augmentation=augmentation), tmp_path / "run")
    assert made.views == load(tmp_path / "run").views == views
    assert made.other_views == 1


def test_the_seed_alone_decides_the_run(run, tmp_path):
    """The plain target gives no class weights; undefined values are empty cells."""
    vanilla = replace(run, training=replace(TRAINING, auxiliary="none", target="plain"))
    for name in ("first", "second"):
        assert set(trained(vanilla, tmp_path / name).class_weights) == {1.0}
    for file in ("model.safetensors", "history.csv", "split.csv"):
        first, second = ((tmp_path / name / file).read_bytes() for name in ("first", "second"))
        assert first == second
        assert b"nan" not in first or file == "model.safetensors"


def test_a_training_does_not_resume_where_the_users_own_loss_has_changed(
    run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    source = "def loss(predicted, true):\n    return (predicted - {} * true).abs().mean()\n"
    Path("mine.py").write_text(source.format(1))
    own = replace(run, training=replace(TRAINING, epochs=2, auxiliary="mine:loss"))

    def stop(step):
        if step.epoch == 2:
            raise InterruptedError

    for _ in range(2):
        model = initial_model(own.model, own.training, 3, 16)
        with pytest.raises(InterruptedError):
            train_run(own, model, tmp_path / "run", on_step=stop)
    Path("mine.py").write_text(source.format(2))
    with pytest.raises(DataError):
        trained(own, tmp_path / "run")


def test_columns_of_readers_that_no_step_can_use_are_refused_before_images_are_prepared(tmp_path):
    write_sample(tmp_path / "photos")
    rows = [f"{name},{name[0]},R1" for name in load_dataset(f"folder:{tmp_path / 'photos'}").ids]
    table = tmp_path / "photos" / "t.csv"
    table.write_text("\n".join(["path,label,reader_id", *rows]))
    with pytest.raises(DataError, match="reader_id"):
        prepare_training(f"table:{table}", Recipe(model=MODEL), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def prepared(cache, **changes):
    recipe = replace(Recipe(model=MODEL, training=TRAINING), **changes)
    return prepare_training("digits", recipe, cache=cache)[0]


def test_preparing_a_run_splits_by_class_with_the_seed(tmp_path):
    runs = [prepared(tmp_path, training=replace(TRAINING, seed=seed)) for seed in (0, 0, 1)]
    assert np.array_equal(runs[0].sets, runs[1].sets)
    assert not np.array_equal(runs[0].sets, runs[2].sets)
    assert len(runs[0].images_of("validation")) == pytest.approx(180, abs=1)
    assert np.bincount(runs[0].images_of("validation").labels).min() >= 17
    # settings change the data's own preprocessing
    run = prepared(tmp_path, images=DataConfig(image_size=24, augment="none"))
    assert run.images_of("train").images.shape[1:] == (24, 24, 3)
    assert run.preprocessing.color_constancy == "none"
    assert (run.augmentation, runs[0].augmentation) == ("none", "light")


def test_a_weights_file_is_reported_only_if_more_than_its_classifier_is_missing(tmp_path):
    state = initial_model(MODEL, TRAINING, 5, 16).backbone.state_dict()
    reports = []
    for number, absent in enumerate(("num_batches_tracked", "features.0.weight")):
        path = tmp_path / f"{number}.safetensors"
        weights = {k: v.contiguous() for k, v in state.items() if absent not in k}
        save_file(weights, path)
        initial_model(
            replace(MODEL, weights=path), TRAINING, 3, 16, lambda *names: reports.append(names)
        )
    assert [absent in unfilled for unfilled, _ in reports] == [True]
