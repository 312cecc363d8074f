"""The oracle of each portable score is the one in torch, which has tests of its own."""

import numpy as np
import pytest
import torch

from misgiving.errors import DataError
from misgiving.results.predictions import Head
from misgiving.scores import (
    FITTED,
    LOGIT_SCORES,
    PORTABLE,
    PortableDetectors,
    TrainingOutputs,
    fit_detectors,
)
from misgiving.scores.features import PORTABLE_LOGIT_SCORES


def scene(samples, *, seed, classes=4, width=30):
    """Gaussian classes far from the origin of their features, and a head that tells them apart."""
    means = np.random.default_rng(7).normal(size=(classes, width)) * 2
    random = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    features = 3 + means[labels] + random.normal(size=(samples, width)) * np.linspace(2, 0.3, width)
    head = Head(means / 4, -means @ (3 + means.mean(axis=0)) / 4)
    return TrainingOutputs(
        logits=(features @ head.weight.T + head.bias).astype(np.float32),
        features=features.astype(np.float32),
        labels=labels,
        head=head,
    )


@pytest.fixture(scope="module")
def fitted():
    return fit_detectors(scene(500, seed=0))


@pytest.fixture(scope="module")
def portable(fitted):
    return PortableDetectors.fit(fitted.directions, fitted.training, list(PORTABLE))


@pytest.fixture
def queries():
    return scene(60, seed=1)


def test_every_detector_but_one_is_portable():
    assert set(FITTED) - set(PORTABLE) == {"vim"}
    assert set(LOGIT_SCORES) == set(PORTABLE_LOGIT_SCORES)


@pytest.mark.parametrize("name", LOGIT_SCORES)
def test_a_score_of_logits_is_that_of_torch(name):
    logits = np.random.default_rng(0).normal(size=(50, 5)) * np.geomspace(0.01, 300, 50)[:, None]
    logits[0] = 2.0  # all alike
    np.testing.assert_allclose(
        PORTABLE_LOGIT_SCORES[name](logits),
        LOGIT_SCORES[name](torch.from_numpy(logits)).numpy(),
        rtol=1e-10,
        atol=1e-14,
    )


@pytest.mark.parametrize("name", PORTABLE)
def test_a_fitted_score_is_that_of_torch(name, fitted, portable, queries):
    ours = portable(queries.logits, queries.features)[name]
    theirs = fitted(queries.logits, queries.features)[name]
    assert np.ptp(theirs) > 0
    # nnguide, nci and fdbd are float32 in pytorch-ood.
    tolerance = 1e-5 if name in ("nnguide", "nci", "fdbd") else 1e-10
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=1e-12)


@pytest.mark.parametrize("name", PORTABLE)
def test_a_class_that_is_absent_from_training_does_not_matter(name, queries):
    training = scene(300, seed=3)
    kept = training.labels != 2
    some = TrainingOutputs(
        logits=training.logits[kept],
        features=training.features[kept],
        labels=training.labels[kept],
        head=training.head,
    )
    fitted = fit_detectors(some, [name])
    portable = PortableDetectors.fit(fitted.directions, fitted.training, [name])
    np.testing.assert_allclose(
        portable(queries.logits, queries.features)[name],
        fitted(queries.logits, queries.features)[name],
        rtol=1e-5,
    )


def test_a_training_image_itself_has_the_distance_that_torch_finds(fitted, portable):
    """Its nearest neighbour is itself: only the k-th distance tells anything."""
    training = scene(500, seed=0)
    np.testing.assert_allclose(
        portable(training.logits, training.features)["knn"],
        fitted(training.logits, training.features)["knn"],
        rtol=1e-9,
    )


def test_kept_detectors_score_the_same_bit_for_bit(portable, queries, tmp_path):
    portable.save(tmp_path / "detectors.safetensors")
    again = PortableDetectors.load(tmp_path / "detectors.safetensors")
    before = portable(queries.logits, queries.features)
    after = again(queries.logits, queries.features)
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)


def test_no_training_label_or_logit_is_kept_for_neighbours(fitted):
    only = PortableDetectors.fit(fitted.directions, fitted.training, ["knn"])
    assert set(only.statistics["knn"]) == {"neighbours", "k"}


def test_a_damaged_file_is_refused_in_one_line(portable, tmp_path):
    path = tmp_path / "detectors.safetensors"
    portable.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"detectors\.safetensors: not readable detectors"):
        PortableDetectors.load(path)


def test_a_score_that_is_not_defined_is_nan_and_no_failure(portable, queries):
    """At the mean of the training features their direction from it is not defined."""
    features = queries.features.copy()
    mean = portable.statistics["nci"]["mean"] @ portable.directions
    features = np.vstack([features, mean]).astype(np.float64)
    logits = np.vstack([queries.logits, queries.logits[:1]])
    scores = portable(logits, features)["nci"]
    assert np.isfinite(scores[:-1]).all()
    assert not np.isfinite(scores[-1]) or abs(scores[-1]) < 10
