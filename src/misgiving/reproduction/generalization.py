"""Section 4.1 of the paper: classification, loss estimation, and other learning rates."""

from misgiving.calibration.apply import CALIBRATED, ERROR_ESTIMATOR
from misgiving.evaluation.measures import (
    FAILURE_SCORES,
    Measurement,
    measure_classification,
    measure_failures,
    measure_loss_estimation,
)
from misgiving.reproduction.config import FAILURES
from misgiving.reproduction.policies import fitted_detectors, measure_policies, policy_sets
from misgiving.reproduction.tables import group_names, save_scores
from misgiving.reproduction.trial_data import TrainedUnit
from misgiving.scores.detectors import all_scores, evidence_of
from misgiving.scores.outputs import Scores


def measure_generalization(trained: TrainedUnit) -> dict[str, list[Measurement]]:
    """Measure classification, loss estimation, failure scores and policies of one model.

    Learned scores are among the failure scores where they were fitted on other images than are
    measured. Where no error estimator can be fitted, it is `calibrated`, to which a policy falls
    back, so that all trials have one.
    """
    setup, predictions = trained.setup, trained.predictions
    sets = policy_sets(trained)
    detectors = fitted_detectors(sets.training)
    of_policies, calibrator = measure_policies(
        sets, detectors, trained.folder, seed=setup.training.seed
    )
    confidences = all_scores(predictions, detectors)
    if calibrator is not None and setup.evaluation_sets.has_tuning_set:
        evidence = evidence_of(predictions, detectors)
        confidences = dict(calibrator.with_learned(confidences, predictions.logits, evidence))
        confidences.setdefault(ERROR_ESTIMATOR, confidences[CALIBRATED])
    failure_scores = {name: confidences[name] for name in FAILURE_SCORES if name in confidences}
    save_scores(trained.folder, FAILURES, failure_scores, group_names(predictions))
    return {"generalization": [*_measured(trained, failure_scores), *of_policies]}


def measure_other_rate(trained: TrainedUnit) -> dict[str, list[Measurement]]:
    """Measure a model at another learning rate, and remove its weights, which fill disks."""
    (trained.folder / "run" / "model.safetensors").unlink()
    rows = _measured(trained, all_scores(trained.predictions))
    return {trained.unit.experiment: [*rows, divergence(trained.measured, diverged=False)]}


def _measured(trained: TrainedUnit, confidences: Scores) -> list[Measurement]:
    predictions, measured = trained.predictions, trained.measured
    class_weights = trained.checkpoint.class_weights
    return [
        *measure_classification(predictions, measured),
        *measure_loss_estimation(predictions, measured, class_weights=class_weights),
        *measure_failures(predictions, confidences, measured),
    ]


def divergence(dataset: str, *, diverged: bool) -> Measurement:
    """Result of a training whose loss became, or did not become, infinite or NaN."""
    return Measurement(dataset, "", "diverged", float(diverged))
