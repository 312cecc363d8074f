"""Readers and their teams with a policy, against loops over images."""

import numpy as np
import pytest
from scipy.stats import beta

from misgiving import Deferral, Predictions
from misgiving.errors import DataError, UsageError
from misgiving.evaluation.evaluate import evaluate
from misgiving.evaluation.measures import POLICY_SET
from misgiving.evaluation.readers import DEFERRED_SHARES

CLASSES = ("cat", "dog", "owl")
COST = {"cat": 4.0, "dog": 1.0, "owl": 1.0}
IMAGES = 900


def predictions(**columns):
    """Images in pairs of one patient; bo reads two of three, and all are often wrong."""
    random = np.random.default_rng(0)
    labels = random.integers(3, size=IMAGES)
    ann = np.where(random.random(IMAGES) < 0.8, labels, random.integers(3, size=IMAGES))
    bo = np.where(random.random(IMAGES) < 0.6, labels, 2)
    made = {
        "logits": random.normal(size=(IMAGES, 3)) + 2 * np.eye(3)[labels],
        "label": [CLASSES[label] for label in labels],
        "patient": [f"p{row // 2}" for row in range(IMAGES)],
        "set": [("tune", "calibrate", "test")[row // 2 % 3] for row in range(IMAGES)],
        "reader_ann": [CLASSES[answer] for answer in ann],
        "reader_bo": [CLASSES[answer] if row % 3 else "" for row, answer in enumerate(bo)],
    }
    made = {"classes": CLASSES} | made | columns
    return Predictions.of({name: values for name, values in made.items() if values is not None})


@pytest.fixture(scope="module", params=[{}, COST], ids=["", "costs"])
def deferral(request):
    rule = {"rule": "costs", "costs": request.param} if request.param else {}
    return Deferral(max_error=0.2, max_ood_false_alarms=None, **rule).fit(predictions())


@pytest.fixture(scope="module")
def evaluation(deferral):
    return evaluate(predictions(), deferral, readers=True)


def teams_by_hand(read, reader, likelihood, deferral):
    """Wrong answers of deferral and of combination, for each share, image by image."""
    decisions = deferral.decide(read)
    costs = deferral.costs or dict.fromkeys(CLASSES, 1.0)
    order = sorted(range(len(read)), key=lambda row: decisions.acceptance_score[row])
    wrong = {"deferral": [], "combination": []}
    for share in DEFERRED_SHARES:
        given = order[: round(share * len(read))]
        answers = {way: list(decisions.predicted) for way in wrong}
        for row in given:
            answer = read.readers[reader][row]
            weighed = [
                costs[CLASSES[k]] * decisions.probabilities[row, k] * likelihood[k][answer]
                for k in range(3)
            ]
            answers["deferral"][row] = answer
            answers["combination"][row] = weighed.index(max(weighed))
        for way in wrong:
            wrong[way].append([a != b for a, b in zip(answers[way], read.labels, strict=True)])
    return wrong, [costs[CLASSES[label]] for label in read.labels]


def mean(values, weights):
    return sum(v * w for v, w in zip(values, weights, strict=True)) / len(values)


@pytest.mark.parametrize("reader", ["ann", "bo"])
def test_a_team_is_tuned_on_its_images_and_measured_on_others(reader, deferral, evaluation):
    given = predictions()
    answered = given.select(np.flatnonzero(given.readers[reader] >= 0))
    tuning, read = answered.in_set("tune", "calibrate"), answered.in_set("test")
    counts = [[1 / 3] * 3 for _ in range(3)]
    for label, answer in zip(tuning.labels, tuning.readers[reader], strict=True):
        counts[label][answer] += 1
    likelihood = [[count / sum(row) for count in row] for row in counts]
    tuned, costs = teams_by_hand(tuning, reader, likelihood, deferral)
    wrong, prices = teams_by_hand(read, reader, likelihood, deferral)

    (team,) = (team for team in evaluation.readers.teams if team.reader == reader)
    assert (team.tuned, team.accuracy["reader"].cases) == (len(tuning), len(read))
    right = read.readers[reader] == read.labels
    assert team.accuracy["reader"].value == pytest.approx(right.mean())
    assert team.accuracy["model"].value == pytest.approx(1 - np.mean(wrong["deferral"][0]))
    for way in ("deferral", "combination"):
        losses = [mean(each, costs) for each in tuned[way]]
        best = losses.index(min(losses))
        assert team.best[way] == DEFERRED_SHARES[best]
        shares = [1 - sum(each) / len(read) for each in wrong[way]]
        np.testing.assert_allclose([share.value for share in team.curves[way]], shares)
        assert team.accuracy[way].value == pytest.approx(shares[best])
        if deferral.costs:
            cost = team.costs[way]
            assert cost.value == pytest.approx(mean(wrong[way][best], prices))
            assert cost.lower < cost.value < cost.upper
    assert (team.costs == {}) is (deferral.costs is None)
    table = [[0] * 3 for _ in range(3)]
    for label, answer in zip(read.labels, read.readers[reader], strict=True):
        table[label][answer] += 1
    assert team.confusion.tolist() == table


def test_the_bound_of_the_team_is_exact_for_one_image_of_each_patient(deferral, evaluation):
    team, decisions = evaluation.readers.teams[0], evaluation.decisions
    read = evaluation.judged
    accepted = decisions.decisions == "accept"
    wrong = np.where(accepted, decisions.predicted, read.readers["ann"]) != read.labels
    assert team.accuracy["policy"].value == pytest.approx(1 - wrong.mean())
    assert team.deferred == pytest.approx(1 - accepted.mean())
    by_patient = {patient: [] for patient in read.groups}
    for patient, error in zip(read.groups, wrong, strict=True):
        by_patient[patient].append(error)
    errors, cases = team.bound.events, team.bound.cases
    assert cases == len(by_patient) == 150
    assert sum(map(all, by_patient.values())) <= errors <= sum(map(any, by_patient.values()))
    bound = beta.ppf(deferral.confidence, errors + 1, cases - errors)  # Clopper and Pearson
    assert team.bound.upper == pytest.approx(bound)


def test_agreement_and_measurements_are_results(evaluation):
    alpha = evaluation.readers.agreement
    assert alpha.lower < alpha.value < alpha.upper
    rows = {(x.detector, x.metric): x.value for x in evaluation.measurements}
    assert rows["readers", "krippendorff_alpha"] == alpha.value
    team = evaluation.readers.teams[1]
    assert rows["reader/bo", "accuracy/combination"] == team.accuracy["combination"].value
    assert rows["reader/bo", "error_bound/policy"] == team.bound.upper
    assert {x.dataset for x in evaluation.measurements if "reader" in x.detector} == {POLICY_SET}


def test_images_in_groups_that_tune_are_not_measured():
    """Without a set `test`, the sets for tuning and images of none are measured."""
    sets = ["" if row % 5 else "tune" for row in range(IMAGES)]
    mixed = predictions(set=sets, patient=[f"p{row // 2}" for row in range(IMAGES)])
    other = predictions(id=[f"other {row}" for row in range(IMAGES)], patient=None)
    elsewhere = Deferral(max_error=0.5, max_ood_false_alarms=None).fit(other)
    team = evaluate(mixed, elsewhere, readers=True).readers.teams[0]
    used = {group for group, name in zip(mixed.groups, sets, strict=True) if name}
    assert (team.tuned, len(used)) == (180, 180)
    assert team.accuracy["reader"].cases == IMAGES - 360


@pytest.mark.parametrize(
    ("columns", "has_policy", "error", "says"),
    [
        ({}, False, UsageError, "policy"),
        ({"reader_ann": None, "reader_bo": None}, True, UsageError, "reader_NAME"),
        ({"set": None}, True, DataError, "reader_ann: 0 answers"),
        ({"reader_bo": ["cat"] * 2 + [""] * (IMAGES - 2)}, True, DataError, "reader_bo: 2 answers"),
    ],
)
def test_readers_need_a_policy_and_answers_for_tuning_and_to_measure(
    columns, has_policy, error, says, deferral
):
    with pytest.raises(error, match=says):
        evaluate(predictions(**columns), deferral if has_policy else None, readers=True)
