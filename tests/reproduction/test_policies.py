from collections import defaultdict
from unittest.mock import Mock

import numpy as np
import pytest
from scipy import stats

import misgiving.reproduction.generalization as generalization
from misgiving.calibration.fit import fit_calibrator
from misgiving.errors import DataError
from misgiving.predictions.record import Predictions
from misgiving.reproduction.generalization import CERTIFIED_SCORES, PolicySets, certified_rows
from misgiving.reproduction.ood_detection import ood_limit, ood_share
from misgiving.reproduction.trial_data import TrainedUnit
from misgiving.scores.detectors import FittedDetectors, all_scores


def predictions(name, count, seed, *, alone=10_000):
    """Images of three classes; groups have one image, or three from the image `alone` on."""
    random, rows = np.random.default_rng(seed), range(count)
    labels = random.integers(3, size=count)
    one_hot = np.eye(3)[labels]
    hard = random.random((count, 1)) < 0.4
    logits = 4 * one_hot * ~hard + random.normal(0, 1.2, (count, 3))
    features = np.hstack([one_hot, logits]) + random.normal(0, 1.5, (count, 6))
    taps = np.hstack([one_hot, one_hot, one_hot, np.ones((count, 1))])
    columns = {
        "logits": logits.astype(np.float32),
        "features": features.astype(np.float32),
        "taps": (taps + random.normal(0, 1.5, (count, 10))).astype(np.float32),
        "group": [f"{name}-{max(row - alone, 0) // 3 + min(row, alone)}" for row in rows],
    }
    return Predictions.of({**columns, "tap_widths": (4, 6), "label": labels}, name=name)


@pytest.fixture(scope="module")
def sets():
    return PolicySets(
        FittedDetectors.fit(predictions("train", 900, 0)),
        predictions("tune", 400, 1),
        predictions("calibrate", 1500, 2),
        predictions("test", 600, 3, alone=300),
    )


def test_a_certified_policy_accepts_the_highest_of_its_score_and_counts_their_errors(sets):
    fitted = fit_calibrator(sets.tune, sets.detectors)
    values = defaultdict(dict)
    for dataset, detector, metric, value in certified_rows(sets, fitted, seed=0):
        assert dataset == "policy_test"
        values[detector][metric] = value
    names = [f"certified/{score}/{target}" for score in CERTIFIED_SCORES for target in (0.05, 0.1)]
    assert list(values) == names
    plain = all_scores(sets.test, sets.detectors)
    scores = fitted.calibrator.with_learned(
        plain, sets.test.logits, sets.detectors.evidence(sets.test)
    )
    wrong = sets.test.logits.argmax(axis=1) != sets.test.labels
    for name, found in values.items():
        ordered = np.argsort(-scores[name.split("/")[1]], kind="stable")
        accepted = {int(row) for row in ordered[: round(found["coverage"] * 600)]}
        assert 0 < len(accepted) < 600
        error = sum(wrong[row] for row in accepted) / len(accepted)
        assert found["error_among_accepted"] == pytest.approx(error)
        weights = {row: 1.0 if row < 300 else 1 / 3 for row in accepted}
        error = sum(wrong[row] * weight for row, weight in weights.items()) / sum(weights.values())
        assert found["error_per_group"] == pytest.approx(error)
    coverages = np.array([found["coverage"] for found in values.values()]).reshape(-1, 2)
    assert (coverages[:, 0] < coverages[:, 1]).all()  # the stricter target
    assert len(set(coverages[:, 1])) == 3  # each accepts by its own score


def test_the_limit_of_the_ood_rule_is_the_highest_that_is_certified(sets):
    calibration = predictions("cases", 500, 5)
    limit = ood_limit(calibration, sets.detectors, seed=0)
    familiar = np.sort(all_scores(calibration, sets.detectors)["knn_layers"])
    # of 500 cases the share below the k-th is Beta(k, 501 - k)
    ranks = [k for k in range(1, 501) if stats.beta(k, 501 - k).cdf(0.05) >= 0.95]
    assert limit == familiar[max(ranks) - 1]
    scores = {"knn_layers": np.array([limit - 1, limit, limit + 1, limit - 2])}
    found = ood_share("walls", scores, detector="knn_layers", limit=limit)
    assert found == ("walls", "ood_rule", "ood_share", 0.5)


def test_without_enough_cases_no_image_is_called_ood(sets):
    few = predictions("cases", 58, 5)  # 59 are the least: 0.95 ** 59 < 0.05
    assert ood_limit(few, sets.detectors, seed=0) == -np.inf
    assert ood_limit(predictions("cases", 59, 5), sets.detectors, seed=0) > -np.inf


def test_a_damaged_image_is_not_taken_for_a_collapsed_network(monkeypatch):
    damaged = Mock(side_effect=[DataError("a prepared image was damaged")])
    monkeypatch.setattr(generalization, "predictions_of", damaged)
    with pytest.raises(DataError, match="damaged"):
        generalization.policy_sets(Mock(TrainedUnit, setup=Mock(), checkpoint=Mock()))
