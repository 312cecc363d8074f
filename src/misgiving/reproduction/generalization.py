"""Section 4.1 of the paper: classification, loss estimation and deferral of one trained model."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from misgiving.calibration.apply import (
    CALIBRATED,
    ERROR_ESTIMATOR,
    Calibrator,
    Line,
    error_probabilities,
)
from misgiving.calibration.fit import Fitted, fit_calibrator
from misgiving.deferral.decisions import Decisions
from misgiving.deferral.deferral import Deferral
from misgiving.errors import DataError
from misgiving.evaluation.measures import (
    FAILURE_SCORES,
    POLICY_SET,
    Measurement,
    measure_calibration,
    measure_classification,
    measure_failures,
    measure_loss_estimation,
    measurements_of,
    with_score,
)
from misgiving.groups import partition_groups
from misgiving.metrics.calibration import reliability
from misgiving.metrics.selective import accepted_errors
from misgiving.predictions.inference import predictions_of
from misgiving.predictions.record import Predictions
from misgiving.registry import own_function
from misgiving.reproduction.config import FAILURES, MAX_OOD_FALSE_ALARMS
from misgiving.reproduction.tables import Scores, group_names, save_scores, table_of, write_table
from misgiving.reproduction.trial_data import TrainedUnit
from misgiving.scores.detectors import FittedDetectors, all_scores

TARGETS = (0.05, 0.1, 0.2)
CERTIFIED_SCORES = ("msp", CALIBRATED, ERROR_ESTIMATOR)
CERTIFIED_TARGETS = (0.05, 0.1)
FIGURE_BINS = 10


class PolicySets(NamedTuple):
    """Detectors fitted on the training set, and predictions for the sets that a policy needs.

    No two of these sets share a group. They are those of the grouped split. The paper's split has
    no sets for tuning and calibration: there they are thirds of the held-out images, drawn by
    group, and the model may have been trained on other images of these groups.
    """

    detectors: FittedDetectors
    tune: Predictions
    calibration: Predictions
    test: Predictions


def policy_sets(trained: TrainedUnit) -> PolicySets:
    """Fit the detectors, and predict the sets that are not predicted yet."""
    setup, checkpoint, measured = trained.setup, trained.checkpoint, trained.predictions
    training = predictions_of(checkpoint, setup.images_of("train"))
    try:
        detectors = FittedDetectors.fit(training)
    except DataError:  # the network has collapsed to one output
        detectors = FittedDetectors()
    if setup.evaluation_sets.tuning != trained.measured:
        tune, calibration = (
            predictions_of(checkpoint, setup.images_of(name)) for name in ("tune", "calibrate")
        )
        return PolicySets(detectors, tune, calibration, measured)
    thirds = partition_groups(measured.units, 3, seed=setup.training.seed)
    return PolicySets(detectors, *(measured.select(rows) for rows in thirds))


def measure_generalization(trained: TrainedUnit) -> dict[str, list[Measurement]]:
    """Measure classification, loss estimation, failure scores and policies of one model.

    Learned scores are among the failure scores where they were fitted on other images than are
    measured. Where no error estimator can be fitted, it is `calibrated`, to which a policy falls
    back, so that all trials have one.
    """
    for name in trained.trial_data.protocol.scores:
        scored = with_score(trained.predictions, name, own_function(name))
        trained = trained._replace(predictions=scored)
    setup, predictions = trained.setup, trained.predictions
    sets = policy_sets(trained)
    of_policies, calibrator = measure_policies(sets, trained.folder, seed=setup.training.seed)
    confidences = all_scores(predictions, sets.detectors)
    if calibrator is not None and setup.evaluation_sets.tuning != trained.measured:
        evidence = sets.detectors.evidence(predictions)
        confidences = dict(calibrator.with_learned(confidences, predictions.logits, evidence))
        confidences.setdefault(ERROR_ESTIMATOR, confidences[CALIBRATED])
    failure_scores = {name: confidences[name] for name in FAILURE_SCORES if name in confidences}
    failure_scores |= predictions.scores
    save_scores(trained.folder, FAILURES, failure_scores, group_names(predictions))
    return {"generalization": [*_measured(trained, failure_scores), *of_policies]}


def measure_other_rate(trained: TrainedUnit) -> dict[str, list[Measurement]]:
    """Measure a model at another learning rate, and remove its weights, which fill disks."""
    (trained.folder / "run" / "model.safetensors").unlink()
    rows = _measured(trained, all_scores(trained.predictions))
    return {trained.unit.experiment: [*rows, Measurement(trained.measured, "", "diverged", 0.0)]}


def _measured(trained: TrainedUnit, confidences: Scores) -> list[Measurement]:
    predictions, measured = trained.predictions, trained.measured
    class_weights = trained.checkpoint.class_weights
    return [
        *measure_classification(predictions, measured),
        *measure_loss_estimation(predictions, measured, class_weights=class_weights),
        *measure_failures(predictions, confidences, measured),
    ]


def measure_policies(
    sets: PolicySets, folder: Path, *, seed: int
) -> tuple[list[Measurement], Calibrator | None]:
    """Calibrate a policy for each target error rate, and measure it on the test set.

    Writes into `folder` a reliability table, and the decisions as numbers, so that intervals need
    no model; nothing where the sets are too small.
    """
    parameters = {"seed": seed, "max_ood_false_alarms": MAX_OOD_FALSE_ALARMS}
    try:
        fitted = fit_calibrator(sets.tune, sets.detectors)
        policies = {
            target: _certified(sets, fitted, max_error=target, **parameters) for target in TARGETS
        }
    except DataError:
        return [], None
    columns = {"wrong": sets.test.errors.astype(np.float64)}
    rows: list[Measurement] = []
    for target, policy in policies.items():
        decisions, certificate = policy.decide(sets.test), policy.certificate_
        masks = {name: decisions.decisions == name for name in ("accept", "defer", "ood")}
        columns |= {f"{target:g}/{name}": mask.astype(np.float64) for name, mask in masks.items()}
        values = {
            "attained": float(certificate.accepted > 0),
            "coverage": float(masks["accept"].mean()),
            "ood_share": float(masks["ood"].mean()),
            "calibration_cases": float(certificate.cases),
            "calibration_coverage": certificate.accepted / certificate.cases,
        }
        if certificate.smallest_certifiable is not None:
            values["smallest_certifiable_error"] = certificate.smallest_certifiable.max_error
        errors = accepted_errors(masks["accept"], sets.test.errors, sets.test.units)
        rows += measurements_of(POLICY_SET, f"policy/{target:g}", {**values, **errors})
    save_scores(folder, POLICY_SET, columns, group_names(sets.test))
    return [
        # probabilities and expected losses are the same for every target
        *measure_calibration(decisions.probabilities, sets.test, POLICY_SET, "policy"),
        *_reliability(folder, sets.test, decisions),
        Measurement(POLICY_SET, fitted.calibrator.acceptance_score, "acceptance_score", 1.0),
        *rows,
        *certified_rows(sets, fitted, seed=seed),
    ], fitted.calibrator


def certified_rows(sets: PolicySets, fitted: Fitted, *, seed: int) -> list[Measurement]:
    """Measure on the test set the images that each score accepts, certified without an OOD rule.

    The tuning and the calibration set are the same for all scores.
    """
    rows = []
    scores = [score for score in CERTIFIED_SCORES if score in fitted.candidates]
    for score, target in product(scores, CERTIFIED_TARGETS):
        other = replace(fitted.calibrator, score=score, rivals=None, line=Line())
        right = (fitted.predicted == sets.tune.labels).astype(float)
        accepting = fitted._replace(calibrator=other).with_line(right)
        policy = _certified(sets, accepting, max_error=target, max_ood_false_alarms=None, seed=seed)
        accepted = policy.decide(sets.test).decisions == "accept"
        errors = accepted_errors(accepted, sets.test.errors, sets.test.units)
        values = {"coverage": float(accepted.mean()), **errors}
        rows += measurements_of(POLICY_SET, f"certified/{score}/{target:g}", values)
    return rows


def _certified(sets: PolicySets, fitted: Fitted, **parameters: Any) -> Deferral:
    """A policy that predicts classes by their logits, with a calibration that is fitted already."""
    return Deferral(rule="logits", **parameters).certify(
        sets.tune, sets.calibration, detectors=sets.detectors, fitted=fitted
    )


def _reliability(folder: Path, test: Predictions, decisions: Decisions) -> list[Measurement]:
    """Calibration errors of the predicted errors and losses; their bins go into a table."""
    errors = error_probabilities(decisions.probabilities, decisions.predicted)
    quantities = {"error_probability": (errors, test.errors.astype(float))}
    if np.isfinite(decisions.expected_loss).all():
        quantities["expected_loss"] = (decisions.expected_loss, test.true_losses())
    bins = [
        (name, *bin_)
        for name, pair in quantities.items()
        for bin_ in zip(*reliability(*pair, bins=FIGURE_BINS), strict=True)
    ]
    write_table(folder / "bins.csv", table_of(bins, "bins.csv"))
    return [
        Measurement(POLICY_SET, name, "ece", reliability(*pair).error)
        for name, pair in quantities.items()
    ]
