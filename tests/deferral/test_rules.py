import math

import numpy as np
import pytest

from misgiving.deferral.settings import DecisionRule
from misgiving.errors import UsageError

CLASSES = ("NV", "MEL", "BCC")
LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])


def named(rule, probabilities):
    weights = rule.class_weights(CLASSES, LABELS)
    return CLASSES[int(np.argmax(np.array(probabilities) * weights))]


def test_the_default_names_the_most_probable_class_and_costs_imply_their_rule():
    assert DecisionRule().rule == "most_probable"
    assert named(DecisionRule(), [0.5, 0.3, 0.2]) == "NV"
    assert DecisionRule(costs={"MEL": 10.0}).rule == "costs"
    assert DecisionRule(rule="logits").class_weights(CLASSES, LABELS) is None


def test_balanced_names_the_class_that_is_most_above_its_share():
    ratios = [0.5 / (6 / 9), 0.3 / (2 / 9), 0.2 / (1 / 9)]
    expected = CLASSES[ratios.index(max(ratios))]
    assert named(DecisionRule(rule="balanced"), [0.5, 0.3, 0.2]) == expected == "BCC"
    weights = DecisionRule(rule="balanced").class_weights(("a", "b"), np.zeros(7, dtype=int))
    assert weights.tolist() == [1.0, 7.0]  # a class without tuning cases counts as one case


@pytest.mark.parametrize("seed", range(20))
def test_costs_name_the_class_with_the_least_expected_cost(seed):
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(3))
    costs = {"MEL": 10.0, "BCC": 2.0}
    expected = [
        sum(costs.get(true, 1.0) * p for true, p in zip(CLASSES, probabilities, strict=True))
        - costs.get(name, 1.0) * probabilities[position]
        for position, name in enumerate(CLASSES)
    ]
    assert named(DecisionRule(costs=costs), probabilities) == CLASSES[int(np.argmin(expected))]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"rule": "costs"}, "costs"),
        ({"rule": "balanced", "costs": {"MEL": 2.0}}, "balanced"),
        ({"rule": "most_probable", "costs": {"MEL": 2.0}}, "most_probable"),
        ({"costs": {"MEL": 0.0}}, "MEL"),
        ({"costs": {"MEL": math.inf}}, "inf"),
        ({"costs": {"MEL": math.nan}}, "nan"),
        ({"max_error_probability": 0.0}, "max_error_probability"),
        ({"max_error_probability": 1.5}, "1.5"),
    ],
)
def test_values_that_make_no_sense_are_refused(values, names):
    with pytest.raises(UsageError, match=names):
        DecisionRule(**values)


def test_only_answers_that_are_likely_right_are_acceptable():
    rule, probabilities = DecisionRule(), np.array([[0.5, 0.4, 0.1], [0.4, 0.3, 0.3]])
    errors, first = np.array([0.5, 0.6]), np.array([0, 0])
    assert rule.acceptable(errors, probabilities, first).tolist() == [True, False]
    assert not rule.acceptable(np.array([np.nan]), np.full((1, 3), np.nan), np.array([0])).any()


@pytest.mark.parametrize(
    ("rule", "acceptable"),
    [("most_probable", False), ("logits", False), ("balanced", True), ("costs", True)],
)
def test_a_class_that_another_surpasses_is_acceptable_only_where_classes_are_weighed(
    rule, acceptable
):
    costs = {"MEL": 2.0} if rule == "costs" else {}
    loose = DecisionRule(rule=rule, costs=costs, max_error_probability=0.9)
    marked = loose.acceptable(np.array([0.6]), np.array([[0.6, 0.4, 0.0]]), np.array([1]))
    assert marked.tolist() == [acceptable]
