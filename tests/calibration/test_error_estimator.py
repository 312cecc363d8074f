"""The error estimator: what it computes, and when it is the acceptance score."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold

from misgiving.calibration import fit
from misgiving.calibration.apply import CALIBRATED, COMBINATION, ERROR_ESTIMATOR
from misgiving.calibration.fit import (
    TuningSet,
    cross_fitted,
    fit_calibrator,
    fit_error_estimator,
    fit_platt,
    log_loss_of,
)
from misgiving.metrics.selective import RiskCoverage


def drawn(seed=0, count=400, *, told=1.5):
    """Logits that know a part of the truth, and two probes, the first of which knows another."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    logits = random.normal(size=(count, 3)) + 1.5 * np.eye(3)[labels]
    probe = random.normal(size=(count, 3)) + told * np.eye(3)[labels]
    noise = random.normal(size=(count, 3))
    evidence = log_softmax(np.stack([probe, noise], axis=1), axis=2)
    scores = {"msp": np.exp(log_softmax(logits, axis=1)).max(axis=1)}
    return TuningSet(scores, logits, labels, np.arange(count) // 2, evidence)


@pytest.fixture(scope="module")
def fitted():
    return fit_calibrator(drawn())


def test_it_gives_the_log_odds_of_the_mean_probability_by_hand(fitted):
    tuning = drawn(count=20)
    calibrator = replace(fitted.calibrator, error_estimator=(0.5, 0.3, 0.2))
    named = calibrator.predict(tuning.logits)
    found = calibrator.with_learned(tuning.scores, tuning.logits, tuning.evidence)
    for row, value in enumerate(found[ERROR_ESTIMATOR]):
        shown = [*np.exp(tuning.evidence[row, :, named[row]])]
        by_softmax = calibrator.scaling(tuning.logits[row : row + 1])[0, named[row]]
        right = 0.5 * by_softmax + 0.3 * shown[0] + 0.2 * shown[1]
        assert value == pytest.approx(math.log(right / (1 - right)))


def test_its_weights_have_the_highest_posterior_density():
    tuning = drawn(count=100)
    calibrator = fit_calibrator(tuning).calibrator
    by_softmax = calibrator.scaling(tuning.logits)
    of_truth = [
        [by_softmax[row, label], *np.exp(tuning.evidence[row, :, label])]
        for row, label in enumerate(tuning.labels)
    ]

    def lost(free):
        weights = softmax(np.append(free, 0.0))
        likelihood = sum(math.log(np.dot(weights, row)) for row in of_truth)
        return -likelihood - 20 / 3 * np.log(weights).sum()  # as 20 images, of each a third

    found = minimize(lost, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9}).x
    expected = softmax(np.append(found, 0.0))
    assert calibrator.error_estimator == pytest.approx(expected, abs=1e-5)


def test_impossible_images_do_not_spoil_its_weights():
    members = np.log(np.array([[[0.9, 0.1], [0.6, 0.4]]] * 30))
    members[0] -= 2000  # both probabilities are 0 in float64
    weights = fit_error_estimator(members, np.zeros(30, int))
    assert sum(weights) == pytest.approx(1)
    assert weights[0] > 0.5


def test_it_is_chosen_where_probes_tell_more_and_orders_errors_better(fitted):
    fresh = drawn(seed=1, count=3000)
    calibrator, wrong = fitted.calibrator, fresh.logits.argmax(axis=1) != fresh.labels
    assert calibrator.score == ERROR_ESTIMATOR
    scores = calibrator.with_learned(fresh.scores, fresh.logits, fresh.evidence)
    areas = {name: fit.aurc(scores[name], wrong) for name in (ERROR_ESTIMATOR, CALIBRATED)}
    assert areas[ERROR_ESTIMATOR] < areas[CALIBRATED] - 0.01
    acceptance = calibrator.acceptance_scores(fresh.scores, fresh.logits, fresh.evidence)
    np.testing.assert_array_equal(acceptance, scores[ERROR_ESTIMATOR])
    assert calibrator.error(acceptance).mean() == pytest.approx(wrong.mean(), abs=0.04)


@pytest.mark.parametrize("seed", range(6))  # with 2, its AURC is lower and not its log-loss
def test_it_is_chosen_exactly_where_its_log_loss_out_of_fold_is_lower(seed):
    tuning = drawn(seed, count=150, told=0.3)
    fitted = fit_calibrator(tuning)
    calibrator, held_out, wrong = fitted.calibrator, fitted.candidates, fitted.wrong
    losses = {}
    for name in (ERROR_ESTIMATOR, CALIBRATED):
        values = held_out[name][:, None] / held_out[name].std()
        mapped = LogisticRegression(C=9).fit(values, wrong)  # Platt
        losses[name] = log_loss(wrong, mapped.predict_proba(values)[:, 1])
        assert log_loss_of(held_out[name], wrong) == pytest.approx(losses[name], abs=1e-3)
    preferred = losses[ERROR_ESTIMATOR] < losses[CALIBRATED]
    assert (calibrator.score == ERROR_ESTIMATOR) == preferred
    others = {name: area for name, area in calibrator.tried.items() if name != ERROR_ESTIMATOR}
    assert preferred or calibrator.score == min(others, key=others.get)


def test_out_of_fold_no_image_is_scored_by_what_saw_its_group(fitted):
    tuning = drawn()
    _, before = cross_fitted(tuning, lambda _: None)
    assert before.keys() == {CALIBRATED, COMBINATION, ERROR_ESTIMATOR}
    _, first = next(iter(GroupKFold(5).split(tuning.labels, groups=tuning.groups)))
    changed = tuning.labels.copy()
    changed[first] = (changed[first] + 1) % 3
    _, after = cross_fitted(tuning._replace(labels=changed), lambda _: None)
    others = np.setdiff1d(np.arange(len(changed)), first)
    for name, values in before.items():
        np.testing.assert_array_equal(values[first], after[name][first])
        assert not np.array_equal(values[others], after[name][others])
    np.testing.assert_array_equal(fitted.scores, fitted.candidates[ERROR_ESTIMATOR])


def test_without_probes_there_is_none():
    calibrator = fit_calibrator(drawn()._replace(evidence=None)).calibrator
    assert calibrator.error_estimator is None
    assert ERROR_ESTIMATOR not in calibrator.tried


def test_another_acceptance_score_brings_its_own_error_probabilities(fitted):
    tuning = drawn()
    other = fitted.accepting_by("msp")
    assert other.calibrator.score == "msp"
    np.testing.assert_array_equal(other.scores, tuning.scores["msp"])
    errors = other.calibrator.error(tuning.scores["msp"])
    assert errors.mean() == pytest.approx(fitted.wrong.mean(), abs=0.01)
    assert replace(fitted.calibrator, score="msp", error=other.calibrator.error) == other.calibrator


def test_the_error_probability_is_that_of_logistic_regression():
    random = np.random.default_rng(5)
    score = random.normal(20.0, 8.0, size=500)
    wrong = random.random(500) > expit((score - 10) / 5)
    standard = (score - score.mean()) / score.std()
    logistic = LogisticRegression(C=9.0, tol=1e-10).fit(standard[:, None], ~wrong)  # 3^2: the prior
    slope, intercept = fit_platt(score, wrong)
    assert slope * score.std() == pytest.approx(logistic.coef_[0, 0], rel=2e-2)
    expected = logistic.predict_proba(standard[:, None])[:, 0]
    np.testing.assert_allclose(expit(-slope * score - intercept), expected, atol=2e-3)


@pytest.mark.parametrize("wrong", [np.arange(6) < 3, np.arange(6) >= 3, np.zeros(6, dtype=bool)])
def test_the_map_keeps_the_order_of_any_score(wrong):
    score = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    slope, intercept = fit_platt(score, wrong)
    assert np.isfinite([slope, intercept]).all()
    assert slope > 0


@pytest.mark.parametrize("distinct", [3, 1000])
def test_the_area_by_which_scores_are_compared_is_that_of_the_metrics(distinct):
    random = np.random.default_rng(1)
    score, wrong = random.integers(distinct, size=200) / 7, random.random(200) < 0.3
    assert fit.aurc(score, wrong) == pytest.approx(RiskCoverage(score, wrong).aurc(), rel=1e-12)
