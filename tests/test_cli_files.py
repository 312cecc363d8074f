"""What commands say of the files of a folder, of a published split and of images that repeat."""

import shutil

import pytest
from commands import CPU, QUICK, TRAIN, of_json, rows_of

SAID = "ignored: 2 .heix, 1 without a suffix"


@pytest.fixture
def littered(photos):
    """The photos, with files that are no images, and a class without any."""
    for name in ("red/1.heix", "blue/2.HEIX", "blue/noname"):
        (photos / name).touch()
    (photos / "green").mkdir()
    return photos


COMMANDS = [
    ("data", "check", "folder:{photos}"),
    ("plan", "folder:{photos}", "--max-error", "0.3"),
    ("predict", "{run}", "{photos}", *CPU),
    ("evaluate", "{run}", *CPU),
    ("calibrate", "{run}", "--max-error", "0.3", *CPU),
]
STRICT = [
    *COMMANDS,
    ("train", "folder:{photos}", "--out", "{new}", *QUICK),
    ("attach", "no-model", "folder:{photos}", "--out", "{new}"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_command_counts_the_files_that_it_ignores(succeed, littered, run_folder, words):
    """Evaluate and calibrate take the data that the run was trained on."""
    error = succeed(*(word.format(photos=littered, run=run_folder) for word in words)).err
    assert SAID in error.splitlines()


@pytest.mark.parametrize("words", STRICT, ids=lambda words: words[0])
def test_a_strict_command_fails_before_it_reads_an_image(
    fail, littered, run_folder, tmp_path, words
):
    for path in littered.rglob("*.png"):
        path.write_bytes(b"")
    places = {"photos": littered, "run": run_folder, "new": tmp_path / "new"}
    line = fail(1, *(word.format(**places) for word in words), "--strict")
    empty = "" if words[0] == "predict" else "; no images in class folder green"
    assert f"photos: {SAID}{empty}; remove or convert them, or leave out --strict" in line


def test_plan_counts_no_image_that_cannot_be_read(succeed, photos):
    (photos / "red" / "1.png").write_bytes(b"")
    error = succeed("plan", f"folder:{photos}", "--max-error", "0.3").err
    assert "left out: 1 image that cannot be read" in error
    assert f"folder:{photos}: 23 images of 23 groups" in error


def test_train_obeys_a_published_split_and_says_what_is_wrong_with_it(succeed, photos, tmp_path):
    data = tmp_path / "split"
    set_of = dict(enumerate(["train"] * 6 + ["val"] * 4 + ["test"] * 2))
    for path in photos.rglob("*.png"):
        (data / set_of[int(path.stem)] / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.move(path, data / set_of[int(path.stem)] / path.parent.name)
    (data / "train" / "green").mkdir()
    shutil.copy(data / "train" / "red" / "0.png", data / "test" / "blue")
    options = ("--split", "grouped", "--image-size", "16", "--batch-size", "4")
    error = succeed("train", f"folder:{data}", "--out", tmp_path / "new", *QUICK, *options).err
    assert "Warning: no images in class folder green, which is left out" in error
    split = "calibrate 6 of validation, test 5, train 12, tune 2 of validation (images)"
    assert f"split of the data: {split}" in error
    copies = "copies with different labels: 1, first test/blue/0.png and train/red/0.png"
    assert f"Warning: {copies}; `misgiving data check` lists them." in error
    assert "of 5 test images, 1 has another image of their group, or a copy, in the" in error
    planned = succeed("plan", f"folder:{data}", "--max-error", "0.3").err
    assert f"split of the data: {split}" in planned
    assert "The calibration set has 6 images." in planned
    assert "15 %" not in planned
    for row in rows_of(tmp_path / "new" / "split.csv"):
        folder = row["id"].split("/")[0]
        assert row["set"] == folder or (folder == "val" and row["set"] in ("tune", "calibrate"))
    assert of_json(tmp_path / "new" / "config.json")["data"]["name"] == f"folder:{data}"


def test_train_says_that_another_split_does_not_use_the_published_one(
    misgiving, monkeypatch, photos, tmp_path
):
    from misgiving.training import train_run as workflow

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "train_run", stop)
    table = tmp_path / "t.csv"
    rows = [f"{path},{path.parent.name},train" for path in photos.rglob("*.png")]
    table.write_text("\n".join(["path,label,set", *rows]))
    error = misgiving("train", f"table:{table}", "--out", tmp_path / "new", *TRAIN).err
    assert "Warning: the split of the data is not used with --split paper." in error
