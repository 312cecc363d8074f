from itertools import permutations

import jaxtyping
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from misgiving.errors import UsageError
from misgiving.metrics.selective import augrc, aurc, excess_aurc, risk_coverage

MEASURES = [aurc, excess_aurc, augrc]


def confidences_and_losses(seed, count=6):
    random = np.random.default_rng(seed)
    return random.integers(3, size=count) / 2, np.round(random.exponential(size=count), 1)


def orders(confidences):
    """Every order of acceptance that goes from the highest confidence to the lowest."""
    for order in map(list, permutations(range(len(confidences)))):
        if (np.diff(confidences[order]) <= 0).all():
            yield order


def mean_selective_risk(losses):
    return np.mean([np.mean(losses[:k]) for k in range(1, len(losses) + 1)])


def area_of_generalised_risk(losses):
    count = len(losses)
    heights = [sum(losses[:k]) / count for k in range(count + 1)]
    return sum((heights[k] + heights[k + 1]) / 2 / count for k in range(count))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("seed", range(3))
def test_a_weight_counts_as_that_many_repetitions(measure, seed):
    confidences, losses = confidences_and_losses(seed, count=9)
    weights = np.random.default_rng(seed).poisson(1, size=(2, 5, 9))
    weighted = measure(confidences, losses, weights=weights)
    for row in np.ndindex(2, 5):
        repeated = measure(np.repeat(confidences, weights[row]), np.repeat(losses, weights[row]))
        np.testing.assert_allclose(weighted[row], repeated, atol=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_without_any_weight_a_measure_is_undefined(measure):
    assert np.isnan(measure(*confidences_and_losses(0), weights=np.zeros((2, 6)))).all()


@pytest.mark.parametrize("measure", MEASURES)
def test_without_weights_a_measure_is_a_plain_float(measure):
    assert type(measure(*confidences_and_losses(0))) is float


@pytest.mark.parametrize("seed", range(5))
def test_aurc_is_its_mean_over_all_orders_within_ties(seed):
    confidences, losses = confidences_and_losses(seed)
    expected = np.mean([mean_selective_risk(losses[order]) for order in orders(confidences)])
    assert aurc(confidences, losses) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_augrc_is_its_mean_over_all_orders_within_ties(seed):
    confidences, losses = confidences_and_losses(seed)
    expected = np.mean([area_of_generalised_risk(losses[order]) for order in orders(confidences)])
    assert augrc(confidences, losses) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_augrc_of_errors_follows_from_their_auroc_and_rate(seed):
    random = np.random.default_rng(seed)
    confidences, errors = np.round(random.random(80), 1), random.random(80) < 0.3
    rate, separation = errors.mean(), roc_auc_score(~errors, confidences)
    expected = (1 - separation) * rate * (1 - rate) + rate**2 / 2
    assert augrc(confidences, errors) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_excess_aurc_is_the_distance_to_the_best_of_all_orders(seed):
    confidences, losses = confidences_and_losses(seed)
    best = min(mean_selective_risk(np.array(order)) for order in permutations(losses))
    expected = aurc(confidences, losses) - best
    assert excess_aurc(confidences, losses) == pytest.approx(expected, abs=1e-12)


def test_excess_aurc_of_a_perfect_order_is_zero():
    _, losses = confidences_and_losses(0)
    assert excess_aurc(-losses, losses) == 0.0


def test_a_constant_confidence_has_the_mean_error_as_aurc():
    _, losses = confidences_and_losses(0)
    assert aurc(np.full(6, 0.5), losses) == pytest.approx(losses.mean(), abs=1e-12)


def test_the_curve_has_the_risk_and_coverage_of_every_threshold():
    confidences, losses = confidences_and_losses(1, count=20)
    curve = risk_coverage(confidences, losses)
    thresholds = sorted(set(confidences), reverse=True)
    np.testing.assert_allclose(curve.coverages, [(confidences >= t).mean() for t in thresholds])
    np.testing.assert_allclose(curve.risks, [losses[confidences >= t].mean() for t in thresholds])


@pytest.mark.parametrize("measure", [aurc, excess_aurc])
def test_fractions_of_a_sample_are_refused(measure):
    with pytest.raises(UsageError, match="weights must be whole numbers"):
        measure(np.array([0.5, 0.9]), np.array([0, 1]), weights=np.array([0.5, 1.0]))


@pytest.mark.parametrize("measure", [*MEASURES, risk_coverage])
def test_negative_errors_are_refused(measure):
    with pytest.raises(UsageError, match="errors is negative at position 1"):
        measure(np.array([0.5, 0.9]), np.array([0.1, -0.1]))


@pytest.mark.parametrize("measure", [*MEASURES, risk_coverage])
def test_confidences_that_are_not_finite_are_refused(measure):
    with pytest.raises(UsageError, match="confidences is not finite at position 0"):
        measure(np.array([np.nan, 0.9]), np.array([0, 1]))


@pytest.fixture
def as_in_use():
    """Without the shape checks of the test run, which would refuse these arguments first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("measure", [*MEASURES, risk_coverage])
@pytest.mark.usefixtures("as_in_use")
def test_lengths_that_differ_name_the_argument(measure):
    with pytest.raises(UsageError, match="errors has length 3 but confidences has length 2"):
        measure(np.zeros(2), np.zeros(3))
