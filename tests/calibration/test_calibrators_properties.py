from dataclasses import replace
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import multivariate_t, norm
from strategies import DISTINCT, columns, generators

from misgiving.calibration.apply import (
    CALIBRATED,
    ERROR_ESTIMATOR,
    Calibrator,
    LinearPool,
    Scaling,
    error_probabilities,
)
from misgiving.calibration.fit import fit_calibrator, fit_isotonic, fit_scaling
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores

pairs = columns(DISTINCT, 5, size=9)  # inputs with ties, and quarters that they should give


def means_by_input(inputs, quarters):
    """Distinct inputs with the sum and number of their targets."""
    return [
        (int(quarters[inputs == value].sum()), int((inputs == value).sum()))
        for value in np.unique(inputs)
    ]


def pooled(inputs, quarters):
    """The least squares of all rising maps: the highest of the lowest means of what surrounds."""
    tied = means_by_input(inputs, quarters)

    def mean(first, last):
        return Fraction(
            sum(s for s, _ in tied[first:last]), 4 * sum(n for _, n in tied[first:last])
        )

    return [
        max(min(mean(a, b) for b in range(at + 1, len(tied) + 1)) for a in range(at + 1))
        for at in range(len(tied))
    ]


@given(pairs)
def test_isotonic_is_least_squares_in_fractions(drawn):
    inputs, quarters = drawn
    found = fit_isotonic(inputs / 1.0, quarters / 4, increasing=True)
    expected = [float(value) for value in pooled(inputs, quarters)]
    np.testing.assert_allclose(found(np.unique(inputs) / 1.0), expected, atol=1e-12)


@given(pairs)
def test_a_falling_map_is_a_rising_one_of_turned_inputs(drawn):
    inputs, targets = drawn[0] / 1.0, drawn[1] / 4
    falling = fit_isotonic(inputs, targets, increasing=False)
    rising = fit_isotonic(-inputs, targets, increasing=True)
    np.testing.assert_allclose(falling(inputs), rising(-inputs), atol=1e-12)


logits_of = st.tuples(generators(), st.integers(1, 30), st.integers(2, 4))


def drawn_logits(drawn):
    random, count, classes = drawn
    return 3 * random.normal(size=(count, classes)), random.integers(classes, size=count)


def penalised(scaling, logits, labels):
    """The loss, and the negative logarithms of a normal density of log T and a t of the biases."""
    scaled = logits / scaling.temperature + np.array(scaling.biases)
    losses = -log_softmax(scaled, axis=1)[np.arange(len(labels)), labels]
    of_temperature = norm(scale=0.7).logpdf(np.log(scaling.temperature))
    of_biases = multivariate_t(shape=np.eye(len(scaling.biases)), df=10).logpdf(scaling.biases)
    return losses.sum() - of_temperature - of_biases


@given(logits_of, generators())
def test_no_other_scaling_is_more_probable_than_the_one_that_is_fitted(drawn, others):
    logits, labels = drawn_logits(drawn)
    found = fit_scaling(logits, labels)
    best = penalised(found, logits, labels)
    for spread in (0.01, 0.3, 3.0):
        moves = spread * others.normal(size=logits.shape[1] + 1)
        other = Scaling(
            temperature=found.temperature * float(np.exp(moves[0])),
            biases=tuple((np.array(found.biases) + moves[1:]).tolist()),
        )
        assert best <= penalised(other, logits, labels) + 1e-3
    identity = Scaling(temperature=1.0, biases=(0.0,) * logits.shape[1])
    assert best <= penalised(identity, logits, labels) + 1e-9


@given(logits_of, st.integers(0, 3), st.sampled_from(["logits", "most_probable", "weighed"]))
def test_the_probability_that_is_shown_is_what_the_error_probability_leaves(drawn, probes, rule):
    """And the largest one is that of the predicted class, unless classes are weighed."""
    random, count, classes = drawn
    logits = 3 * random.normal(size=(count, classes))
    evidence = log_softmax(3 * random.normal(size=(count, probes, classes)), axis=2)
    shares, biases = random.dirichlet(np.ones(probes + 1)), random.normal(size=classes)
    weights = {"logits": None, "weighed": random.uniform(0.1, 10, classes)}
    weights = weights.get(rule, np.ones(classes))
    calibrator = Calibrator(
        scaling=Scaling(temperature=2.0, biases=tuple(random.normal(size=classes).tolist())),
        weights=None if weights is None else tuple(weights.tolist()),
        error_estimator=LinearPool(
            weights=tuple(shares.tolist()),
            scaling=Scaling(temperature=0.8, biases=tuple(biases.tolist())),
        ),
        score=ERROR_ESTIMATOR if probes else CALIBRATED,
        loss=None,
        tried={},
        samples=0,
    )
    probabilities, predicted, score = calibrator.judge({}, logits, evidence if probes else None)
    scaled = np.exp(logits / 2 + np.array(calibrator.scaling.biases))
    scaled /= scaled.sum(axis=1, keepdims=True)
    expected = scaled
    if probes:
        mean = shares[0] * scaled + np.einsum("m,nmk->nk", shares[1:], np.exp(evidence))
        expected = mean ** (1 / 0.8) * np.exp(biases)
        expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-9)
    of_predicted = probabilities[np.arange(count), predicted]
    errors = error_probabilities(probabilities, predicted)
    np.testing.assert_allclose(of_predicted + errors, 1)
    # the score has the same order as the probability
    others = probabilities.sum(axis=1) - of_predicted
    np.testing.assert_allclose(score, np.log(of_predicted / others), rtol=1e-6, atol=1e-9)
    best = logits if weights is None else probabilities * weights
    np.testing.assert_array_equal(predicted, best.argmax(axis=1))
    assert rule != "most_probable" or (of_predicted == probabilities.max(axis=1)).all()


@given(
    generators(),
    st.integers(12, 60),
    st.integers(2, 8),
    st.sampled_from(["logits", "most_probable", "weighed"]),
    st.sets(st.sampled_from(["predicted_loss", "opinion"])),
    st.booleans(),
)
def test_the_error_probability_never_falls_as_the_score_that_decides_falls(
    random, count, classes, rule, columns, answers_superclasses
):
    """And each vector of probabilities adds up to 1: for any table, at the level of its answers."""

    def drawn(images):
        logits = random.gamma(2) * random.normal(size=(images, classes))
        labels = random.integers(classes, size=images)
        certain = random.random(images) < strength
        labels = np.where(certain, logits.argmax(axis=1), labels)
        table = {"logits": logits, "label": labels}
        if "predicted_loss" in columns:
            table["predicted_loss"] = random.normal(size=images) + ~certain
        predictions = Predictions.of(table)
        opinion = random.dirichlet(np.ones(classes), size=images) + np.eye(classes)[labels]
        opinions = {"net": opinion / 2} if "opinion" in columns else {}
        return replace(predictions, opinions=opinions)

    strength, answers, superclasses = random.random(), classes, None
    if answers_superclasses:
        answers = int(random.integers(2, classes + 1))
        others = random.integers(answers, size=classes - answers)
        superclasses = tuple(random.permutation([*range(answers), *others]).tolist())
    weights = {"logits": None, "weighed": random.uniform(0.1, 10, answers)}
    calibrator = fit_calibrator(
        drawn(count), FittedDetectors(), weights.get(rule, np.ones(answers)), superclasses
    ).calibrator
    fresh = drawn(50)
    probabilities, predicted, scores = calibrator.judge(
        all_scores(fresh), fresh.logits, None, fresh.opinions
    )
    sums, answered = calibrator.sums(probabilities), calibrator.answers_of(predicted)
    errors = error_probabilities(sums, answered)
    assert (np.diff(errors[np.argsort(-scores)]) >= -1e-12).all()
    np.testing.assert_allclose(errors, calibrator.error_at(scores), atol=1e-9)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
