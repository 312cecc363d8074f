"""Decisions on a set of images, and on subgroups of it."""

import csv

import numpy as np
import pytest

from misgiving.deferral.decisions import Decision
from misgiving.predictions.record import Predictions
from misgiving.workflows.policy_evaluation import measure_decisions, remove_earlier

CLASSES = ("a", "b")


def decided_as(decisions, choices=None):
    named = np.zeros(len(decisions), dtype=int) if choices is None else choices
    return [
        Decision(
            decision=decision,
            predicted_class=CLASSES[name],
            probabilities={"a": 0.9 - 0.8 * name, "b": 0.1 + 0.8 * name},
            error_probability=0.1,
            ood_p_value=0.5,
            reason="because",
            expected_loss=None,
            predicted_loss=None,
            acceptance_score=1.0,
            ood_score=1.0,
        )
        for decision, name in zip(decisions, named, strict=True)
    ]


def predictions(labels, choices, groups=None):
    names = tuple(f"image-{number}" for number in range(len(labels)))
    return Predictions(
        logits=np.eye(2, dtype=np.float32)[choices],
        features=np.zeros((len(labels), 2), dtype=np.float32),
        predicted_losses=None,
        labels=np.array(labels),
        ids=names,
        groups=names if groups is None else groups,
        classes=CLASSES,
    )


def test_shares_and_the_error_among_the_accepted_are_counted():
    decided = measure_decisions(
        decided_as(["accept", "accept", "defer", "ood"]),
        predictions([0, 1, 0, 1], [0, 0, 0, 1]),
        "test",
        {},
        seed=0,
    )
    values = {row.metric: row.value for row in decided.measurements}
    assert values == {
        "coverage": 0.5,
        "deferred_share": 0.25,
        "ood_share": 0.25,
        "error_among_accepted": 0.5,
    }


def test_an_error_is_that_of_the_named_class_and_not_of_the_largest_logit():
    decisions, labels = decided_as(["accept"] * 4, [1, 1, 0, 0]), [1, 1, 1, 0]
    decided = measure_decisions(decisions, predictions(labels, [0] * 4), "test", {}, seed=0)
    values = {row.metric: row.value for row in decided.measurements}
    assert values["error_among_accepted"] == 0.25


def test_without_an_accepted_image_there_is_no_error():
    decided = measure_decisions(
        decided_as(["defer"] * 4), predictions([0, 1] * 2, [0] * 4), "t", {}, seed=0
    )
    assert "error_among_accepted" not in {row.metric for row in decided.measurements}


def test_subgroups_are_compared_on_one_image_of_each_group():
    count = 200
    labels = [number % 2 for number in range(count)]
    scanners = ["old" if number % 4 < 2 else "new" for number in range(count)]
    decisions = ["defer" if scanner == "old" else "accept" for scanner in scanners]
    groups = tuple(f"lesion-{number // 4 * 2 + number % 4 // 2}" for number in range(count))
    decided = measure_decisions(
        decided_as(decisions, labels),
        predictions(labels, labels, groups),
        "test",
        {"scanner": scanners},
        seed=0,
    )
    found = {(group.name, group.value): group for group in decided.subgroups}
    assert found["scanner", "old"].cases == found["scanner", "new"].cases == 50
    assert found["scanner", "old"].worse == ("coverage", "deferral")
    assert found["scanner", "new"].worse == ()


def test_files_of_the_user_are_not_taken_for_those_of_an_earlier_evaluation(tmp_path):
    (tmp_path / "decisions.csv").touch()
    remove_earlier(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["decisions.csv"]
    (tmp_path / "measurements.csv").touch()
    (tmp_path / "notes.csv").touch()
    remove_earlier(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.csv"]


def test_decisions_and_subgroups_are_written(tmp_path):
    decided = measure_decisions(
        decided_as(["accept", "defer", "accept"]),
        predictions([0, 1, 1], [0, 0, 1]),
        "test",
        {},
        seed=0,
    )
    decided.write(tmp_path)
    rows = list(csv.DictReader((tmp_path / "decisions.csv").read_text().splitlines()))
    assert [row["true_class"] for row in rows] == ["a", "b", "b"]
    assert [row["decision"] for row in rows] == ["accept", "defer", "accept"]
    groups = list(csv.DictReader((tmp_path / "subgroups.csv").read_text().splitlines()))
    assert {row["value"]: row["cases"] for row in groups} == {"a": "1", "b": "2"}


@pytest.mark.parametrize("quantity", ["coverage", "error", "deferral"])
def test_no_group_is_called_worse_where_all_are_alike(quantity):
    random = np.random.default_rng(0)
    labels = random.integers(2, size=300)
    decisions = random.choice(["accept", "defer"], size=300)
    sexes = random.choice(["female", "male", ""], size=300).tolist()
    decided = measure_decisions(
        decided_as(decisions.tolist(), labels[::-1]),
        predictions(labels, labels[::-1]),
        "test",
        {"sex": sexes},
        seed=0,
    )
    assert decided.subgroups
    assert not any(quantity in group.worse for group in decided.subgroups)
