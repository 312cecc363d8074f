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
from misgiving.deferral.rules import DecisionRule
from misgiving.deferral.targets import Targets
from misgiving.errors import DataError, UsageError
from misgiving.evaluation.evaluate import evaluate
from misgiving.report.certificate import summarize

CLASSES = ("cat", "dog", "owl")


def outputs(count, seed=0, signal=3.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    return rng.normal(size=(count, 3)) + signal * np.eye(3)[labels], labels


def summary(deferral):
    return "\n".join(summarize(deferral))


def named_rows(count, seed=0, **columns):
    logits, labels = outputs(count, seed)
    return {
        "logits": logits,
        "label": [CLASSES[label] for label in labels],
        "classes": CLASSES,
        "id": [f"{seed}-{number}" for number in range(count)],
        **columns,
    }


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
    assert all(one.probability + one.error_probability == pytest.approx(1) for one in decisions)


def test_every_form_of_the_same_outputs_gives_the_same_decisions(fitted):
    logits, labels = outputs(50, 3)
    expected = list(fitted.decide(logits))
    frame = pandas.DataFrame({f"logit_{name}": logits[:, int(name)] for name in "012"})
    forms = [
        torch.tensor(logits),
        logits.tolist(),
        (logits, labels),
        {"logits": logits},
        frame,
        Predictions.of(frame),
        Predictions.of(frame),
    ]
    for form in forms:
        assert list(fitted.decide(form)) == expected
    probabilities = {"probabilities": softmax(logits, axis=1)}
    with pytest.raises(DataError, match="are probabilities, and the policy was fitted on logits"):
        fitted.decide(probabilities)


def test_classes_may_come_before_the_outputs():
    (logits, labels), others = outputs(300), outputs(600, 1)
    first = {"classes": CLASSES, "logits": logits, "label": labels}
    fitted = Deferral(max_error=0.1).fit(first, others, classes=CLASSES)
    assert fitted.classes_ == CLASSES


def test_half_precision_of_every_kind_and_lists_of_tensors_are_read(fitted):
    logits = torch.tensor(outputs(20, 5)[0]).bfloat16()
    expected = list(fitted.decide(logits.float().numpy()))
    for given in (logits, list(logits), logits.requires_grad_()):
        assert list(fitted.decide(given)) == expected
    columns = {"probabilities": torch.tensor([[0.25, 0.75], [0.5, 0.5]])}
    columns |= {"predicted_loss": torch.tensor([0.5, 2.0]), "features": torch.ones(2, 3)}
    halves = {name: of.bfloat16() for name, of in columns.items()}
    halves["label"] = list(torch.tensor([1, 0]))
    table = Predictions.of(halves)
    np.testing.assert_array_equal(np.exp(table.logits), columns["probabilities"])
    np.testing.assert_array_equal(table.predicted_losses, [0.5, 2.0])
    assert table.features.shape == (2, 3)
    assert table.labels.tolist() == [1, 0]


def test_arrays_of_different_lengths_are_refused_in_a_whole_sentence():
    logits, labels = outputs(300)
    told = "column label has 299 rows, and logits has 300; give one value for each image"
    with pytest.raises(DataError, match=told):
        Deferral().fit((logits, labels[:-1]))


def test_names_as_labels_of_arrays_need_classes():
    logits, labels = outputs(60)
    names = [CLASSES[label] for label in labels]
    with pytest.raises(
        DataError, match=r"unknown class '\w+'; give `classes`, the names in the or"
    ):
        Deferral().fit((logits, names), (logits, names))
    with pytest.raises(DataError, match=r"unknown class '7'; choose from 0, 1, 2$"):
        Deferral().fit((logits, [7] * 60), (logits, labels))


def test_an_image_whose_logits_are_not_finite_is_refused(fitted):
    with pytest.raises(DataError, match="row 1, column logit_1: nan is not a finite number"):
        fitted.decide(np.array([[0.0, np.nan, 1.0]]))


def test_conventions_of_scikit_learn():
    wanted = {"max_error": 0.1, "class_max_miss": {"cat": 0.2}, "seed": 3}
    deferral = Deferral(**wanted)
    assert deferral.get_params() == {**Deferral().get_params(), **wanted}
    assert clone(deferral).get_params() == deferral.get_params()
    assert deferral.set_params(max_error=0.2).max_error == 0.2
    assert repr(deferral) == "Deferral(max_error=0.2, class_max_miss={'cat': 0.2}, seed=3)"
    with pytest.raises(UsageError, match="no parameter 'max_errors'"):
        deferral.set_params(max_errors=0.2)
    for call in (lambda: deferral.decide(np.zeros((1, 3))), lambda: deferral.save("policy")):
        with pytest.raises(UsageError, match="not fitted yet"):
            call()


def test_parameters_are_those_of_targets_and_rules():
    given = set(inspect.signature(Deferral).parameters)
    assert given == {*vars(Targets(max_error=0.1)), *vars(DecisionRule()), "ood_detector", "seed"}


def test_a_bad_parameter_is_refused_by_fit():
    with pytest.raises(UsageError, match="`max_error` must be between 0 and 1"):
        Deferral(max_error=5.0).fit(outputs(30), outputs(30, 1))


def test_saved_and_loaded(fitted, tmp_path):
    fitted.save(tmp_path / "policy")
    loaded = Deferral.load(tmp_path / "policy")
    for name in ("certificate_", "calibration_", "cases_", "rule_", "model_", "unit_"):
        assert getattr(loaded, name) == getattr(fitted, name)
    assert loaded.fingerprint == fitted.fingerprint
    assert loaded.classes_ == ("0", "1", "2")
    assert loaded.get_params() == fitted.get_params()
    logits = outputs(20, 4)[0]
    assert list(loaded.decide(logits)) == list(fitted.decide(logits))
    assert summary(loaded) == summary(fitted)
    assert "Certified: at most 10 %" in summary(loaded)


def test_saving_a_loaded_policy_where_it_was_changes_nothing(fitted, tmp_path):
    fitted.save(tmp_path / "policy")
    before = {path.name: path.read_bytes() for path in (tmp_path / "policy").iterdir()}
    Deferral.load(tmp_path / "policy").save(tmp_path / "policy")
    assert {path.name: path.read_bytes() for path in (tmp_path / "policy").iterdir()} == before


def test_a_policy_that_replaces_another_of_the_same_cases_says_so(tmp_path):
    table = Predictions.of(named_rows(400))
    Deferral(max_error=0.1).fit(table).save(tmp_path / "policy")
    second = Deferral(max_error=0.1, seed=1).fit(table)
    assert "calibrated before" not in summary(second)
    second.save(tmp_path / "policy")
    assert "calibrated before with 400 of these images" in summary(second)
    assert "calibrated before" in summary(Deferral.load(tmp_path / "policy"))
    other = Predictions.of(named_rows(400, seed=5))
    third = Deferral(max_error=0.1).fit(other)
    third.save(tmp_path / "policy")
    assert "calibrated before" not in summary(third)


@pytest.mark.parametrize("with_patients", [False, True])
def test_images_without_ids_are_no_earlier_cases_by_the_number_of_their_row(
    tmp_path, with_patients
):
    def sets(seed):
        for count in (200, 400):
            rows = named_rows(count, seed + count)
            del rows["id"]
            few = [f"patient {seed + count}", *[""] * (count - 1)]
            yield rows | {"patient": few} if with_patients else rows

    Deferral(max_error=0.1).fit(*sets(0)).save(tmp_path / "policy")
    other = Deferral(max_error=0.1).fit(*sets(1))
    other.save(tmp_path / "policy")
    assert "calibrated before" not in summary(other)
    again = Deferral(max_error=0.1).fit(*sets(0))
    again.save(tmp_path / "policy")
    assert "calibrated before with 600 of these images" in summary(again)


def test_a_file_without_ids_is_no_earlier_one_by_the_numbers_of_its_rows(tmp_path):
    def table(seed):
        rows = named_rows(400, seed)
        del rows["id"]
        return Predictions.of(rows)

    for seed in (0, 1):
        policy = Deferral(max_error=0.1).fit(table(seed))
        policy.save(tmp_path / "policy")
        assert "calibrated before" not in summary(policy)


def test_saving_twice_keeps_the_record_of_earlier_calibrations(tmp_path):
    policy = tmp_path / "policy"
    Deferral(max_error=0.1).fit(named_rows(400)).save(policy)
    second = Deferral(max_error=0.1).fit(named_rows(400, seed=5))
    second.save(policy)
    once = (policy / "policy.json").read_bytes()
    second.save(policy)
    assert (policy / "policy.json").read_bytes() == once
    third = Deferral(max_error=0.1, seed=1).fit(named_rows(400))
    third.save(policy)
    assert "calibrated before with 400 of these images" in summary(third)


@pytest.mark.parametrize("names", [["thesis.tex"], ["bundle.json", "policy.json"]])
def test_a_folder_that_is_not_a_policy_is_not_replaced(fitted, tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match="exists and is not a policy; choose another folder"):
        fitted.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_an_empty_folder_becomes_a_policy(fitted, tmp_path):
    (tmp_path / "policy").mkdir()
    fitted.save(tmp_path / "policy")
    assert Deferral.load(tmp_path / "policy").certificate_ == fitted.certificate_


def test_images_without_a_patient_are_counted_whatever_the_patients_are_called():
    patients = [str(row) for row in range(1, 401)]
    rows = named_rows(400, id=patients)
    named = Deferral(max_error=0.1).fit({**rows, "patient": patients})
    assert "have no value" not in summary(named)
    rows["patient"] = [*patients[1:41], *[""] * 360]
    without_ids = {name: values for name, values in rows.items() if name != "id"}
    for some in (rows, without_ids):
        told = summary(Deferral(max_error=0.1).fit(some))
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
    tune, calibration = deferral.cases_.tuning, deferral.cases_.calibration
    assert len(tune) == 100
    assert len(calibration) == 300
    assert not set(tune.groups) & set(calibration.groups)
    assert deferral.unit_ == "patient"
    assert deferral.certificate_.cases == 75
    assert "drawn by group with seed 7" in summary(deferral)


def test_training_images_with_features_fit_detectors():
    rng = np.random.default_rng(0)
    sets = ["train"] * 200 + ["tune"] * 100 + ["calibrate"] * 200
    features = rng.normal(size=(500, 8)) + 10
    rows = named_rows(500, set=sets, features=features)
    deferral = Deferral(max_error=0.1, max_ood_false_alarms=0.1).fit(rows)
    assert deferral.ood_detector_ == "knn"
    new = {"logits": rows["logits"][:2], "features": np.stack([features[0], -features[0]])}
    near, far = deferral.decide(new)
    assert (near.decision, far.decision) == ("accept", "ood")
    with pytest.raises(
        DataError, match="needs the columns feature_0 to feature_7, and there are no"
    ):
        deferral.decide(rows["logits"])
    few = {"logits": rows["logits"][:2], "features": features[:2, :3]}
    with pytest.raises(DataError, match="feature_0 to feature_7, and there are 3"):
        deferral.decide(few)


def test_training_images_without_labels_are_refused():
    sets = ["train"] * 200 + ["tune"] * 100 + ["calibrate"] * 200
    rows = named_rows(500, set=sets, features=np.random.default_rng(0).normal(size=(500, 8)))
    rows["label"][:3] = [""] * 3
    with pytest.raises(DataError, match="3 of 200 rows have no label, the first is '0-0'"):
        Deferral(max_error=0.1).fit(rows)


def test_training_images_with_the_classes_in_another_order_are_refused():
    training = named_rows(200, 1, classes=CLASSES[::-1])
    with pytest.raises(DataError, match="classes owl, dog, cat, and the tuning set cat, dog, owl;"):
        Deferral(max_error=0.1).fit(named_rows(400), training=training)


def test_a_policy_that_reads_predicted_losses_names_their_column():
    losses = np.random.default_rng(0).normal(size=500)
    rows = named_rows(500, predicted_loss=losses)
    deferral = Deferral(max_error=0.1, ood_detector="predicted_loss").fit(rows)
    assert deferral.decide({name: rows[name][:2] for name in ("logits", "predicted_loss")})
    with pytest.raises(DataError, match="the policy needs the column predicted_loss; predict aga"):
        deferral.decide(rows["logits"])


MISSING_SCORES = {
    "knn": "needs features of training images: columns feature_0, ..., and rows of the set train",
    "predicted_loss": "needs the column predicted_loss",
    "knn_taps": "needs the averages of the taps, which a CSV file does not have",
    "vim": "needs the last layer, which a CSV file does not have",
    "vom": "unknown detector 'vom'; choose from msp, ",
}


@pytest.mark.parametrize("name", MISSING_SCORES)
def test_a_detector_says_what_it_needs(name):
    with pytest.raises(UsageError) as failure:
        Deferral(max_error=0.1, ood_detector=name).fit(named_rows(400))
    assert MISSING_SCORES[name] in str(failure.value)
    assert "choose from msp, energy" in str(failure.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"set": ["tune"] * 400}, "no row is in the set 'calibrate'"),
        ({"label": [""] * 400}, "400 of 400 rows have no label"),
        ({"group": ["one"] * 400}, r"too few groups of images \(1\) for 4 sets"),
    ],
)
def test_tables_that_cannot_support_a_policy(change, message):
    with pytest.raises(DataError, match=message):
        Deferral().fit(named_rows(400, **change))


def test_sets_of_two_models_are_refused():
    sets = [named_rows(100, seed, model=[f"model {seed}"] * 100) for seed in (0, 1)]
    with pytest.raises(DataError, match="are of two models"):
        Deferral().fit(*sets)


def test_a_policy_is_for_its_model_and_classes():
    rows = named_rows(400, model=["resnet"] * 400)
    deferral = Deferral(max_error=0.1).fit(rows)
    logits = rows["logits"][:1]
    assert deferral.decide(logits)[0].predicted_class in CLASSES
    with pytest.raises(DataError, match="calibrated for the model resnet, not for vit"):
        deferral.decide({"logits": logits, "model": ["vit"]})
    with pytest.raises(DataError, match="must be the same in the same order"):
        deferral.decide({"logits": logits, "classes": ["dog", "cat", "owl"]})


@pytest.mark.parametrize("data", ["predictions.csv", Path("predictions.csv"), None])
def test_the_name_of_a_file_is_not_taken_for_predictions(data):
    with pytest.raises(UsageError, match=r"has no predictions; .*Predictions\.read"):
        Deferral(max_error=0.1).fit(data)


def test_a_policy_that_is_saved_over_another_keeps_its_record(tmp_path):
    one, other = (Deferral(max_error=0.3).fit(outputs(600, seed=seed)) for seed in (1, 2))
    one.save(tmp_path / "policy")
    other.save(tmp_path / "policy")
    saved = Deferral.load(tmp_path / "policy").cases_
    assert (saved.calibrations, saved.repeated_images) == (1, 0)
    assert saved.earlier == one.cases_.tuning + one.cases_.calibration


def test_a_policy_over_one_that_cannot_be_read_says_so(tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "policy.json").write_text("{")
    policy = Deferral(max_error=0.3).fit(outputs(600, seed=1))
    policy.save(tmp_path / "policy")
    assert "could not be read" in summary(Deferral.load(tmp_path / "policy"))


def test_three_arrays_are_refused():
    with pytest.raises(UsageError, match="give a pair of logits and labels, not 3 arrays"):
        Deferral().fit((1, 2, 3), (1, 2, 3))


def test_no_torch_is_needed():
    code = (
        "import sys, numpy as np; from misgiving import Deferral;"
        "x = np.random.default_rng(0).normal(size=(400, 3)); y = x.argmax(1);"
        "d = Deferral(max_error=0.2).fit((x[:100], y[:100]), (x[100:], y[100:]));"
        "d.decide(x); print(sorted({'torch', 'timm', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


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


def test_a_policy_of_probabilities_refuses_arrays_of_logits():
    logits, labels = outputs(900)
    columns = {"probabilities": softmax(logits, axis=1), "label": [*map(str, labels)]}
    deferral = Deferral(max_error=0.3).fit({**columns, "classes": ["0", "1", "2"]})
    with pytest.raises(DataError, match="are logits, and the policy was fitted on probabilities"):
        deferral.decide(logits)


def test_the_same_images_cannot_tune_and_certify():
    both = outputs(300)
    with pytest.raises(DataError, match="300 rows of the calibration set are also in the tuning"):
        Deferral(max_error=0.2).fit(both, both)
    logits, labels = outputs(600, 1)
    some = (np.vstack([both[0][:200], logits[:100]]), np.append(both[1][:200], labels[:100]))
    with pytest.raises(DataError, match="200 rows of the calibration set"):
        Deferral(max_error=0.2).fit(both, some)
    rounded = outputs(300)[0].round(), outputs(300)[1]
    others = logits.round(), labels
    assert Deferral(max_error=0.3).fit(rounded, others).certificate_
