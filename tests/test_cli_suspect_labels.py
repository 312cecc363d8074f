from dataclasses import replace

import numpy as np
import pytest
from commands import rows_of

from misgiving import Predictions
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
    with pytest.raises(DataError):
        suspect_labels(Predictions.of(columns_with_errors(99)[0] | changes))
