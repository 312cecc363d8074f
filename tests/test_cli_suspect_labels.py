"""`misgiving data check` on runs and predictions, end to end."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
from bundled import SIDE, checkpoint, policy_of, write_run
from coloured import coloured_set
from commands import one_line
from PIL import Image
from test_cli_predictions import write_rows

from misgiving.data.cache import prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.splits import Split


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def columns_with_errors(count=300):
    """Predictions of which every tenth label is not the class that the outputs name."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, count)
    labels = truth.copy()
    labels[::10] = (truth[::10] + 1) % 3
    logits = random.normal(size=(count, 3)) + 6 * np.eye(3)[truth]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    features = random.normal(size=(count, 4)) + 5 * np.eye(4)[truth]
    names = ("cat", "dog", "owl")
    return {
        "id": [f"image {number}" for number in range(count)],
        "label": [names[label] for label in labels],
        **{f"probability_{name}": shares[:, at] for at, name in enumerate(names)},
        "features": features,
    }, [names[label] for label in truth]


def write(path, columns):
    features = columns.pop("features", None)
    if features is not None:
        columns |= {f"feature_{at}": column for at, column in enumerate(features.T)}
    return write_rows(path, count=len(columns["id"]), **columns)


def suspects(misgiving, path, tmp_path):
    code, _, error = misgiving("data", "check", path, "--out", tmp_path / "audit")
    assert code == 0, error
    return read(tmp_path / "audit" / "suspect_labels.csv"), error


def test_planted_errors_in_held_out_predictions_are_listed_first(misgiving, tmp_path):
    columns, truth = columns_with_errors()
    paths = [f"folder/{number}.png" for number in range(300)]
    table = write(tmp_path / "p.csv", {**columns, "path": paths})
    rows, _ = suspects(misgiving, table, tmp_path)
    first = {row["id"] for row in rows[:30]}
    assert len(first & {f"image {number}" for number in range(0, 300, 10)}) >= 28
    for row in rows[:20]:
        number = int(row["id"].split()[1])
        assert row["label"] == columns["label"][number]
        assert row["suggested_class"] == truth[number]
        assert row["path"] == str(tmp_path / "folder" / f"{number}.png")
        assert row["basis"] == "held-out"
        assert f"{row['suggested_class']} and " in row["why"]
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0.5


def test_a_classifier_that_knows_its_training_labels_by_heart_is_not_believed(misgiving, tmp_path):
    columns, _ = columns_with_errors()
    names = ("cat", "dog", "owl")
    for name in names:
        columns[f"probability_{name}"] = [0.98 if of == name else 0.01 for of in columns["label"]]
    sets = ["train" if number < 200 else "test" for number in range(300)]
    rows, _ = suspects(misgiving, write(tmp_path / "p.csv", {**columns, "set": sets}), tmp_path)
    trained = [row for row in rows if int(row["id"].split()[1]) < 200]
    assert {row["basis"] for row in trained} == {"cross-fitted"}
    assert len({row["id"] for row in trained} & {f"image {n}" for n in range(0, 200, 10)}) >= 18
    columns.pop("features", None)
    for name in [name for name in columns if name.startswith("feature_")]:
        columns.pop(name)
    rows, said = suspects(misgiving, write(tmp_path / "q.csv", {**columns, "set": sets}), tmp_path)
    assert not [row for row in rows if int(row["id"].split()[1]) < 200]
    assert "left out: 200 images" in said


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"label": None}, "no label can be judged"),
        ({"label": "cat"}, "every label is 'cat'"),
        ({"set": "train", "features": None}, "no label can be judged"),
        ({"set": "train", "one dog": True}, "class 'dog' has images of one group alone"),
        ({"set": "train", "count": 8}, "cross-fitting needs a class of 5 images"),
    ],
    ids=["no labels", "one class", "no features", "a class of one image", "few images"],
)
def test_labels_that_cannot_be_judged_are_one_line(change, expected, misgiving, tmp_path):
    count = change.get("count", 100)
    columns, _ = columns_with_errors(count)
    columns["label"] = (["cat", "dog", "owl"] * count)[:count]
    if "label" in change:
        columns["label"] = [change["label"] or ""] * count
    if change.get("one dog"):
        columns["label"] = ["dog", *(["cat", "owl"] * count)[: count - 1]]
    if "set" in change:
        columns["set"] = [change["set"]] * count
    if "features" in change:
        del columns["features"]
    code, _, error = misgiving("data", "check", write(tmp_path / "p.csv", columns))
    assert code == 1
    assert expected in one_line(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of photographs of three classes; the first five of each lie in the next one's."""
    place = tmp_path_factory.mktemp("photos")
    images = coloured_set(120, side=SIDE, seed=5)
    for number, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
        given = (label + 1) % 3 if number < 15 else label
        (place / "abc"[given]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / "abc"[given] / f"{number:03d}.png")
    return place


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """A run with a policy that was trained on none of these images but a few."""
    made = checkpoint()
    plain = replace(made.preprocessing, crop=1.0, color_constancy="none")  # colours are the classes
    made = replace(made, preprocessing=plain)
    dataset = load_dataset(f"folder:{folder}")
    hashes = prepare(dataset, made.preprocessing, cache=tmp_path_factory.mktemp("cache")).hashes
    chosen = [at for at, name in enumerate(dataset.ids) if int(name[2:5]) >= 100]
    labels = [dataset.classes[dataset.labels[at]] for at in chosen]
    split = made.split
    known = Split(
        ids=split.ids + tuple(dataset.ids[at] for at in chosen),
        hashes=split.hashes + tuple(hashes[at] for at in chosen),
        sets=split.sets + ("train",) * len(chosen),
        labels=split.labels + tuple(labels),
        groups=split.groups + tuple(dataset.ids[at] for at in chosen),
    )
    made = replace(made, split=known)
    return write_run(tmp_path_factory.mktemp("run") / "run", made, policy_of(made))


def test_a_run_lists_suspect_labels_beside_the_audit_of_the_images(
    misgiving, folder, run, tmp_path
):
    out = tmp_path / "audit"
    code, printed, error = misgiving(
        "data", "check", f"folder:{folder}", "--model", run, "--out", out, "--device", "cpu"
    )
    assert code == 0, error
    assert "near duplicates" in printed
    assert {path.name for path in out.iterdir()} == {
        "check.json",
        "findings.csv",
        "suspect_labels.csv",
    }
    rows = read(out / "suspect_labels.csv")
    assert sum(int(row["id"][2:5]) < 15 for row in rows[:10]) >= 6
    for row in rows:
        number = int(row["id"][2:5])
        assert row["path"] == str(folder / row["id"])
        assert row["basis"] == ("cross-fitted" if number >= 100 else "held-out")


def test_a_near_duplicate_of_a_training_image_is_cross_fitted(misgiving, folder, run, tmp_path):
    both, out = tmp_path / "both", tmp_path / "audit"
    shutil.copytree(folder, both)
    for path in folder.glob("*/1??.png"):  # those that the model was trained on, a little lighter
        other = both / "bca"["abc".index(path.parent.name)] / f"{path.stem}-copy.png"
        Image.fromarray(np.asarray(Image.open(path)) + np.uint8(6)).save(other)
    words = ("data", "check", f"folder:{both}", "--model", run, "--out", out, "--device", "cpu")
    code, _, error = misgiving(*words)
    assert code == 0, error
    basis = {row["id"]: row["basis"] for row in read(out / "suspect_labels.csv")}
    assert {of for name, of in basis.items() if "copy" in name} == {"cross-fitted"}


def test_what_is_not_a_run_is_refused_before_the_images_are_read(misgiving, folder, tmp_path):
    out = tmp_path / "audit"
    code, printed, error = misgiving(
        "data", "check", f"folder:{folder}", "--model", tmp_path, "--out", out
    )
    assert code == 1
    assert "not a run" in one_line(error)
    assert printed == ""
    assert not out.exists()


@pytest.mark.parametrize(
    ("table", "out", "model"),
    [
        ("findings.csv", ".", False),
        ("suspect_labels.csv", ".", True),
    ],
)
def test_an_audit_does_not_replace_the_table_that_it_reads(
    misgiving, monkeypatch, folder, run, tmp_path, table, out, model
):
    monkeypatch.setattr("misgiving.data.check.data_check", None)  # it is not reached
    path = tmp_path / table
    rows = [f"{image},{image.parent.name}\n" for image in sorted(folder.rglob("*.png"))]
    path.write_text("".join(["path,label\n", *rows]))
    before = path.read_bytes()
    options = ("--model", run) if model else ()
    code, _, error = misgiving("data", "check", f"table:{path}", "--out", tmp_path / out, *options)
    assert code == 2
    assert f"{table}: is read, and would be replaced; choose another --out" in one_line(error)
    assert path.read_bytes() == before


def test_an_audit_may_replace_an_earlier_one_beside_the_images(misgiving, folder, tmp_path):
    photos = shutil.copytree(folder, tmp_path / "photos")
    for _ in range(2):
        code, _, error = misgiving("data", "check", f"folder:{photos}", "--out", photos)
        assert code == 0, error


def test_a_run_without_its_data_is_one_line(misgiving, run):
    code, _, error = misgiving("data", "check", run)
    assert code == 2
    assert "is a run, not data; give DATA, and the run as --model" in one_line(error)


def test_a_hugging_face_model_in_place_of_data_is_one_line(misgiving, tmp_path):
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text('{"model_type": "vit"}')
    code, _, error = misgiving("data", "check", tmp_path / "vit")
    assert code == 2
    assert "is a model in Hugging Face's format, not data" in one_line(error)
    assert f"`misgiving attach {tmp_path / 'vit'} DATA --out RUN`" in error
    assert error.rstrip().endswith("then give DATA, and RUN as --model")


def test_a_table_with_a_model_is_one_line(misgiving, tmp_path):
    table = write(tmp_path / "p.csv", columns_with_errors(60)[0])
    code, _, error = misgiving("data", "check", table, "--model", tmp_path)
    assert code == 2
    assert "leave out --model" in one_line(error)
