"""Calibration and deferral policies of one trained model, measured over target error rates."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from misgiving.calibration.apply import CALIBRATED, ERROR_ESTIMATOR, Calibrator
from misgiving.calibration.fit import Fitted
from misgiving.deferral.bounds import tolerance_rank
from misgiving.deferral.decisions import Decisions
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.fit import fit_calibration
from misgiving.deferral.settings import DecisionRule, Targets
from misgiving.errors import DataError
from misgiving.evaluation.evaluate import POLICY_SET
from misgiving.evaluation.measures import Measurement, measure_scaling, measurements_of
from misgiving.groups import partition_groups
from misgiving.metrics.calibration import expected_calibration_error, reliability
from misgiving.metrics.selective import accepted_errors
from misgiving.predictions.inference import predictions_of
from misgiving.predictions.record import Predictions
from misgiving.reproduction.tables import group_names, save_scores, table_of, write_table
from misgiving.reproduction.trial_data import TrainedUnit
from misgiving.scores.detectors import FittedDetectors

TARGETS = (0.05, 0.1, 0.2)
MAX_OOD_FALSE_ALARMS = 0.05
CERTIFIED_SCORES = ("msp", CALIBRATED, ERROR_ESTIMATOR)
CERTIFIED_TARGETS = (0.05, 0.1)
RELIABILITY = "reliability.csv"
BINS = 10  # of the figure
LOGITS_RULE = DecisionRule(rule="logits")


class PolicySets(NamedTuple):
    """Predictions for the sets that a policy needs, which share no group.

    These are the sets of the grouped split. The paper's split has no sets for tuning and
    calibration: there they are thirds of the held-out images, drawn by group, and the model may
    have been trained on other images of these groups.
    """

    training: Predictions
    tune: Predictions
    calibration: Predictions
    test: Predictions


def policy_sets(trained: TrainedUnit) -> PolicySets:
    """Predict the sets that are not predicted yet."""
    setup, checkpoint, measured = trained.setup, trained.checkpoint, trained.predictions
    training = predictions_of(checkpoint, setup.images_of("train"))
    if setup.evaluation_sets.has_tuning_set:
        tune, calibration = (
            predictions_of(checkpoint, setup.images_of(name)) for name in ("tune", "calibrate")
        )
        return PolicySets(training, tune, calibration, measured)
    thirds = partition_groups(measured.units, 3, seed=setup.training.seed)
    return PolicySets(training, *(measured.select(rows) for rows in thirds))


def fitted_detectors(training: Predictions) -> FittedDetectors:
    """Detectors fitted on the training set; none of a network that has collapsed to one output."""
    try:
        return FittedDetectors.fit(training)
    except DataError:
        return FittedDetectors.none()


def measure_policies(
    sets: PolicySets, detectors: FittedDetectors, folder: Path, *, seed: int
) -> tuple[list[Measurement], Calibrator | None]:
    """Calibrate a policy for each target error rate, and measure it on the test set.

    Writes into `folder` a reliability table and the decisions for intervals; nothing where the sets
    are too small.
    """
    # false alarms are certified where there are enough groups for that
    targets = Targets(max_error=TARGETS[0], max_ood_false_alarms=MAX_OOD_FALSE_ALARMS)
    groups = len(np.unique(sets.calibration.units))
    rank = tolerance_rank(groups, rate=MAX_OOD_FALSE_ALARMS, level=targets.level)
    parameters = {"seed": seed, "max_ood_false_alarms": MAX_OOD_FALSE_ALARMS if rank else None}
    try:
        fitted = fit_calibration(sets.tune, detectors, LOGITS_RULE)
        policies = {
            target: _certified(sets, detectors, fitted, max_error=target, **parameters)
            for target in TARGETS
        }
    except DataError:
        return [], None
    decisions = {target: policy.decide(sets.test) for target, policy in policies.items()}
    _save_decisions(folder, sets.test, decisions)
    rows = measure_scaling(sets.test, fitted.calibrator, POLICY_SET)
    rows += _reliability(folder, sets.test, decisions[TARGETS[0]])
    rows.append(Measurement(POLICY_SET, fitted.calibrator.score, "acceptance_score", 1.0))
    for target, policy in policies.items():
        rows += _policy_rows(f"policy/{target:g}", policy, sets.test, decisions[target])
    return rows + certified_rows(sets, detectors, fitted, seed=seed), fitted.calibrator


def certified_rows(
    sets: PolicySets, detectors: FittedDetectors, fitted: Fitted, *, seed: int
) -> list[Measurement]:
    """Measure on the test set the images that each score accepts, certified without an OOD rule.

    The tuning and the calibration set are the same for all scores.
    """
    rows = []
    for score in (score for score in CERTIFIED_SCORES if score in fitted.candidates):
        accepting = fitted.accepting_by(score)
        for target in CERTIFIED_TARGETS:
            policy = _certified(sets, detectors, accepting, max_error=target, seed=seed)
            decisions, detector = policy.decide(sets.test), f"certified/{score}/{target:g}"
            coverage = float((decisions.decisions == "accept").mean())
            rows.append(Measurement(POLICY_SET, detector, "coverage", coverage))
            rows += _accepted_errors(detector, decisions, sets.test)
    return rows


def _certified(
    sets: PolicySets, detectors: FittedDetectors, fitted: Fitted, **parameters: Any
) -> Deferral:
    """A policy that names classes by their logits, with a calibration that is fitted already."""
    deferral = Deferral(rule=LOGITS_RULE.rule, **parameters)
    return deferral.certify(sets.tune, sets.calibration, detectors=detectors, fitted=fitted)


def _save_decisions(folder: Path, test: Predictions, decisions: dict[float, Decisions]) -> None:
    """Keep decisions as numbers beside the scores, so that intervals need no model."""
    columns = {"wrong": test.errors.astype(np.float64)}
    for target, of_images in decisions.items():
        for name in ("accept", "defer", "ood"):
            columns[f"{target:g}/{name}"] = (of_images.decisions == name).astype(np.float64)
    save_scores(folder, POLICY_SET, columns, group_names(test))


def _policy_rows(
    detector: str, policy: Deferral, test: Predictions, decisions: Decisions
) -> list[Measurement]:
    certificate = policy.certificate_
    values = {
        "attained": float(certificate.accept_threshold is not None),
        "coverage": float((decisions.decisions == "accept").mean()),
        "ood_share": float((decisions.decisions == "ood").mean()),
        "calibration_cases": float(certificate.cases),
        "calibration_coverage": certificate.accepted / certificate.cases,
    }
    if certificate.smallest_certifiable is not None:
        values["smallest_certifiable_error"] = certificate.smallest_certifiable.max_error
    return [
        *(Measurement(POLICY_SET, detector, metric, value) for metric, value in values.items()),
        *_accepted_errors(detector, decisions, test),
    ]


def _accepted_errors(detector: str, decisions: Decisions, test: Predictions) -> list[Measurement]:
    accepted = decisions.decisions == "accept"
    return measurements_of(POLICY_SET, detector, accepted_errors(accepted, test.errors, test.units))


def _reliability(folder: Path, test: Predictions, decisions: Decisions) -> list[Measurement]:
    """Calibration errors of the predicted errors and losses; their bins go into a table."""
    quantities = {"error_probability": (decisions.error_probability, test.errors.astype(float))}
    if np.isfinite(decisions.expected_loss).all():
        quantities["expected_loss"] = (decisions.expected_loss, test.true_losses())
    bins = [
        (name, *bin_)
        for name, pair in quantities.items()
        for bin_ in zip(*reliability(*pair, bins=BINS), strict=True)
    ]
    write_table(folder / RELIABILITY, table_of(bins, "bins.csv"))
    return [
        Measurement(POLICY_SET, name, "ece", expected_calibration_error(*pair))
        for name, pair in quantities.items()
    ]
