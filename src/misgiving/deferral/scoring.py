"""Scores, probabilities and predicted classes of images, from the outputs of their model."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import numpy as np

from misgiving.calibration.apply import Calibrator, Logits, Opinions, Values, error_probabilities
from misgiving.calibration.fit import Fitted
from misgiving.deferral.certificate import mark_acceptable
from misgiving.deferral.decisions import NUMBERS
from misgiving.deferral.settings import DecisionRule
from misgiving.deferral.thresholds import ScoredCases
from misgiving.errors import DataError, UsageError
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores, finite_rows, scores_of_outputs
from misgiving.scores.features import Features, Taps

OutputsOfModel = tuple[Logits, Features | None, Values | None, Taps | None, Opinions]
"""Logits, features, predicted losses and taps, and other models' probabilities."""
BLOCK = 2**20  # class scores that are judged at once, which bounds the memory
outputs_of = attrgetter("logits", "features", "predicted_losses", "taps", "opinions")


def check_opinions(calibration: Calibrator, models: Mapping[str, str]) -> None:
    """Check that second opinions are by the models whose fingerprints the calibration knows.

    Raises:
        DataError: One is not.
    """
    expected = {} if calibration.opinions is None else calibration.opinions.models
    for name in expected.keys() & models.keys():
        if models[name] != expected[name]:
            raise DataError(
                f"the policy uses the second opinion {name} of the model {expected[name][:12]}, "
                f"not of {models[name][:12]}; give that one, or run `misgiving calibrate` again"
            )


def scored_cases(
    predictions: Predictions,
    detectors: FittedDetectors,
    fitted: Fitted,
    rule: DecisionRule,
    *,
    ood_detector: str,
    of_tuning: bool = False,
) -> ScoredCases:
    """All images as cases of a policy; draw one of each group before anything is certified.

    Args:
        predictions: Of the images.
        detectors: Fitted on the training set.
        fitted: The calibration, for the classes that the rule names.
        rule: Predicts the class.
        ood_detector: Name of the OOD score.
        of_tuning: True for the images of the tuning set, whose classes and scores are cross-fitted.

    Raises:
        DataError: Outputs or scores are not finite.
        UsageError: There is no such OOD score, or the detectors read other features or taps.
    """
    scores = all_scores(predictions, detectors)
    if ood_detector not in scores:
        raise UsageError(
            f"`ood_detector` {ood_detector!r} is unknown, or needs what the predictions do not "
            "have: logits, features or taps of the set train, the last layer, or predicted_loss; "
            f"choose from {', '.join(scores)}"
        )
    if of_tuning:
        judged = np.exp(fitted.vectors), fitted.predicted, fitted.scores
    else:
        evidence = detectors.evidence(predictions.features, predictions.taps)
        judged = fitted.calibrator.judge(scores, predictions.logits, evidence, predictions.opinions)
    probabilities, predicted, acceptance = judged
    return ScoredCases(
        scores=acceptance,
        ood_scores=scores[ood_detector],
        error_probabilities=error_probabilities(probabilities, predicted),
        predicted=predicted,
        labels=predictions.labels,
        acceptable=mark_acceptable(rule, probabilities, predicted),
    )


def scored_columns(
    outputs: OutputsOfModel,
    detectors: FittedDetectors,
    calibration: Calibrator,
    *,
    ood_detector: str,
) -> dict[str, Any]:
    """Columns of decisions: numbers, predicted classes, and probabilities by class.

    Numbers and probabilities are NaN where outputs are not finite, or lack them. An image of which
    a second opinion alone is not finite lacks only probabilities and what depends on them.

    Args:
        outputs: Of the policy's model, and other models' probabilities.
        detectors: Those that are used.
        calibration: Of the policy.
        ood_detector: Name of the OOD score.
    """
    logits, features, predicted_losses, taps, opinions = outputs
    numbers = {name: np.full(len(logits), np.nan) for name in NUMBERS}
    if predicted_losses is not None:
        numbers["predicted_loss"] = predicted_losses.astype(np.float64)
    predicted, probabilities = logits.argmax(axis=1), np.full(logits.shape, np.nan)
    finite = np.flatnonzero(finite_rows(logits, features, taps))
    for rows in np.array_split(finite, 1 + len(finite) * logits.shape[1] // BLOCK):
        activations, losses, averages = (
            None if values is None else values[rows]
            for values in (features, predicted_losses, taps)
        )
        scores = scores_of_outputs(logits[rows], activations, losses, averages, detectors)
        judged = calibration.judge(
            scores,
            logits[rows],
            detectors.evidence(activations, averages),
            {name: opinions[name][rows] for name in calibration.needs_opinions},
        )
        probabilities[rows], predicted[rows], numbers["acceptance_score"][rows] = judged
        if calibration.loss is not None:
            numbers["expected_loss"][rows] = calibration.loss(scores["predicted_loss"])
        numbers["ood_score"][rows] = scores[ood_detector]
    numbers["error_probability"] = error_probabilities(probabilities, predicted)
    return {"predicted": predicted, "probabilities": probabilities, **numbers}
