import json

import pytest
import torch

from misgiving.checkpoint import Architecture, Checkpoint, load, save
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
            parts=("train", "validation"),
            labels=("a", "c"),
            groups=("x", "y"),
        ),
        class_weights=(0.5, 1.0, 2.0),
        estimates_losses=True,
        configuration={"training": {"epochs": 2}},
    )


def test_a_loaded_run_is_the_saved_one(checkpoint, tmp_path):
    save(tmp_path / "run", checkpoint)
    loaded = load(tmp_path / "run")
    images = torch.rand(2, 3, 16, 16)
    for ours, theirs in zip(checkpoint.model(images), loaded.model(images), strict=True):
        assert torch.equal(ours, theirs)
    for name in ("architecture", "classes", "preprocessing", "class_weights", "estimates_losses"):
        assert getattr(loaded, name) == getattr(checkpoint, name)
    assert loaded.split == checkpoint.split
    assert loaded.configuration == {"training": {"epochs": 2}}


def test_a_run_records_versions(checkpoint, tmp_path):
    save(tmp_path / "run", checkpoint)
    versions = json.loads((tmp_path / "run" / "config.json").read_text())["versions"]
    assert (
        versions["torch"] == torch.__version__.split("+")[0]
        or versions["torch"] == torch.__version__
    )


def test_a_run_holds_no_pickle(checkpoint, tmp_path):
    save(tmp_path / "run", checkpoint)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"model.safetensors", "config.json", "split.csv"}


def test_a_table_that_cannot_be_written_leaves_no_run(checkpoint, tmp_path):
    def rows():
        yield (1,)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save(tmp_path / "run", checkpoint, tables={"history.csv": (("epoch",), rows())})
    assert list(tmp_path.iterdir()) == []


def remove(name):
    return lambda run: (run / name).unlink()


def replace_text(name, text):
    return lambda run: (run / name).write_text(text)


def cut(name):
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:-100])


def without_key(run):
    config = json.loads((run / "config.json").read_text())
    del config["classes"]
    (run / "config.json").write_text(json.dumps(config))


def with_value(name, value):
    def damage(run):
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**config, name: value}))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("config.json"), "not a run"),
        (remove("model.safetensors"), "model.safetensors: missing or damaged weights"),
        (remove("split.csv"), "split.csv"),
        (replace_text("config.json", "{"), "config.json: not valid JSON"),
        (replace_text("config.json", "{}"), "config.json: not of format 1"),
        (cut("model.safetensors"), "model.safetensors: missing or damaged weights"),
        (without_key, "config.json: damaged"),
        (with_value("classes", ["a", "a", "b"]), "3 different names"),
        (with_value("class_weights", [1.0]), "3 numbers of at least 0"),
        (with_value("class_weights", [1.0, -1.0, 1.0]), "3 numbers of at least 0"),
        (with_value("estimates_losses", "no"), r"true or false|damaged"),
        (with_value("architecture", None), "config.json: damaged"),
        (with_value("preprocessing", []), "config.json: damaged"),
        (replace_text("split.csv", "id\n"), "split.csv: damaged"),
    ],
)
def test_a_damaged_run_is_refused_by_the_name_of_the_file(checkpoint, tmp_path, damage, message):
    run = tmp_path / "run"
    save(run, checkpoint)
    damage(run)
    with pytest.raises(DataError, match=message):
        load(run)
