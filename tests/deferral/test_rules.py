import math

import numpy as np
import pytest
from policies import CLASSES

from misgiving.calibration.apply import error_probabilities
from misgiving.deferral.targets import DecisionRule, Targets
from misgiving.errors import UsageError

LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])
COSTS = {"MEL": 10.0, "BCC": 2.0}


def predicted(rule, probabilities):
    weights = rule.class_weights(CLASSES, LABELS)
    return CLASSES[int(np.argmax(np.array(probabilities) * weights))]


def test_the_default_names_the_most_probable_class_and_costs_imply_their_rule():
    assert DecisionRule().rule == "most_probable"
    assert predicted(DecisionRule(), [0.5, 0.3, 0.2]) == "NV"
    assert DecisionRule(costs=COSTS).rule == "costs"
    assert DecisionRule(rule="logits").class_weights(CLASSES, LABELS) is None


def test_balanced_names_the_class_that_is_most_above_its_share():
    ratios = [0.5 / (6 / 9), 0.3 / (2 / 9), 0.2 / (1 / 9)]
    expected = CLASSES[ratios.index(max(ratios))]
    assert predicted(DecisionRule(rule="balanced"), [0.5, 0.3, 0.2]) == expected == "BCC"
    weights = DecisionRule(rule="balanced").class_weights(("a", "b"), np.zeros(7, dtype=int))
    assert weights.tolist() == [1.0, 7.0]  # a class without tuning cases counts as one case


@pytest.mark.parametrize("seed", range(20))
def test_costs_name_the_class_with_the_least_expected_cost(seed):
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(3))
    expected = [
        sum(COSTS.get(true, 1.0) * p for true, p in zip(CLASSES, probabilities, strict=True))
        - COSTS.get(name, 1.0) * probabilities[position]
        for position, name in enumerate(CLASSES)
    ]
    assert predicted(DecisionRule(costs=COSTS), probabilities) == CLASSES[int(np.argmin(expected))]


@pytest.mark.parametrize(
    ("kind", "values", "parameter"),
    [
        (DecisionRule, {"rule": "costs"}, "costs"),
        (DecisionRule, {"rule": "balanced", "costs": {"MEL": 2.0}}, "costs"),
        *((DecisionRule, {"costs": {"MEL": cost}}, "costs") for cost in (0.0, math.inf, math.nan)),
        *(
            (DecisionRule, {"max_error_probability": x}, "max_error_probability")
            for x in (0.0, 1.5)
        ),
        *(
            (Targets, {"max_error": 0.1, name: rate}, name)
            for name in ("max_error", "confidence", "max_ood_false_alarms")
            for rate in (0.0, 1.0, -0.1, math.nan)
        ),
        *(
            (Targets, {"max_error": 0.1, "class_max_miss": {"a": x}}, "class_max_miss")
            for x in (0.0, 1.0)
        ),
        *((Targets, {"max_silent_error": x}, "max_silent_error") for x in (0.0, 1.0)),
        (Targets, {}, "max_error"),
        *((Targets, {"max_deferred": x}, "max_deferred") for x in (0.0, 1.0)),
    ],
)
def test_values_that_make_no_sense_are_refused_by_the_name_of_the_parameter(
    kind, values, parameter
):
    with pytest.raises(UsageError, check=lambda failure: failure.parameters[0].name == parameter):
        kind(**values)


def marked(rule, probabilities, predicted):
    errors = error_probabilities(probabilities, predicted)
    return rule.mark_acceptable(probabilities, predicted, errors).tolist()


def test_only_answers_that_are_likely_right_are_acceptable():
    rule, probabilities = DecisionRule(), np.array([[0.5, 0.4, 0.1], [0.4, 0.3, 0.3]])
    assert marked(rule, probabilities, np.array([0, 0])) == [True, False]
    assert marked(rule, np.full((1, 3), np.nan), np.array([0])) == [False]


@pytest.mark.parametrize(
    ("rule", "acceptable"),
    [("logits", False), ("balanced", True), ("costs", True)],
)
def test_a_class_that_another_surpasses_is_acceptable_only_where_classes_are_weighed(
    rule, acceptable
):
    costs = COSTS if rule == "costs" else {}
    loose = DecisionRule(rule=rule, costs=costs, max_error_probability=0.9)
    assert marked(loose, np.array([[0.6, 0.4, 0.0]]), np.array([1])) == [acceptable]
