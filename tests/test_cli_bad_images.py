import shutil

import pytest
from commands import CPU, TRAIN, of_json, one_line, reseal, rows_of
from PIL import Image

BAD = {"blue/3.png": b"", "blue/8.png": b"not an image", "red/2.png": b"\x89PNG\r\n\x1a\ncut"}
SKIP = ("--on-bad-image", "skip")


@pytest.fixture
def damaged(photos):
    """The photos, of which three cannot be read."""
    for name, content in BAD.items():
        (photos / name).write_bytes(content)
    return photos


@pytest.mark.parametrize(
    "words",
    [
        ("train", "folder:{photos}", "--out", "{new}", *TRAIN),
        ("evaluate", "{run}", "folder:{photos}", "--out", "{new}"),
        ("predict", "{run}", "{photos}", "--out", "{new}"),
        ("calibrate", "{run}", "folder:{photos}", "--max-error", "0.3"),
        ("data", "prepare", "folder:{photos}"),
        ("data", "ood", "mine", "folder:{photos}", "--place", "{photos}", "--out", "{new}"),
    ],
    ids=lambda words: words[1] if words[0] == "data" else words[0],
)
def test_all_bad_images_are_listed_below_one_line(misgiving, run_folder, damaged, tmp_path, words):
    places = {"photos": damaged, "run": run_folder, "new": tmp_path / "new"}
    code, output, error = misgiving(*(word.format(**places) for word in words))
    assert (code, output) == (1, "")
    first, *others = error.strip().splitlines()
    assert "3 of 24 images cannot be read" in first
    assert "--on-bad-image skip" in first
    assert all(name in line for name, line in zip(sorted(BAD), sorted(others), strict=True))
    assert not (tmp_path / "new").exists()
    assert not (run_folder / "policy").exists()


def test_train_without_bad_images_says_and_records_which(succeed, damaged, tmp_path):
    out = tmp_path / "new"
    _, _, error = succeed("train", f"folder:{damaged}", "--out", out, *TRAIN, *SKIP)
    assert "left out: 3 images that cannot be read" in error
    data = of_json(out / "config.json")["data"]
    assert [row["image"] for row in data["skipped"]] == sorted(BAD)
    assert len({row["id"] for row in rows_of(out / "split.csv")} - BAD.keys()) == 21


def test_evaluate_without_bad_images_accounts_for_them(succeed, run_folder, damaged, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "broken.png").write_bytes(b"")
    for name in "ab":
        Image.new("RGB", (20, 20), "white").save(tmp_path / "scans" / f"{name}.png")
    words = ("evaluate", run_folder, f"folder:{damaged}", "--ood", tmp_path / "scans")
    error = succeed(*words, *SKIP, *CPU).err
    assert "left out: 3 of 24 images of folder:" in error
    assert "left out: 1 of 3 images of scans that cannot be read" in error
    skipped = rows_of(run_folder / "evaluation" / "skipped.csv")
    names = [row["image"].removeprefix(f"{tmp_path}/") for row in skipped]
    assert names == [*sorted(BAD), "scans/broken.png"]


def test_predict_has_a_row_for_a_bad_image(succeed, run_folder, damaged, tmp_path):
    succeed("predict", run_folder, damaged, "--out", tmp_path / "bad.csv", *SKIP, *CPU)
    rows = rows_of(tmp_path / "bad.csv")
    unreadable = {row["path"] for row in rows if row["unreadable"]}
    assert (len(rows), unreadable) == (24, {str(damaged / name) for name in BAD})


def test_calibrate_does_not_pass_over_bad_images_of_the_training_data(
    misgiving, run_folder, photos, tmp_path
):
    held_out = {row["id"] for row in rows_of(run_folder / "split.csv") if row["set"] != "train"}
    others = shutil.copytree(photos, tmp_path / "others")
    for path in others.rglob("*.png"):
        if path.relative_to(others).as_posix() not in held_out:
            path.unlink()
    training = shutil.copytree(photos, tmp_path / "training")
    (training / "red" / "0.png").write_bytes(b"")
    data = of_json(run_folder / "config.json")["data"]
    reseal(run_folder, data={**data, "name": f"folder:{training}"})
    words = ("calibrate", run_folder, f"folder:{others}", "--max-error", "0.5", *CPU)
    code, _, error = misgiving(*words)
    assert code == 1
    assert "red/0.png: the file is empty" in one_line(error)
