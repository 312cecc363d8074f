"""Each score of features against its equation in scalar loops, and against pytorch-ood."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pytorch_ood.detector import KNN, NCI, RMD, KLMatching, Mahalanobis, NNGuide, ViM, fDBD
from scenes import CLASSES, WIDTH, predictions, scene
from sklearn.metrics import roc_auc_score
from torch import nn
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


def test_mahalanobis_is_the_distance_to_the_nearest_class_and_the_relative_one_less_that_to_all(
    detectors, training, queries, principal
):
    features, labels, count = principal(training), training.labels, len(training)
    centre = features.mean(axis=0)
    means = [features[labels == label].mean(axis=0) for label in range(CLASSES)]
    centred = np.stack([row - means[label] for row, label in zip(features, labels, strict=True)])
    shared = np.linalg.inv(centred.T @ centred / count)  # the covariance that the classes share
    whole = np.linalg.inv(np.cov(features.T, bias=True))
    nearest, relative = [], []
    for query in principal(queries):
        least = min(float((query - mean) @ shared @ (query - mean)) for mean in means)
        nearest.append(-0.5 * least / count)
        relative.append(-(least - float((query - centre) @ whole @ (query - centre))) / count)
    scores = detectors(queries)
    np.testing.assert_allclose(scores["mahalanobis"], nearest, rtol=1e-6)  # the ridge is 1e-6
    np.testing.assert_allclose(scores["relative_mahalanobis"], relative, rtol=1e-6, atol=1e-8)


def test_residual_mahalanobis_is_that_of_what_a_reconstruction_by_half_of_the_directions_leaves(
    detectors, training, queries
):
    features = training.features.astype(np.float64)
    mean, half = features.mean(axis=0), WIDTH // 2
    directions = np.linalg.svd(features - mean, full_matrices=False)[2]

    def residual(row):
        left = row - mean
        for direction in directions[:half]:
            left = left - (left @ direction) * direction
        return left

    scatter = sum(np.outer(left, left) for left in map(residual, features))
    inverse = np.linalg.pinv(scatter, rcond=1e-9)  # it is singular along the other half
    rest = map(residual, queries.features.astype(np.float64))
    expected = [-math.sqrt(left @ inverse @ left) for left in rest]
    scores = detectors(queries)["residual_mahalanobis"]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)  # the ridge is 1e-6


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


def test_nnguide_is_the_energy_times_that_of_ten_neighbours(training, queries):
    def energy(row):
        return math.log(
            sum(math.exp(value) for value in training.head.weight @ row + training.head.bias)
        )

    bank = [energy(row) * row / math.sqrt(sum(row**2)) for row in training.features]
    expected = []
    for query in queries.features:
        similarities = sorted(float(query @ row) / math.sqrt(sum(query**2)) for row in bank)
        expected.append(energy(query) * np.mean(similarities[-10:]))
    actual = FittedDetectors.fit(training, ["nnguide"])(queries)["nnguide"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)  # the loop is in float32


def test_nci_is_the_alignment_with_the_predicted_class(training, queries, detectors):
    mean, expected = training.features.mean(axis=0, dtype=np.float64), []
    for query, logits in zip(queries.features, queries.logits, strict=True):
        chosen = training.head.weight[logits.argmax()]
        expected.append(sum((query - mean) * chosen) / math.sqrt(sum((query - mean) ** 2)))
    np.testing.assert_allclose(detectors(queries)["nci"], expected, rtol=1e-6)


def test_fdbd_is_the_mean_distance_to_boundaries_over_that_to_the_mean(
    training, queries, detectors
):
    weight, mean, expected = training.head.weight, training.features.mean(axis=0), []
    for query, logits in zip(queries.features, queries.logits, strict=True):
        best = int(logits.argmax())
        gaps = [
            (logits[best] - logits[other]) / math.dist(weight[best], weight[other])
            for other in range(CLASSES)
            if other != best
        ]
        expected.append(np.mean(gaps) / math.dist(query, mean))
    np.testing.assert_allclose(detectors(queries)["fdbd"], expected, rtol=1e-4)


def test_kl_matching_is_the_divergence_from_the_nearest_typical_softmax(
    training, queries, detectors
):
    def softmax(row):
        powers = np.array([math.exp(value) for value in row])
        return powers / powers.sum()

    known = np.stack([softmax(row) for row in training.logits])
    typical = [known[known.argmax(axis=1) == label].mean(axis=0) for label in range(CLASSES)]
    expected = []
    for row in queries.logits:
        p = softmax(row)
        expected.append(-min(sum(p * np.log(p / other)) for other in typical))
    actual = detectors(queries)["kl_matching"]
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def in_pytorch_ood(training, queries, directions, principal):
    """Scores of the queries by pytorch-ood on the same reduced features, signs turned."""
    weight = torch.tensor(training.head.weight @ directions.T)
    features, logits = (torch.tensor(v) for v in (principal(queries), queries.logits.astype(float)))
    head = nn.Linear(*weight.shape[::-1]).requires_grad_(False)
    head.weight.copy_(weight)
    head.bias.copy_(torch.tensor(training.head.bias))
    head.float()
    known, labels = torch.tensor(principal(training)), torch.tensor(training.labels)
    detectors = {
        "mahalanobis": Mahalanobis(None),
        "relative_mahalanobis": RMD(None),
        "knn": KNN(None, k=30, algorithm="brute"),
        "vim": ViM(None, WIDTH // 2, weight, torch.tensor(training.head.bias)),
        "nnguide": NNGuide(None, head, k=10),
        "nci": NCI(None, head),
        "fdbd": fDBD(None, head),
    }
    single = ("nnguide",)  # the others take float64, some of which they make float32
    unit, queried = (F.normalize(values) for values in (known, features))
    normalised = Mahalanobis(None).fit_features(unit, labels)
    scores = {"mahalanobis++": -normalised.predict_features(queried).numpy()}
    for name, detector in detectors.items():
        detector.fit_features(known, labels)
        queried = features.float() if name in single else features
        scores[name] = -detector.predict_features(queried).double().numpy()
    matching = KLMatching(None).fit_logits(torch.tensor(training.logits.astype(float)))
    return scores | {"kl_matching": -matching.predict_logits(logits).numpy()}


@pytest.fixture(scope="module")
def by_pytorch_ood(training, queries, directions, principal):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # in which pytorch-ood allocates its means
    try:
        return in_pytorch_ood(training, queries, directions, principal)
    finally:
        torch.set_default_dtype(before)


# pytorch-ood computes these in float32, which has seven digits. ViM takes the difference of two
# terms of 30 or so, one of which depends on eigenvectors.
IN_SINGLE_PRECISION = {"vim": 3e-4, "nnguide": 1e-5, "nci": 1e-5, "fdbd": 1e-5}


@pytest.mark.parametrize(
    "name", sorted(FEATURE_SCORES.keys() - {"knn_taps", "knn_layers", "residual_mahalanobis"})
)  # which it does not have
def test_every_score_of_features_is_that_of_pytorch_ood(name, detectors, queries, by_pytorch_ood):
    assert np.ptp(by_pytorch_ood[name]) > 0
    np.testing.assert_allclose(
        detectors(queries)[name],
        by_pytorch_ood[name],
        rtol=IN_SINGLE_PRECISION.get(name, 1e-9),
        atol=IN_SINGLE_PRECISION.get(name, 1e-9),
    )


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


def test_a_score_that_is_not_defined_is_not_finite_and_no_failure(detectors, queries):
    """At the mean of the training features the direction from it is not defined."""
    mean = detectors.statistics["nci"]["mean"]
    # Features that are already along the directions meet the mean without rounding.
    reduced = replace(detectors.only(["nci"], probes=False), directions=np.eye(len(mean)))
    features = np.vstack([queries.features.astype(np.float64) @ detectors.directions.T, mean])
    logits = np.vstack([queries.logits, queries.logits[:1]])
    scores = reduced(Outputs(logits=logits, features=features))["nci"]
    assert np.isfinite(scores[:-1]).all()
    assert np.isnan(scores[-1])
