"""`misgiving data check` on runs and predictions, end to end."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from bundled import SIDE, checkpoint, policy_of, write_run
from coloured import coloured_set
from commands import CPU, one_line, rows_of
from PIL import Image
from test_cli_predictions import write_rows

from misgiving.data.cache import prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.splits import Split

NAMES = ("cat", "dog", "owl")


def columns_with_errors(count=300):
    """Predictions of which every tenth label is not the class that the outputs name."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, count)
    labels = truth.copy()
    labels[::10] = (truth[::10] + 1) % 3
    logits = random.normal(size=(count, 3)) + 6 * np.eye(3)[truth]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    features = random.normal(size=(count, 4)) + 5 * np.eye(4)[truth]
    return {
        "id": [f"image {number}" for number in range(count)],
        "label": [NAMES[label] for label in labels],
        **{f"probability_{name}": shares[:, at] for at, name in enumerate(NAMES)},
        **{f"feature_{at}": column for at, column in enumerate(features.T)},
    }, [NAMES[label] for label in truth]


def write(path, columns):
    return write_rows(path, count=len(columns["id"]), **columns)


def suspects(succeed, path, tmp_path):
    _, _, error = succeed("data", "check", path, "--out", tmp_path / "audit")
    return rows_of(tmp_path / "audit" / "suspect_labels.csv"), error


def test_planted_errors_in_held_out_predictions_are_listed_first(succeed, tmp_path):
    columns, truth = columns_with_errors()
    paths = [f"folder/{number}.png" for number in range(300)]
    table = write(tmp_path / "p.csv", {**columns, "path": paths})
    rows, _ = suspects(succeed, table, tmp_path)
    first = {row["id"] for row in rows[:30]}
    assert len(first & {f"image {number}" for number in range(0, 300, 10)}) >= 28
    for row in rows[:20]:
        number = int(row["id"].split()[1])
        assert (row["label"], row["suggested_class"]) == (columns["label"][number], truth[number])
        assert row["path"] == str(tmp_path / "folder" / f"{number}.png")
        assert row["basis"] == "held-out"
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0.5


def test_a_classifier_that_knows_its_training_labels_by_heart_is_not_believed(succeed, tmp_path):
    columns, _ = columns_with_errors()
    for name in NAMES:
        columns[f"probability_{name}"] = [
            0.98 if name == label else 0.01 for label in columns["label"]
        ]
    columns["set"] = ["train" if number < 200 else "test" for number in range(300)]
    rows, _ = suspects(succeed, write(tmp_path / "p.csv", columns), tmp_path)
    trained = [row for row in rows if int(row["id"].split()[1]) < 200]
    assert {row["basis"] for row in trained} == {"cross-fitted"}
    assert len({row["id"] for row in trained} & {f"image {n}" for n in range(0, 200, 10)}) >= 18
    plain = {name: column for name, column in columns.items() if "feature" not in name}
    rows, said = suspects(succeed, write(tmp_path / "q.csv", plain), tmp_path)
    assert not [row for row in rows if int(row["id"].split()[1]) < 200]
    assert "left out: 0 images without a label, 200 of the training" in said


ALL = (["cat", "dog", "owl"] * 100)[:100]


@pytest.mark.parametrize(
    "changes",
    [
        {"label": [""] * 100},
        {"label": ["cat"] * 100},
        {"label": ALL, "set": ["train"] * 100, "feature": None},
        {"label": ["dog", *["cat"] * 99], "set": ["train"] * 100},
    ],
    ids=["no labels", "one class", "no features", "a class of one image"],
)
def test_labels_that_cannot_be_judged_are_one_line(changes, misgiving, tmp_path):
    columns = columns_with_errors(100)[0] | changes
    if "feature" in changes:
        columns = {name: column for name, column in columns.items() if "feature" not in name}
    code, _, error = misgiving("data", "check", write(tmp_path / "p.csv", columns))
    assert (code, "labels" in one_line(error) or "class" in one_line(error)) == (1, True)


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


def test_a_run_lists_suspect_labels_beside_the_check_of_the_images(succeed, folder, run, tmp_path):
    both = shutil.copytree(folder, tmp_path / "both")
    for path in folder.glob("*/1??.png"):  # those that the model was trained on, a little lighter
        other = both / "bca"["abc".index(path.parent.name)] / f"{path.stem}-copy.png"
        Image.fromarray(np.asarray(Image.open(path)) + np.uint8(6)).save(other)
    words = ("data", "check", f"folder:{both}", "--model", run, "--out", tmp_path / "out", *CPU)
    printed = succeed(*words).out
    assert "near duplicates" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "findings.csv",
        "suspect_labels.csv",
    }
    rows = rows_of(tmp_path / "out" / "suspect_labels.csv")
    held_out = [row for row in rows if row["basis"] == "held-out"]
    assert sum(int(row["id"][2:5]) < 15 for row in held_out[:10]) >= 6
    for row in rows:
        assert row["path"] == str(both / row["id"])
        trained = int(row["id"][2:5]) >= 100  # or a near duplicate of one
        assert row["basis"] == ("cross-fitted" if trained else "held-out")
    assert any("copy" in row["id"] for row in rows)


def test_a_check_does_not_replace_the_table_that_it_reads(misgiving, monkeypatch, folder, tmp_path):
    monkeypatch.setattr("misgiving.data.check.data_check", None)  # it is not reached
    path = tmp_path / "findings.csv"
    rows = [f"{image},{image.parent.name}\n" for image in sorted(folder.rglob("*.png"))]
    path.write_text("".join(["path,label\n", *rows]))
    before = path.read_bytes()
    code, _, error = misgiving("data", "check", f"table:{path}", "--out", tmp_path)
    assert (code, path.name in one_line(error)) == (2, True)
    assert path.read_bytes() == before
