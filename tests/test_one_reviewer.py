from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from misgiving.calibration.error_or_ood import ACCEPTANCE, ERROR_OR_OOD
from misgiving.calibration.fit import TuningSet, fit_calibrator
from misgiving.evaluation.one_reviewer import fit_one_reviewer, measure_one_reviewer
from misgiving.results.predictions import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores

CLASSES = 3


def predictions(count, seed, *, shift=0.0):
    """A weak classifier of three classes; the shift moves features away from all of them."""
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=count)
    features = 1.5 * np.eye(CLASSES + 2)[labels] + random.normal(size=(count, CLASSES + 2))
    features[:, -1] += shift
    names = tuple(f"{seed}-{number}" for number in range(count))
    return Predictions(
        logits=2 * features[:, :CLASSES],
        features=features,
        predicted_losses=None,
        labels=labels,
        ids=names,
        groups=names,
        classes=("a", "b", "c"),
        taps=features[:, CLASSES:].copy(),  # of no class
    )


def fitted_on(tune, detectors, weights=None):
    tuning = TuningSet(all_scores(tune, detectors), tune.logits, tune.labels, np.array(tune.groups))
    return fit_calibrator(tuning, weigh=lambda _: weights)


@pytest.fixture(scope="module")
def detectors():
    return FittedDetectors.fit(predictions(400, 0))


@pytest.fixture(scope="module")
def tune():
    return predictions(300, 1)


def values_of(rows):
    found = {(row.dataset, row.detector, row.metric): row.value for row in rows}
    assert len(found) == len(rows)
    return found


def test_ood_images_and_errors_of_the_class_that_the_calibrator_names_are_failures(detectors, tune):
    weights = np.array([1.0, 1.0, 20.0])  # names other classes than the logits
    reviewer = fit_one_reviewer(tune, fitted_on(tune, detectors, weights), detectors)
    test, outliers = predictions(200, 2), predictions(50, 3, shift=6.0)
    rows = measure_one_reviewer(reviewer, test, {"far": outliers}, "test", ood_share=0.3)
    right = reviewer.calibrator.named(test.logits) == test.labels
    assert (right != ~test.errors).any()
    scores, others = reviewer.scores(test), reviewer.scores(outliers)
    found = values_of(rows)
    for name in ("msp", "knn_taps", ACCEPTANCE, ERROR_OR_OOD):
        expected = roc_auc_score(
            [*right, *[False] * 50],
            [*scores[name], *others[name]],
            sample_weight=[0.7 / 200] * 200 + [0.3 / 50] * 50,
        )
        assert found["far", name, "mixed_auroc"] == pytest.approx(expected)
    expected = roc_auc_score(right, scores[ERROR_OR_OOD])
    assert found["test", ERROR_OR_OOD, "error_auroc"] == pytest.approx(expected)
    assert ("test", "msp", "aurc") not in found  # of `measure_failures`, on other images


def test_the_combined_score_tells_both_kinds_of_failure(detectors, tune):
    reviewer = fit_one_reviewer(tune, fitted_on(tune, detectors), detectors)
    assert reviewer.combined.secondary == "knn_taps"
    far = {"far": predictions(200, 3, shift=6.0)}
    found = values_of(measure_one_reviewer(reviewer, predictions(200, 2), far, "test"))
    separate = [found["far", name, "mixed_aurc"] for name in (ACCEPTANCE, "knn_taps")]
    assert found["far", ERROR_OR_OOD, "mixed_aurc"] < min(separate) - 0.01


def test_ood_images_for_tuning_decide_where_there_are_some(detectors, tune):
    near, fitted = predictions(200, 4), fitted_on(tune, detectors)
    chosen = fit_one_reviewer(tune, fitted, detectors, outliers=near, ood_share=0.01)
    alone = fit_one_reviewer(tune, fitted, detectors)
    assert alone.combined.secondary == "knn_taps"
    assert chosen.combined != alone.combined  # such outliers look like inliers: nothing is gained


def test_logits_alone_have_a_combined_score(tune):
    bare = replace(tune, features=np.zeros((300, 0)), taps=None)
    reviewer = fit_one_reviewer(bare, fitted_on(bare, FittedDetectors.none()), None)
    assert reviewer.combined.secondary == "energy"
    assert np.isfinite(reviewer.scores(bare)[ERROR_OR_OOD]).all()
