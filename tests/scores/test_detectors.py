"""Fitting, saving and applying detectors; what each score is has its own tests."""

from dataclasses import replace

import numpy as np
import pytest
from scenes import WIDTH, predictions, scene

from misgiving.deferral.policy_file import load_detectors, save_detectors
from misgiving.errors import DataError, UsageError
from misgiving.scores import detectors as module
from misgiving.scores.detectors import FittedDetectors, all_scores
from misgiving.scores.features import FEATURE_SCORES
from misgiving.scores.logits import LOGIT_SCORES
from misgiving.scores.outputs import Head


@pytest.mark.parametrize(
    ("samples", "width", "directions"),
    [(30, 64, 3), (600, 1280, 60), (4000, 300, 256), (5, 20, 1), (600, 20, 20)],
)
def test_there_is_at_most_one_direction_for_ten_samples(samples, width, directions):
    detectors = FittedDetectors.fit(scene(samples, width=width), ["knn"])
    assert detectors.directions.shape == (directions, width)


@pytest.mark.parametrize("samples", [100, 30])  # more and fewer samples than features
def test_directions_are_orthonormal_and_have_the_largest_variance(training, samples):
    narrow = training.select(np.arange(samples))
    count = samples // 10
    directions = FittedDetectors.fit(narrow, ["knn"]).directions
    np.testing.assert_allclose(directions @ directions.T, np.eye(count), atol=1e-12)
    covariance = np.cov(narrow.features.astype(np.float64).T)
    explained = np.diag(directions @ covariance @ directions.T)
    np.testing.assert_allclose(explained, np.linalg.eigvalsh(covariance)[::-1][:count], rtol=1e-9)


def test_the_reduced_head_gives_the_logits_of_features_within_the_directions():
    training = scene(90)
    detectors = FittedDetectors.fit(training, ["vim"])
    features, directions = training.features.astype(np.float64), detectors.directions
    mean = features.mean(axis=0)
    within = mean + (features - mean) @ directions.T @ directions
    kept = detectors.statistics["vim"]
    np.testing.assert_allclose(
        features @ directions.T @ kept["weight"].T + kept["bias"],
        within @ training.head.weight.T + training.head.bias,
        rtol=1e-9,
    )


@pytest.mark.parametrize("cells", [1, 7 * 600])
def test_scores_do_not_depend_on_the_other_samples(detectors, queries, cells, monkeypatch):
    expected = detectors(queries)
    monkeypatch.setattr(module, "CELLS", cells)
    for name, confidences in detectors(queries).items():
        np.testing.assert_allclose(confidences, expected[name], rtol=1e-9, err_msg=name)


def test_loaded_detectors_and_some_of_them_give_the_same_scores_bit_for_bit(
    training, queries, tmp_path
):
    before, path = training.features.copy(), tmp_path / "detectors.safetensors"
    detectors = FittedDetectors.fit(training)
    np.testing.assert_array_equal(training.features, before)
    save_detectors(detectors, path)
    loaded, expected = load_detectors(path), detectors(queries)
    assert loaded.names == tuple(FEATURE_SCORES)
    for made in (loaded, loaded.only(["vim", "knn"])):
        scores = made(queries)
        for name, confidences in scores.items():
            assert confidences.dtype == np.float64
            np.testing.assert_array_equal(confidences, expected[name], name)
    assert list(scores) == ["vim", "knn"]


def test_a_class_that_is_absent_from_training_does_not_matter(training, queries):
    kept = training.labels != 1
    without = predictions(training.features[kept], training.labels[kept], training.head)
    for name, confidences in FittedDetectors.fit(without)(queries).items():
        assert np.isfinite(confidences).all(), name


@pytest.mark.parametrize("samples", [5, 9, 30])
@pytest.mark.parametrize("classes", [2, 8])
def test_tiny_training_sets_and_two_classes_work(samples, classes):
    detectors = FittedDetectors.fit(scene(samples, classes=classes, width=64))
    confidences = detectors(scene(20, classes=classes, width=64, seed=1))
    assert set(confidences) == set(FEATURE_SCORES)
    assert all(len(values) == 20 for values in confidences.values())


def test_features_that_never_change_add_no_direction(training, queries):
    def padded(some):
        constant = np.full((len(some.features), 300), 0.3, dtype=np.float32)
        head = Head(np.pad(training.head.weight, ((0, 0), (0, 300))), training.head.bias)
        return predictions(np.hstack([some.features, constant]), some.labels, head)

    detectors = FittedDetectors.fit(padded(training))
    assert len(detectors.directions) == WIDTH
    expected = FittedDetectors.fit(training, ["mahalanobis"])(queries)["mahalanobis"]
    actual = detectors(padded(queries))["mahalanobis"]
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


def test_a_model_without_a_linear_head_has_the_scores_that_need_none(training):
    assert FittedDetectors.fit(replace(training, head=None)).names == (
        "mahalanobis",
        "knn",
        "knn_taps",
        "knn_layers",
        "mahalanobis++",
    )


def test_all_scores_are_those_of_logits_losses_and_detectors(detectors, queries):
    assert set(all_scores(queries)) == set(LOGIT_SCORES)
    losses = np.arange(50, dtype=np.float32)
    found = all_scores(replace(queries, predicted_losses=losses), detectors)
    assert set(found) == {*LOGIT_SCORES, "predicted_loss", *FEATURE_SCORES}
    np.testing.assert_array_equal(found["predicted_loss"], -losses)


def with_third(values, value):
    return np.where(np.arange(len(values))[:, None] == 3, value, values)


@pytest.mark.parametrize("name", ["features", "taps"])
def test_training_predictions_with_nan_or_all_alike_are_refused(training, name):
    broken = with_third(getattr(training, name), np.float32(np.nan))
    with pytest.raises(UsageError, match=name):
        FittedDetectors.fit(replace(training, **{name: broken}))
    with pytest.raises(DataError):
        FittedDetectors.fit(replace(training, features=np.ones_like(training.features)))


@pytest.mark.parametrize("lost", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["logits", "features", "taps"])
def test_predictions_and_scores_that_are_not_finite_are_refused(detectors, queries, name, lost):
    broken = with_third(getattr(queries, name), np.float32(lost))
    with pytest.raises(DataError, match="1 of 50"):
        all_scores(replace(queries, **{name: broken}), detectors)
    huge = replace(queries, features=with_third(queries.features.astype(np.float64), 1e300))
    with pytest.raises(DataError), np.errstate(over="ignore"):
        all_scores(huge, detectors.only(["mahalanobis"]))
    with pytest.raises(UsageError):  # of another model
        detectors(replace(queries, features=queries.features[:, 1:]))
