from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from commands import of_json, reseal
from corpus import Trap

from misgiving.checkpoint import Architecture, Checkpoint, TrainingData, load, save, write_views
from misgiving.data.preprocessing import Preprocessing
from misgiving.data.splits import Split
from misgiving.errors import DataError


@pytest.fixture
def checkpoint():
    architecture = Architecture(backbone="vgg16_mini", num_classes=3, image_size=16, taps=(1, 3))
    return Checkpoint(
        model=architecture.build().eval(),
        architecture=architecture,
        classes=("a", "b", "c"),
        preprocessing=Preprocessing(image_size=16, crop=1.0, color_constancy="none"),
        split=Split(
            ids=("x", "y"),
            hashes=("0" * 64, "1" * 64),
            sets=("train", "validation"),
            labels=("a", "c"),
            groups=("x", "y"),
        ),
        class_weights=(0.5, 1.0, 2.0),
        estimates_losses=True,
        data=TrainingData(name="folder:photos", fingerprint="2" * 64, images={"train": 1}),
        settings={"training": {"epochs": 2}},
    )


def test_a_loaded_run_is_the_saved_one(checkpoint, tmp_path):
    save(tmp_path / "run", checkpoint)
    loaded = load(tmp_path / "run")
    images = torch.rand(2, 3, 16, 16)
    for ours, theirs in zip(checkpoint.model(images), loaded.model(images), strict=True):
        assert torch.equal(ours, theirs)
    for name in (field.name for field in fields(Checkpoint) if field.name != "model"):
        assert getattr(loaded, name) == getattr(checkpoint, name)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    files = {"model.safetensors", "config.json", "split.csv", "checksums.json"}
    assert names == {*files, "README.md"}
    config = of_json(tmp_path / "run" / "config.json")
    assert config["versions"]["torch"] in torch.__version__


def test_the_number_of_views_is_kept_and_can_be_changed(checkpoint, tmp_path):
    save(tmp_path / "run", replace(checkpoint, views=8))
    assert load(tmp_path / "run").views == 8
    for views in (2, 1):
        write_views(tmp_path / "run", views)
        assert load(tmp_path / "run").views == views
    for content in ("{", '{"views": 3}', "{}"):
        (tmp_path / "run" / "views.json").write_text(content)
        with pytest.raises(DataError, match=r"views\.json"):
            load(tmp_path / "run")


@pytest.mark.parametrize(
    ("preset", "views", "other"),
    [("dermoscopy", 8, 1), ("dermoscopy", 1, 8), ("light", 1, 1), ("light", 8, 1), (None, 8, 1)],
)
def test_views_are_compared_with_those_that_suit_the_augmentation_or_with_one(
    checkpoint, preset, views, other
):
    settings = {"augmentation": {"preset": preset}} if preset else {}
    assert replace(checkpoint, views=views, settings=settings).other_views == other


CONFIG, SPLIT, WEIGHTS = "config.json", "split.csv", "model.safetensors"
DAMAGED = [  # files that are missing, or other values under right checksums
    (CONFIG, "misgiving attach"),
    *((name, name) for name in (WEIGHTS, SPLIT, "checksums.json")),
    ({"format": None, "model_type": "vit"}, "misgiving attach"),  # of Hugging Face
    ({"format": 99}, "config.json: .*format 99"),
    *(({name: None}, CONFIG) for name in ("classes", "architecture", "preprocessing")),
    ({"classes": ["1", "2"]}, CONFIG),
    ({"training": {"keep": "best"}}, "config.json: .*training"),  # of an older version
]


@pytest.mark.parametrize(("change", "message"), DAMAGED)
def test_a_damaged_run_is_refused_by_the_name_of_the_file(checkpoint, tmp_path, change, message):
    run = tmp_path / "run"
    save(run, checkpoint)
    reseal(run, **change) if isinstance(change, dict) else (run / change).unlink()
    with pytest.raises(DataError, match=message):
        load(run)


@pytest.mark.parametrize("name", [WEIGHTS, SPLIT, CONFIG])
def test_one_flipped_bit_anywhere_in_a_run_is_noticed(checkpoint, tmp_path, name):
    run = tmp_path / "run"
    save(run, checkpoint)
    content = (run / name).read_bytes()
    for at in np.linspace(0, len(content) - 2, 12).astype(int):
        damaged = bytearray(content)
        damaged[at] ^= 1
        (run / name).write_bytes(damaged)
        with pytest.raises(DataError, match=name):
            load(run)
    (run / name).write_bytes(content)
    load(run)


@pytest.mark.parametrize("name", [WEIGHTS, SPLIT])
def test_a_pickle_under_right_checksums_is_refused_and_not_executed(checkpoint, tmp_path, name):
    run = tmp_path / "run"
    save(run, checkpoint)
    torch.save({"weight": Trap()}, run / name)
    reseal(run)
    with pytest.raises(DataError, match=name):
        load(run)
