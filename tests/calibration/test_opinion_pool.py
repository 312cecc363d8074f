from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.model_selection import GroupKFold

from misgiving.calibration.apply import (
    CALIBRATED,
    ERROR_ESTIMATOR,
    SECOND_OPINION,
    Calibrator,
    LinearPool,
    OpinionPool,
    Scaling,
    predicted_classes,
    with_log_odds,
)
from misgiving.calibration.fit import OPINION_SCALE, fit_opinion_weights, fit_scaling
from misgiving.metrics.selective import RiskCoverage
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import all_scores
from tests.calibration.test_calibrators import unbent
from tests.calibration.test_error_estimator import drawn, evidence_of, fit
from tests.strategies import generators

EVEN = np.ones(3)


def opinion(tuning, *, told, seed=3):
    """Probabilities by a model that knows so much of the truth."""
    noise = np.random.default_rng(seed).normal(size=tuning.logits.shape)
    return softmax(noise + told * np.eye(3)[tuning.labels], axis=1)


@pytest.fixture(scope="module")
def tuning():
    made = drawn(count=600)
    opinions = {"net": opinion(made, told=2.5)}
    return replace(made, opinions=opinions, opinion_models={"net": "of-the-net"})


@pytest.fixture(scope="module")
def fitted(tuning):
    return fit(tuning, EVEN)


def pool_of(random, names, classes):
    scalings = {
        name: Scaling(temperature=2.0, biases=tuple(random.normal(size=classes))) for name in names
    }
    return OpinionPool(scalings=scalings, weights=tuple(random.uniform(0, 2, len(names) + 1)))


def test_a_pool_is_a_product_of_powers_of_calibrated_probabilities():
    random = np.random.default_rng(0)
    pool = pool_of(random, ["x", "y"], 4)
    own = log_softmax(random.normal(size=(5, 4)), axis=1)
    opinions = {name: random.dirichlet(np.ones(4), size=5) for name in ("y", "unused", "x")}
    joint = pool(own, opinions)
    for image in range(5):
        product = [np.exp(own[image, label]) ** pool.weights[0] for label in range(4)]
        for name, weight in zip("xy", pool.weights[1:], strict=True):
            biases = pool.scalings[name].biases
            scaled = [opinions[name][image, k] ** 0.5 * np.exp(biases[k]) for k in range(4)]
            for label in range(4):
                product[label] *= (scaled[label] / sum(scaled)) ** weight
        expected = [value / sum(product) for value in product]
        assert np.exp(joint[image]) == pytest.approx(expected, rel=1e-12)


@given(generators(), st.sampled_from([None, EVEN, np.array([1.0, 5.0, 0.2])]), st.booleans())
def test_opinions_never_change_the_predicted_class_and_of_weight_zero_nothing(
    random, weights, probes
):
    logits, order = 3 * random.normal(size=(40, 3)), random.permutation(40)
    evidence = log_softmax(random.normal(size=(40, 2, 3)), axis=2) if probes else None
    scaling = Scaling(temperature=2.0, biases=tuple(random.normal(size=3)))
    opinions = {"net": random.dirichlet(np.full(3, 0.2), size=40)}
    alone = Calibrator(
        scaling=scaling,
        weights=None if weights is None else tuple(weights),
        error_estimator=LinearPool(weights=(0.5, 0.3, 0.2), scaling=scaling) if probes else None,
        score=ERROR_ESTIMATOR if probes else CALIBRATED,
        loss=None,
        tried={},
        samples=0,
    )
    joint = replace(alone, opinions=pool_of(random, ["net"], 3), score=SECOND_OPINION)
    nothing = replace(joint, opinions=replace(joint.opinions, weights=(1.0, 0.0)))
    own = alone.judge({}, logits, evidence)
    probabilities, predicted, scores = joint.judge({}, logits, evidence, opinions)
    np.testing.assert_array_equal(predicted, own[1])
    of_predicted = probabilities[np.arange(40), predicted]
    others = probabilities.sum(axis=1) - of_predicted
    np.testing.assert_allclose(scores, np.log(of_predicted / others), rtol=1e-6, atol=1e-8)
    for same, expected in zip(nothing.judge({}, logits, evidence, opinions), own, strict=True):
        np.testing.assert_allclose(same, expected, rtol=1e-9, atol=1e-12)
    turned = joint.judge(
        {},
        logits[order],
        None if evidence is None else evidence[order],
        {"net": opinions["net"][order]},
    )
    for same, expected in zip(turned, (probabilities, predicted, scores), strict=True):
        np.testing.assert_allclose(same, expected[order], rtol=1e-12)


def penalised(weights, members, labels):
    joint = sum(weight * member for weight, member in zip(weights, members, strict=True))
    losses = -log_softmax(joint, axis=1)[np.arange(len(labels)), labels]
    away = (weights[0] - 1) ** 2 + sum(weight**2 for weight in weights[1:])
    return losses.sum() + away / 2 / OPINION_SCALE**2


@given(generators(), st.integers(1, 60), st.integers(2, 4), generators())
def test_no_other_weights_are_more_probable_than_those_that_are_fitted(
    random, count, members, others
):
    logs = log_softmax(2 * random.normal(size=(count, members, 3)), axis=2)
    labels = random.integers(3, size=count)
    weights = fit_opinion_weights(logs, labels)
    assert (weights >= 0).all()
    best = penalised(weights, logs.swapaxes(0, 1), labels)
    for spread in (0.01, 0.3, 2.0):
        moved = np.abs(weights + spread * others.normal(size=members))
        assert best <= penalised(moved, logs.swapaxes(0, 1), labels) + 1e-3


def test_the_worth_of_an_opinion_is_what_it_lowers_the_aurc_of_images_it_was_not_fitted_on(
    tuning, fitted
):
    calibrator, labels = fitted.calibrator, tuning.labels
    folds = [*GroupKFold(5).split(labels, groups=tuning.units)]
    alone = fit(replace(tuning, opinions={}), EVEN)
    logs, scaled = np.log(tuning.opinions["net"]), np.empty(tuning.logits.shape)
    for kept, left_out in folds:
        scaled[left_out] = fit_scaling(logs[kept], labels[kept]).logarithms(logs[left_out])
    joint, own = np.empty(tuning.logits.shape), unbent(alone, alone.calibrator.score)
    for kept, left_out in folds:
        pair = own[kept], scaled[kept]
        weights = minimize(penalised, [1, 0], (pair, labels[kept]), bounds=[(0, None)] * 2).x
        joint[left_out] = weights[0] * own[left_out] + weights[1] * scaled[left_out]
    vectors = unbent(fitted, SECOND_OPINION)
    np.testing.assert_allclose(vectors, log_softmax(joint, axis=1), atol=5e-3)
    np.testing.assert_array_equal(fitted.predicted, alone.predicted)
    wrong = alone.predicted != labels
    areas = [RiskCoverage(each.scores, wrong).aurc() for each in (alone, fitted)]
    assert calibrator.opinion_worth == pytest.approx(areas[0] - areas[1])
    assert calibrator.opinion_worth > 0.02
    assert (calibrator.score, calibrator.needs_opinions) == (SECOND_OPINION, ("net",))
    assert calibrator.opinions.models == tuning.opinion_models
    assert calibrator.error_estimator == alone.calibrator.error_estimator


def test_an_opinion_that_is_worth_nothing_is_left_out(tuning):
    alone = fit(replace(tuning, opinions={}), EVEN).calibrator
    noise = opinion(tuning, told=0.0, seed=5)
    both = fit(replace(tuning, opinions={"noise": noise}), EVEN).calibrator
    assert (both.opinions, both.needs_opinions, both.score) == (None, (), alone.score)
    assert both.error_estimator == alone.error_estimator


def test_a_table_without_probes_has_an_opinion_too(tuning):
    plain = fit(replace(tuning, features=None), EVEN).calibrator
    assert plain.error_estimator is None
    assert plain.opinion_worth > 0.02
    probabilities, predicted, _ = plain.judge(
        all_scores(tuning), tuning.logits, None, tuning.opinions
    )
    np.testing.assert_array_equal(predicted, plain.scaling.logarithms(tuning.logits).argmax(axis=1))
    assert (probabilities.argmax(axis=1) != predicted).any()


def test_of_fewer_than_ten_groups_only_the_softmax_is_fitted(tuning):
    few = replace(tuning.select(np.arange(18)), predicted_losses=np.arange(18.0))
    fitted = fit(few, EVEN)
    made = fitted.calibrator
    assert made.error_estimator is made.opinions is made.opinion_worth is None
    assert fitted.candidates.keys() == made.tried.keys() == {CALIBRATED, "msp", "predicted_loss"}
    vectors = made.scaling.logarithms(few.logits)
    log_odds = made.log_odds_at(fitted.scores)
    expected = with_log_odds(vectors, fitted.predicted, log_odds)
    np.testing.assert_allclose(fitted.vectors, expected)


def test_beside_an_opinion_probes_of_noise_have_no_part_in_the_answer():
    tuning = drawn(count=600, told=0.0)
    both = replace(tuning, opinions={"net": opinion(tuning, told=2.5)})
    calibrator = fit(both, EVEN).calibrator
    assert calibrator.score == SECOND_OPINION
    judged = calibrator.judge(all_scores(both), both.logits, evidence_of(both), both.opinions)
    expected = calibrator.scaling.logarithms(both.logits).argmax(axis=1)
    np.testing.assert_array_equal(judged[1], expected)


def test_few_images_of_many_classes_hardly_change_how_many_answers_are_right():
    random = np.random.default_rng(0)
    logits, new = 4 * random.normal(size=(300, 50)), 4 * random.normal(size=(10_000, 50))
    labels = np.array([random.choice(50, p=each) for each in softmax(logits, axis=1)])
    few = fit(Predictions.of({"logits": logits, "label": labels}), np.ones(50))
    assert few.calibrator.opinion_worth is None
    vectors, probabilities = few.calibrator.log_probabilities(new), softmax(new, axis=1)
    predicted = predicted_classes(vectors, few.calibrator.weights, new)
    lost = probabilities.max(axis=1) - probabilities[np.arange(len(new)), predicted]
    assert lost.mean() < 0.01
