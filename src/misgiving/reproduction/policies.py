"""Calibration and deferral policies of one trained model, measured over target error rates."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from misgiving.calibration.apply import CALIBRATED, ERROR_ESTIMATOR, Calibrator
from misgiving.calibration.fit import Fitted
from misgiving.data.splits import partition_groups
from misgiving.decisions.decision import Decision
from misgiving.decisions.engine import DecisionEngine
from misgiving.decisions.fit_policy import LOGITS_RULE, calibrator_of, cases_of, fit_policies
from misgiving.deferral.bounds import tolerance_rank
from misgiving.deferral.policy import DeferralPolicy
from misgiving.deferral.targets import Targets
from misgiving.errors import DataError
from misgiving.evaluation.measures import measure_accepted_errors, measure_scaling
from misgiving.files import write_json
from misgiving.metrics.calibration import expected_calibration_error, reliability
from misgiving.predictions.inference import predictions_of
from misgiving.predictions.record import Predictions
from misgiving.reproduction.score_files import group_names, save_scores
from misgiving.reproduction.trial_data import TrainedUnit
from misgiving.results.formats import write_table
from misgiving.results.schema import POLICY_SET, CaseRow, Measurement, ReliabilityBin
from misgiving.scores.detectors import FittedDetectors, default_ood_detector

TARGETS = (0.05, 0.1, 0.2)
MAX_OOD_FALSE_ALARMS = 0.05
CERTIFIED_SCORES = ("msp", CALIBRATED, ERROR_ESTIMATOR)
CERTIFIED_TARGETS = (0.05, 0.1)
RELIABILITY = "reliability.csv"
BINS = 10  # of the figure

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
    calibration_fingerprint: str


def policy_sets(trained: TrainedUnit) -> PolicySets:
    """Predict the sets that are not predicted yet."""
    setup, checkpoint, measured = trained.setup, trained.checkpoint, trained.predictions
    training = predictions_of(checkpoint, setup.images_of("train"))
    if setup.evaluation_sets.has_tuning_set:
        calibrated_on = setup.images_of("calibrate")
        tune, calibration = (
            predictions_of(checkpoint, images)
            for images in (setup.images_of("tune"), calibrated_on)
        )
        return PolicySets(training, tune, calibration, measured, calibrated_on.fingerprint)
    thirds = partition_groups(measured.units, 3, seed=setup.training.seed)
    tune, calibration, test = (measured.select(rows) for rows in thirds)
    calibrated_on = setup.images_of(trained.measured).select(thirds[1])
    return PolicySets(training, tune, calibration, test, calibrated_on.fingerprint)


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

    Writes into `folder` each policy, a reliability table, and the decisions for intervals; only
    the reason where the sets are too small.
    """
    rate = _max_ood_false_alarms(sets.calibration)
    try:
        fitted = calibrator_of(sets.tune, detectors, LOGITS_RULE)
        found = fit_policies(
            sets.tune,
            sets.calibration,
            detectors,
            fitted,
            [Targets(max_error=target, max_ood_false_alarms=rate) for target in TARGETS],
            rule=LOGITS_RULE,
            seed=seed,
            calibration_fingerprint=sets.calibration_fingerprint,
            ood_detector=default_ood_detector(detectors),
        )
    except DataError as refusal:
        write_json(folder / "policies" / "refused.json", {"refused": str(refusal)})
        return [], None
    policies, calibrator = dict(zip(TARGETS, found, strict=True)), fitted.calibrator
    decisions = {}
    for target, policy in policies.items():
        write_json(folder / "policies" / f"{target:g}.json", policy.to_dict())
        decisions[target] = _decided(policy, calibrator, detectors, sets.test)
    _save_decisions(folder, sets.test, decisions)
    write_table(folder / "cases.csv", CaseRow, _cases(sets, detectors, fitted))
    quantities = _quantities(sets.test, decisions[TARGETS[0]])
    write_table(folder / RELIABILITY, ReliabilityBin, _bins(quantities))
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
    targets = [Targets(max_error=target) for target in CERTIFIED_TARGETS]
    for score in (score for score in CERTIFIED_SCORES if score in fitted.candidates):
        accepting = fitted.accepting_by(score)
        policies = fit_policies(
            sets.tune,
            sets.calibration,
            detectors,
            accepting,
            targets,
            rule=LOGITS_RULE,
            seed=seed,
            calibration_fingerprint=sets.calibration_fingerprint,
            ood_detector=default_ood_detector(detectors),
        )
        for target, policy in zip(CERTIFIED_TARGETS, policies, strict=True):
            decisions = _decided(policy, accepting.calibrator, detectors, sets.test)
            accepted = np.array([one.decision == "accept" for one in decisions])
            detector = f"certified/{score}/{target:g}"
            rows += [
                Measurement(POLICY_SET, detector, "coverage", float(accepted.mean())),
                *_accepted_errors(accepted, sets.test, detector),
            ]
    return rows


def _decided(
    policy: DeferralPolicy, calibrator: Calibrator, detectors: FittedDetectors, test: Predictions
) -> Sequence[Decision]:
    engine = DecisionEngine(
        classes=policy.classes, policy=policy, calibrator=calibrator, detectors=detectors
    )
    return engine.decide_predictions(test)


def _max_ood_false_alarms(calibration: Predictions) -> float | None:
    """The certified rate; None where there are too few groups to certify it."""
    rate = MAX_OOD_FALSE_ALARMS
    level = Targets(max_error=TARGETS[0], max_ood_false_alarms=rate).level
    return (
        rate if tolerance_rank(len(np.unique(calibration.units)), rate=rate, level=level) else None
    )


def _cases(sets: PolicySets, detectors: FittedDetectors, fitted: Fitted) -> Iterator[CaseRow]:
    """The cases of all policies, so that other targets can be tried and the guarantee checked."""
    named = {"tune": sets.tune, "calibrate": sets.calibration, "test": sets.test}
    for name, predictions in named.items():
        cases = cases_of(
            predictions,
            detectors,
            fitted.calibrator,
            LOGITS_RULE,
            ood_detector=default_ood_detector(detectors),
            of_tuning=fitted if predictions is sets.tune else None,
        )
        acceptable = cases.eligible()
        for row, group in enumerate(group_names(predictions).tolist()):
            yield CaseRow(
                set=name,
                group=group,
                label=predictions.classes[cases.labels[row]],
                wrong=bool(cases.wrong[row]),
                acceptance_score=float(cases.scores[row]),
                acceptable=bool(acceptable[row]),
                ood_score=None if cases.ood_scores is None else float(cases.ood_scores[row]),
            )


def _save_decisions(
    folder: Path, test: Predictions, decisions: Mapping[float, Sequence[Decision]]
) -> None:
    """Keep decisions as numbers beside the scores, so that intervals need no model."""
    columns = {"wrong": test.errors.astype(np.float64)}
    for target, of_images in decisions.items():
        for name in ("accept", "defer", "ood"):
            chosen = [one.decision == name for one in of_images]
            columns[f"{target:g}/{name}"] = np.array(chosen, dtype=np.float64)
    save_scores(folder, POLICY_SET, columns, tuple(group_names(test).tolist()))


def _policy_rows(
    target: float, policy: DeferralPolicy, test: Predictions, decisions: Sequence[Decision]
) -> list[Measurement]:
    accepted, ood = (
        np.array([one.decision == name for one in decisions]) for name in ("accept", "ood")
    )
    calibration, detector = policy.certificate, f"policy/{target:g}"
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


def _bins(quantities: Mapping[str, Quantity]) -> list[ReliabilityBin]:
    return [
        ReliabilityBin(name, float(mean), float(found), int(count))
        for name, pair in quantities.items()
        for mean, found, count in zip(*reliability(*pair, bins=BINS), strict=True)
    ]


def _quantities(test: Predictions, decisions: Sequence[Decision]) -> dict[str, Quantity]:
    """The predicted and the observed value of each image, by quantity."""
    errors = np.array([one.error_probability for one in decisions], dtype=np.float64)
    found = {"error_probability": (errors, test.errors.astype(np.float64))}
    if decisions[0].expected_loss is not None:
        losses = np.array([one.expected_loss for one in decisions], dtype=np.float64)
        found["expected_loss"] = (losses, test.true_losses())
    return found
