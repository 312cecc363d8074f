"""What commands do with images that cannot be read."""

import csv
import json
import shutil

import numpy as np
import pytest
from commands import one_line, reseal
from PIL import Image

from misgiving.training.config import DataConfig, ModelConfig, TrainingConfig
from misgiving.training.train_run import prepare_training, train_run

QUICK = [
    "--recipe", "paper", "--backbone", "vgg16_mini", "--no-pretrained", "--epochs", "1",
    "--device", "cpu",
]  # fmt: skip
TRAIN = [*QUICK, "--image-size", "16", "--validation-share", "0.5"]
BAD = {"blue/3.png": b"", "blue/8.png": b"not an image", "red/2.png": b"\x89PNG\r\n\x1a\ncut"}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return tmp_path_factory.mktemp("bad_images")


@pytest.fixture
def cache_home(places):
    return places / "cache"


@pytest.fixture(scope="module")
def whole(places):
    """A folder for each of two colours, with 60 images in each that differ."""
    random = np.random.default_rng(0)
    for name, colour in (("red", 0), ("blue", 2)):
        (places / "whole" / name).mkdir(parents=True)
        for number in range(60):
            pixels = random.integers(0, 150, (20, 24, 3), dtype=np.uint8)
            pixels[..., colour] += 90
            Image.fromarray(pixels).save(places / "whole" / name / f"{number}.png")
    return places / "whole"


@pytest.fixture(scope="module")
def trained(whole, places):
    run = prepare_training(
        f"folder:{whole}",
        model=ModelConfig(backbone="vgg16_mini", pretrained=False),
        training=TrainingConfig(epochs=1, batch_size=16, device="cpu"),
        images=DataConfig(image_size=16, validation_share=0.5),
        cache=places / "cache" / "misgiving",
    )
    train_run(run, places / "run")
    return places / "run"


@pytest.fixture
def run_folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def photos(whole, tmp_path):
    """The same images, of which three cannot be read."""
    shutil.copytree(whole, tmp_path / "photos")
    for name, content in BAD.items():
        (tmp_path / "photos" / name).write_bytes(content)
    return tmp_path / "photos"


def rows(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def is_listed(error):
    return all(any(name in line for line in error.splitlines()[1:]) for name in BAD)


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "calibrate", "prepare"])
def test_all_bad_images_are_listed_below_one_line(misgiving, run_folder, photos, tmp_path, command):
    data = f"folder:{photos}"
    arguments = {
        "train": ["train", data, "--out", tmp_path / "new", *TRAIN],
        "evaluate": ["evaluate", run_folder, data, "--out", tmp_path / "new"],
        "predict": ["predict", run_folder, photos, "--out", tmp_path / "new"],
        "calibrate": ["calibrate", run_folder, data, "--max-error", "0.3"],
        "prepare": ["data", "prepare", data],
    }
    code, output, error = misgiving(*arguments[command])
    assert (code, output) == (1, "")
    first, *others = error.strip().splitlines()
    assert "3 of 120 images cannot be read" in first
    assert "--on-bad-image skip" in first
    assert len(others) == 3
    assert is_listed(error)
    assert not (tmp_path / "new").exists()
    assert not (run_folder / "policy").exists()


def test_a_long_list_is_cut(misgiving, photos):
    for path in list(photos.rglob("*.png"))[:70]:
        path.write_bytes(b"")
    code, _, error = misgiving("data", "prepare", f"folder:{photos}")
    lines = error.strip().splitlines()
    assert code == 1
    assert len(lines) == 52
    assert f"and {int(lines[0].split()[1]) - 50} more" in lines[-1]


def test_train_without_bad_images_says_and_records_which(misgiving, photos, tmp_path):
    code, _, error = misgiving(
        "train", f"folder:{photos}", "--out", tmp_path / "new", *TRAIN, "--on-bad-image", "skip"
    )
    assert code == 0, error
    assert "left out: 3 images that cannot be read" in error
    assert is_listed(error)
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert sum(config["data"]["images"].values()) == 117
    assert [one["image"] for one in config["data"]["skipped"]] == sorted(BAD)
    assert all(one["reason"] for one in config["data"]["skipped"])
    assert {row["id"] for row in rows(tmp_path / "new" / "split.csv")}.isdisjoint(BAD)


def test_evaluate_without_bad_images_accounts_for_them(misgiving, run_folder, photos, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "broken.png").write_bytes(b"")
    for name in "ab":
        Image.new("RGB", (20, 20), "white").save(tmp_path / "scans" / f"{name}.png")
    code, output, error = misgiving(
        "evaluate", run_folder, f"folder:{photos}", "--ood", tmp_path / "scans",
        "--on-bad-image", "skip", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, error
    assert "left out: 3 of 120 images of folder:" in error
    assert "left out: 1 of 3 images of scans that cannot be read" in error
    assert "are classified correctly" in output
    skipped = rows(run_folder / "evaluation" / "skipped.csv")
    assert [row["image"].removeprefix(f"{tmp_path}/") for row in skipped] == [
        *sorted(BAD),
        "scans/broken.png",
    ]


def test_predict_has_a_row_for_a_bad_image_that_says_why(misgiving, run_folder, photos, tmp_path):
    misgiving("predict", run_folder, photos / "red", "--out", tmp_path / "none.csv")
    code, _, error = misgiving(
        "predict", run_folder, photos, "--out", tmp_path / "p.csv", "--on-bad-image", "skip",
        "--device", "cpu",
    )  # fmt: skip
    assert code == 0, error
    assert is_listed(error)
    found = rows(tmp_path / "p.csv")
    assert list(found[0]) == [
        "path", "predicted_class", "probability", "predicted_loss", "unreadable"
    ]  # fmt: skip
    assert len(found) == 120
    bad = {row["path"]: row for row in found if row["unreadable"]}
    assert set(bad) == {str(photos / name) for name in BAD}
    assert {row["predicted_class"] + row["probability"] for row in bad.values()} == {""}
    assert all(row["predicted_class"] for row in found if row["path"] not in bad)


def test_the_rows_of_good_images_are_those_without_the_bad_ones(
    misgiving, run_folder, whole, photos, tmp_path
):
    for name in BAD:
        shutil.copy(whole / "red" / "0.png", photos / name)
    misgiving("predict", run_folder, photos, "--out", tmp_path / "good.csv", "--device", "cpu")
    for name, content in BAD.items():
        (photos / name).write_bytes(content)
    misgiving(
        "predict", run_folder, photos, "--out", tmp_path / "bad.csv", "--on-bad-image", "skip",
        "--device", "cpu",
    )  # fmt: skip
    for good, bad in zip(rows(tmp_path / "good.csv"), rows(tmp_path / "bad.csv"), strict=True):
        assert good["path"] == bad["path"]
        if not bad["unreadable"]:
            assert good["predicted_class"] == bad["predicted_class"]
            assert float(good["probability"]) == pytest.approx(float(bad["probability"]), abs=1e-5)


def test_calibrate_does_not_pass_over_bad_images_of_the_training_data(
    misgiving, run_folder, whole, tmp_path
):
    held_out = {row["id"] for row in rows(run_folder / "split.csv") if row["set"] != "train"}
    others = shutil.copytree(whole, tmp_path / "others")
    for path in others.rglob("*.png"):
        if path.relative_to(others).as_posix() not in held_out:
            path.unlink()
    training = shutil.copytree(whole, tmp_path / "training")
    (training / "red" / "0.png").write_bytes(b"")
    data = json.loads((run_folder / "config.json").read_text())["data"]
    reseal(run_folder, data={**data, "name": f"folder:{training}"})
    code, _, error = misgiving(
        "calibrate", run_folder, f"folder:{others}", "--max-error", "0.5", "--device", "cpu"
    )
    assert code == 1
    assert "red/0.png: the file is empty" in one_line(error)


def test_data_ood_leaves_bad_images_out_on_demand(misgiving, photos, tmp_path):
    arguments = ["data", "ood", "mine", f"folder:{photos}", "--place", photos]
    code, _, error = misgiving(*arguments, "--out", tmp_path / "set")
    assert code == 1
    assert is_listed(error)
    code, _, error = misgiving(*arguments, "--out", tmp_path / "set", "--on-bad-image", "skip")
    assert code == 0, error
    assert "left out: 3 images" in error
    assert len(list((tmp_path / "set").glob("*.png"))) == 117
