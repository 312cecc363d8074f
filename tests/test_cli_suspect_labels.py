"""Labels that are probably wrong, by the library and by `misgiving data check` on a run."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from bundled import SIDE, checkpoint, policy_of, write_run
from coloured import coloured_set
from commands import CPU, rows_of
from PIL import Image

from misgiving import Predictions
from misgiving.data.cache import prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.splits import Split
from misgiving.errors import DataError
from misgiving.evaluation.suspect_labels import suspect_labels

NAMES = np.array(["cat", "dog", "owl"])
PLANTED = set(range(0, 300, 10))


def columns_with_errors(count=300):
    """Predictions of which every tenth label is not the class that the outputs name."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, count)
    labels = (truth + (np.arange(count) % 10 == 0)) % 3
    return {
        "id": [f"image {number}" for number in range(count)],
        "label": NAMES[labels],
        "logits": random.normal(size=(count, 3)) + 6 * np.eye(3)[truth],
        "features": random.normal(size=(count, 4)) + 5 * np.eye(4)[truth],
        "classes": NAMES,
    }, NAMES[truth]


def numbers(suspects):
    return [int(suspect.id.split()[1]) for suspect in suspects]


def test_planted_errors_in_held_out_predictions_are_listed_first(succeed, tmp_path):
    columns, truth = columns_with_errors()
    paths = [str(tmp_path / f"{number}.png") for number in range(300)]
    given = Predictions.of({**columns, "path": paths})
    suspects = suspect_labels(given).suspects
    assert len({*numbers(suspects[:30])} & PLANTED) >= 28
    for number, row in zip(numbers(suspects[:20]), suspects, strict=False):
        assert (row.label, row.suggested_class) == (columns["label"][number], truth[number])
        assert row.basis == "held-out"
    scores = [suspect.score for suspect in suspects]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0.5

    given.write(tmp_path / "p.npz")
    succeed("data", "check", tmp_path / "p.npz", "--out", tmp_path / "audit")
    rows = rows_of(tmp_path / "audit" / "suspect_labels.csv")
    expected = [(paths[int(row.id.split()[1])], str(row.score)) for row in suspects]
    assert [(row["path"], row["score"]) for row in rows] == expected


def test_a_classifier_that_knows_its_training_labels_by_heart_is_not_believed(succeed, tmp_path):
    columns, _ = columns_with_errors()
    columns["logits"] = 5.0 * (columns["label"][:, None] == NAMES)
    columns["set"] = ["train"] * 200 + ["test"] * 100
    suspects = suspect_labels(Predictions.of(columns)).suspects
    trained = [suspect for suspect in suspects if numbers([suspect])[0] < 200]
    assert {suspect.basis for suspect in trained} == {"cross-fitted"}
    assert len({*numbers(trained)} & PLANTED) >= 18
    plain = replace(Predictions.of(columns), features=None)
    assert not [number for number in numbers(suspect_labels(plain).suspects) if number < 200]
    plain.write(tmp_path / "p.npz")
    said = succeed("data", "check", tmp_path / "p.npz").err
    assert "left out: 0 images without a label, 200 of the training" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"label": [""] * 99},
        {"label": ["cat"] * 99},
        {"label": [*NAMES] * 33, "set": ["train"] * 99, "features": np.empty((99, 0))},
        {"label": ["dog", *["cat"] * 98], "set": ["train"] * 99},
    ],
    ids=["no labels", "one class", "no features", "a class of one image"],
)
def test_labels_that_cannot_be_judged_are_refused(changes):
    with pytest.raises(DataError, match="label"):
        suspect_labels(Predictions.of(columns_with_errors(99)[0] | changes))


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
    dataset = load_dataset(f"folder:{folder}")
    images = prepare(dataset, plain, cache=tmp_path_factory.mktemp("cache"))
    chosen = images.select(np.flatnonzero([int(name[2:5]) >= 100 for name in images.ids]))
    split = made.split
    trained = Split(
        ids=split.ids + chosen.ids,
        hashes=split.hashes + chosen.hashes,
        sets=split.sets + ("train",) * len(chosen),
        labels=split.labels + tuple(dataset.classes[label] for label in chosen.labels),
        groups=split.groups + chosen.ids,
    )
    made = replace(made, preprocessing=plain, split=trained)
    return write_run(tmp_path_factory.mktemp("run") / "run", made, policy_of(made))


def test_a_run_lists_suspect_labels_beside_the_check_of_the_images(succeed, folder, run, tmp_path):
    both = shutil.copytree(folder, tmp_path / "both")
    for path in folder.glob("*/1??.png"):  # those that the model was trained on, a little lighter
        other = both / "bca"["abc".index(path.parent.name)] / f"{path.stem}-copy.png"
        Image.fromarray(np.asarray(Image.open(path)) + np.uint8(6)).save(other)
    words = ("data", "check", f"folder:{both}", "--model", run, "--out", tmp_path / "out", *CPU)
    succeed(*words)
    assert (tmp_path / "out" / "findings.csv").is_file()
    rows = rows_of(tmp_path / "out" / "suspect_labels.csv")
    held_out = [row for row in rows if row["basis"] == "held-out"]
    assert sum(int(row["id"][2:5]) < 15 for row in held_out[:10]) >= 6
    for row in rows:
        assert row["path"] == str(both / row["id"])
        trained = int(row["id"][2:5]) >= 100  # or a near duplicate of one
        assert row["basis"] == ("cross-fitted" if trained else "held-out")
    assert any("copy" in row["id"] for row in rows)
