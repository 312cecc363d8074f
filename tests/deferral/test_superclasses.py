"""Answers at the level of superclasses, against scalar loops over classes and cases."""

import json
from dataclasses import replace

import numpy as np
import pytest
from commands import call

from misgiving import Deferral
from misgiving.calibration.apply import log_sums
from misgiving.calibration.fit import fit_calibrator
from misgiving.deferral.policy_file import PolicyFile
from misgiving.deferral.sentences import certificate_sentences
from misgiving.errors import UsageError
from misgiving.evaluation.evaluate import evaluate
from misgiving.metrics.selective import RiskCoverage
from misgiving.predictions.cells import UNKNOWN_CLASS
from misgiving.predictions.record import Predictions
from misgiving.report.evaluation import write_report
from misgiving.scores.detectors import FittedDetectors

CLASSES = ("NV", "BKL", "MEL", "BCC", "SCC")
SUPERCLASSES = {"malignant": ["MEL", "SCC", "BCC"], "benign": ["BKL", "NV"]}
SUPERCLASS_OF = {name: key for key, names in SUPERCLASSES.items() for name in names}
PAIR = np.array([1, 0, 3, 4, 2])  # with which each class is often confused


def images(count, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(len(CLASSES), size=count)
    signal = 2.5 * np.eye(len(CLASSES))
    logits = random.normal(size=(count, len(CLASSES))) + signal[labels] + 0.6 * signal[PAIR[labels]]
    return Predictions.of((logits, labels), classes=CLASSES)


TUNING, CALIBRATION, NEW = images(300, 1), images(700, 2), images(200, 3)


def fitted(answer="superclass", **parameters):
    parameters = {"max_error": 0.2, "superclasses": SUPERCLASSES, "answer": answer} | parameters
    return Deferral(**parameters).fit(TUNING, CALIBRATION)


@pytest.fixture(scope="module")
def deferral():
    return fitted()


@pytest.mark.parametrize("costs", [None, {"malignant": 6.0}])
def test_the_superclass_of_the_largest_sum_is_answered_with_its_most_probable_class(costs):
    deferral = fitted(rule="costs" if costs else "most_probable", costs=costs)
    vectors = np.exp(deferral.calibration_.log_probabilities(NEW.logits))
    differs = 0
    for decision, vector in zip(deferral.decide(NEW), vectors, strict=True):
        shares, weights = dict(zip(CLASSES, vector, strict=True)), costs or {}
        sums = {
            key: weights.get(key, 1.0) * sum(shares[name] for name in names)
            for key, names in SUPERCLASSES.items()
        }
        answer = max(sums, key=sums.get)
        assert decision.answer == answer
        assert decision.predicted_class == max(SUPERCLASSES[answer], key=shares.get)
        differs += decision.predicted_class != max(shares, key=shares.get)
        shown = sum(decision.probabilities[name] for name in SUPERCLASSES[answer])
        if decision.error_probability is not None:
            assert decision.error_probability == pytest.approx(1 - shown)
            assert decision.probability == pytest.approx(shown)
    assert differs


def test_an_error_is_an_answer_in_another_superclass(deferral):
    certificate, decided = deferral.certificate_, deferral.decide(CALIBRATION)
    accepted = missed = malignant = 0
    for decision, label in zip(decided, CALIBRATION.labels, strict=True):
        is_wrong = decision.answer != SUPERCLASS_OF[CLASSES[label]]
        malignant += SUPERCLASS_OF[CLASSES[label]] == "malignant"
        accepted += decision.decision == "accept"
        missed += decision.decision == "accept" and is_wrong and decision.answer == "benign"
    assert certificate.accepted == accepted > fitted("class").certificate_.accepted
    (errors,) = (each for each in certificate.superclass_errors if each.name == "malignant")
    assert (errors.cases, errors.missed) == (malignant, missed)
    assert certificate.wrong == sum(each.missed for each in certificate.superclass_errors)


@pytest.mark.parametrize("answer", ["class", "superclass"])
def test_a_limit_of_a_superclass_counts_its_cases_that_are_accepted_as_another(answer):
    deferral = fitted(answer, max_error=0.4, class_max_miss={"malignant": 0.1})
    missed = malignant = 0
    for decision, label in zip(deferral.decide(CALIBRATION), CALIBRATION.labels, strict=True):
        if SUPERCLASS_OF[CLASSES[label]] == "malignant":
            malignant += 1
            is_missed = SUPERCLASS_OF[decision.predicted_class] == "benign"
            missed += is_missed and decision.decision == "accept"
    (outcome,) = deferral.certificate_.class_outcomes
    assert (outcome.cases, outcome.missed) == (malignant, missed)
    sentences = " ".join(certificate_sentences(deferral))
    assert f"malignant cases are accepted as another superclass ({missed} of" in sentences


@pytest.mark.parametrize("answer", ["class", "superclass"])
def test_the_certificate_begins_with_superclasses_that_are_accepted_as_another(answer):
    deferral = fitted(answer, max_error=0.4)
    errors = {each.name: each for each in deferral.certificate_.superclass_errors}
    for brief in (True, False):
        first = certificate_sentences(deferral, brief=brief)[0]
        assert first.startswith("Accepted as another superclass: ")
        for name, each in errors.items():
            assert f"{each.missed} of {each.cases} {name} cases" in first
    limited = fitted(answer, max_error=0.4, class_max_miss={"malignant": 0.1})
    assert "malignant" not in certificate_sentences(limited)[0]


def test_superclasses_of_one_class_each_decide_as_the_classes():
    alone = {f"only {name}": [name] for name in CLASSES}
    of_classes, of_superclasses = fitted("class"), fitted(superclasses=alone)
    assert of_classes.calibration_.tried == of_superclasses.calibration_.tried
    for one, other in zip(of_classes.decide(NEW), of_superclasses.decide(NEW), strict=True):
        assert other.answer == f"only {one.answer}"
        assert one == other.model_copy(update={"answer": one.answer, "reason": one.reason})


def test_the_file_decides_as_the_memory_and_a_case_without_label_is_wrong(deferral, tmp_path):
    deferral.save(tmp_path / "policy")
    decided = deferral.decide(NEW)
    assert PolicyFile.read(tmp_path / "policy")[1].decide(NEW.outputs) == decided
    members = {name: tuple(each) for name, each in SUPERCLASSES.items()}
    loaded = Deferral.load(tmp_path / "policy")
    assert (loaded.superclasses, loaded.answer) == (members, "superclass")
    unknown = np.full(len(NEW), UNKNOWN_CLASS)
    assert decided.wrong(unknown).all()


def test_the_score_is_the_log_odds_of_the_sum_and_may_compare_it_with_the_next_four():
    names = [f"{number}" for number in range(14)]
    groups = {f"pair {at}": [str(2 * at), str(2 * at + 1)] for at in range(7)}
    random = np.random.default_rng(5)
    labels, noise = random.integers(14, size=900), random.normal(size=(900, 14))
    data = Predictions.of((noise + 3 * np.eye(14)[labels], labels), classes=names)
    rows = np.arange(900)
    deferral = Deferral(max_error=0.2, superclasses=groups, answer="superclass")
    deferral.fit(data.select(rows[:300]), data.select(rows[300:]))
    for rivals in (None, 4):
        calibration = replace(deferral.calibration_, score="calibrated", rivals=rivals)
        _, predicted, scores = calibration.judge({}, data.logits)
        sums = np.exp(
            log_sums(calibration.log_probabilities(data.logits), calibration.superclasses)
        )
        for at in range(50):
            others = np.delete(sums[at], predicted[at] // 2)
            against = sum(sorted(others)[-rivals:] if rivals else others)
            assert scores[at] == pytest.approx(np.log(sums[at, predicted[at] // 2] / against))


def test_scores_are_compared_by_how_they_rank_answers_in_another_superclass(deferral):
    of_each = deferral.calibration_.superclasses
    fitted = fit_calibrator(TUNING, FittedDetectors(), np.ones(2), of_each)
    assert fitted.calibrator.tried == deferral.calibration_.tried
    pairs = zip(fitted.predicted, TUNING.labels, strict=True)
    wrong = np.array([of_each[predicted] != of_each[label] for predicted, label in pairs])
    for name, area in fitted.calibrator.tried.items():
        assert area == pytest.approx(RiskCoverage(fitted.candidates[name], wrong).aurc())


@pytest.mark.parametrize(
    ("parameters", "parameter"),
    [
        ({"superclasses": None}, "superclasses"),
        ({"superclasses": {"all": CLASSES}}, "superclasses"),
        ({"superclasses": {"all": CLASSES, "none": []}}, "superclasses"),
        ({"superclasses": {**SUPERCLASSES, "benign": ["NV"]}}, "superclasses"),
        ({"superclasses": {**SUPERCLASSES, "other": ["NV"]}}, "superclasses"),
        ({"superclasses": {**SUPERCLASSES, "other": ["unknown"]}}, "superclasses"),
        (
            {"superclasses": {"NV": ["NV", "BKL"], "malignant": ["MEL", "BCC", "SCC"]}},
            "superclasses",
        ),
        ({"class_max_miss": {"MEL": 0.1}}, "class_max_miss"),
        ({"rule": "costs", "costs": {"MEL": 2.0}}, "costs"),
        (
            {"answer": "class", "guarantee": "average", "class_max_miss": {"benign": 0.1}},
            "class_max_miss",
        ),
    ],
)
def test_what_is_no_division_of_the_classes_or_has_no_proof_is_refused(parameters, parameter):
    with pytest.raises(UsageError, check=lambda failure: failure.parameters[0].name == parameter):
        fitted(**{"answer": "superclass"} | parameters)


def test_an_evaluation_and_its_report_are_at_the_level_of_the_answers(deferral, tmp_path):
    random, measured = np.random.default_rng(4), "test"
    parts = {"tune": TUNING, "calibrate": CALIBRATION, measured: NEW}
    labels = np.concatenate([part.labels for part in parts.values()])
    given = np.where(random.random(len(labels)) < 0.7, labels, PAIR[labels])
    table = {
        "logits": np.concatenate([part.logits for part in parts.values()]),
        "label": labels,
        "set": [name for name, part in parts.items() for _ in range(len(part))],
        "reader_Ann": [CLASSES[answer] for answer in given],
    }
    evaluation = evaluate(Predictions.of(table, classes=CLASSES), deferral, readers=True)
    right = [
        SUPERCLASS_OF[CLASSES[label]] == decision.answer
        for decision, label in zip(deferral.decide(NEW), NEW.labels, strict=True)
    ]
    assert evaluation.accuracy.events == sum(right) > (evaluation.classes == NEW.labels).sum()
    values = {(m.dataset, m.detector, m.metric): m.value for m in evaluation.measurements}
    assert values["policy_test", "policy", "accuracy"] == pytest.approx(np.mean(right))
    wrong = [harm.errors.errors for harm in evaluation.harms]
    assert sum(wrong) == len(right) - sum(right)
    answers = [
        (SUPERCLASS_OF[CLASSES[x]], SUPERCLASS_OF[CLASSES[y]])
        for x, y in zip(labels[-len(NEW) :], given[-len(NEW) :], strict=True)
    ]
    expected = [[answers.count((x, y)) for y in SUPERCLASSES] for x in SUPERCLASSES]
    (team,) = evaluation.readers.teams
    assert team.confusion.tolist() == expected
    page = write_report(evaluation, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "An answer is a superclass (malignant, benign)" in page


def test_the_command_reads_superclasses_from_a_file(tmp_path):
    CALIBRATION.write(tmp_path / "predictions.npz")
    (tmp_path / "superclasses.json").write_text(json.dumps(SUPERCLASSES))
    options = ("--answer", "superclass", "--class-max-miss", "malignant=0.2", "--max-error", "0.2")
    said = call(
        "calibrate", tmp_path / "predictions.npz", "--out", tmp_path / "policy",
        "--superclasses", tmp_path / "superclasses.json", *options, cache=tmp_path,
    )  # fmt: skip
    assert said.code == 0, said.err
    expected = Deferral(
        max_error=0.2,
        class_max_miss={"malignant": 0.2},
        superclasses=SUPERCLASSES,
        answer="superclass",
    ).fit(Predictions.read(tmp_path / "predictions.npz"))
    assert Deferral.load(tmp_path / "policy").certificate_ == expected.certificate_
    (tmp_path / "superclasses.json").write_text('{"benign": "NV"}')
    said = call(
        "calibrate", tmp_path / "predictions.npz", "--out", tmp_path / "other",
        "--superclasses", tmp_path / "superclasses.json", cache=tmp_path,
    )  # fmt: skip
    assert said.code == 2
    assert "lists of classes by name is expected" in said.err
