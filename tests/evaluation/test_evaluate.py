from dataclasses import replace

import numpy as np
import pytest
from commands import rows_of
from sklearn.metrics import roc_auc_score

from misgiving import Deferral, Predictions
from misgiving.deferral.decisions import defer_all, score_without_policy
from misgiving.errors import DataError, UsageError
from misgiving.evaluation.evaluate import EVALUATION_FILES, evaluate, write_evaluation
from misgiving.evaluation.measures import POLICY_SET
from misgiving.evaluation.subgroups import harms_of

CLASSES = ("cat", "dog", "owl")


def predictions(count=900, seed=0, sets=("tune", "calibrate", "test"), **columns):
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=count)
    logits = random.normal(size=(count, 3)) + 2 * np.eye(3)[labels]
    named = {"logits": logits, "label": labels, "classes": CLASSES}
    if sets:
        named["set"] = [sets[row % len(sets)] for row in range(count)]
    return Predictions.of(named | {"id": [f"image {seed} {row}" for row in range(count)]} | columns)


@pytest.fixture(scope="module")
def deferral():
    return Deferral(max_error=0.15, max_ood_false_alarms=0.05).fit(predictions())


def values(evaluation, dataset, detector):
    return {
        row.metric: row.value
        for row in evaluation.measurements
        if (row.dataset, row.detector) == (dataset, detector)
    }


@pytest.mark.parametrize(
    ("sets", "set_name", "expected"),
    [
        (("train", "test", "tune", "excluded"), None, ["test"]),
        (("train", "tune", "", "excluded"), None, ["tune", ""]),
        (("train", "test"), "train", ["train"]),
    ],
)
def test_the_set_test_is_measured_or_all_that_the_model_was_not_trained_on(
    sets, set_name, expected
):
    given = predictions(sets=sets)
    evaluation = evaluate(given, set=set_name)
    rows = [row for row in range(900) if given.sets[row] in expected]
    assert evaluation.predictions.ids == tuple(given.ids[row] for row in rows)
    assert evaluation.notes[0].values["rows"] == len(rows)
    codes = [note.code for note in evaluation.notes if note.is_warning]
    assert codes == (["trained_on"] if set_name == "train" else [])


def outliers(**columns):
    return {"far": Predictions.of({"logits": np.eye(9, 3), "classes": CLASSES} | columns)}


@pytest.mark.parametrize(
    ("columns", "options", "error", "says"),
    [
        ({}, {"set": "train"}, UsageError, "calibrate, test, tune"),
        ({"label": [0, 1, ""] * 300}, {}, DataError, "image 0 2"),
        ({"model": ["y"] * 900}, {"ood": outliers(model=["x"] * 9)}, DataError, "model"),
        ({}, {"ood": outliers(classes=["a", "b", "c"])}, DataError, "classes"),
        *(
            ({}, {"ood": {name: outliers()["far"]}}, UsageError, name)
            for name in ("test", POLICY_SET)
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_name(columns, options, error, says):
    with pytest.raises(error, match=says):
        evaluate(predictions(**columns), **options)


def test_decisions_are_counted_for_the_class_that_the_policy_predicts(deferral):
    evaluation = evaluate(predictions(), deferral)
    decisions = list(evaluation.decisions)
    truth = [CLASSES[label] for label in evaluation.judged.labels]
    accepted = [
        decision.predicted_class != name
        for decision, name in zip(decisions, truth, strict=True)
        if decision.decision == "accept"
    ]
    measured = values(evaluation, POLICY_SET, "policy")
    assert measured["coverage"] == pytest.approx(len(accepted) / 300)
    assert measured["error_among_accepted"] == pytest.approx(np.mean(accepted))
    right = np.mean([d.predicted_class == name for d, name in zip(decisions, truth, strict=True)])
    assert measured["accuracy"] == pytest.approx(right)
    vectors = np.array([list(decision.probabilities.values()) for decision in decisions])
    labels = evaluation.judged.labels
    of_truth = vectors[np.arange(300), labels]
    assert measured["nll"] == pytest.approx(-np.log(of_truth).mean())
    assert measured["auroc"] == pytest.approx(roc_auc_score(labels, vectors, multi_class="ovr"))
    assert evaluation.accuracy.value == pytest.approx(right)
    assert evaluation.decided["accept"].events == len(accepted)
    assert evaluation.decided["error"].events == sum(accepted)


@pytest.mark.parametrize("set_name", [None, "tune"])
def test_images_that_the_policy_was_fitted_on_are_left_out_unless_their_set_is_named(
    deferral, set_name
):
    fitted = predictions(sets=("tune", "", ""))  # of which the policy has seen two thirds
    evaluation = evaluate(fitted, deferral, set=set_name)
    (caution,) = [note for note in evaluation.notes if note.code.startswith("fitted_on")]
    assert caution.is_warning == (set_name is not None)
    assert caution.values["used"] == (300 if set_name else 600)
    assert len(evaluation.judged) == 300
    assert (len(evaluation.predictions) == 300) == (set_name is not None)


def test_images_of_the_groups_of_calibration_cases_are_left_out():
    groups = [str(row % 200) for row in range(600)]
    given = predictions(600, sets=("tune", "calibrate"), patient=groups)
    deferral = Deferral(max_error=0.3).fit(given)
    new = predictions(100, seed=1, sets=(), patient=[str(190 + row) for row in range(100)])
    evaluation = evaluate(new, deferral)
    assert set(evaluation.judged.groups) == {str(group) for group in range(200, 290)}
    (caution,) = [note for note in evaluation.notes if note.code == "fitted_on_left_out"]
    assert (caution.values["used"], caution.values["related"]) == (0, 10)


def test_ood_sets_are_measured_by_every_score_that_both_have(deferral):
    random = np.random.default_rng(3)
    flat = Predictions.of({"logits": random.normal(size=(40, 3)) / 9, "classes": CLASSES})
    evaluation = evaluate(predictions(), deferral, ood={"flat": flat})
    measured = values(evaluation, "flat", evaluation.ood_detector)
    result = evaluation.ood["flat"]
    assert measured["auroc"] == pytest.approx(result.auroc.value)
    pairs = evaluation.inlier_scores[:, None] > result.scores
    assert result.auroc.value == pytest.approx(pairs.mean())
    share = np.mean([decision.decision == "ood" for decision in deferral.decide_for(flat)])
    assert values(evaluation, "flat", "policy")["ood_share"] == pytest.approx(share)
    assert result.decided["ood"].value == pytest.approx(share)


def test_ood_images_are_decided_by_the_batch_that_is_measured_also_where_it_accepts_none():
    policy = Deferral(max_error=0.15, guarantee="average").fit(predictions())
    nothing = replace(policy.certificate_, accept_threshold=np.inf, accepted=0)
    policy.policy_ = replace(policy.policy_, certificate=nothing)
    certain = Predictions.of({"logits": 9 * np.eye(30, 3) + 1, "classes": CLASSES})
    evaluation = evaluate(predictions(), policy, ood={"certain": certain})
    assert values(evaluation, "certain", "policy")["coverage"] == 0


def test_the_shares_that_could_be_accepted_are_the_largest_at_their_errors():
    evaluation = evaluate(predictions())
    order = np.argsort(-evaluation.scores, kind="stable")
    errors = np.cumsum(evaluation.wrong[order]) / np.arange(1, 301)
    points = evaluation.hindsight
    assert [*points] == [0.05, 0.1]  # 0.2 is above the error of all
    for limit, point in points.items():
        count = max(np.flatnonzero(errors <= limit)) + 1
        assert point.coverage == pytest.approx(count / 300)
        assert point.error.events == evaluation.wrong[order[:count]].sum()


def test_errors_and_decisions_of_subgroups_are_tested_as_one_family():
    """The p-value of the site's errors, 0.005, is within 0.05 / 6 and not within half of it."""
    wrong, labels = np.isin(np.arange(60), range(30, 37)), np.zeros(60, dtype=int)
    given = Predictions.of(
        {
            "logits": np.eye(2)[wrong.astype(int)] * np.linspace(1, 3, 60)[:, None],
            "label": labels,
            "site": np.repeat(["north", "south"], 30),
        }
    )
    decisions = defer_all(score_without_policy(given), given.classes)
    for decided, worse in ((None, ("wrong",)), (decisions, ())):
        first, *_ = harms_of(given, decided, seed=0)
        assert (first.errors.value, first.worse) == ("south", worse)


def test_subgroups_that_fare_worse_come_first_and_count_one_image_of_each_group():
    count = 400
    labels = np.arange(count) % 2
    scanners = ["old" if row % 4 < 2 else "new" for row in range(count)]
    wrong = np.array([scanner == "old" and row % 8 < 4 for row, scanner in enumerate(scanners)])
    groups = [f"lesion {row // 4 * 2 + row % 4 // 2}" for row in range(count)]
    given = Predictions.of(
        {
            "logits": np.eye(2)[np.where(wrong, 1 - labels, labels)] * 3,
            "label": labels,
            "lesion": groups,
            "scanner": scanners,
            "class": ["x"] * count,
        }
    )
    evaluation = evaluate(given)
    first, *others = evaluation.harms
    assert (first.errors.name, first.errors.value, first.worse) == ("scanner", "old", ("wrong",))
    assert first.errors.cases == 100
    assert not any(harm.worse for harm in others)
    bounds = [harm.errors.error_lower for harm in others]
    assert bounds == sorted(bounds, reverse=True)
    assert "column class" in {harm.errors.name for harm in others}
    assert evaluation.num_groups == 200


def test_tables_say_what_was_decided_and_no_file_of_the_user_is_replaced(tmp_path, deferral):
    evaluation = evaluate(predictions(site=["north", "south"] * 450), deferral)
    for name in EVALUATION_FILES[:-1]:
        (tmp_path / name).write_text("of the user")
        with pytest.raises(UsageError):
            write_evaluation(evaluation, tmp_path)
        assert (tmp_path / name).read_text() == "of the user"
        (tmp_path / name).unlink()
    write_evaluation(evaluation, tmp_path, skipped=[("photos", "a.png", "empty")])
    write_evaluation(evaluation, tmp_path)  # in place of the earlier one
    assert not (tmp_path / "skipped.csv").exists()
    rows = rows_of(tmp_path / "decisions.csv")
    assert [row["id"] for row in rows] == list(evaluation.judged.ids)
    assert [row["decision"] for row in rows] == evaluation.decisions.decisions.tolist()
    truth = [CLASSES[label] for label in evaluation.judged.labels]
    assert [row["true_class"] for row in rows] == truth
    shares = [[float(row[f"probability_{name}"]) for name in CLASSES] for row in rows]
    np.testing.assert_array_equal(shares, evaluation.decisions.probabilities)
    groups = rows_of(tmp_path / "subgroups.csv")
    cases = {(row["name"], row["value"]): int(row["cases"]) for row in groups}
    assert cases["site", "north"] + cases["site", "south"] == 300
    again = Predictions.read(tmp_path / "predictions.npz")
    np.testing.assert_array_equal(again.logits, evaluation.predictions.logits)
    assert len(rows_of(tmp_path / "measurements.csv")) == len(evaluation.measurements)
