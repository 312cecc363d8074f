import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax
from sklearn.model_selection import GroupKFold

from misgiving.calibration.apply import (
    CALIBRATED,
    Line,
    Scaling,
    error_probabilities,
    log_odds_of,
    with_log_odds,
)
from misgiving.calibration.fit import (
    choose_line,
    fit_calibrator,
    fit_isotonic,
    fit_line,
    fit_scaling,
)
from misgiving.errors import DataError
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores


def drawn(seed=0, count=400):
    """Logits of three classes, labels, predicted losses, and a group for every two images."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, 3)) * 2
    log_probabilities = log_softmax(logits, axis=1)
    labels = np.array([random.choice(3, p=row) for row in np.exp(log_probabilities)])
    wrong = logits.argmax(axis=1) != labels
    return Predictions.of(
        {
            "logits": logits,
            "label": labels,
            "group": np.arange(count) // 2,
            "predicted_loss": random.normal(size=count) + wrong,
        }
    )


def fit(tuning, weights=None):
    return fit_calibrator(tuning, FittedDetectors(), weights)


def unbent(fitted, name):
    """Its log-probabilities with the log-odds of this score."""
    return with_log_odds(fitted.vectors, fitted.predicted, fitted.candidates[name])


def aurc(scores, wrong):
    """Mean over k of the expected error of the first k, with ties in random order."""
    errors = [wrong[scores == score].mean() for score in sorted(scores, reverse=True)]
    return np.mean([np.mean(errors[: k + 1]) for k in range(len(errors))])


@pytest.fixture(scope="module")
def tuning():
    return drawn()


@pytest.fixture(scope="module")
def fitted(tuning):
    return fit(tuning)


def test_scaling_stays_finite_for_a_class_without_cases_and_where_every_answer_is_right():
    scaling = fit_scaling(np.array([[1.0, 0.0, -1.0]] * 20), np.array([0, 1] * 10))
    assert np.isfinite(scaling.biases).all()
    assert np.exp(scaling.logarithms(np.zeros((1, 3)))).sum() == pytest.approx(1.0)
    logits = np.random.default_rng(0).normal(size=(50, 3))
    scaling = fit_scaling(logits, logits.argmax(axis=1))
    assert 0.001 < scaling.temperature < 1
    assert np.isfinite(np.exp(scaling.logarithms(logits))).all()


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


def test_log_odds_differ_where_probabilities_round_to_certainty():
    scaling, surer = Scaling(temperature=1.0, biases=(0.0, 0.0)), np.array([[900.0, 0], [950, 0]])
    assert np.exp(scaling.logarithms(surer))[:, 0].tolist() == [1.0, 1.0]
    log_odds = log_odds_of(scaling.logarithms(surer), np.zeros(2, dtype=int))
    assert log_odds.tolist() == [900.0, 950.0]


def test_out_of_fold_classes_and_scores_are_those_of_the_fold_in_the_order_of_the_samples(
    tuning, fitted
):
    weighed = fit(tuning, np.ones(3))
    for kept, left_out in GroupKFold(5).split(tuning.labels, groups=tuning.units):
        scaling, logits = fit_scaling(tuning.logits[kept], tuning.labels[kept]), tuning.logits
        scaled, most = np.exp(scaling.logarithms(logits[left_out])), logits[left_out].argmax(axis=1)
        right = scaled[np.arange(len(most)), most]
        log_odds = np.log(right / (1 - right))
        np.testing.assert_allclose(fitted.candidates[CALIBRATED][left_out], log_odds, rtol=1e-6)
        np.testing.assert_array_equal(fitted.predicted[left_out], most)
        np.testing.assert_array_equal(weighed.predicted[left_out], scaled.argmax(axis=1))
        np.testing.assert_allclose(np.exp(unbent(weighed, CALIBRATED)[left_out]), scaled)


def test_a_single_score_is_chosen_where_what_is_learned_adds_nothing(tuning):
    perfect = replace(tuning, predicted_losses=tuning.errors - 0.1 * tuning.logits.max(axis=1))
    calibrator = fit(perfect).calibrator
    assert calibrator.score == "predicted_loss"
    probabilities, predicted, acceptance = calibrator.judge(all_scores(perfect), tuning.logits)
    np.testing.assert_array_equal(acceptance, -perfect.predicted_losses)
    errors = error_probabilities(probabilities, predicted)
    assert (np.diff(errors[np.argsort(acceptance)]) <= 0).all()
    assert errors.mean() == pytest.approx(perfect.errors.mean(), abs=0.05)


def test_the_score_with_the_lowest_aurc_is_chosen_and_without_predicted_losses_no_loss_is_expected(
    tuning, fitted
):
    for calibration in (fitted, fit(replace(tuning, predicted_losses=None))):
        tried, wrong = calibration.calibrator.tried, tuning.errors
        assert tried.keys() == calibration.candidates.keys()
        for name, area in tried.items():
            assert area == pytest.approx(aurc(calibration.candidates[name], wrong), rel=1e-12)
        better = tried.get("predicted_loss", np.inf) < 0.99 * tried[CALIBRATED]
        assert calibration.calibrator.score == ("predicted_loss" if better else CALIBRATED)
    assert calibration.calibrator.loss is None
    confidences, losses = -tuning.predicted_losses, tuning.true_losses()
    assert fitted.calibrator.loss == fit_isotonic(confidences, losses, increasing=False)
    all_equal = fit(replace(tuning, labels=tuning.logits.argmax(axis=1))).calibrator
    assert (all_equal.score, {*all_equal.tried.values()}) == (CALIBRATED, {0.0})


def penalised(parameters, evidence, right, scale):
    """Negated log-likelihood of a line, one answer after the other, with its normal prior."""
    offset, slope = parameters
    loss = (offset**2 + (slope - 1) ** 2) / 2 / scale**2
    for value, is_right in zip(evidence, right, strict=True):
        probability = 1 / (1 + math.exp(-offset - slope * value))
        loss -= math.log(probability if is_right else 1 - probability)
    return loss


def test_a_line_has_the_highest_posterior_density_and_says_what_it_gains():
    random = np.random.default_rng(0)
    evidence = 3 * random.normal(size=80)
    right = random.random(80) < 1 / (1 + np.exp(1 - 0.4 * evidence))
    line, gain = fit_line(evidence, right.astype(float), scale=0.25)
    best = minimize(penalised, (0, 1), (evidence, right, 0.25), method="Nelder-Mead").x
    assert (line.offset, line.slope) == pytest.approx(tuple(best), abs=1e-3)
    values = [penalised(x, evidence, right, 0.25) for x in ((0, 1), (line.offset, line.slope))]
    assert gain == pytest.approx(values[0] - values[1])


@pytest.mark.parametrize("count", [100, 1000])
def test_log_odds_that_are_right_are_not_bent_and_others_are_where_images_show_it(count):
    random = np.random.default_rng(1)
    evidence = 2 + 2 * random.normal(size=count)
    uniform = random.random(count)
    right = (uniform < 1 / (1 + np.exp(-evidence))).astype(float)
    assert choose_line(evidence, evidence, right) == Line()
    right = (uniform < 1 / (1 + np.exp(1 - 0.5 * evidence))).astype(float)
    line = choose_line(evidence, evidence, right)
    assert line != Line()
    expected = 1 / (1 + np.exp(-line(evidence)))
    assert abs(expected.mean() - right.mean()) < abs(expit(evidence).mean() - right.mean()) / 2
    few = evidence[:99]
    assert choose_line(few, few, right[:99]) == Line()
    assert choose_line(few + 1, few, right[:99]) != Line()  # another score needs a line anyway


def test_probabilities_of_error_are_right_in_the_mean_for_the_class_that_is_predicted():
    shift = np.array([2.0, 0.0, -2.0])  # the largest logit is not most probable
    many, fresh = (
        replace(tuning, logits=tuning.logits + shift)
        for tuning in (drawn(count=4000), drawn(seed=5, count=4000))
    )
    wrong = []
    for weights in (None, np.ones(3)):
        calibrator = fit(many, weights).calibrator
        probabilities, predicted, _ = calibrator.judge(all_scores(fresh), fresh.logits)
        wrong.append((predicted != fresh.labels).mean())
        errors = error_probabilities(probabilities, predicted)
        assert errors.mean() == pytest.approx(wrong[-1], abs=0.02)
    assert wrong[0] > wrong[1] + 0.05


def test_scores_that_are_not_finite_are_refused(tuning):
    broken = tuning.predicted_losses.copy()
    broken[7] = np.nan
    with pytest.raises(DataError, match=r"predicted_loss .* 1 of "):
        fit(replace(tuning, predicted_losses=broken))
