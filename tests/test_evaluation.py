import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from misgiving.calibration.apply import LEARNED
from misgiving.errors import DataError
from misgiving.evaluation.measures import (
    FAILURE_SCORES,
    measure_calibration,
    measure_classification,
    measure_failures,
    measure_loss_estimation,
)
from misgiving.models.joint import JointClassifier
from misgiving.predictions.inference import model_fingerprint, predictions_of
from misgiving.predictions.record import Predictions
from misgiving.reproduction.tables import load_scores, save_scores
from misgiving.scores.detectors import all_scores


@pytest.fixture
def predictions():
    random = np.random.default_rng(0)
    columns = {
        "logits": random.normal(size=(40, 3)).astype(np.float32),
        "predicted_loss": random.normal(size=40).astype(np.float32),
        "label": random.integers(3, size=40),
    }
    return Predictions.of({**columns, "classes": ("a", "b", "c")})


def value(measurements, detector, metric):
    (row,) = [row for row in measurements if (row.detector, row.metric) == (detector, metric)]
    return row.value


@pytest.fixture
def model():
    return JointClassifier("vgg16_mini", num_classes=3, pretrained=False).eval()


def test_predictions_are_what_the_model_says_and_name_it_by_its_weights(
    model, images, tmp_path, monkeypatch
):
    monkeypatch.setattr("misgiving.predictions.inference.MODEL_BATCH", 5)
    predictions = predictions_of(model, images)
    pixels = images.read(np.arange(len(images))).transpose(0, 3, 1, 2) / np.float32(255)
    output = model(torch.from_numpy(pixels))
    np.testing.assert_allclose(predictions.logits, output.logits.detach(), atol=1e-5)
    np.testing.assert_allclose(
        predictions.predicted_losses, output.predicted_losses.detach(), atol=1e-5
    )
    taps = model.full_output(torch.from_numpy(pixels))[-1].detach()
    np.testing.assert_allclose(predictions.taps, taps, atol=1e-5)
    assert predictions.ids == images.ids
    np.testing.assert_array_equal(predictions.labels, images.labels)
    by_last_layer = predictions.features @ predictions.head.weight.T + predictions.head.bias
    np.testing.assert_allclose(predictions.logits, by_last_layer, atol=1e-4)
    predictions.write(tmp_path / "p.npz")
    again = Predictions.read(tmp_path / "p.npz")
    assert again.model == model_fingerprint(model) != ""
    np.testing.assert_array_equal(again.head.weight, predictions.head.weight)
    with torch.no_grad():
        next(model.loss_estimator.parameters()).view(-1)[0] += 1e-3
    assert model_fingerprint(model) != again.model


def test_damaged_scores_are_refused_by_name(tmp_path):
    save_scores(tmp_path, "scans", {"msp": np.arange(40.0)}, tuple(map(str, range(40))))
    path = tmp_path / "scores" / "scans.safetensors"
    for content in (path.read_bytes()[:60], b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"scans\.safetensors: .* delete the folder of this"):
            load_scores(tmp_path, "scans")


def test_true_losses_are_weighted_negative_log_probabilities(predictions):
    weights = (0.5, 1.0, 3.0)
    for row in range(3):
        logits = predictions.logits[row].astype(float)
        label = predictions.labels[row]
        loss = math.log(sum(math.exp(logit) for logit in logits)) - logits[label]
        assert predictions.true_losses()[row] == pytest.approx(loss, rel=1e-12)
        assert predictions.true_losses(weights)[row] == pytest.approx(weights[label] * loss)


def test_errors_and_accuracy_count_the_same_and_what_is_undefined_is_left_out(predictions):
    measurements = measure_classification(predictions, "test")
    wrong = sum(
        int(np.argmax(row) != label)
        for row, label in zip(predictions.logits, predictions.labels, strict=True)
    )
    assert value(measurements, "", "errors") == wrong
    assert value(measurements, "", "accuracy") == pytest.approx(1 - wrong / 40)
    without_c = predictions.select(np.flatnonzero(predictions.labels != 2))
    metrics = {m.metric for m in measure_classification(without_c, "test")}
    assert "sensitivity/a" in metrics
    assert "sensitivity/c" not in metrics


def test_loss_estimation_is_measured_against_the_trained_and_the_plain_loss(predictions):
    weights = (0.1, 1.0, 9.0)
    measurements = measure_loss_estimation(predictions, "test", class_weights=weights)
    for metric, factors in (("spearman", weights), ("spearman_plain", None)):
        true = predictions.true_losses(factors)
        expected = spearmanr(predictions.predicted_losses, true).statistic
        assert value(measurements, "predicted_loss", metric) == pytest.approx(expected)
    measurements = measure_loss_estimation(predictions, "test")
    msp = predictions.probabilities.max(axis=1)
    expected = spearmanr(-msp, predictions.true_losses()).statistic
    assert value(measurements, "msp", "spearman") == pytest.approx(expected)


def test_every_failure_score_is_measured_by_every_failure_measure(predictions):
    confidences = {**all_scores(predictions), "calibrated": -1.0 * predictions.errors}
    confidences = dict.fromkeys(LEARNED, confidences["msp"]) | confidences
    rows = measure_failures(predictions, confidences, "test")
    assert {row.detector for row in rows} == set(FAILURE_SCORES)
    assert value(rows, "calibrated", "error_auroc") == 1.0
    assert value(rows, "calibrated", "excess_aurc") == pytest.approx(0.0)
    for name in FAILURE_SCORES:
        order = np.argsort(-confidences[name], kind="stable")
        accepted = order[: math.ceil(0.5 * len(order))]
        expected = predictions.errors[accepted].mean()
        if len(set(confidences[name])) == len(order):
            assert value(rows, name, "risk_at_coverage/0.5") == pytest.approx(expected)


def test_calibration_is_measured_on_the_probabilities_and_that_of_the_predicted_class(predictions):
    right = replace(predictions, labels=predictions.choices)
    rows = measure_calibration(np.eye(3)[right.labels], right, dataset="test", detector="oracle")
    names = ("ece", "ece_width", "classwise_ece", "brier", "nll")
    assert {row.metric: row.value for row in rows} == dict.fromkeys(names, 0.0)

    doubtful = np.full((40, 3), 0.05)
    doubtful[np.arange(40), predictions.choices] = 0.4
    doubtful[np.arange(40), (predictions.choices + 1) % 3] = 0.55
    rows = measure_calibration(doubtful, predictions, dataset="test", detector="doubtful")
    expected = abs(0.4 - (1 - predictions.errors.mean()))
    assert value(rows, "doubtful", "ece") == pytest.approx(expected)
