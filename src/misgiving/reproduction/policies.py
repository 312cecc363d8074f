"""Calibration and deferral policies of one trained model, measured over target error rates."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from misgiving.calibration.apply import CALIBRATED, ERROR_ESTIMATOR, Calibrator
from misgiving.calibration.fit import Fitted
from misgiving.deferral.bounds import tolerance_rank
from misgiving.deferral.decisions import Decisions
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.fit import fit_calibration, scored_cases
from misgiving.deferral.rules import DecisionRule
from misgiving.deferral.targets import Targets
from misgiving.errors import DataError
from misgiving.evaluation.evaluate import POLICY_SET
from misgiving.evaluation.measures import Measurement, measure_accepted_errors, measure_scaling
from misgiving.files import write_json
from misgiving.groups import partition_groups
from misgiving.metrics.calibration import expected_calibration_error, reliability
from misgiving.predictions.inference import predictions_of
from misgiving.predictions.record import Predictions
from misgiving.reproduction.score_files import group_names, save_scores
from misgiving.reproduction.tables import table_of, write_table
from misgiving.reproduction.trial_data import TrainedUnit
from misgiving.scores.detectors import FittedDetectors, default_ood_detector

TARGETS = (0.05, 0.1, 0.2)
MAX_OOD_FALSE_ALARMS = 0.05
CERTIFIED_SCORES = ("msp", CALIBRATED, ERROR_ESTIMATOR)
CERTIFIED_TARGETS = (0.05, 0.1)
RELIABILITY = "reliability.csv"
BINS = 10  # of the figure
LOGITS_RULE = DecisionRule(rule="logits")

Quantity = tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]  # predicted and observed


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
    tune, calibration, test = (measured.select(rows) for rows in thirds)
    return PolicySets(training, tune, calibration, test)


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

    Writes into `folder` a reliability table and the decisions for intervals; only the reason where
    the sets are too small.
    """
    rate = _max_ood_false_alarms(sets.calibration)
    try:
        fitted = fit_calibration(sets.tune, detectors, LOGITS_RULE)
        policies = {
            target: _certified(
                sets, detectors, fitted, max_error=target, max_ood_false_alarms=rate, seed=seed
            )
            for target in TARGETS
        }
    except DataError as refusal:
        write_json(folder / "policies" / "refused.json", {"refused": str(refusal)})
        return [], None
    calibrator = fitted.calibrator
    decisions = {target: policy.decide(sets.test) for target, policy in policies.items()}
    _save_decisions(folder, sets.test, decisions)
    write_table(folder / "cases.csv", _cases(sets, detectors, fitted))
    quantities = _quantities(sets.test, decisions[TARGETS[0]])
    write_table(folder / RELIABILITY, _bins(quantities))
    rows = [
        *measure_scaling(sets.test, calibrator, POLICY_SET),
        *(
            Measurement(POLICY_SET, name, "ece", expected_calibration_error(*pair))
            for name, pair in quantities.items()
        ),
        Measurement(POLICY_SET, calibrator.score, "acceptance_score", 1.0),
    ]
    for target, policy in policies.items():
        rows += _policy_rows(target, policy, sets.test, decisions[target])
    rows += certified_rows(sets, detectors, fitted, seed=seed)
    return rows, calibrator


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
            accepted = policy.decide(sets.test).decisions == "accept"
            detector = f"certified/{score}/{target:g}"
            rows += [
                Measurement(POLICY_SET, detector, "coverage", float(accepted.mean())),
                *_accepted_errors(accepted, sets.test, detector),
            ]
    return rows


def _certified(
    sets: PolicySets, detectors: FittedDetectors, fitted: Fitted, **parameters: Any
) -> Deferral:
    """A policy that names classes by their logits, with a calibration that is fitted already."""
    deferral = Deferral(rule=LOGITS_RULE.rule, **parameters)
    return deferral.certify(sets.tune, sets.calibration, detectors=detectors, fitted=fitted)


def _max_ood_false_alarms(calibration: Predictions) -> float | None:
    """The certified rate; None where there are too few groups to certify it."""
    rate = MAX_OOD_FALSE_ALARMS
    level = Targets(max_error=TARGETS[0], max_ood_false_alarms=rate).level
    return (
        rate if tolerance_rank(len(np.unique(calibration.units)), rate=rate, level=level) else None
    )


def _cases(sets: PolicySets, detectors: FittedDetectors, fitted: Fitted) -> pd.DataFrame:
    """The cases of all policies, so that other targets can be tried and the guarantee checked."""
    tables = []
    for name in ("tune", "calibration", "test"):
        predictions: Predictions = getattr(sets, name)
        cases = scored_cases(
            predictions,
            detectors,
            fitted.calibrator,
            LOGITS_RULE,
            ood_detector=default_ood_detector(detectors),
            of_tuning=fitted if predictions is sets.tune else None,
        )
        columns = {
            "set": "calibrate" if name == "calibration" else name,
            "group": group_names(predictions),
            "label": np.array(predictions.classes)[cases.labels],
            "wrong": cases.wrong,
            "acceptable": cases.eligible(),
            "acceptance_score": cases.scores,
            "ood_score": np.nan if cases.ood_scores is None else cases.ood_scores,
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables)


def _save_decisions(folder: Path, test: Predictions, decisions: Mapping[float, Decisions]) -> None:
    """Keep decisions as numbers beside the scores, so that intervals need no model."""
    columns = {"wrong": test.errors.astype(np.float64)}
    for target, of_images in decisions.items():
        for name in ("accept", "defer", "ood"):
            chosen = of_images.decisions == name
            columns[f"{target:g}/{name}"] = chosen.astype(np.float64)
    save_scores(folder, POLICY_SET, columns, tuple(group_names(test).tolist()))


def _policy_rows(
    target: float, policy: Deferral, test: Predictions, decisions: Decisions
) -> list[Measurement]:
    accepted, ood = (decisions.decisions == name for name in ("accept", "ood"))
    calibration, detector = policy.certificate_, f"policy/{target:g}"
    values = {
        "attained": float(calibration.accept_threshold is not None),
        "coverage": float(accepted.mean()),
        "ood_share": float(ood.mean()),
        "calibration_cases": float(calibration.cases),
        "calibration_coverage": calibration.accepted / calibration.cases,
    }
    if calibration.smallest_certifiable is not None:
        values["smallest_certifiable_error"] = calibration.smallest_certifiable.max_error
    return [
        *(Measurement(POLICY_SET, detector, metric, value) for metric, value in values.items()),
        *_accepted_errors(accepted, test, detector),
    ]


def _accepted_errors(
    accepted: Bool[np.ndarray, " n"], test: Predictions, detector: str
) -> list[Measurement]:
    return measure_accepted_errors(
        accepted, test.errors, test.units, dataset=POLICY_SET, detector=detector
    )


def _bins(quantities: Mapping[str, Quantity]) -> pd.DataFrame:
    rows = [
        (name, *bin_)
        for name, pair in quantities.items()
        for bin_ in zip(*reliability(*pair, bins=BINS), strict=True)
    ]
    return table_of(rows, "bins.csv")


def _quantities(test: Predictions, decisions: Decisions) -> dict[str, Quantity]:
    """The predicted and the observed value of each image, by quantity."""
    errors = decisions.error_probability
    quantities = {"error_probability": (errors, test.errors.astype(np.float64))}
    if np.isfinite(decisions.expected_loss).all():
        quantities["expected_loss"] = (decisions.expected_loss, test.true_losses())
    return quantities
