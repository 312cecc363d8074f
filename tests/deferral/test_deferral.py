import inspect
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from warnings import catch_warnings, simplefilter

import numpy as np
import pandas
import polars
import pyarrow
import pytest
import torch
from policies import outputs
from scipy import stats
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.validation import check_is_fitted

from misgiving import Deferral, Predictions
from misgiving.deferral.sets import check_copies
from misgiving.deferral.targets import DecisionRule, Targets
from misgiving.errors import DataError, UsageError
from misgiving.evaluation.evaluate import evaluate

CLASSES = ("cat", "dog", "owl")
SETS = ["train"] * 200 + ["tune"] * 100 + ["calibrate"] * 200
RANDOM_FEATURES = np.random.default_rng(0).normal(size=(500, 8))


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


def test_every_form_of_the_same_outputs_gives_the_same_decisions(fitted):
    logits, labels = outputs(50, 3)
    expected = list(fitted.decide(logits))
    frame = pandas.DataFrame({f"logit_{name}": logits[:, int(name)] for name in "012"})
    for form in (torch.tensor(logits), (logits, labels), {"logits": logits}, frame):
        assert list(fitted.decide(form)) == expected
    halves = torch.tensor(logits).bfloat16()
    expected = list(fitted.decide(halves.float().numpy()))
    for form in (halves, halves.requires_grad_()):
        assert list(fitted.decide(form)) == expected


def test_every_form_of_the_same_cases_gives_the_same_policy():
    logits, labels = outputs(600)
    columns = {f"logit_{name}": logits[:, int(name)] for name in "012"}
    expected = Deferral(max_error=0.1).fit(Predictions.of({**columns, "label": labels}))
    assert expected.cases_.drawn_parts == 5
    for form in (
        (logits, labels),
        (torch.tensor(logits), labels.tolist()),
        (logits, pandas.Series(labels)),
        (logits, tuple(labels.tolist())),
        ((logits, labels),),
        (Predictions.of((pandas.DataFrame(columns), labels)),),
    ):
        fitted = Deferral(max_error=0.1).fit(*form)
        assert fitted.policy_.fingerprint == expected.policy_.fingerprint
    shares = softmax(logits, axis=1)
    assert Deferral(max_error=0.1).fit(shares, labels).policy_.kind == "probabilities"


def test_a_classifier_is_asked_for_its_probabilities():
    inputs, positions = outputs(900)
    labels = np.array(CLASSES)[positions]
    classifier = LogisticRegression().fit(inputs[:300], labels[:300])
    deferral = Deferral(max_error=0.1).fit(classifier, inputs[300:], labels[300:])
    shares = classifier.predict_proba(inputs[300:])
    again = Deferral(max_error=0.1).fit(shares, labels[300:], classes=CLASSES)
    assert deferral.classes_ == CLASSES
    assert deferral.policy_.fingerprint == again.policy_.fingerprint
    assert deferral.decide(shares) == deferral.decide({"probabilities": shares})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*outputs(60), outputs(60)[1]), "a classifier that has .predict_proba"),
        ((LinearSVC(), outputs(60)[0], outputs(60)[1]), "a classifier that has .predict_proba"),
        ((outputs(60)[0],), "with labels"),
        ((LogisticRegression(), outputs(60)[0]), "its inputs and their labels"),
        ((outputs(60)[0], np.eye(3)[outputs(60)[1]]), r"shape \(60, 3\)"),
        ((outputs(60)[0], np.array(["a", "b"])[outputs(60)[1] % 2]), "3 columns.* 2 classes"),
        ((pandas.DataFrame(outputs(60)[0]).add_prefix("logit_"), outputs(60)[1]), "data frame"),
        (({"logits": outputs(60)[0], "label": outputs(60)[1]},), "data frame"),
    ],
)
def test_arguments_that_are_not_what_they_seem(arguments, says):
    with pytest.raises((DataError, UsageError), match=says):
        Deferral().fit(*arguments)


TWICE = np.repeat(outputs(300)[0], 2, axis=0), np.repeat(outputs(300)[1], 2)
FEW_COPIES = np.vstack([TWICE[0][:24], outputs(600, 1)[0]]), [*TWICE[1][:24], *outputs(600, 1)[1]]
PAIRS = [number // 2 for number in range(600)]


@pytest.mark.parametrize(
    ("cases", "warnings"),
    [
        (({"logits": TWICE[0]}, TWICE[1]), ["600 of 600 rows have the outputs"]),
        (({"logits": TWICE[0], "group": PAIRS}, TWICE[1]), []),
        (({"logits": TWICE[0], "content_hash": PAIRS}, TWICE[1]), []),
        (({"probabilities": softmax(TWICE[0], axis=1).round(3)}, TWICE[1]), []),
        (FEW_COPIES, []),
        (tuple(part[TWICE[1] < 2] for part in TWICE), ["is of the class 2;", "outputs of another"]),
        (tuple(part[TWICE[1] == 1] for part in TWICE), ["the class 0 or 2;", "outputs of another"]),
    ],
)
def test_cases_that_say_less_than_they_seem_to(cases, warnings):
    with catch_warnings(record=True) as caught:
        simplefilter("always")
        Deferral(max_error=0.2).fit(Predictions.of(cases))
    for warning, words in zip(caught, warnings, strict=True):
        assert warning.category is UserWarning
        assert words in str(warning.message)


LOGITS, LABELS = outputs(60)


MODELS = [named_rows(100, seed, model=[f"model {seed}"] * 100) for seed in (0, 1)]
COPIES = (np.vstack([LOGITS[:40], outputs(20, 1)[0]]), LABELS)
REVERSED = named_rows(200, 5, classes=CLASSES[::-1], features=RANDOM_FEATURES[:200])


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["predictions.csv"], "give predictions"),
        ([(LOGITS, LABELS)] * 2, "60 rows of the calibration set are also in the tuning"),
        ([(LOGITS, LABELS), COPIES], "40 rows of the calibration set"),
        ([named_rows(400, set=["tune"] * 400)], "'calibrate'"),
        ([named_rows(400, label=[""] * 400)], "400 of 400 rows have no label"),
        ([named_rows(400, label=[""] * 400, lable=["a"] * 400)], "as the column label, not lable$"),
        ([named_rows(400, group=["one"] * 400)], r"\(1\)"),
        (MODELS, "'model 1' .*'model 0'"),
        ([MODELS[0], named_rows(100, 1)], "'model 0'"),
        ([named_rows(50, 1, group=["one"] * 50), named_rows(50, 2, group=["one"] * 50)], "'one'"),
        (
            [named_rows(500, set=SETS, features=RANDOM_FEATURES, label=["", *["cat"] * 499])],
            "1 of 200 rows have no label, the first is '0-0'",
        ),
        ([named_rows(100), named_rows(100, 1), REVERSED], "training .* owl, dog, cat.*cat, dog"),
    ],
)
def test_sets_that_cannot_support_a_policy(sets, says):
    names = ("tuning", "calibration", "training")
    taken = [
        Predictions.of(each, name=name) if isinstance(each, dict) else each
        for each, name in zip(sets, names, strict=False)
    ]
    tuning, calibration, training = (*taken, None, None)[:3]
    with pytest.raises((DataError, UsageError), match=says):
        Deferral().fit(tuning, calibration, training=training)


def two_classes(count, random, decimals=9):
    """Probabilities of images that are all different; coarse ones are often equal."""
    of_second = (1 / (1 + np.exp(3 * random.normal(size=count)))).round(decimals)
    given = {"probabilities": np.column_stack([1 - of_second, of_second]), "classes": ["a", "b"]}
    return Predictions.of(given | {"label": np.arange(count) % 2})


@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_different_images_are_not_refused_as_copies_however_coarse_their_outputs_are(decimals):
    random = np.random.default_rng(0)
    for tuning, calibration in (5, 5), (10, 40), (30, 30), (100, 100), (100, 400):
        for _ in range(20):
            check_copies(*(two_classes(n, random, decimals) for n in (tuning, calibration)))


@pytest.mark.parametrize("decimals", [4, 9])
@pytest.mark.parametrize(("count", "copied"), [(10, 10), (60, 40), (500, 500), (1000, 700)])
def test_copies_in_another_order_are_refused_also_where_outputs_are_rounded(
    count, copied, decimals
):
    random = np.random.default_rng(0)
    given = two_classes(2 * count, random, decimals)
    tuning = given.select(np.arange(count))
    calibration = given.select(random.permutation(np.arange(count) + count - copied))
    with pytest.raises(DataError, match=f"^{copied if decimals > 4 else '[0-9]+'} rows of the"):
        check_copies(tuning, calibration)


def test_half_of_a_set_may_be_copies():
    given = two_classes(90, np.random.default_rng(0))
    check_copies(given.select(np.arange(60)), given.select(np.arange(30, 90)))


@pytest.mark.parametrize(("shared", "refused"), [(19, True), (18, False)])
def test_shared_outputs_are_compared_with_those_that_two_rows_of_one_set_have(shared, refused):
    """Two outputs of each set have two rows; q is the chance that a pair is in both sets."""
    values, number = two_classes(shared + 4, np.random.default_rng(0)), shared + 4
    q = 2 * number**2 / (2 * number * (2 * number - 1))
    assert (stats.binom.sf(shared - 1, number, q) < 0.002) == refused
    within = [*range(shared), *[shared, shared + 1] * 2], [*range(shared), *[-1, -2] * 2]
    with pytest.raises(DataError, match=r"^19 rows") if refused else nullcontext():
        check_copies(*(values.select(np.arange(number)[rows]) for rows in within))


def test_doubled_images_are_told_from_classifiers_that_repeat_their_outputs():
    """A second pass over a copy may differ in the last digit."""
    random = np.random.default_rng(0)
    inputs, labels = make_classification(
        1200, 8, n_informative=6, n_classes=3, flip_y=0.3, random_state=0
    )
    twice = np.tile(np.arange(600, 900), 2)
    continuous = LogisticRegression(), RandomForestClassifier(200, min_samples_leaf=5)
    for classifier in (
        *continuous,
        RandomForestClassifier(30, random_state=0),
        KNeighborsClassifier(30),
        DecisionTreeClassifier(max_depth=5, random_state=0),
    ):
        shares = classifier.fit(inputs[:600], labels[:600]).predict_proba(inputs)
        of_copies = shares[twice] * (1 + 1e-8 * random.normal(size=(600, 3)))
        for given, rows, copied in (
            (shares[600:], np.arange(600, 1200), False),
            (of_copies, twice, classifier in continuous),
        ):
            with catch_warnings(record=True) as told:
                simplefilter("always", UserWarning)
                Deferral(max_error=0.5).fit(given, labels[rows])
            assert any("outputs of another row" in str(each.message) for each in told) == copied


def test_conventions_of_scikit_learn():
    parameters = {"max_error": 0.1, "class_max_miss": {"cat": 0.2}, "seed": 3}
    deferral = Deferral(**parameters)
    assert deferral.get_params() == {**Deferral().get_params(), **parameters}
    assert clone(deferral).get_params() == deferral.get_params()
    assert deferral.set_params(max_error=0.2).max_error == 0.2
    assert repr(deferral) == "Deferral(max_error=0.2, class_max_miss={'cat': 0.2}, seed=3)"
    with pytest.raises(TypeError):
        deferral.set_params(max_errors=0.2)
    for call in (lambda: deferral.decide(np.zeros((1, 3))), lambda: deferral.save("policy")):
        with pytest.raises(NotFittedError):
            call()
    with pytest.raises(NotFittedError):
        check_is_fitted(deferral)
    check_is_fitted(Deferral().fit(*outputs(600)))
    given = set(inspect.signature(Deferral).parameters)
    others = {"guarantee", "ood_detector", "seed"}
    assert given == {*vars(Targets(max_error=0.1)), *vars(DecisionRule())} | others


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"max_error": 5.0}, "max_error"),
        ({"costs": {"cow": 2.0}}, "`costs` and `rule=.costs.` go together"),
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
        Deferral(**parameters).fit(Predictions.of(named_rows(100)))


def test_the_energy_of_probabilities_which_is_noise_is_not_available():
    logits, labels = outputs(600)
    data = {"probabilities": softmax(logits, axis=1), "label": labels}
    with pytest.raises(UsageError, match=r"'energy'.*logits.*choose from msp, max_logit"):
        Deferral(ood_detector="energy").fit(Predictions.of(data))


def test_saved_and_loaded(fitted, tmp_path):
    folder = tmp_path / "policy"
    folder.mkdir()  # an empty folder is replaced
    fitted.save(folder)
    loaded = Deferral.load(folder)
    assert loaded.cases_ == fitted.cases_
    for name in vars(fitted.policy_):
        if name != "detectors":
            assert getattr(loaded.policy_, name) == getattr(fitted.policy_, name)
    assert loaded.policy_.fingerprint == fitted.policy_.fingerprint
    assert loaded.classes_ == ("0", "1", "2")
    assert loaded.get_params() == fitted.get_params()
    logits = outputs(20, 4)[0]
    assert list(loaded.decide(logits)) == list(fitted.decide(logits))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    loaded.save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("names", [["thesis.tex"], ["bundle.json", "policy.json"]])
def test_a_folder_that_is_not_a_policy_is_not_replaced(fitted, tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match="not a policy"):
        fitted.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_images_without_a_patient_are_counted_whatever_the_patients_are_called():
    patients = [str(row) for row in range(1, 401)]
    some = [*patients[1:41], *[""] * 360]
    for ids, column, alone in ((patients, patients, 0), (patients, some, 360), (None, some, 360)):
        rows = Predictions.of(named_rows(400, id=ids, patient=column))
        cases = Deferral(max_error=0.1).fit(rows).cases_
        assert (cases.tuning + cases.calibration).groups.count("") == alone


def test_one_table_is_divided_by_its_sets():
    sets = ["tune"] * 100 + ["calibrate"] * 200 + ["test"] * 100
    deferral = Deferral(max_error=0.1).fit(Predictions.of(named_rows(400, set=sets)))
    used, related = deferral.cases_.among(Predictions.of(named_rows(400)))
    assert used.tolist() == [True] * 300 + [False] * 100
    assert not related.any()
    assert (len(deferral.cases_.tuning), len(deferral.cases_.calibration)) == (100, 200)
    assert deferral.cases_.left_out == {"test": 100}


def test_one_table_without_sets_is_divided_by_group():
    patients = [f"p{number // 4}" for number in range(400)]
    rows = Predictions.of(named_rows(400, patient=patients))
    deferral = Deferral(max_error=0.1, seed=7).fit(rows)
    tuning, calibration = deferral.cases_.tuning, deferral.cases_.calibration
    assert (len(tuning), len(calibration), deferral.cases_.drawn_parts) == (80, 320, 5)
    assert not set(tuning.groups) & set(calibration.groups)
    assert deferral.policy_.unit == "patient"
    assert deferral.certificate_.cases == 80
    shuffled = rows.select(np.random.default_rng(0).permutation(400))
    again = Deferral(max_error=0.1, seed=7).fit(shuffled).certificate_
    np.testing.assert_allclose(again.scores, deferral.certificate_.scores)


def test_training_images_with_features_fit_detectors():
    features = RANDOM_FEATURES + 10
    rows = named_rows(500, set=SETS, features=features)
    deferral = Deferral(max_error=0.1).fit(Predictions.of(rows))
    assert (deferral.policy_.ood_detector, deferral.cases_.training_images) == ("knn", 200)
    new = {"logits": rows["logits"][:2], "features": np.stack([features[0], -features[0]])}
    assert deferral.decide(new).decisions.tolist() == ["accept", "ood"]


@pytest.mark.parametrize(
    ("has_taps", "parameters", "detector"),
    [(True, {}, "knn_layers"), (False, {}, "knn"), (True, {"ood_detector": "knn"}, "knn")],
    ids=["taps", "no taps of training images", "named"],
)
def test_the_ood_detector_reads_the_taps_unless_there_are_none_or_another_is_named(
    has_taps, parameters, detector, tmp_path
):
    sets = ["train"] * 275 + ["tune"] * 25 + ["calibrate"] * 200
    columns = {"features": RANDOM_FEATURES, "taps": RANDOM_FEATURES, "tap_widths": (2, 6)}
    rows = Predictions.of(named_rows(500, set=sets, **columns))
    training = rows.in_set("train")
    training = training if has_taps else replace(training, taps=None, tap_widths=())
    new = rows.in_set("tune"), rows.in_set("calibrate")
    deferral = Deferral(max_error=0.1, **parameters).fit(*new, training=training)
    deferral.save(tmp_path / "policy")
    for each in (deferral, Deferral.load(tmp_path / "policy")):
        assert each.policy_.used_detectors.names == (each.policy_.ood_detector,) == (detector,)
    assert deferral.certificate_.ood_rank


@pytest.mark.parametrize(
    ("columns", "parameters", "has_limit"),
    [
        ({"features": RANDOM_FEATURES}, {}, True),
        ({"features": RANDOM_FEATURES}, {"max_ood_false_alarms": None}, False),
        ({}, {}, False),
        ({}, {"ood_detector": "energy"}, True),
    ],
    ids=["features", "off", "logits alone", "a detector of logits"],
)
def test_ood_images_are_called_so_by_default_where_there_is_something_to_compare_them_with(
    columns, parameters, has_limit, tmp_path
):
    rows = Predictions.of(named_rows(500, set=SETS, **columns))
    deferral = Deferral(max_error=0.1, **parameters).fit(rows)
    certificate = deferral.certificate_
    assert (certificate.ood_threshold is not None) == has_limit
    without = Deferral(max_error=0.1, **parameters | {"max_ood_false_alarms": None})
    without.fit(rows)
    if not has_limit:
        assert certificate == without.certificate_
    deferral.save(tmp_path / "policy")
    assert Deferral.load(tmp_path / "policy").get_params() == deferral.get_params()


LOGITS_ONLY = {"logits": LOGITS[:2]}
LOSSES = np.random.default_rng(0).normal(size=500)


@pytest.mark.parametrize(
    ("fitted_on", "detector", "data", "says"),
    [
        ({"set": SETS, "features": RANDOM_FEATURES}, None, {}, "columns feature_0 to feature_7"),
        (
            {"set": SETS, "features": RANDOM_FEATURES},
            None,
            {"features": RANDOM_FEATURES[:2, :3]},
            "columns feature_0 to feature_7",
        ),
        ({"predicted_loss": LOSSES}, "predicted_loss", {}, "column predicted_loss"),
        ({"model": ["resnet"] * 500}, None, {"model": ["vit"] * 2}, r"resnet.*vit"),
        ({}, None, {"classes": ("owl", "dog", "cat")}, "owl, dog, cat"),
        ({}, None, {"logits": [[0.0, np.nan, 1.0]]}, r"row 1, .*: nan"),
        ({}, None, {"logits": None, "probabilities": softmax(LOGITS, axis=1)}, "are probabilities"),
        ({"logits": None, "probabilities": softmax(outputs(500)[0], axis=1)}, None, {}, "logits"),
    ],
)
def test_predictions_that_a_policy_was_not_fitted_for_are_refused(fitted_on, detector, data, says):
    rows = named_rows(500, **fitted_on)
    deferral = Deferral(max_error=0.1, ood_detector=detector).fit(Predictions.of(rows))
    given = {**LOGITS_ONLY, "classes": CLASSES, **data}
    with pytest.raises(DataError, match=says):
        deferral.decide({name: values for name, values in given.items() if values is not None})
    with_all = {name: values for name, values in rows.items() if name != "set"}
    assert len(deferral.decide(with_all)) == 500
    if "model" in fitted_on:  # the model need not be named
        assert len(deferral.decide(LOGITS_ONLY | {"classes": CLASSES})) == 2


def test_no_torch_is_needed_and_a_target_as_a_text_is_refused():
    code = (
        "import sys, numpy as np; from misgiving import Deferral;"
        "unused = {'torch', 'timm', 'matplotlib', 'pandas', 'sklearn'};"
        "print(sorted(unused & set(sys.modules)));"
        "x = np.random.default_rng(0).normal(size=(400, 3)); y = x.argmax(1);"
        "d = Deferral(max_error=0.2).fit((x[:100], y[:100]), (x[100:], y[100:]));"
        "d.decide(x); print(sorted({'torch', 'timm', 'matplotlib'} & set(sys.modules)))\n"
        "try: Deferral(max_error='5%').fit(x, y)\n"
        "except ValueError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    refused = "`max_error` must be a number between 0 and 1, got '5%'"
    assert run.stdout.splitlines() == ["[]", "[]", refused]


def test_evaluate_measures_all_scores_by_the_classes_that_the_policy_names():
    deferral = Deferral(max_error=0.3, rule="costs", costs={"dog": 10.0})
    deferral.fit(Predictions.of(named_rows(900)))
    predictions = Predictions.of(named_rows(400, seed=5))
    predicted = deferral.decide(predictions).predicted
    assert (predicted != predictions.choices).any()
    evaluation = evaluate(predictions, deferral)
    rows = [row for row in evaluation.measurements if row.dataset == "policy_test"]
    values = {row.metric: row.value for row in rows if row.detector == "msp"}
    msp = predictions.probabilities.max(axis=1)
    expected = roc_auc_score(predicted != predictions.labels, -msp)
    assert values["error_auroc"] == pytest.approx(expected)


@pytest.mark.parametrize("values", [["no", "yes"], [False, True], [3, 10]])
def test_classes_are_those_of_the_labels_sorted_as_scikit_learn_does(values):
    (inputs, positions), classes = make_classification(900, random_state=0), np.array(values)
    classifier = LogisticRegression().fit(inputs[:300], classes[positions[:300]])
    shares, labels = classifier.predict_proba(inputs[300:]), classes[positions[300:]]
    fitted = Deferral(max_error=0.2).fit(shares, labels)
    assert fitted.classes_ == tuple(map(str, values))
    again = Deferral(max_error=0.2).fit(classifier, inputs[300:], labels)
    assert again.policy_.fingerprint == fitted.policy_.fingerprint


@pytest.mark.parametrize("of", [pandas.DataFrame, polars.DataFrame, pyarrow.table])
def test_any_data_frame_is_taken_by_the_names_of_its_columns(of):
    logits, labels = outputs(600)
    columns = {f"logit_{name}": logits[:, at] for at, name in enumerate(CLASSES)}
    columns["label"] = np.array(CLASSES)[labels]
    deferral = Deferral(max_error=0.1).fit(Predictions.of(of(columns)))
    expected = Deferral(max_error=0.1).fit(logits, np.array(CLASSES)[labels])
    assert deferral.policy_.fingerprint == expected.policy_.fingerprint
    turned = of({name: columns[name] for name in reversed(columns)})
    assert deferral.decide(turned) == expected.decide(logits)


def test_what_is_certified_is_said_in_the_words_of_the_shell(fitted):
    lines = str(fitted.certificate_).splitlines()
    assert lines[0].startswith("Accepted: ")
    assert lines == repr(fitted).splitlines()[1 : 1 + len(lines)]
    certain = np.eye(3)[np.arange(600) % 3] * 9 + np.random.default_rng(0).normal(size=(600, 3))
    with pytest.warns(UserWarning, match="All 480 calibration cases .* trained on them"):
        Deferral().fit(certain, np.arange(600) % 3)
    with pytest.warns(UserWarning, match=r"Accepted: nothing\. Worse than chance: 48. of 480"):
        Deferral(rule="logits").fit(np.roll(certain, 1, axis=1), np.arange(600) % 3)


def test_decisions_warn_of_other_images_and_of_a_threshold_that_is_too_low(fitted):
    logits, _ = outputs(300, 5)
    silent = fitted.decide_for(Predictions.of(logits * 0.3, classes=fitted.classes_))
    assert silent.gaps == {}
    with pytest.warns(UserWarning, match="no longer like .* acceptance scores differs .* by up to"):
        assert fitted.decide(logits * 0.3).gaps.keys() == {"acceptance", "ood"}
    assert fitted.decide(logits).gaps == {}
    assert fitted.decide(logits).certified
    fitted = Deferral(max_error=0.15).fit(outputs(300, 1, signal=1.5), outputs(900, 2, signal=1.5))
    logits, _ = outputs(300, 6, signal=1.5)
    limit = fitted.certificate_.accept_threshold
    assert fitted.decide(logits, threshold=limit).certified
    with pytest.warns(UserWarning, match="is below .*: nothing is certified"):
        assert not fitted.decide(logits, threshold=limit - 0.1).certified


def test_outputs_that_are_no_table_are_named_by_their_shape_and_not_printed():
    texts = [f"{'a secret about ' * 9}{number}" for number in range(8)]
    with pytest.raises(DataError, match=r"the outputs have the shape \(8,\); give a row for each"):
        Deferral().fit(texts, ["billing", "shipping"] * 4)
    pandas = pytest.importorskip("pandas")
    fitted = Deferral(max_error=0.4).fit(*outputs(300, 1, signal=2.0))
    with pytest.raises(DataError, match="is not a number") as error:
        fitted.decide(pandas.Series(texts))
    assert str(error.value).endswith(
        "row 1, column logits: 'a secret about a secret about ' is not a number"
    )
