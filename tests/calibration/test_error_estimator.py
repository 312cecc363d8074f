"""The error estimator: what it computes, and when it is the acceptance score."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold

from misgiving.calibration.apply import CALIBRATED, ERROR_ESTIMATOR, Scaling, with_log_odds
from misgiving.calibration.fit import fit_calibrator, fit_error_estimator, fit_scaling
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores
from misgiving.scores.probes import FEATURES, ClassProbes, Probe
from tests.calibration.test_calibrators import unbent


def drawn(seed=0, count=400, *, told=1.5):
    """Logits that know a part of the truth, and two probes, the first of which knows another."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    logits = random.normal(size=(count, 3)) + 1.5 * np.eye(3)[labels]
    probe = random.normal(size=(count, 3)) + told * np.eye(3)[labels]
    noise = random.normal(size=(count, 3))
    evidence = log_softmax(np.stack([probe, noise], axis=1), axis=2)
    return Predictions.of(
        {
            "logits": logits,
            "label": labels,
            "group": np.arange(count) // 2,
            "features": evidence.reshape(count, 6),
        }
    )


IDENTITY = np.eye(3), np.zeros(3)
DETECTORS = FittedDetectors(  # with probes whose logits are the features
    probes=ClassProbes(probes={FEATURES: Probe(0, *IDENTITY), "noise": Probe(3, *IDENTITY)})
)


def fit(tuning, weights=None):
    detectors = FittedDetectors() if tuning.features is None else DETECTORS
    return fit_calibrator(tuning, detectors, weights)


def evidence_of(tuning):
    return DETECTORS.evidence(tuning)


@pytest.fixture(scope="module")
def fitted():
    return fit(drawn())


def held_out_members(tuning):
    """Probabilities by the probes, and before them by a softmax calibrated on other groups."""
    calibrated = np.empty(tuning.logits.shape)
    for kept, left_out in GroupKFold(5).split(tuning.labels, groups=tuning.units):
        scaling = fit_scaling(tuning.logits[kept], tuning.labels[kept])
        calibrated[left_out] = np.exp(scaling.logarithms(tuning.logits[left_out]))
    return np.concatenate([calibrated[:, None], np.exp(evidence_of(tuning))], axis=1)


def scaled_mean(pool, image):
    """The weighted mean of these probabilities of one image, calibrated again."""
    temperature, biases = pool.scaling.temperature, pool.scaling.biases
    means = [sum(w * p for w, p in zip(pool.weights, each, strict=True)) for each in image.T]
    values = [m ** (1 / temperature) * math.exp(b) for m, b in zip(means, biases, strict=True)]
    return [value / sum(values) for value in values]


def test_its_weights_and_then_its_scaling_have_the_highest_posterior_density():
    tuning = drawn(count=100)
    pool = fit(tuning).calibrator.error_estimator
    members, labels = held_out_members(tuning), tuning.labels

    def weights_lost(free):
        weights = softmax(np.append(free, 0.0))
        of_truth = (members[row, :, label] for row, label in enumerate(labels))
        likelihood = sum(math.log(np.dot(weights, each)) for each in of_truth)
        return -likelihood - 20 / 3 * np.log(weights).sum()  # as 20 images, of each a third

    optimum = minimize(weights_lost, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9}).x
    assert pool.weights == pytest.approx(softmax(np.append(optimum, 0.0)), abs=1e-5)

    def scaling_lost(parameters):
        scaling = Scaling(temperature=math.exp(parameters[0]), biases=tuple(parameters[1:]))
        pooled = [scaled_mean(replace(pool, scaling=scaling), image) for image in members]
        likelihood = sum(
            math.log(image[label]) for image, label in zip(pooled, labels, strict=True)
        )
        of_temperature = parameters[0] ** 2 / 2 / 0.07**2  # normal, in log T
        of_biases = sum(bias**2 for bias in parameters[1:]) / 2 / 0.1**2
        return -likelihood + of_temperature + of_biases

    optimum = minimize(scaling_lost, np.zeros(4), method="BFGS").x
    assert [math.log(pool.scaling.temperature), *pool.scaling.biases] == pytest.approx(
        optimum, abs=1e-4
    )


def test_impossible_images_do_not_spoil_its_weights():
    members = np.log(np.array([[[0.9, 0.1], [0.6, 0.4]]] * 30))
    members[0] -= 2000  # both probabilities are 0 in float64
    pool = fit_error_estimator(members, np.zeros(30, int))
    assert sum(pool.weights) == pytest.approx(1)
    assert pool.weights[0] > 0.5
    assert np.isfinite(pool(members)).all()


@pytest.mark.parametrize("seed", range(6))
def test_it_is_chosen_exactly_where_it_makes_held_out_classes_more_likely(seed):
    tuning = drawn(seed, count=150, told=0.7)
    fitted = fit(tuning, np.ones(3))
    shown = {name: np.empty((150, 3)) for name in (ERROR_ESTIMATOR, CALIBRATED)}
    for kept, left_out in GroupKFold(5).split(tuning.labels, groups=tuning.units):
        scaling = fit_scaling(tuning.logits[kept], tuning.labels[kept])
        pool = fit_error_estimator(
            np.log(held_out_members(tuning.select(kept))), tuning.labels[kept]
        )
        shown[CALIBRATED][left_out] = np.exp(scaling.logarithms(tuning.logits[left_out]))
        for row in left_out:
            image = np.concatenate([shown[CALIBRATED][row, None], np.exp(evidence_of(tuning)[row])])
            shown[ERROR_ESTIMATOR][row] = scaled_mean(pool, image)
    losses = {name: log_loss(tuning.labels, each) for name, each in shown.items()}
    calibrator = fitted.calibrator
    preferred = losses[ERROR_ESTIMATOR] < losses[CALIBRATED]
    assert (calibrator.score == ERROR_ESTIMATOR) == preferred
    assert calibrator.error_estimator is not None  # it is measured beside the others
    chosen = shown[ERROR_ESTIMATOR if preferred else CALIBRATED]
    name = ERROR_ESTIMATOR if preferred else CALIBRATED
    np.testing.assert_allclose(np.exp(unbent(fitted, name)), chosen)
    np.testing.assert_array_equal(fitted.predicted, chosen.argmax(axis=1))
    assert preferred or calibrator.score == CALIBRATED


def test_out_of_fold_no_image_is_scored_by_what_saw_its_group(fitted):
    tuning = drawn()
    before = fit(tuning).candidates
    learned = {CALIBRATED, ERROR_ESTIMATOR}
    assert before.keys() == learned | {"msp"}
    _, first = next(iter(GroupKFold(5).split(tuning.labels, groups=tuning.units)))
    changed = tuning.labels.copy()
    changed[first] = (changed[first] + 1) % 3
    after = fit(replace(tuning, labels=changed)).candidates
    others = np.setdiff1d(np.arange(len(changed)), first)
    for name in learned:
        np.testing.assert_array_equal(before[name][first], after[name][first])
        assert not np.array_equal(before[name][others], after[name][others])
    np.testing.assert_array_equal(fitted.scores, fitted.candidates[ERROR_ESTIMATOR])


def test_without_probes_there_is_none():
    calibrator = fit(replace(drawn(), features=None)).calibrator
    assert calibrator.error_estimator is None
    assert ERROR_ESTIMATOR not in calibrator.tried


def test_another_acceptance_score_shows_the_calibrated_softmax(fitted):
    tuning = drawn()
    other = fitted._replace(calibrator=replace(fitted.calibrator, score="msp"))
    scores, evidence = all_scores(tuning), evidence_of(tuning)
    np.testing.assert_array_equal(other.scores, scores["msp"])
    probabilities, predicted, acceptance = other.calibrator.judge(scores, tuning.logits, evidence)
    softmax = fitted.calibrator.scaling.logarithms(tuning.logits)
    log_odds = fitted.calibrator.line(np.log(acceptance / (1 - acceptance)))
    np.testing.assert_allclose(probabilities, np.exp(with_log_odds(softmax, predicted, log_odds)))
    np.testing.assert_array_equal(acceptance, scores["msp"])
    assert replace(fitted.calibrator, score="msp") == other.calibrator
