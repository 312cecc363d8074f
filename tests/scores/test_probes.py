"""Class probes against scikit-learn, and what they read."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from misgiving.deferral.policy_file import load_detectors, save_detectors
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors
from misgiving.scores.probes import ClassProbes

WIDTHS = (4, 70)
STRENGTH, BIAS_SCALE = 0.05, 3.0


def predictions(count, seed, *, taps=True):
    """Three classes that the first tap tells apart in part, and the second one a little."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    first = random.normal(size=(count, WIDTHS[0])) + 1.5 * np.eye(3, WIDTHS[0])[labels]
    second = 5 + random.normal(size=(count, WIDTHS[1])) * 3 + np.eye(3, WIDTHS[1])[labels]
    columns = {
        "logits": random.normal(size=(count, 3)).astype(np.float32),
        "features": random.normal(size=(count, 8)).astype(np.float32),
    }
    if taps:
        columns |= {"taps": np.hstack([first, second]).astype(np.float32), "tap_widths": WIDTHS}
    return Predictions.of({**columns, "label": labels})


def by_scikit_learn(inputs, labels, fresh):
    """Log-probabilities of its penalised regression; the bias is the weight of one more column."""
    scaler = StandardScaler().fit(inputs)
    pca = PCA(min(60, inputs.shape[1], len(inputs) // 10)).fit(scaler.transform(inputs))
    one = BIAS_SCALE / np.sqrt(STRENGTH)

    def extended(values):
        reduced = pca.transform(scaler.transform(values))
        return np.hstack([reduced, np.full((len(reduced), 1), one)])

    model = LogisticRegression(C=STRENGTH, fit_intercept=False, tol=1e-8, max_iter=5000)
    return model.fit(extended(inputs), labels).predict_log_proba(extended(fresh))


@pytest.fixture(scope="module")
def training():
    return predictions(800, 0)


@pytest.fixture(scope="module")
def fresh():
    return predictions(40, 1)


def test_each_probe_is_the_regression_of_its_tap_and_the_last_of_all(training, fresh):
    found = ClassProbes.fit(training)(fresh.features, fresh.taps)
    assert found.dtype == np.float64
    assert found.shape == (40, 3, 3)
    for position, columns in enumerate([slice(0, 4), slice(4, 74), slice(0, 74)]):
        wide = training.taps.astype(np.float64)[:, columns]
        expected = by_scikit_learn(wide, training.labels, fresh.taps[:, columns])
        np.testing.assert_allclose(found[:, position], expected, atol=2e-3)


def test_without_taps_there_is_one_probe_of_the_features(fresh):
    made = predictions(300, 2, taps=False)
    found = ClassProbes.fit(made)(fresh.features, None)
    expected = by_scikit_learn(made.features.astype(np.float64), made.labels, fresh.features)
    np.testing.assert_allclose(found[:, 0], expected, atol=2e-3)
    assert ClassProbes.fit(replace(made, features=made.features[:, :0])) is None


def test_a_tap_that_is_always_the_same_has_no_probe(training, fresh):
    dead = training.taps.copy()
    dead[:, :4] = 1.0
    found = ClassProbes.fit(replace(training, taps=dead))
    assert list(found.probes) == ["tap_1", "together"]
    assert np.isfinite(found(fresh.features, fresh.taps)).all()


def test_a_class_without_training_images_is_improbable_but_possible(training, fresh):
    rare = training.select(np.flatnonzero(training.labels != 2))
    found = np.exp(ClassProbes.fit(rare)(fresh.features, fresh.taps))[..., 2]
    assert (found > 0).all()
    assert found.mean() < 0.05


def test_evidence_survives_saving_and_selection_bit_for_bit(training, fresh, tmp_path):
    detectors = FittedDetectors.fit(training, ["knn"])
    expected = detectors.evidence(fresh)
    save_detectors(detectors.only([]), tmp_path / "kept.safetensors")
    again = load_detectors(tmp_path / "kept.safetensors")
    assert again.names == ()
    np.testing.assert_array_equal(again.evidence(fresh), expected)
    save_detectors(detectors.only(["knn"], probes=False), tmp_path / "without.safetensors")
    assert load_detectors(tmp_path / "without.safetensors").evidence(fresh) is None
