"""Each score of features against its equation in scalar loops, and against pytorch-ood."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pytorch_ood.detector import KNN, Mahalanobis, ViM
from scenes import CLASSES, WIDTH, predictions, scene
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from misgiving.errors import UsageError
from misgiving.scores.detectors import FittedDetectors
from misgiving.scores.features import FEATURE_SCORES
from misgiving.scores.outputs import Outputs


@pytest.fixture(scope="module")
def directions(training):
    """Directions of the largest variance by numpy."""
    features = training.features.astype(np.float64)
    return np.linalg.svd(features - features.mean(axis=0), full_matrices=False)[2]


@pytest.fixture(scope="module")
def principal(directions):
    """A map onto these directions that keeps the origin."""
    return lambda other: other.features.astype(np.float64) @ directions.T


def test_mahalanobis_is_the_distance_to_the_nearest_class(detectors, training, queries, principal):
    features, labels, count = principal(training), training.labels, len(training)
    means = [features[labels == label].mean(axis=0) for label in range(CLASSES)]
    centred = np.stack([row - means[label] for row, label in zip(features, labels, strict=True)])
    shared = np.linalg.inv(centred.T @ centred / count)  # the covariance that the classes share
    nearest = [
        -0.5 * min(float((query - mean) @ shared @ (query - mean)) for mean in means) / count
        for query in principal(queries)
    ]
    np.testing.assert_allclose(detectors(queries)["mahalanobis"], nearest, rtol=1e-6)  # the ridge


def test_knn_is_the_distance_to_the_30th_of_600_unit_neighbours(
    detectors, training, queries, principal
):
    bank = [row / math.sqrt(sum(row**2)) for row in principal(training)]
    expected = []
    for query in principal(queries):
        unit = query / math.sqrt(sum(query**2))
        expected.append(-sorted(math.sqrt(sum((unit - other) ** 2)) for other in bank)[29])
    np.testing.assert_allclose(detectors(queries)["knn"], expected, rtol=1e-9)


def test_knn_of_taps_is_the_distance_to_the_tenth_of_the_standardised_neighbours(training, queries):
    rng = np.random.default_rng(2)
    taps = rng.normal(size=(len(training), 7)).astype(np.float32) * [1, 2, 3, 4, 5, 6, 0] + 1
    asked = rng.normal(size=(len(queries), 7)).astype(np.float32)
    known = replace(training, taps=taps)
    found = FittedDetectors.fit(known, ["knn_taps"])(replace(queries, taps=asked))
    scale = [*taps.std(axis=0)[:6], 1.0]  # the last is constant
    expected = []
    for row in asked:
        distances = [
            math.sqrt(sum(((a - b) / s) ** 2 for a, b, s in zip(row, other, scale, strict=True)))
            for other in taps
        ]
        expected.append(-sorted(distances)[9])
    np.testing.assert_allclose(found["knn_taps"], expected, rtol=1e-6)


def test_knn_of_layers_is_the_distance_to_the_tenth_neighbour_in_layers_of_equal_variance(
    training, queries, principal
):
    rng = np.random.default_rng(2)
    taps, asked = (rng.normal(size=(count, 7)) for count in (len(training), len(queries)))
    taps[:, 5] *= 100
    taps[:, 6] = 0.3 + 1e-9 * taps[:, 6]  # constant but for rounding
    known = replace(training, taps=taps, tap_widths=(2, 5))
    found = FittedDetectors.fit(known, ["knn_layers"])(replace(queries, taps=asked))

    def layers(row, features):
        unit = features / math.sqrt(sum(features**2))
        return row[:2], row[2:6], unit

    bank = list(map(layers, taps, principal(training)))
    spread = [np.std([each[layer] for each in bank], axis=0) for layer in range(3)]
    scales = spread[0] * math.sqrt(2), spread[1] * math.sqrt(5), math.sqrt(sum(spread[2] ** 2))
    expected = []
    for query in map(layers, asked, principal(queries)):
        squares = [
            sum(sum(((a - b) / s) ** 2) for a, b, s in zip(query, other, scales, strict=True))
            for other in bank
        ]
        expected.append(-math.sqrt(sorted(squares)[9]))
    np.testing.assert_allclose(found["knn_layers"], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["knn_taps", "knn_layers"])
def test_a_score_of_taps_needs_taps(name, training, queries):
    without = replace(training, taps=None)
    assert name not in FittedDetectors.fit(without).names
    detectors = FittedDetectors.fit(training, [name]).only([name], probes=False)
    assert detectors.widths == (WIDTH, WIDTH)
    with pytest.raises(UsageError, match="averages of the taps"):
        detectors(replace(queries, taps=None))


def test_vim_is_the_energy_less_the_scaled_residual(training, queries):
    detectors = FittedDetectors.fit(training, ["vim"])
    assert len(detectors.directions) == WIDTH  # nothing is cut off: the paper's own coordinates
    weight, bias = training.head
    origin = -np.linalg.pinv(weight) @ bias
    centred = training.features.astype(np.float64) - origin
    vectors = np.linalg.eigh(centred.T @ centred)[1][:, : WIDTH // 2]
    residuals = [math.sqrt(sum((row @ vectors) ** 2)) for row in centred]
    alpha = np.mean([row.max() for row in training.features @ weight.T + bias]) / np.mean(residuals)
    expected = []
    for query in queries.features.astype(np.float64):
        energy = math.log(sum(math.exp(value) for value in weight @ query + bias))
        expected.append(energy - alpha * math.sqrt(sum(((query - origin) @ vectors) ** 2)))
    np.testing.assert_allclose(detectors(queries)["vim"], expected, rtol=1e-8, atol=1e-8)


def in_pytorch_ood(training, queries, directions, principal):
    """Scores of the queries by pytorch-ood on the same reduced features, signs turned."""
    weight = torch.tensor(training.head.weight @ directions.T)
    known, labels = torch.tensor(principal(training)), torch.tensor(training.labels)
    features = torch.tensor(principal(queries))
    detectors = {
        "mahalanobis": Mahalanobis(None),
        "knn": KNN(None, k=30, algorithm="brute"),
        "vim": ViM(None, WIDTH // 2, weight, torch.tensor(training.head.bias)),
    }
    unit, queried = (F.normalize(values) for values in (known, features))
    normalised = Mahalanobis(None).fit_features(unit, labels)
    scores = {"mahalanobis++": -normalised.predict_features(queried).numpy()}
    for name, detector in detectors.items():
        detector.fit_features(known, labels)
        scores[name] = -detector.predict_features(features).double().numpy()
    return scores


@pytest.fixture(scope="module")
def by_pytorch_ood(training, queries, directions, principal):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # in which pytorch-ood allocates its means
    try:
        return in_pytorch_ood(training, queries, directions, principal)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("name", ["mahalanobis", "mahalanobis++", "knn", "vim"])
def test_every_score_of_features_is_that_of_pytorch_ood(name, detectors, queries, by_pytorch_ood):
    assert np.ptp(by_pytorch_ood[name]) > 0
    # It computes ViM in float32, as the difference of two terms of 30 or so.
    within = 3e-4 if name == "vim" else 1e-9
    actual = detectors(queries)[name]
    np.testing.assert_allclose(actual, by_pytorch_ood[name], rtol=within, atol=within)


@pytest.mark.parametrize("name", FEATURE_SCORES)
def test_every_score_is_higher_for_samples_like_the_training_set(name, training):
    """Far points: between the classes, off their subspace, and with undecided logits."""
    inliers = scene(200, seed=2)
    random = np.random.default_rng(3)
    centre = training.features.mean(axis=0)
    spread = random.normal(size=(200, WIDTH)) @ (
        np.eye(WIDTH) - np.linalg.pinv(training.head.weight) @ training.head.weight
    )
    far = predictions((centre + 4 * spread).astype(np.float32), inliers.labels, training.head)
    detectors = FittedDetectors.fit(training, [name])
    confidences = [detectors(some)[name] for some in (inliers, far)]
    assert roc_auc_score([1] * 200 + [0] * 200, np.concatenate(confidences)) > 0.9


@pytest.mark.parametrize("samples", [600, 2000])
def test_distances_are_never_negative_where_features_are_wider_than_samples(samples):
    wide, names = scene(samples, classes=8, width=1280), ("mahalanobis", "mahalanobis++")
    detectors = FittedDetectors.fit(wide, names)
    for some in (wide, scene(200, classes=8, width=1280, seed=1)):
        for scores in detectors(some).values():
            assert (scores < 0).all()


def test_features_are_divided_by_their_whole_norm_before_directions_are_left_out():
    wide, queries = (scene(600, classes=8, width=1280, seed=seed) for seed in (0, 1))
    units = [
        replace(some, features=some.features / np.linalg.norm(some.features, axis=1, keepdims=True))
        for some in (wide, queries)
    ]
    expected = FittedDetectors.fit(units[0], ["mahalanobis"])(units[1])["mahalanobis"]
    actual = FittedDetectors.fit(wide, ["mahalanobis++"])(queries)["mahalanobis++"]
    np.testing.assert_allclose(actual, expected, rtol=1e-4)  # units are in float32 here


def test_a_class_mean_itself_is_at_no_negative_distance(training):
    detectors = FittedDetectors.fit(training, ["mahalanobis"]).only(["mahalanobis"], probes=False)
    means = [training.features[training.labels == label].mean(axis=0) for label in range(CLASSES)]
    outputs = Outputs(logits=np.zeros((CLASSES, CLASSES)), features=np.stack(means))
    scores = detectors(outputs)["mahalanobis"]
    assert (scores <= 0).all()
    np.testing.assert_allclose(scores, 0, atol=1e-9)


@pytest.mark.parametrize("name", ["knn", "mahalanobis++"])
def test_some_scores_do_not_change_when_a_feature_vector_is_scaled(name, detectors, queries):
    larger = replace(queries, features=queries.features * np.float32(4.0))
    scaled = detectors.only([name])(larger)[name]
    np.testing.assert_allclose(scaled, detectors(queries)[name], rtol=1e-12)
