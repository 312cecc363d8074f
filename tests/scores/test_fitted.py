import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sklearn.metrics import roc_auc_score

from misgiving.errors import DataError, UsageError
from misgiving.results.predictions import Head
from misgiving.scores import (
    FITTED,
    FittedDetectors,
    TrainingOutputs,
    fit_detectors,
)
from misgiving.scores import fitted as module

WIDTH, CLASSES = 40, 4


def scene(samples, *, classes=CLASSES, width=WIDTH, seed=0):
    """Gaussian classes in features far from their origin, and the head that tells them apart."""
    means = np.random.default_rng(7).normal(size=(classes, width)) * 2
    random = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    scales = np.linspace(1.5, 0.1, width)  # not round: a Euclidean distance is no Mahalanobis one
    features = 3 + means[labels] + random.normal(size=(samples, width)) * scales
    weight = means / 4
    head = Head(weight, -weight @ (3 + means.mean(axis=0)) - (means**2).sum(axis=1) / 8)
    return outputs(features.astype(np.float32), labels, head)


def outputs(features, labels, head):
    logits = (features @ head.weight.T + head.bias).astype(np.float32)
    return TrainingOutputs(logits=logits, features=features, labels=labels, head=head)


def scores_of(detectors, predictions):
    return detectors(predictions.logits, predictions.features)


@pytest.fixture(scope="module")
def training():
    return scene(600)


@pytest.fixture(scope="module")
def queries():
    return scene(50, seed=1)


@pytest.fixture(scope="module")
def detectors(training):
    return fit_detectors(training)


@pytest.fixture(scope="module")
def principal(training):
    """Directions of the largest variance by numpy, and a map onto them that keeps the origin."""
    features = training.features.astype(np.float64)
    directions = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)[2]
    return lambda other: other.features.astype(np.float64) @ directions.T


def squared_distance(point, mean, precision):
    return float((point - mean) @ precision @ (point - mean))


def class_distances(features, labels, queries):
    """From each query to each class, under the covariance that the classes share, and to all."""
    means = [features[labels == label].mean(axis=0) for label in range(CLASSES)]
    centred = np.stack([row - means[label] for row, label in zip(features, labels, strict=True)])
    shared = np.linalg.inv(centred.T @ centred / len(features))
    whole = np.linalg.inv(np.cov(features.T, bias=True))
    return [
        (
            [squared_distance(query, mean, shared) for mean in means],
            squared_distance(query, features.mean(axis=0), whole),
        )
        for query in queries
    ]


@pytest.fixture(scope="module")
def distances(training, queries, principal):
    return class_distances(principal(training), training.labels, principal(queries))


def test_mahalanobis_is_the_distance_to_the_nearest_class(detectors, queries, distances):
    expected = [-0.5 * min(of_classes) / 600 for of_classes, _ in distances]
    actual = scores_of(detectors, queries)["mahalanobis"]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)  # their ridge is 1e-6


def test_the_relative_distance_is_less_the_distance_to_all(detectors, queries, distances):
    expected = [-(min(of_classes) - to_all) / 600 for of_classes, to_all in distances]
    actual = scores_of(detectors, queries)["relative_mahalanobis"]
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


def test_knn_is_the_distance_to_the_30th_of_600_unit_neighbours(
    detectors, training, queries, principal
):
    bank = [row / math.sqrt(sum(row**2)) for row in principal(training)]
    expected = []
    for query in principal(queries):
        unit = query / math.sqrt(sum(query**2))
        expected.append(-sorted(math.sqrt(sum((unit - other) ** 2)) for other in bank)[29])
    np.testing.assert_allclose(scores_of(detectors, queries)["knn"], expected, rtol=1e-9)


def test_vim_is_the_energy_less_the_scaled_residual(training, queries):
    detectors = fit_detectors(training, ["vim"])
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
    np.testing.assert_allclose(scores_of(detectors, queries)["vim"], expected, rtol=1e-4, atol=1e-4)


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
    actual = scores_of(fit_detectors(training, ["nnguide"]), queries)["nnguide"]
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_nci_is_the_alignment_with_the_predicted_class(training, queries, detectors):
    mean, expected = training.features.mean(axis=0), []
    for query, logits in zip(queries.features, queries.logits, strict=True):
        chosen = training.head.weight[logits.argmax()]
        expected.append(sum((query - mean) * chosen) / math.sqrt(sum((query - mean) ** 2)))
    np.testing.assert_allclose(scores_of(detectors, queries)["nci"], expected, rtol=1e-4)


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
    np.testing.assert_allclose(scores_of(detectors, queries)["fdbd"], expected, rtol=1e-4)


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
    actual = scores_of(detectors, queries)["kl_matching"]
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FITTED)
def test_every_detector_is_surer_of_what_is_like_the_training_set(name, training):
    """Far points: between the classes, off their subspace, and with undecided logits."""
    inliers = scene(200, seed=2)
    random = np.random.default_rng(3)
    centre = training.features.mean(axis=0)
    spread = random.normal(size=(200, WIDTH)) @ (
        np.eye(WIDTH) - np.linalg.pinv(training.head.weight) @ training.head.weight
    )
    far = outputs((centre + 4 * spread).astype(np.float32), inliers.labels, training.head)
    detectors = fit_detectors(training, [name])
    confidences = [scores_of(detectors, some)[name] for some in (inliers, far)]
    assert roc_auc_score([1] * 200 + [0] * 200, np.concatenate(confidences)) > 0.9


@pytest.mark.parametrize("samples", [600, 2000])
def test_distances_are_never_negative_where_features_are_wider_than_samples(samples):
    wide = scene(samples, classes=8, width=1280)
    detectors = fit_detectors(wide, ["mahalanobis"])
    for some in (wide, scene(200, classes=8, width=1280, seed=1)):
        assert (scores_of(detectors, some)["mahalanobis"] < 0).all()


@pytest.mark.parametrize(
    ("samples", "width", "directions"),
    [(30, 64, 3), (600, 1280, 60), (4000, 300, 256), (5, 20, 1), (600, 20, 20)],
)
def test_there_is_at_most_one_direction_for_ten_samples(samples, width, directions):
    detectors = fit_detectors(scene(samples, width=width), ["knn"])
    assert detectors.directions.shape == (directions, width)


def test_directions_are_orthonormal_and_hold_the_largest_variance(training):
    narrow = replace(
        training,
        features=training.features[:100],
        logits=training.logits[:100],
        labels=training.labels[:100],
    )
    directions = fit_detectors(narrow, ["knn"]).directions
    np.testing.assert_allclose(directions @ directions.T, np.eye(10), atol=1e-12)
    covariance = np.cov(narrow.features.astype(np.float64).T)
    explained = np.diag(directions @ covariance @ directions.T)
    np.testing.assert_allclose(explained, np.linalg.eigvalsh(covariance)[::-1][:10], rtol=1e-9)


def test_the_reduced_head_gives_the_logits_of_features_within_the_directions():
    training = scene(90)
    detectors = fit_detectors(training, ["knn"])
    features = training.features.astype(np.float64)
    mean, directions = features.mean(axis=0), detectors.directions
    within = mean + (features - mean) @ directions.T @ directions
    weight, bias = detectors.training.head
    np.testing.assert_allclose(
        detectors.training.features @ weight.T + bias,
        within @ training.head.weight.T + training.head.bias,
        rtol=1e-9,
    )


def test_knn_does_not_change_when_a_feature_vector_is_scaled(detectors, queries):
    scaled = replace(queries, features=(queries.features * np.float32(4.0)))
    np.testing.assert_allclose(
        scores_of(detectors, scaled)["knn"], scores_of(detectors, queries)["knn"], rtol=1e-12
    )


@pytest.mark.parametrize("size", [1, 7])
def test_scores_do_not_depend_on_what_is_scored_beside(detectors, queries, size, monkeypatch):
    expected = scores_of(detectors, queries)
    monkeypatch.setattr(module, "BATCH", size)
    for name, confidences in scores_of(detectors, queries).items():
        np.testing.assert_allclose(confidences, expected[name], rtol=1e-5, atol=5e-5, err_msg=name)


def test_neighbours_are_sought_for_a_bounded_number_of_samples_at_once(
    detectors, training, monkeypatch
):
    sizes = []
    detectors = fit_detectors(training, ["knn"])
    score = detectors._outlierness["knn"]
    monkeypatch.setitem(
        detectors._outlierness, "knn", lambda *some: sizes.append(len(some[0])) or score(*some)
    )
    scores_of(detectors, scene(2500))
    assert sizes == [1024, 1024, 452]


def test_some_of_the_detectors_score_as_they_do_among_all(detectors, queries):
    every = scores_of(detectors, queries)
    some = scores_of(detectors.only(["vim", "knn"]), queries)
    assert list(some) == ["vim", "knn"]
    assert len(detectors.names) > 2
    for name, scores in some.items():
        np.testing.assert_array_equal(scores, every[name])


def test_loaded_detectors_give_the_same_scores_bit_for_bit(detectors, queries, tmp_path):
    detectors.save(tmp_path / "detectors.safetensors")
    loaded = FittedDetectors.load(tmp_path / "detectors.safetensors")
    assert (loaded.names, loaded.seed) == (tuple(FITTED), 0)
    for name, confidences in scores_of(detectors, queries).items():
        assert confidences.dtype == np.float64
        np.testing.assert_array_equal(scores_of(loaded, queries)[name], confidences, name)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _without_directions(path):
    arrays = load_file(path)
    del arrays["directions"]
    save_file(arrays, path, {"names": "[]", "seed": "0"})


def _of_an_unknown_detector(path):
    save_file(load_file(path), path, {"names": '["guess"]', "seed": "0"})


@pytest.mark.parametrize(
    "damage",
    [lambda path: path.unlink(), _cut, _without_directions, _of_an_unknown_detector],
)
def test_a_missing_or_damaged_file_is_refused_in_one_line(training, tmp_path, damage):
    path = tmp_path / "detectors.safetensors"
    fit_detectors(training, ["knn"]).save(path)
    damage(path)
    with pytest.raises(
        DataError, match=r"^.*detectors.safetensors: not readable .*fit them again$"
    ):
        FittedDetectors.load(path)


def test_a_class_that_is_absent_from_training_does_not_matter(training, queries):
    kept = training.labels != 1
    without = outputs(training.features[kept], training.labels[kept], training.head)
    for name, confidences in scores_of(fit_detectors(without), queries).items():
        assert np.isfinite(confidences).all(), name


@pytest.mark.parametrize("samples", [5, 9, 30])
@pytest.mark.parametrize("classes", [2, 8])
def test_tiny_training_sets_and_two_classes_work(samples, classes):
    training = scene(samples, classes=classes, width=64)
    confidences = scores_of(fit_detectors(training), scene(20, classes=classes, width=64, seed=1))
    assert set(confidences) == set(FITTED)
    assert all(len(values) == 20 for values in confidences.values())


def test_features_that_never_change_add_no_direction(training, queries):
    def padded(some):
        constant = np.full((len(some.features), 300), 0.3, dtype=np.float32)
        head = Head(np.pad(training.head.weight, ((0, 0), (0, 300))), training.head.bias)
        return outputs(np.hstack([some.features, constant]), some.labels, head)

    detectors = fit_detectors(padded(training))
    assert len(detectors.directions) == WIDTH
    expected = scores_of(fit_detectors(training, ["mahalanobis"]), queries)["mahalanobis"]
    actual = scores_of(detectors, padded(queries))["mahalanobis"]
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_features_that_are_all_alike_are_refused(training):
    alike = replace(training, features=np.ones_like(training.features))
    with pytest.raises(DataError, match="600 training samples are all alike"):
        fit_detectors(alike)


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda good: {"labels": good.labels[:-1]}, "600 logits, 600 features and 599 labels"),
        (lambda good: {"labels": good.labels + 1}, "labels must be 0 to 3"),
        (lambda good: {"features": good.features * np.float32(np.nan)}, "features hold NaN"),
        (lambda good: {"logits": good.logits[:, :1]}, "two classes or more, got 1"),
        (lambda good: {"head": Head(good.head.weight.T, good.head.bias)}, "whose weight is"),
    ],
)
def test_training_predictions_that_do_not_fit_together_are_refused(training, change, message):
    with pytest.raises(UsageError, match=message):
        replace(training, **change(training))


def test_predictions_of_another_model_are_refused(detectors, queries):
    with pytest.raises(UsageError, match=r"fitted on 4 and 40; use the same model"):
        detectors(queries.logits, queries.features[:, 1:])


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("features", [0, 49])
def test_predictions_that_lack_samples_are_refused(detectors, queries, features):
    logits = queries.logits if features else queries.logits[:0]
    with pytest.raises(UsageError, match=f"and {features} features; give one of each"):
        detectors(logits, queries.features[:features])


def test_predictions_with_nan_or_infinity_are_refused(detectors, queries):
    for lost in (np.nan, np.inf):
        features = np.where(np.arange(50)[:, None] == 3, np.float32(lost), queries.features)
        with pytest.raises(UsageError, match="features of 1 of 50 samples are NaN or infinite"):
            detectors(queries.logits, features)


def test_scores_that_are_not_finite_are_refused_naming_the_detector(training, queries):
    huge = np.where(np.arange(50)[:, None] == 3, np.float32(1e38), queries.features)
    with pytest.raises(DataError, match=r"^vim: 1 of 50 scores are not finite"):
        fit_detectors(training, ["knn", "vim"])(queries.logits, huge)


def test_what_pytorch_ood_refuses_is_told_in_one_line(training, monkeypatch):
    def refuse(_):
        raise AssertionError("not today")

    monkeypatch.setitem(FITTED, "knn", refuse)
    with pytest.raises(DataError, match=r"^knn: cannot be fitted \(not today\); fit without it$"):
        fit_detectors(training, ["knn"])


def test_an_unknown_detector_is_refused_before_anything_is_fitted(training):
    with pytest.raises(
        UsageError, match="unknown fitted detector 'guess'; choose from mahalanobis"
    ):
        fit_detectors(training, ["guess"])


def test_fitting_leaves_torch_and_the_training_outputs_as_they_were(training):
    before = training.features.copy()
    random = torch.get_rng_state()
    fit_detectors(training)
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), random)
    np.testing.assert_array_equal(training.features, before)
