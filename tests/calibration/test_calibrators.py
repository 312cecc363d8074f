import math

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from misgiving.calibration.apply import (
    CALIBRATED,
    COMBINATION,
    Calibrator,
    Scaling,
    named_classes,
)
from misgiving.calibration.fit import (
    TuningSet,
    cross_fitted,
    fit_calibrator,
    fit_combination,
    fit_isotonic,
    fit_scaling,
)
from misgiving.errors import DataError
from misgiving.metrics.selective import aurc

CALIBRATORS = TypeAdapter(Calibrator)


def drawn(seed=0, count=400, informative=True):
    """Logits of three classes, labels, scores by name, and a group for every two samples."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, 3)) * 2
    labels = np.array([random.choice(3, p=row) for row in np.exp(log_softmax(logits, axis=1))])
    wrong = logits.argmax(axis=1) != labels
    log_probabilities = log_softmax(logits, axis=1)
    hint = random.normal(size=count) - 1.5 * wrong * informative
    scores = {
        "msp": np.exp(log_probabilities).max(axis=1),
        "entropy": (np.exp(log_probabilities) * log_probabilities).sum(axis=1),
        "max_logit": logits.max(axis=1),
        "knn": hint,
        "predicted_loss": random.normal(size=count) - wrong,
    }
    return scores, logits, labels, np.arange(count) // 2


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


def test_the_combination_is_the_logistic_model_of_standardised_scores():
    scores, logits, labels, groups = drawn()
    wrong = logits.argmax(axis=1) != labels
    found = fit_combination(scores, wrong, groups)
    table = np.column_stack([scores[name] for name in found.names])
    standard = (table - table.mean(axis=0)) / table.std(axis=0)
    candidates = [
        LogisticRegression(C=c, max_iter=1000).fit(standard, wrong).decision_function(standard)
        for c in (0.01, 0.1, 1.0)
    ]
    assert any(np.allclose(found(scores), -odds, atol=1e-3) for odds in candidates)


def test_the_penalty_is_chosen_also_where_a_fold_has_no_error():
    scores, _, _, groups = drawn()
    first = next(iter(GroupKFold(5).split(groups, groups=groups)))[1]
    wrong = np.random.default_rng(3).random(len(groups)) < 0.2
    wrong[first] = False
    found = fit_combination(scores, wrong, groups)  # a failed fold would be a warning
    table = np.column_stack([scores[name] for name in found.names])
    standard = (table - table.mean(axis=0)) / table.std(axis=0)
    losses = {c: _out_of_fold_loss(c, table, wrong, groups) for c in (0.01, 0.1, 1.0)}
    best = LogisticRegression(C=min(losses, key=losses.get), max_iter=1000).fit(standard, wrong)
    np.testing.assert_allclose(found(scores), -best.decision_function(standard), atol=1e-3)


def _out_of_fold_loss(c, table, wrong, groups):
    """Mean over the folds of the mean negative log-likelihood, in scalar loops."""
    means = []
    for kept, left_out in GroupKFold(5).split(table, groups=groups):
        centre, scale = table[kept].mean(axis=0), table[kept].std(axis=0)
        model = LogisticRegression(C=c, max_iter=1000)
        model.fit((table[kept] - centre) / scale, wrong[kept])
        odds = model.decision_function((table[left_out] - centre) / scale)
        losses = [
            math.log1p(math.exp(-value if is_wrong else value))
            for value, is_wrong in zip(odds, wrong[left_out], strict=True)
        ]
        means.append(sum(losses) / len(losses))
    return sum(means) / len(means)


def by_logits(_):
    return None


def test_the_log_odds_are_those_of_the_predicted_class_by_hand():
    scaling = Scaling(temperature=2.0, biases=(0.5, 0.0, -1.0))
    logits = np.array([[4.0, 1.0, -2.0], [0.0, 3.0, 2.9]])
    for row, found in zip(
        logits.tolist(), scaling.log_odds(logits, logits.argmax(axis=1)), strict=True
    ):
        powers = [math.exp(z / 2 + b) for z, b in zip(row, (0.5, 0.0, -1.0), strict=True)]
        right = powers[row.index(max(row))] / sum(powers)
        assert found == pytest.approx(math.log(right / (1 - right)))


def test_the_log_odds_differ_where_probabilities_round_to_certainty():
    scaling = Scaling(temperature=1.0, biases=(0.0, 0.0))
    surer = np.array([[900.0, 0.0], [950.0, 0.0]])
    assert scaling(surer)[:, 0].tolist() == [1.0, 1.0]
    assert scaling.log_odds(surer, np.zeros(2, dtype=int)).tolist() == [900.0, 950.0]


def test_out_of_fold_no_sample_is_scored_by_what_saw_its_group():
    scores, logits, labels, groups = drawn()
    before = cross_fitted(TuningSet(scores, logits, labels, groups), by_logits).scores
    assert before.keys() == {CALIBRATED, COMBINATION}
    _, first = next(iter(GroupKFold(5).split(labels, groups=groups)))
    changed = labels.copy()
    changed[first] = (labels[first] + 1) % 3
    after = cross_fitted(TuningSet(scores, logits, changed, groups), by_logits).scores
    others = np.setdiff1d(np.arange(len(labels)), first)
    for name, values in before.items():
        np.testing.assert_array_equal(values[first], after[name][first])
        assert not np.array_equal(values[others], after[name][others])


def test_out_of_fold_scores_are_those_of_the_fold_in_the_order_of_the_samples():
    scores, logits, labels, groups = drawn()
    found = cross_fitted(TuningSet(scores, logits, labels, groups), by_logits).scores[CALIBRATED]
    for kept, left_out in GroupKFold(5).split(labels, groups=groups):
        scaling = fit_scaling(logits[kept], labels[kept])
        np.testing.assert_allclose(
            found[left_out], scaling.log_odds(logits[left_out], logits[left_out].argmax(axis=1))
        )


def test_the_combination_is_chosen_where_it_is_better_out_of_fold():
    scores, logits, labels, groups = drawn(informative=True)
    wrong = logits.argmax(axis=1) != labels
    calibrator = fit_calibrator(TuningSet(scores, logits, labels, groups)).calibrator
    assert calibrator.score == COMBINATION
    combined = cross_fitted(TuningSet(scores, logits, labels, groups), by_logits).scores[
        COMBINATION
    ]
    assert calibrator.tried[COMBINATION] == pytest.approx(aurc(combined, wrong), rel=1e-12)
    assert calibrator.tried[COMBINATION] < min(
        value for name, value in calibrator.tried.items() if name != COMBINATION
    )


def test_the_calibrated_probability_is_chosen_where_training_has_shifted_the_classes():
    random = np.random.default_rng(2)
    logits = random.normal(size=(600, 3)) * 2
    true = Scaling(temperature=1.0, biases=(3.0, 0.0, -3.0))(logits)  # of a rare and a common class
    labels = np.array([random.choice(3, p=row) for row in true])
    scores = {"msp": np.exp(log_softmax(logits, axis=1)).max(axis=1)}
    groups = np.arange(600)
    calibrator = fit_calibrator(TuningSet(scores, logits, labels, groups)).calibrator
    assert calibrator.score in (CALIBRATED, COMBINATION)
    fresh = random.normal(size=(4000, 3)) * 2
    true = Scaling(temperature=1.0, biases=(3.0, 0.0, -3.0))(fresh)
    expected = 1 - true[np.arange(4000), fresh.argmax(axis=1)]
    known = {"msp": np.exp(log_softmax(fresh, axis=1)).max(axis=1)}
    assert (
        np.abs(calibrator.error(calibrator.acceptance_scores(known, fresh)) - expected).mean()
        < 0.05
    )
    assert aurc(calibrator.acceptance_scores(known, fresh), expected > 0.5) < 0.8 * aurc(
        known["msp"], expected > 0.5
    )


def test_a_single_score_is_chosen_where_what_is_learned_adds_nothing():
    scores, logits, labels, groups = drawn()
    wrong = logits.argmax(axis=1) != labels
    perfect = {**scores, "msp": 1.0 - wrong + 0.001 * scores["msp"]}
    calibrator = fit_calibrator(TuningSet(perfect, logits, labels, groups)).calibrator
    assert calibrator.score == "msp"
    np.testing.assert_array_equal(calibrator.acceptance_scores(perfect, logits), perfect["msp"])


def test_with_too_few_errors_there_is_no_combination():
    scores, logits, _, groups = drawn()
    labels = logits.argmax(axis=1)
    labels[:3] = (labels[:3] + 1) % 3
    calibrator = fit_calibrator(TuningSet(scores, logits, labels, groups)).calibrator
    assert calibrator.combination is None
    assert COMBINATION not in calibrator.tried
    assert CALIBRATED in calibrator.tried
    assert calibrator.error(calibrator.acceptance_scores(scores, logits)).min() > 0


def test_probabilities_of_error_are_right_in_the_mean_and_fall_with_the_confidence():
    scores, logits, labels, groups = drawn(count=4000)
    calibrator = fit_calibrator(TuningSet(scores, logits, labels, groups)).calibrator
    fresh, fresh_logits, fresh_labels, _ = drawn(seed=5, count=4000)
    probabilities = calibrator.error(calibrator.acceptance_scores(fresh, fresh_logits))
    wrong = fresh_logits.argmax(axis=1) != fresh_labels
    assert probabilities.mean() == pytest.approx(wrong.mean(), abs=0.03)
    order = np.argsort(calibrator.acceptance_scores(fresh, fresh_logits))
    assert (np.diff(probabilities[order]) <= 1e-12).all()


def test_without_a_predicted_loss_there_is_no_expected_loss():
    scores, logits, labels, groups = drawn()
    without = {name: values for name, values in scores.items() if name != "predicted_loss"}
    calibrator = fit_calibrator(TuningSet(without, logits, labels, groups)).calibrator
    assert calibrator.loss is None


def test_a_calibrator_survives_json():
    scores, logits, labels, groups = drawn()
    calibrator = fit_calibrator(TuningSet(scores, logits, labels, groups)).calibrator
    again = CALIBRATORS.validate_json(CALIBRATORS.dump_json(calibrator))
    assert again == calibrator
    np.testing.assert_array_equal(
        again.acceptance_scores(scores, logits), calibrator.acceptance_scores(scores, logits)
    )


def test_scores_that_are_not_finite_are_refused():
    scores, logits, labels, groups = drawn()
    scores["msp"][7] = np.nan
    with pytest.raises(DataError, match="msp is not finite at position 7 of the tuning set"):
        fit_calibrator(TuningSet(scores, logits, labels, groups))


def test_a_missing_score_is_named():
    scores, logits, labels, groups = drawn()
    calibrator = fit_calibrator(TuningSet(scores, logits, labels, groups)).calibrator
    del scores["knn"]
    with pytest.raises(DataError, match="knn"):
        calibrator.acceptance_scores(scores, logits)


@pytest.mark.parametrize("factors", [None, [1.0, 1.0, 1.0], [1.0, 4.0, 0.5]])
def test_the_named_class_has_the_largest_product_of_probability_and_weight(factors):
    _, logits, labels, _ = drawn()
    scaling = fit_scaling(logits, labels)
    found = named_classes(scaling, None if factors is None else np.array(factors), logits)
    for row, name in zip(logits, found, strict=True):
        if factors is None:
            expected = row.argmax()
        else:
            powers = [
                math.exp(z / scaling.temperature + b)
                for z, b in zip(row.tolist(), scaling.biases, strict=True)
            ]
            expected = np.argmax(
                [f * p / sum(powers) for f, p in zip(factors, powers, strict=True)]
            )
        assert name == expected


def test_classes_of_the_tuning_set_are_named_without_their_group():
    scores, logits, labels, groups = drawn()
    found = cross_fitted(TuningSet(scores, logits, labels, groups), lambda _: np.ones(3)).predicted
    for kept, left_out in GroupKFold(5).split(labels, groups=groups):
        scaled = fit_scaling(logits[kept], labels[kept])(logits[left_out])
        np.testing.assert_array_equal(found[left_out], scaled.argmax(axis=1))


def test_the_named_class_has_the_probability_that_its_error_leaves():
    scores, logits, labels, groups = drawn()
    calibrator = fit_calibrator(
        TuningSet(scores, logits, labels, groups), lambda _: np.ones(3)
    ).calibrator
    named, errors = calibrator.predict(logits), np.linspace(0.01, 0.9, len(labels))
    shown, scaled = calibrator.probabilities(logits, named, errors), calibrator.scaling(logits)
    np.testing.assert_allclose(shown[np.arange(len(labels)), named], 1 - errors)
    np.testing.assert_allclose(shown.sum(axis=1), 1.0)
    first, second = ([k for k in range(3) if k != named[0]][i] for i in (0, 1))
    assert shown[0, first] / shown[0, second] == pytest.approx(scaled[0, first] / scaled[0, second])


def test_classes_whose_probabilities_vanish_share_the_error():
    scores, logits, labels, groups = drawn()
    calibrator = fit_calibrator(TuningSet(scores, logits, labels, groups)).calibrator
    certain = np.array([[9e4, 0.0, 0.0]])
    shown = calibrator.probabilities(certain, np.array([0]), np.array([0.2]))
    np.testing.assert_allclose(shown, [[0.8, 0.1, 0.1]])


def test_errors_are_fitted_on_the_classes_that_are_named():
    scores, logits, labels, groups = drawn(count=4000)
    shifted = logits + np.array([2.0, 0.0, -2.0])  # the largest logit is not the most probable
    by_rule = fit_calibrator(
        TuningSet(scores, shifted, labels, groups), lambda _: np.ones(3)
    ).calibrator
    acceptance = by_rule.acceptance_scores(scores, shifted)
    wrong = by_rule.predict(shifted) != labels
    assert (shifted.argmax(axis=1) != labels).mean() > wrong.mean() + 0.05
    assert by_rule.error(acceptance).mean() == pytest.approx(wrong.mean(), abs=0.02)
