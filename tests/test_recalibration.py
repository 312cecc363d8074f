import json
import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from misgiving.errors import DataError
from misgiving.metrics.selective import aurc
from misgiving.recalibration import COMBINATION, Estimate, Scaling
from misgiving.recalibration.fitting import (
    combined_out_of_fold,
    fit_combination,
    fit_estimate,
    fit_isotonic,
    fit_scaling,
)


def drawn(seed=0, count=400, informative=True):
    """Logits of three classes, labels, confidences by name, and a group for every two samples."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, 3)) * 2
    labels = np.array([random.choice(3, p=row) for row in np.exp(log_softmax(logits, axis=1))])
    wrong = logits.argmax(axis=1) != labels
    log_probabilities = log_softmax(logits, axis=1)
    hint = random.normal(size=count) - 1.5 * wrong * informative
    confidences = {
        "msp": np.exp(log_probabilities).max(axis=1),
        "entropy": (np.exp(log_probabilities) * log_probabilities).sum(axis=1),
        "max_logit": logits.max(axis=1),
        "knn": hint,
        "predicted_loss": random.normal(size=count) - wrong,
    }
    return confidences, logits, labels, np.arange(count) // 2


def test_scaling_finds_the_temperature_and_biases_that_made_the_labels():
    random = np.random.default_rng(1)
    logits = random.normal(size=(40000, 3)) * 3
    true = Scaling(temperature=2.0, biases=(1.0, 0.0, -1.0))
    labels = np.array([random.choice(3, p=row) for row in true(logits)])
    found = fit_scaling(logits, labels)
    assert found.temperature == pytest.approx(2.0, rel=0.05)
    assert np.diff(found.biases) == pytest.approx([-1.0, -1.0], abs=0.08)


def test_scaling_is_the_minimum_of_its_objective_by_another_search():
    _, logits, labels, _ = drawn(count=60)

    def objective(parameters):
        total = 0.0
        for row, label in zip(logits, labels, strict=True):
            scaled = [
                z / math.exp(parameters[0]) + b for z, b in zip(row, parameters[1:], strict=True)
            ]
            total += math.log(sum(math.exp(value) for value in scaled)) - scaled[label]
        return total + sum(value**2 for value in parameters) / 18

    best = minimize(
        objective,
        np.zeros(4),
        method="Nelder-Mead",
        options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 5000},
    )
    found = fit_scaling(logits, labels)
    mine = objective([math.log(found.temperature), *found.biases])
    assert mine == pytest.approx(best.fun, abs=1e-5)


def test_scaling_of_a_class_without_cases_stays_finite():
    found = fit_scaling(np.array([[1.0, 0.0, -1.0]] * 20), np.array([0, 1] * 10))
    assert np.isfinite(found.biases).all()
    assert found(np.zeros((1, 3))).sum() == pytest.approx(1.0)


def test_scaling_where_every_answer_is_right_stays_finite():
    logits = np.random.default_rng(0).normal(size=(50, 3))
    found = fit_scaling(logits, logits.argmax(axis=1))
    assert 0.001 < found.temperature < 1
    assert np.isfinite(found(logits)).all()


def test_isotonic_pools_violators_as_by_hand():
    found = fit_isotonic(np.array([1.0, 2, 3, 4]), np.array([0.0, 1, 0, 1]), increasing=True)
    assert found(np.array([0.0, 1, 2, 3, 4, 9])).tolist() == [0, 0, 0.5, 0.5, 1, 1]
    falling = fit_isotonic(
        np.array([1.0, 2, 3, 4]), np.array([1.0, 0, 1, 0]), increasing=False, margin=0.1
    )
    assert falling(np.array([1.0, 2, 3, 4])).tolist() == [0.9, 0.5, 0.5, 0.1]


def test_the_combination_is_the_logistic_model_of_standardised_confidences():
    confidences, logits, labels, groups = drawn()
    wrong = logits.argmax(axis=1) != labels
    found = fit_combination(confidences, wrong, groups)
    table = np.column_stack([confidences[name] for name in found.names])
    standard = (table - table.mean(axis=0)) / table.std(axis=0)
    candidates = [
        LogisticRegression(C=c, max_iter=1000).fit(standard, wrong).decision_function(standard)
        for c in (0.01, 0.1, 1.0)
    ]
    assert any(np.allclose(found(confidences), -scores, atol=1e-3) for scores in candidates)


def test_out_of_fold_no_sample_is_scored_by_a_model_that_saw_its_group():
    confidences, logits, labels, groups = drawn()
    wrong = logits.argmax(axis=1) != labels
    before = combined_out_of_fold(confidences, wrong, groups)
    _, first = next(iter(GroupKFold(5).split(wrong, groups=groups)))
    changed = wrong.copy()
    changed[first] = ~changed[first]
    after = combined_out_of_fold(confidences, changed, groups)
    np.testing.assert_array_equal(before[first], after[first])
    others = np.setdiff1d(np.arange(len(wrong)), first)
    assert not np.array_equal(before[others], after[others])


def test_the_combination_is_chosen_only_where_it_is_better_out_of_fold():
    confidences, logits, labels, groups = drawn(informative=True)
    wrong = logits.argmax(axis=1) != labels
    estimate = fit_estimate(confidences, logits, labels, groups)
    assert estimate.score == COMBINATION
    combined = combined_out_of_fold(confidences, wrong, groups)
    assert estimate.tried[COMBINATION] == aurc(combined, wrong)
    assert estimate.tried[COMBINATION] < min(
        value for name, value in estimate.tried.items() if name != COMBINATION
    )


def test_a_single_score_is_chosen_where_the_combination_adds_nothing():
    confidences, logits, labels, groups = drawn()
    wrong = logits.argmax(axis=1) != labels
    perfect = {**confidences, "msp": 1.0 - wrong + 0.001 * confidences["msp"]}
    estimate = fit_estimate(perfect, logits, labels, groups)
    assert estimate.score == "msp"
    np.testing.assert_array_equal(estimate.scores(perfect), perfect["msp"])


def test_with_too_few_errors_there_is_no_combination():
    confidences, logits, _, groups = drawn()
    labels = logits.argmax(axis=1)
    labels[:3] = (labels[:3] + 1) % 3
    estimate = fit_estimate(confidences, logits, labels, groups)
    assert estimate.combination is None
    assert COMBINATION not in estimate.tried
    assert estimate.error_probabilities(confidences).min() > 0


def test_probabilities_of_error_are_right_in_the_mean_and_fall_with_the_confidence():
    confidences, logits, labels, groups = drawn(count=4000)
    estimate = fit_estimate(confidences, logits, labels, groups)
    fresh, fresh_logits, fresh_labels, _ = drawn(seed=5, count=4000)
    probabilities = estimate.error_probabilities(fresh)
    wrong = fresh_logits.argmax(axis=1) != fresh_labels
    assert probabilities.mean() == pytest.approx(wrong.mean(), abs=0.03)
    order = np.argsort(estimate.scores(fresh))
    assert (np.diff(probabilities[order]) <= 1e-12).all()


def test_without_a_predicted_loss_there_is_no_expected_loss():
    confidences, logits, labels, groups = drawn()
    without = {name: values for name, values in confidences.items() if name != "predicted_loss"}
    estimate = fit_estimate(without, logits, labels, groups)
    assert estimate.expected_losses(without) is None


def test_an_estimate_survives_json():
    confidences, logits, labels, groups = drawn()
    estimate = fit_estimate(confidences, logits, labels, groups)
    again = Estimate.from_dict(json.loads(json.dumps(estimate.to_dict())))
    assert again == estimate
    np.testing.assert_array_equal(again.scores(confidences), estimate.scores(confidences))


def test_scores_that_are_not_finite_are_refused():
    confidences, logits, labels, groups = drawn()
    confidences["msp"][7] = np.nan
    with pytest.raises(DataError, match="msp is not finite at position 7 of the tune part"):
        fit_estimate(confidences, logits, labels, groups)


def test_a_missing_score_is_named():
    confidences, logits, labels, groups = drawn()
    estimate = fit_estimate(confidences, logits, labels, groups)
    del confidences["knn"]
    with pytest.raises(DataError, match="the scores lack knn"):
        estimate.scores(confidences)
