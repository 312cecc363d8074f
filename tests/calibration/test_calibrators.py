import math

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from misgiving.calibration.apply import (
    CALIBRATED,
    COMBINATION,
    Scaling,
    error_probabilities,
    log_odds_of,
)
from misgiving.calibration.fit import (
    TuningSet,
    fit_calibrator,
    fit_combination,
    fit_scaling,
)
from misgiving.errors import DataError
from misgiving.metrics.selective import RiskCoverage


def drawn(seed=0, count=400):
    """Logits of three classes, labels, scores by name, and a group for every two samples."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, 3)) * 2
    log_probabilities = log_softmax(logits, axis=1)
    labels = np.array([random.choice(3, p=row) for row in np.exp(log_probabilities)])
    wrong = logits.argmax(axis=1) != labels
    scores = {
        "msp": np.exp(log_probabilities).max(axis=1),
        "entropy": (np.exp(log_probabilities) * log_probabilities).sum(axis=1),
        "max_logit": logits.max(axis=1),
        "knn": random.normal(size=count) - 1.5 * wrong,
        "predicted_loss": random.normal(size=count) - wrong,
    }
    return TuningSet(scores, logits, labels, np.arange(count) // 2)


def aurc(scores, wrong):
    return RiskCoverage(scores, wrong).aurc()


def errors_of(tuning):
    return tuning.logits.argmax(axis=1) != tuning.labels


@pytest.fixture(scope="module")
def tuning():
    return drawn()


@pytest.fixture(scope="module")
def fitted(tuning):
    return fit_calibrator(tuning)


def test_scaling_stays_finite_for_a_class_without_cases_and_where_every_answer_is_right():
    scaling = fit_scaling(np.array([[1.0, 0.0, -1.0]] * 20), np.array([0, 1] * 10))
    assert np.isfinite(scaling.biases).all()
    assert scaling(np.zeros((1, 3))).sum() == pytest.approx(1.0)
    logits = np.random.default_rng(0).normal(size=(50, 3))
    scaling = fit_scaling(logits, logits.argmax(axis=1))
    assert 0.001 < scaling.temperature < 1
    assert np.isfinite(scaling(logits)).all()


@pytest.mark.parametrize(
    ("count", "shift", "most"), [(10, 0, 0.07), (60, 0, 0.037), (10, 2, 0.18), (60, 2, 0.04)]
)
def test_few_images_harm_a_calibrated_model_little_and_correct_one_of_other_class_shares(
    count, shift, most
):
    """Nats of log loss above the least possible; 0 and 0.23 without a fit."""
    random = np.random.default_rng(0)
    biases = shift * np.array([0.75, 0.25, -0.25, -0.75])

    def drawn(size):
        logits = 3 * random.normal(size=(size, 4))
        truth = log_softmax(logits + biases, axis=1)
        labels = [random.choice(4, p=row) for row in np.exp(truth)]
        return logits, np.array(labels), truth

    logits, labels, truth = drawn(2000)
    least = -truth[np.arange(2000), labels].mean()
    losses = []
    for _ in range(40):
        found = fit_scaling(*drawn(count)[:2]).logarithms(logits)
        losses.append(-found[np.arange(2000), labels].mean())
    assert np.mean(losses) - least < most


@pytest.mark.parametrize("has_fold_without_error", [False, True])
def test_the_combination_is_the_logistic_model_of_standardised_scores_with_the_best_penalty(
    tuning, has_fold_without_error
):
    scores, groups, wrong = tuning.scores, tuning.groups, errors_of(tuning)
    if has_fold_without_error:
        first = next(iter(GroupKFold(5).split(groups, groups=groups)))[1]
        wrong = np.random.default_rng(3).random(len(groups)) < 0.2
        wrong[first] = False
    combination = fit_combination(scores, wrong, groups)
    table = np.column_stack([scores[name] for name in combination.names])
    standard = (table - table.mean(axis=0)) / table.std(axis=0)
    losses = {c: _out_of_fold_loss(c, table, wrong, groups) for c in (0.01, 0.1, 1.0)}
    best = LogisticRegression(C=min(losses, key=losses.get), max_iter=1000).fit(standard, wrong)
    np.testing.assert_allclose(combination(scores), -best.decision_function(standard), atol=1e-3)


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


def test_log_odds_differ_where_probabilities_round_to_certainty():
    scaling, surer = Scaling(temperature=1.0, biases=(0.0, 0.0)), np.array([[900.0, 0], [950, 0]])
    assert scaling(surer)[:, 0].tolist() == [1.0, 1.0]
    log_odds = log_odds_of(scaling.logarithms(surer), np.zeros(2, dtype=int))
    assert log_odds.tolist() == [900.0, 950.0]


def test_out_of_fold_classes_and_scores_are_those_of_the_fold_in_the_order_of_the_samples(
    tuning, fitted
):
    weighed = fit_calibrator(tuning, lambda _: np.ones(3))
    for kept, left_out in GroupKFold(5).split(tuning.labels, groups=tuning.groups):
        scaling, logits = fit_scaling(tuning.logits[kept], tuning.labels[kept]), tuning.logits
        scaled, most = scaling(logits[left_out]), logits[left_out].argmax(axis=1)
        right = scaled[np.arange(len(most)), most]
        log_odds = np.log(right / (1 - right))
        np.testing.assert_allclose(fitted.candidates[CALIBRATED][left_out], log_odds, rtol=1e-6)
        np.testing.assert_array_equal(fitted.predicted[left_out], most)
        np.testing.assert_array_equal(weighed.predicted[left_out], scaled.argmax(axis=1))
        np.testing.assert_allclose(np.exp(weighed.vectors[left_out]), scaled)


def test_the_combination_is_chosen_where_it_is_better_out_of_fold(tuning, fitted):
    calibrator = fitted.calibrator
    assert calibrator.score == COMBINATION
    area = aurc(fitted.candidates[COMBINATION], errors_of(tuning))
    assert calibrator.tried[COMBINATION] == pytest.approx(area, rel=1e-12)
    others = (value for name, value in calibrator.tried.items() if name != COMBINATION)
    assert calibrator.tried[COMBINATION] < min(others)


def test_a_single_score_is_chosen_where_what_is_learned_adds_nothing(tuning):
    perfect = {**tuning.scores, "msp": 1.0 - errors_of(tuning) + 0.001 * tuning.scores["msp"]}
    calibrator = fit_calibrator(tuning._replace(scores=perfect)).calibrator
    assert calibrator.score == "msp"
    _, _, acceptance = calibrator.judge(perfect, tuning.logits)
    np.testing.assert_array_equal(acceptance, perfect["msp"])
    assert not calibrator.accepts_by_probability


def test_with_too_few_errors_or_no_predicted_loss_there_are_fewer_maps(tuning):
    labels = tuning.logits.argmax(axis=1)
    labels[:3] = (labels[:3] + 1) % 3
    scores = {name: values for name, values in tuning.scores.items() if name != "predicted_loss"}
    calibrator = fit_calibrator(tuning._replace(scores=scores, labels=labels)).calibrator
    assert calibrator.combination is calibrator.loss is None
    assert COMBINATION not in calibrator.tried
    assert CALIBRATED in calibrator.tried
    assert calibrator.score in calibrator.tried


def test_probabilities_of_error_are_right_in_the_mean_for_the_class_that_is_predicted():
    shift = np.array([2.0, 0.0, -2.0])  # the largest logit is not most probable
    many, fresh = (
        tuning._replace(logits=tuning.logits + shift)
        for tuning in (drawn(count=4000), drawn(seed=5, count=4000))
    )
    wrong = []
    for weigh in (lambda _: None, lambda _: np.ones(3)):
        calibrator = fit_calibrator(many, weigh).calibrator
        probabilities, predicted, _ = calibrator.judge(fresh.scores, fresh.logits)
        wrong.append((predicted != fresh.labels).mean())
        errors = error_probabilities(probabilities, predicted)
        assert errors.mean() == pytest.approx(wrong[-1], abs=0.02)
    assert wrong[0] > wrong[1] + 0.05


def test_scores_that_are_not_finite_are_refused(tuning):
    broken = tuning.scores["msp"].copy()
    broken[7] = np.nan
    with pytest.raises(DataError, match=r"msp .*position 7"):
        fit_calibrator(tuning._replace(scores={**tuning.scores, "msp": broken}))
