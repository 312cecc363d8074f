"""Deferral policies for the predictions of models that were trained elsewhere."""

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from scipy.special import softmax
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from misgiving import Deferral, Predictions
from misgiving.deferral.settings import DecisionRule, Targets
from misgiving.errors import DataError, UsageError
from misgiving.evaluation.evaluate import evaluate
from misgiving.report.sentences import summarize

CLASSES = ("cat", "dog", "owl")
SETS = ["train"] * 200 + ["tune"] * 100 + ["calibrate"] * 200
RANDOM_FEATURES = np.random.default_rng(0).normal(size=(500, 8))


def outputs(count, seed=0, signal=3.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    return rng.normal(size=(count, 3)) + signal * np.eye(3)[labels], labels


def summary(deferral):
    return "\n".join(summarize(deferral))


def named_rows(count, seed=0, **columns):
    logits, labels = outputs(count, seed)
    rows = {
        "logits": logits,
        "label": [CLASSES[label] for label in labels],
        "classes": CLASSES,
        "id": [f"{seed}-{number}" for number in range(count)],
        **columns,
    }
    return {name: values for name, values in rows.items() if values is not None}


@pytest.fixture(scope="module")
def fitted():
    return Deferral(max_error=0.1).fit(outputs(300), outputs(600, 1))


def test_arrays_give_the_policy_that_predictions_give(fitted):
    def predictions(name, count, seed):
        logits, labels = outputs(count, seed)
        return Predictions(
            logits=logits,
            labels=labels,
            ids=tuple(f"{name} {number}" for number in range(1, count + 1)),
            groups=("",) * count,
            classes=("0", "1", "2"),
        )

    sets = predictions("tuning", 300, 0), predictions("calibration", 600, 1)
    again = Deferral(max_error=0.1).fit(*sets)
    assert again.certificate_ == fitted.certificate_
    assert again.calibration_ == fitted.calibration_


def test_decisions_on_new_outputs(fitted):
    logits, labels = outputs(2000, 2)
    decisions = fitted.decide(logits)
    accepted = decisions.decisions == "accept"
    assert 0.5 < accepted.mean() < 1
    assert (decisions.predicted != labels)[accepted].mean() < 0.1
    assert all(row.probability + row.error_probability == pytest.approx(1) for row in decisions)


def test_every_form_of_the_same_outputs_gives_the_same_decisions(fitted):
    logits, labels = outputs(50, 3)
    expected = list(fitted.decide(logits))
    frame = pandas.DataFrame({f"logit_{name}": logits[:, int(name)] for name in "012"})
    for form in (
        torch.tensor(logits),
        (logits, labels),
        {"logits": logits},
        frame,
        Predictions.of(frame),
    ):
        assert list(fitted.decide(form)) == expected
    halves = torch.tensor(logits).bfloat16()
    expected = list(fitted.decide(halves.float().numpy()))
    for form in (halves, halves.requires_grad_()):
        assert list(fitted.decide(form)) == expected
    with pytest.raises(DataError, match="are probabilities, and the policy was fitted on logits"):
        fitted.decide({"probabilities": softmax(logits, axis=1)})
    columns = {"probabilities": softmax(logits, axis=1), "label": [*map(str, labels)]}
    of_probabilities = Deferral(max_error=0.9).fit({**columns, "classes": ["0", "1", "2"]})
    with pytest.raises(DataError, match="are logits, and the policy was fitted on probabilities"):
        of_probabilities.decide(logits)


def test_half_precision_of_every_column_is_read():
    columns = {"probabilities": torch.tensor([[0.25, 0.75], [0.5, 0.5]])}
    columns |= {"predicted_loss": torch.tensor([0.5, 2.0]), "features": torch.ones(2, 3)}
    halves = {name: values.bfloat16() for name, values in columns.items()}
    halves["label"] = torch.tensor([1, 0])
    table = Predictions.of(halves)
    np.testing.assert_array_equal(np.exp(table.logits), columns["probabilities"])
    np.testing.assert_array_equal(table.predicted_losses, [0.5, 2.0])
    assert table.features.shape == (2, 3)
    assert table.labels.tolist() == [1, 0]


def test_classes_may_come_before_the_outputs():
    (logits, labels), others = outputs(300), outputs(600, 1)
    first = {"classes": CLASSES, "logits": logits, "label": labels}
    assert Deferral(max_error=0.1).fit(first, others, classes=CLASSES).classes_ == CLASSES


LOGITS, LABELS = outputs(60)
NAMES = [CLASSES[label] for label in LABELS]
MODELS = [named_rows(100, seed, model=[f"model {seed}"] * 100) for seed in (0, 1)]
COPIES = (np.vstack([LOGITS[:40], outputs(20, 1)[0]]), LABELS)


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        ([(LOGITS, LABELS[:-1])], "label has 59 rows, and logits has 60"),
        ([(LOGITS, NAMES)] * 2, r"unknown class '\w+'"),
        ([(LOGITS, [7] * 60), (LOGITS, LABELS)], "unknown class '7'; choose from 0, 1, 2$"),
        ([(1, 2, 3)] * 2, r"\(1, 2, 3\)"),
        (["predictions.csv"], "predictions.csv.*Predictions.read"),
        ([Path("predictions.csv")], "predictions.csv"),
        ([None], "None"),
        ([(LOGITS, LABELS)] * 2, "60 rows of the calibration set are also in the tuning"),
        ([(LOGITS, LABELS), COPIES], "40 rows of the calibration set"),
        ([named_rows(400, set=["tune"] * 400)], "'calibrate'"),
        ([named_rows(400, label=[""] * 400)], "400 of 400 rows have no label"),
        ([named_rows(400, group=["one"] * 400)], r"\(1\)"),
        (MODELS, "two models"),
        ([named_rows(50, 1, group=["one"] * 50), named_rows(50, 2, group=["one"] * 50)], "'one'"),
        (
            [named_rows(500, set=SETS, features=RANDOM_FEATURES, label=["", *["cat"] * 499])],
            "1 of 200 rows have no label, the first is '0-0'",
        ),
    ],
)
def test_sets_that_cannot_support_a_policy(sets, says):
    with pytest.raises((DataError, UsageError), match=says):
        Deferral().fit(*sets)


def test_rounded_outputs_that_are_alike_are_not_taken_for_copies():
    (first, labels), (second, others) = outputs(300), outputs(600, 1)
    sets = (first.round(), labels), (second.round(), others)
    assert Deferral(max_error=0.3).fit(*sets).certificate_


def test_training_images_with_the_classes_in_another_order_are_refused():
    training = named_rows(200, 1, classes=CLASSES[::-1])
    with pytest.raises(DataError, match="owl, dog, cat"):
        Deferral(max_error=0.1).fit(named_rows(400), training=training)


def test_an_image_whose_logits_are_not_finite_is_refused(fitted):
    with pytest.raises(DataError, match=r"row 1, .*: nan"):
        fitted.decide(np.array([[0.0, np.nan, 1.0]]))


def test_conventions_of_scikit_learn():
    parameters = {"max_error": 0.1, "class_max_miss": {"cat": 0.2}, "seed": 3}
    deferral = Deferral(**parameters)
    assert deferral.get_params() == {**Deferral().get_params(), **parameters}
    assert clone(deferral).get_params() == deferral.get_params()
    assert deferral.set_params(max_error=0.2).max_error == 0.2
    assert repr(deferral) == "Deferral(max_error=0.2, class_max_miss={'cat': 0.2}, seed=3)"
    with pytest.raises(TypeError, match="max_errors"):
        deferral.set_params(max_errors=0.2)
    for call in (lambda: deferral.decide(np.zeros((1, 3))), lambda: deferral.save("policy")):
        with pytest.raises(UsageError, match="not fitted yet"):
            call()
    given = set(inspect.signature(Deferral).parameters)
    assert given == {*vars(Targets(max_error=0.1)), *vars(DecisionRule()), "ood_detector", "seed"}


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"max_error": 5.0}, "max_error"),
        ({"class_max_miss": {"cow": 0.1}}, "class_max_miss.*'cow'.*cat, dog, owl"),
        ({"costs": {"cow": 2.0}, "rule": "costs"}, "costs.*'cow'"),
        *(
            ({"ood_detector": name}, f"ood_detector` '{name}'.*choose from msp, energy")
            for name in ("knn", "predicted_loss", "knn_taps", "vim", "vom")
        ),
    ],
)
def test_a_bad_parameter_is_refused_by_fit(parameters, says):
    with pytest.raises(UsageError, match=says):
        Deferral(**parameters).fit(named_rows(100))


def test_saved_and_loaded(fitted, tmp_path):
    folder = tmp_path / "policy"
    folder.mkdir()  # an empty folder is replaced
    fitted.save(folder)
    loaded = Deferral.load(folder)
    for name in ("certificate_", "calibration_", "cases_", "rule_", "model_", "unit_"):
        assert getattr(loaded, name) == getattr(fitted, name)
    assert loaded.fingerprint == fitted.fingerprint
    assert loaded.classes_ == ("0", "1", "2")
    assert loaded.get_params() == fitted.get_params()
    logits = outputs(20, 4)[0]
    assert list(loaded.decide(logits)) == list(fitted.decide(logits))
    assert summary(loaded) == summary(fitted)
    assert "Certified: at most 10 %" in summary(loaded)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    loaded.save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_policy_that_replaces_others_says_which_of_its_cases_they_have_used(tmp_path):
    policy = tmp_path / "policy"

    def saved(seed, data_seed=0):
        deferral = Deferral(max_error=0.1, seed=seed).fit(named_rows(400, data_seed))
        assert "calibrated before" not in summary(deferral)
        deferral.save(policy)
        assert summary(Deferral.load(policy)) == summary(deferral)
        return deferral

    first, other = saved(0), saved(0, data_seed=5)
    assert "calibrated before" not in summary(other)
    assert (other.cases_.calibrations, other.cases_.repeated_images) == (1, 0)
    assert other.cases_.earlier == first.cases_.tuning + first.cases_.calibration
    once = (policy / "policy.json").read_bytes()
    other.save(policy)
    assert (policy / "policy.json").read_bytes() == once
    assert "calibrated before with 400 of these images" in summary(saved(1))
    (policy / "policy.json").write_text("{")
    assert "could not be read" in summary(saved(2))


@pytest.mark.parametrize("with_patients", [False, True])
@pytest.mark.parametrize("as_sets", [False, True])
def test_images_without_ids_are_no_earlier_cases_by_the_number_of_their_row(
    tmp_path, with_patients, as_sets
):
    def saved(seed):
        counts = (200, 400) if as_sets else (600,)
        sets = []
        for count in counts:
            few = [f"patient {seed + count}", *[""] * (count - 1)]
            columns = {"patient": few if with_patients else None}
            sets.append(named_rows(count, seed + count, id=None, **columns))
        deferral = Deferral(max_error=0.1).fit(*sets)
        deferral.save(tmp_path / "policy")
        return summary(deferral)

    assert "calibrated before" not in saved(0)
    assert "calibrated before" not in saved(1)
    assert "calibrated before with 600 of these images" in saved(0)


@pytest.mark.parametrize("names", [["thesis.tex"], ["bundle.json", "policy.json"]])
def test_a_folder_that_is_not_a_policy_is_not_replaced(fitted, tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match="not a policy"):
        fitted.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_images_without_a_patient_are_counted_whatever_the_patients_are_called():
    patients = [str(row) for row in range(1, 401)]
    everyone = Deferral(max_error=0.1).fit(named_rows(400, id=patients, patient=patients))
    assert "have no value" not in summary(everyone)
    some = [*patients[1:41], *[""] * 360]
    for ids in (patients, None):
        told = summary(Deferral(max_error=0.1).fit(named_rows(400, id=ids, patient=some)))
        assert "360 of 400 images have no value in the column patient" in told


def test_one_table_is_divided_by_its_sets():
    sets = ["tune"] * 100 + ["calibrate"] * 200 + ["test"] * 100
    deferral = Deferral(max_error=0.1).fit(named_rows(400, set=sets))
    used, related = deferral.cases_.among(Predictions.of(named_rows(400)))
    assert used.tolist() == [True] * 300 + [False] * 100
    assert not related.any()
    assert (len(deferral.cases_.tuning), len(deferral.cases_.calibration)) == (100, 200)
    assert deferral.cases_.left_out == {"test": 100}


def test_one_table_without_sets_is_divided_by_group():
    patients = [f"p{number // 4}" for number in range(400)]
    deferral = Deferral(max_error=0.1, seed=7).fit(named_rows(400, patient=patients))
    tuning, calibration = deferral.cases_.tuning, deferral.cases_.calibration
    assert (len(tuning), len(calibration)) == (100, 300)
    assert not set(tuning.groups) & set(calibration.groups)
    assert deferral.unit_ == "patient"
    assert deferral.certificate_.cases == 75
    assert "drawn by group with seed 7" in summary(deferral)


def test_training_images_with_features_fit_detectors():
    features = RANDOM_FEATURES + 10
    rows = named_rows(500, set=SETS, features=features)
    deferral = Deferral(max_error=0.1, max_ood_false_alarms=0.1).fit(rows)
    assert (deferral.ood_detector_, deferral.cases_.training_images) == ("knn", 200)
    new = {"logits": rows["logits"][:2], "features": np.stack([features[0], -features[0]])}
    assert deferral.decide(new).decisions.tolist() == ["accept", "ood"]
    few = {"logits": rows["logits"][:2], "features": features[:2, :3]}
    for lacking in (rows["logits"], few):
        with pytest.raises(DataError, match="columns feature_0 to feature_7"):
            deferral.decide(lacking)


def test_a_policy_that_reads_predicted_losses_names_their_column():
    rows = named_rows(500, predicted_loss=np.random.default_rng(0).normal(size=500))
    deferral = Deferral(max_error=0.1, ood_detector="predicted_loss").fit(rows)
    assert deferral.decide({name: rows[name][:2] for name in ("logits", "predicted_loss")})
    with pytest.raises(DataError, match="column predicted_loss"):
        deferral.decide(rows["logits"])


def test_a_policy_is_for_its_model():
    rows = named_rows(400, model=["resnet"] * 400)
    deferral = Deferral(max_error=0.1).fit(rows)
    assert deferral.decide(rows["logits"][:1])[0].predicted_class in CLASSES
    with pytest.raises(DataError, match=r"resnet.*vit"):
        deferral.decide({"logits": rows["logits"][:1], "model": ["vit"]})


def test_no_torch_is_needed():
    code = (
        "import sys, numpy as np; from misgiving import Deferral;"
        "unused = {'torch', 'timm', 'matplotlib', 'pandas', 'sklearn'};"
        "print(sorted(unused & set(sys.modules)));"
        "x = np.random.default_rng(0).normal(size=(400, 3)); y = x.argmax(1);"
        "d = Deferral(max_error=0.2).fit((x[:100], y[:100]), (x[100:], y[100:]));"
        "d.decide(x); print(sorted({'torch', 'timm', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["[]", "[]"]


def test_evaluate_measures_all_scores_by_the_classes_that_the_policy_names():
    deferral = Deferral(max_error=0.3, rule="costs", costs={"dog": 10.0})
    deferral.fit(named_rows(900))
    predictions = Predictions.of(named_rows(400, seed=5))
    named = deferral.calibration_.predict(predictions.logits)
    assert (named != predictions.choices).any()
    evaluation = evaluate(predictions, deferral)
    rows = [row for row in evaluation.measurements if row.dataset == "policy_test"]
    values = {row.metric: row.value for row in rows if row.detector == "msp"}
    msp = predictions.probabilities.max(axis=1)
    assert values["error_auroc"] == pytest.approx(roc_auc_score(named != predictions.labels, -msp))
