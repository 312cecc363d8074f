import math

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from misgiving.evaluation.suspect_labels import (
    _combined,
    _confusion,
    cross_fitted_outputs,
    neighbour_outputs,
    principal_features,
    suspicion,
)


@pytest.fixture(scope="module")
def planted():
    """Digits of which one label in ten is wrong: features, labels, groups and which are wrong."""
    features, labels = load_digits(return_X_y=True)
    features, labels = features[:900], labels[:900]
    random = np.random.default_rng(0)
    wrong = np.arange(900) % 10 == 0
    labels[wrong] = (labels[wrong] + random.integers(1, 10, wrong.sum())) % 10
    groups = tuple(map(str, range(900)))
    return principal_features(features), labels, groups, wrong


def outputs_like(labels, seed=0, confidence=2.0):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(len(labels), 3)) + confidence * np.eye(3)[labels]
    return log_softmax(logits, axis=1)


def test_cross_fitted_outputs_find_planted_errors_and_neighbours_add_to_them(planted):
    features, labels, groups, wrong = planted
    cross = cross_fitted_outputs(features, labels, groups, 10)
    near = neighbour_outputs(features, labels, groups, 10)
    alone = roc_auc_score(wrong, suspicion([cross], labels)[0])
    both = roc_auc_score(wrong, suspicion([cross, near], labels)[0])
    assert 0.95 < alone < both
    assert both > 0.99


def test_an_output_does_not_depend_on_the_label_of_its_own_group(planted):
    features, labels, groups, _ = planted
    features, labels = features[:300], labels[:300]
    groups = tuple(f"pair {number // 2}" for number in range(300))
    other = labels.copy()
    other[:2] = (labels[:2] + 5) % 10
    for outputs in (neighbour_outputs, cross_fitted_outputs):
        before, after = (outputs(features, of, groups, 10)[:2] for of in (labels, other))
        if outputs is neighbour_outputs:  # the overall shares change by two labels
            np.testing.assert_allclose(np.exp(before), np.exp(after), atol=0.01)
        else:  # the folds may change with the labels
            np.testing.assert_allclose(np.exp(before), np.exp(after), atol=0.3)
            assert before.argmax(axis=1).tolist() == after.argmax(axis=1).tolist()


def test_neighbour_shares_are_those_of_a_scalar_loop():
    random = np.random.default_rng(1)
    features, labels = random.normal(size=(60, 4)), random.integers(0, 3, 60)
    groups = [str(number // 3) for number in range(60)]
    expected = np.empty((60, 3))
    for row in range(60):
        angles = [
            math.acos(features[row] @ of / np.linalg.norm(features[row]) / np.linalg.norm(of))
            if groups[other] != groups[row]
            else math.inf
            for other, of in enumerate(features)
        ]
        nearest = np.argsort(angles)[:20]
        for label in range(3):
            found = sum(labels[other] == label for other in nearest)
            expected[row, label] = (found + np.mean(labels == label)) / 21
    found = neighbour_outputs(features, labels, groups, 3)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-6)


def test_the_confusion_is_the_confident_joint_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.9, 0.1], [0.2, 0.8], [0.05, 0.95]])
    labels = np.array([0, 0, 1, 1, 1])
    # Thresholds: 0.8 and 0.6167. The first counts as 0, the second as neither, the third as 0 and
    # the others as 1; one more of each is right: [[2, 0], [1, 3]]; rows to 2 and 3 labels.
    joint = np.array([[2, 0], [0.75, 2.25]])
    expected = np.maximum(joint / joint.sum(axis=0), 1e-4)
    np.testing.assert_allclose(_confusion(probabilities, labels), expected)


def test_the_score_is_the_mean_of_its_two_parts():
    labels = np.random.default_rng(3).integers(0, 3, 200)
    outputs = outputs_like(labels)
    shares = np.exp(_combined([outputs], labels))
    confusion = _confusion(shares, labels)
    scores, suggested = suspicion([outputs], labels)
    for row in range(200):
        given = labels[row]
        others = [label for label in range(3) if label != given]
        best = max(others, key=lambda label: shares[row, label])
        weights = [shares[row, label] * confusion[given, label] for label in range(3)]
        wrong = sum(weights[label] for label in others) / sum(weights)
        plain = (1 + shares[row, best] - shares[row, given]) / 2
        assert suggested[row] == best
        assert scores[row] == pytest.approx((plain + wrong) / 2)


def test_the_weights_make_the_labels_at_least_as_likely_as_any_others():
    labels = np.random.default_rng(4).integers(0, 3, 400)
    kinds = [outputs_like(labels, 1, 1.0), outputs_like(labels, 2, 3.0)]
    rows = np.arange(400)
    best = _combined(kinds, labels)[rows, labels].sum()
    for first in np.linspace(0, 2, 9):
        for second in np.linspace(0, 2, 9):
            other = log_softmax(first * kinds[0] + second * kinds[1], axis=1)
            assert other[rows, labels].sum() <= best + 0.1  # the weak prior on the biases


def test_features_without_spread_are_no_failure():
    assert not principal_features(np.ones((30, 4))).any()
