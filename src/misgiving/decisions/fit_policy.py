"""Fit calibrators and policies on predictions."""

from collections.abc import Sequence

import numpy as np

from misgiving.calibrators.apply import Calibrator
from misgiving.calibrators.fit import fit_calibrator
from misgiving.deferral.policy import DeferralPolicy
from misgiving.deferral.scored_cases import ScoredCases, one_per_group
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import certify_thresholds
from misgiving.errors import DataError, UsageError
from misgiving.results.predictions import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores

OOD_DETECTOR = "knn"  # the default: needs no OOD image to be tuned on, and no gradient


def calibrator_of(tune: Predictions, detectors: FittedDetectors) -> Calibrator:
    """Fit a calibrator on the tuning set."""
    scores = all_scores(tune, detectors)
    return fit_calibrator(scores, tune.logits, tune.labels, np.array(tune.groups))


def cases_of(
    predictions: Predictions,
    detectors: FittedDetectors,
    calibrator: Calibrator,
    *,
    ood_detector: str = OOD_DETECTOR,
) -> ScoredCases:
    """All images as cases of a policy; draw one of each group before anything is certified."""
    scores = all_scores(predictions, detectors)
    if ood_detector not in scores:
        raise UsageError(f"unknown detector {ood_detector!r}; choose from {', '.join(scores)}")
    return ScoredCases(
        scores=calibrator.acceptance_scores(scores, predictions.logits),
        ood_scores=scores[ood_detector],
        wrong=predictions.errors,
        labels=predictions.labels,
    )


def fit_policies(
    tune: Predictions,
    calibration: Predictions,
    detectors: FittedDetectors,
    calibrator: Calibrator,
    targets: Sequence[Targets],
    *,
    seed: int,
    calibration_fingerprint: str,
    ood_detector: str = OOD_DETECTOR,
) -> list[DeferralPolicy]:
    """Set the thresholds of a policy for each of these targets.

    Args:
        tune: For everything that is chosen, candidate thresholds included.
        calibration: For thresholds alone; one image of each group is drawn.
        detectors: Fitted on the training set.
        calibrator: Fitted on the tuning set.
        targets: Target error rates, one for each policy.
        seed: Seed of that draw.
        calibration_fingerprint: Identifies the images of the calibration set.
        ood_detector: Name of the OOD score.
    """
    _refuse_two_models(tune, calibration)
    _refuse_shared_groups(tune.groups, calibration.groups)
    tuning_cases, calibration_cases = (
        cases_of(predictions, detectors, calibrator, ood_detector=ood_detector)[
            one_per_group(predictions.groups, seed=seed)
        ]
        for predictions in (tune, calibration)
    )
    policies = []
    for target in targets:
        found = certify_thresholds(
            tuning_cases, calibration_cases, target, classes=calibration.classes
        )
        threshold = found.accept_threshold
        policies.append(
            DeferralPolicy(
                certificate=found,
                score=calibrator.score,
                ood_detector=ood_detector,
                model_fingerprint=calibration.model,
                calibration_fingerprint=calibration_fingerprint,
                seed=seed,
                error_limit=None
                if threshold is None
                else float(calibrator.error(np.array([threshold]))[0]),
            )
        )
    return policies


def _refuse_two_models(tune: Predictions, calibration: Predictions) -> None:
    if not calibration.model:
        raise DataError("it is not known which model made these predictions; predict again")
    if (tune.model, tune.classes) != (calibration.model, calibration.classes):
        raise DataError(
            "the predictions for the tuning set and the calibration set are of two models; "
            "predict both again"
        )


def _refuse_shared_groups(tune: Sequence[str], calibration: Sequence[str]) -> None:
    if shared := sorted(set(tune) & set(calibration)):
        raise DataError(
            f"group {shared[0]!r} is in the tuning set and in the calibration set "
            f"({len(shared)} are); give groups that nothing was chosen on"
        )
