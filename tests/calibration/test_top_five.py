"""The acceptance score that compares the predicted class with the four next classes alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from misgiving.calibration.apply import (
    CALIBRATED,
    RIVALS,
    SECOND_OPINION,
    TOP_FIVE,
    Line,
    error_probabilities,
    log_odds_of,
    predicted_classes,
)
from misgiving.calibration.fit import fit_calibrator
from misgiving.deferral.deferral import Deferral
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores
from tests.calibration.test_calibrators import aurc, unbent
from tests.strategies import generators

CLASSES = 20


def smoothed(seed=0, count=400, *, tail=0.6):
    """Predictions whose share of improbable classes, up to `tail`, says nothing of errors."""
    random = np.random.default_rng(seed)
    top = random.dirichlet(np.full(5, 0.3), size=count)
    places = np.array([random.permutation(CLASSES) for _ in range(count)])
    labels = np.array([random.choice(row[:5], p=p) for row, p in zip(places, top, strict=True)])
    shares = random.uniform(0, tail, size=(count, 1)) if tail else np.full((count, 1), 1e-6)
    spread = np.repeat(shares / (CLASSES - 5), CLASSES - 5, axis=1)
    probabilities = np.empty((count, CLASSES))
    np.put_along_axis(probabilities, places, np.hstack([(1 - shares) * top, spread]), axis=1)
    return Predictions.of({"logits": np.log(probabilities + 1e-9), "label": labels})


def fit(tuning):
    return fit_calibrator(tuning, FittedDetectors(), np.ones(tuning.logits.shape[1]))


def against_four(vectors, predicted):
    """Log of the predicted class's probability over the sum of the four largest others."""
    odds = []
    for row, chosen in zip(np.exp(vectors), predicted, strict=True):
        others = sorted(np.delete(row, chosen), reverse=True)
        odds.append(np.log(row[chosen]) - np.log(sum(others[:4])))
    return np.array(odds)


@given(generators(), st.integers(1, 20), st.integers(2, 9))
def test_log_odds_against_four_are_those_against_all_of_at_most_five_classes(
    random, count, classes
):
    vectors = log_softmax(3 * random.normal(size=(count, classes)), axis=1)
    predicted = random.integers(classes, size=count)
    log_odds = log_odds_of(vectors, predicted, RIVALS)
    np.testing.assert_allclose(log_odds, against_four(vectors, predicted), rtol=1e-9, atol=1e-9)
    against_all = log_odds_of(vectors, predicted)
    assert (log_odds >= against_all).all()
    if classes <= 5:
        np.testing.assert_array_equal(log_odds, against_all)


@pytest.mark.parametrize("count", [100, 400])
def test_it_is_chosen_where_the_improbable_classes_say_nothing_of_errors(count):
    tuning, fresh = smoothed(count=count), smoothed(seed=1, count=2000)
    fitted = fit(tuning)
    calibrator = fitted.calibrator
    assert (calibrator.score, calibrator.acceptance_score) == (CALIBRATED, TOP_FIVE)
    wrong = fitted.predicted != tuning.labels
    expected = against_four(unbent(fitted, CALIBRATED), fitted.predicted)
    np.testing.assert_allclose(fitted.scores, expected, rtol=1e-9)
    assert calibrator.tried[TOP_FIVE] == pytest.approx(aurc(fitted.scores, wrong))

    probabilities, predicted, scores = calibrator.judge(all_scores(fresh), fresh.logits)
    plain = replace(calibrator, rivals=None, line=Line()).judge(all_scores(fresh), fresh.logits)
    np.testing.assert_array_equal(predicted, plain[1])
    np.testing.assert_allclose(scores, against_four(np.log(plain[0]), predicted), rtol=1e-6)
    errors = error_probabilities(probabilities, predicted)
    assert (np.diff(errors[np.argsort(scores)]) <= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    learned = calibrator.with_learned({}, fresh.logits)
    np.testing.assert_array_equal(learned[TOP_FIVE], scores)
    wrong = predicted != fresh.labels
    assert aurc(scores, wrong) < aurc(plain[2], wrong) - 0.01


def test_of_few_images_chance_rarely_chooses_it():
    random, chosen = np.random.default_rng(0), []
    for _ in range(40):
        logits = 2 * random.normal(size=(50, CLASSES))
        labels = np.array([random.choice(CLASSES, p=row) for row in softmax(logits, axis=1)])
        chosen.append(fit(Predictions.of({"logits": logits, "label": labels})).calibrator.rivals)
    assert sum(rivals is not None for rivals in chosen) <= 4  # all probabilities are right


def test_it_is_no_candidate_of_five_classes_or_fewer_than_ten_groups():
    random = np.random.default_rng(0)
    five = {"logits": random.normal(size=(100, 5)), "label": random.integers(5, size=100)}
    for tuning in (Predictions.of(five), smoothed(count=9)):
        calibrator = fit(tuning).calibrator
        assert TOP_FIVE not in calibrator.tried
        assert calibrator.rivals is None


def test_with_a_second_opinion_it_compares_the_probabilities_by_both():
    tuning, random = smoothed(), np.random.default_rng(1)
    heard = np.eye(CLASSES)[tuning.labels] * random.integers(2, size=(len(tuning), 1))
    noise = np.log(random.dirichlet(np.ones(CLASSES), size=len(tuning))) / 2
    joint = replace(tuning, opinions={"net": softmax(noise + heard, axis=1)})
    fitted = fit(joint)
    calibrator = fitted.calibrator
    assert (calibrator.score, calibrator.acceptance_score) == (SECOND_OPINION, TOP_FIVE)
    _, predicted, scores = calibrator.judge(all_scores(joint), joint.logits, None, joint.opinions)
    own = calibrator.scaling.logarithms(joint.logits)
    np.testing.assert_array_equal(predicted, predicted_classes(own, np.ones(CLASSES), own))
    vectors = calibrator.opinions(own, joint.opinions)
    np.testing.assert_allclose(scores, against_four(vectors, predicted), rtol=1e-6)


def test_a_policy_that_accepts_by_it_is_the_same_once_it_is_read_again(tmp_path):
    deferral = Deferral(max_error=0.2).fit(smoothed(), smoothed(seed=2, count=1000))
    assert deferral.calibration_.acceptance_score == TOP_FIVE
    deferral.save(tmp_path / "policy")
    new = smoothed(seed=3)
    decisions, again = (each.decide(new) for each in (deferral, Deferral.load(tmp_path / "policy")))
    assert (decisions.decisions == "accept").any()
    np.testing.assert_array_equal(again.acceptance_score, decisions.acceptance_score)
    np.testing.assert_array_equal(again.decisions, decisions.decisions)
