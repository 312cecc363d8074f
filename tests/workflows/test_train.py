from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from coloured import coloured_set, split_of

from misgiving import Deferral
from misgiving.checkpoint import Checkpoint, load
from misgiving.data.preprocessing import AugmentationSettings, Preprocessing
from misgiving.decisions.engine import load_policy
from misgiving.errors import DataError, UsageError
from misgiving.results.formats import write_document
from misgiving.results.policy_cases import PolicyImages
from misgiving.training.config import DataConfig, ModelConfig, TrainingConfig
from misgiving.workflows.calibration_history import History
from misgiving.workflows.evaluate import (
    held_out,
    images_for_policy,
    name_of,
    warnings_of,
)
from misgiving.workflows.related_images import of_training_groups, related_to_training
from misgiving.workflows.train import TrainingSetup, prepare_training, train_run

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
        augmentation=AugmentationSettings.none(),
        model=MODEL,
        training=TRAINING,
    )


def test_a_run_folder_holds_model_configuration_split_and_history(run, tmp_path):
    train_run(run, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "model.safetensors",
        "config.json",
        "split.csv",
        "checksums.json",
        "history.csv",
    }


def test_the_split_travels_with_the_run(run, tmp_path):
    train_run(run, tmp_path / "run")
    split = load(tmp_path / "run").split
    assert split.hashes == run.images.hashes
    assert list(split.sets) == list(run.sets)


def test_a_run_records_settings_and_the_datas_fingerprint(run, tmp_path):
    train_run(run, tmp_path / "run")
    configuration = load(tmp_path / "run").configuration
    assert configuration["data"]["fingerprint"] == run.images.fingerprint
    assert configuration["data"]["images"] == {"train": 18, "validation": 6}
    assert TrainingConfig(**configuration["training"]) == TRAINING


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


def test_images_are_aligned_with_a_models_classes_by_name(images):
    aligned, left_out = images.align(("c", "x", "a"))
    assert left_out == 8
    assert aligned.classes == ("c", "x", "a")
    for name, label in zip(aligned.ids, aligned.labels, strict=True):
        original = images.classes[images.labels[images.ids.index(name)]]
        assert aligned.classes[label] == original


def test_data_of_other_classes_is_refused(images):
    with pytest.raises(DataError, match=r"\(a, b, c\).*\(x, y\)"):
        images.align(("x", "y"))


def test_training_images_are_left_out_by_content_even_under_another_name(images):
    split = split_of(images, ["train"] * 10 + ["validation"] * 14)
    renamed = replace(images, ids=tuple(f"copy of {name}" for name in images.ids))
    measured, seen = held_out(renamed, split)
    assert seen == 10
    assert set(measured.hashes) == set(images.hashes[10:])


def test_images_that_the_model_has_never_seen_all_count(images):
    split = split_of(images, ["train"] * 24)
    measured, seen = held_out(coloured_set(seed=7), split)
    assert (len(measured), seen) == (24, 0)


def test_a_set_of_training_images_alone_is_refused(images):
    with pytest.raises(UsageError, match=r"trained on all 24.*train"):
        held_out(images, split_of(images, ["train"] * 24))


def test_new_images_of_a_patient_of_the_training_set_are_told_apart(images):
    patients = tuple(f"patient {number // 2}" for number in range(24))
    split = split_of(replace(images, groups=patients), ["train"] * 12 + ["test"] * 12)
    new = replace(coloured_set(seed=7), groups=patients)
    assert of_training_groups(new, split).tolist() == [True] * 12 + [False] * 12
    # what is in the split is where the split says, and an image's own name is no patient
    assert not of_training_groups(replace(images, groups=patients), split).any()
    own = split_of(images, ["train"] * 24)
    assert not of_training_groups(
        replace(coloured_set(seed=7), ids=images.ids, groups=images.ids), own
    ).any()


def test_a_patient_that_was_joined_to_another_keeps_the_own_name_of_its_images(images):
    # A near duplicate joins the last patient to the first, by whose name the split knows both.
    patients = tuple(f"patient {number // 2:02}" for number in range(24))
    joined = (*patients[:22], "patient 00", "patient 00")
    trained = replace(images, groups=patients)
    split = split_of(replace(images, groups=joined), ["train"] * 24)
    run = Mock(Checkpoint, split=split, classes=images.classes, configuration={})
    new = coloured_set(seed=7)
    both = replace(
        trained,
        images=np.concatenate([trained.images, new.images]),
        rows=np.arange(48),
        labels=np.concatenate([trained.labels, new.labels]),
        ids=(*trained.ids, *map(str, range(24))),
        groups=patients * 2,
        hashes=trained.hashes + new.hashes,
    )
    found, groups, remarks = related_to_training(run, both, Mock())
    fresh = found.select(np.arange(24, 48))
    assert of_training_groups(fresh, split, groups).all()
    alone = replace(fresh, groups=patients)
    assert of_training_groups(alone, split).tolist() == [True] * 22 + [False] * 2
    assert remarks == []


def test_numbers_of_the_images_that_the_epoch_was_chosen_on_are_called_optimistic(images):
    split = split_of(images, ["train"] * 8 + ["tune"] * 8 + ["test"] * 8)
    run = Mock(Checkpoint, split=split, configuration={"training": {"keep": "best"}})
    said = "best on its set tune, on which numbers are optimistic"
    assert said in warnings_of(run, images, None)[0]
    assert said in warnings_of(run, images.select(np.arange(8, 16)), "tune")[0]
    assert warnings_of(run, images.select(np.arange(16, 24)), "test") == []


def test_a_policy_is_not_measured_on_other_images_of_its_patients(images, tmp_path):
    patients = tuple(f"patient {number // 2}" for number in range(24))
    of = [
        PolicyImages(images.ids[a:b], images.hashes[a:b], patients[a:b])
        for a, b in ((0, 5), (6, 9))
    ]
    cases = History().with_calibration(
        *of, data="", seed=0, group_columns=("patient",), fingerprint="", max_error=0.1, notes=()
    )
    write_document(tmp_path / "policy" / "cases.json", cases)
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 600)
    logits = random.normal(size=(600, 3)) + 3 * np.eye(3)[labels]
    Deferral(max_error=0.3).fit((logits, labels)).save(tmp_path / "other")
    engine = load_policy(tmp_path / "other")
    new = replace(coloured_set(seed=7), groups=patients)
    mixed = replace(new, hashes=images.hashes[:1] + new.hashes[1:])
    rows, (remark,), _ = images_for_policy(tmp_path, engine, mixed, None)
    assert rows.tolist() == list(range(10, 24))
    assert "fitted on 1 of these 24 images, and on others of the groups of 9; its" in remark


def test_one_part_can_be_asked_for(images):
    split = split_of(images, ["train"] * 10 + ["validation"] * 14)
    measured, _ = held_out(images, split, set_name="train")
    assert measured.hashes == images.hashes[:10]


def test_a_part_that_the_split_does_not_have_is_refused_with_those_it_has(images):
    split = split_of(images, ["train"] * 10 + ["validation"] * 14)
    with pytest.raises(UsageError, match=r"no set 'test'; choose from train, validation"):
        held_out(images, split, set_name="test")


def test_preparing_a_run_splits_by_class_with_the_seed(tmp_path):
    runs = [
        prepare_training(
            "digits",
            images=DataConfig(),
            model=MODEL,
            training=replace(TRAINING, seed=seed),
            cache=tmp_path,
        )
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(runs[0].sets, runs[1].sets)
    assert not np.array_equal(runs[0].sets, runs[2].sets)
    assert len(runs[0].images_of("validation")) == pytest.approx(180, abs=1)
    counts = np.bincount(runs[0].images_of("validation").labels)
    assert counts.min() >= 17


def test_settings_change_the_datas_own_preprocessing(tmp_path):
    run = prepare_training(
        "digits",
        images=DataConfig(image_size=24, augment=False),
        model=MODEL,
        training=TRAINING,
        cache=tmp_path,
    )
    assert run.images_of("train").images.shape[1:] == (24, 24, 3)
    assert run.preprocessing.color_constancy == "none"
    assert run.augmentation == AugmentationSettings.none()


@pytest.mark.parametrize(
    ("model", "training", "culprit"),
    [
        ({"backbone": "resnet19"}, {}, "resnet19"),
        ({"dropout": 1.0}, {}, "dropout"),
        ({"taps": (77,)}, {}, "77"),
        ({"taps": ()}, {}, "`taps` is empty"),
        ({"backbone": "vgg16"}, {}, "images of 16 pixels .*another `image_size`"),
        ({"weights": Path("nowhere.safetensors")}, {}, "nowhere.safetensors"),
        ({}, {"precision": "transformer-engine"}, "precision"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_images_are_prepared(
    tmp_path, model, training, culprit
):
    network, settings = replace(MODEL, **model), replace(TRAINING, **training)
    with pytest.raises((DataError, UsageError), match=culprit):
        prepare_training(
            "digits", images=DataConfig(), model=network, training=settings, cache=tmp_path
        )
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["validation", "tune", "test"])
def test_measured_images_of_one_set_of_the_split_have_its_name(images, name):
    split = split_of(images, ["train"] * 10 + [name] * 14)
    assert name_of(held_out(images, split)[0], split) == name


def test_new_images_are_called_test_and_images_of_several_sets_held_out(images):
    split = split_of(images, ["train"] * 10 + ["tune"] * 7 + ["test"] * 7)
    assert name_of(held_out(images, split)[0], split) == "held_out"
    assert name_of(coloured_set(seed=7), split) == "test"
    mixed = replace(images, hashes=(*images.hashes[-7:], *map(str, range(17))))
    assert name_of(mixed, split) == "held_out"


def test_a_copy_of_a_training_image_is_not_measured_as_validation(images):
    twice = replace(images, hashes=(images.hashes[0], *images.hashes[:-1]))
    split = split_of(twice, ["train"] + ["validation"] * 23)
    measured, _ = held_out(twice, split, set_name="validation")
    assert images.hashes[0] not in measured.hashes
    assert len(measured) == 22


def test_the_loss_that_the_estimator_learned_is_plain_where_its_target_was(run, tmp_path):
    plain = replace(run, training=replace(TRAINING, target="plain"))
    assert set(train_run(plain, tmp_path / "run").class_weights) == {1.0}
