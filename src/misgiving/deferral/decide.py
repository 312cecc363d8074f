"""From the outputs of a model to the numbers and classes of its decisions."""

import numpy as np
from jaxtyping import Float, Int

from misgiving.calibration.apply import Calibrator
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.decisions import NUMBERS, Decisions
from misgiving.deferral.rules import DecisionRule
from misgiving.errors import DataError
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, finite_rows, scores_of_outputs
from misgiving.scores.features import FEATURE_SCORES

Logits = Float[np.ndarray, "n classes"]
Features = Float[np.ndarray, "n width"]
Values = Float[np.ndarray, " n"]
Taps = Float[np.ndarray, "n channels"]
Outputs = tuple[Logits, Features | None, Values | None, Taps | None]
Classes = Int[np.ndarray, " n"]


def decide(
    certificate: Certificate,
    rule: DecisionRule,
    calibration: Calibrator,
    detectors: FittedDetectors,
    ood_detector: str,
    outputs: Outputs,
) -> Decisions:
    """Decide from the outputs of a model; one that is not finite is deferred.

    Args:
        certificate: Has the thresholds.
        rule: Names the classes.
        calibration: From scores to probabilities.
        detectors: Those that decisions depend on.
        ood_detector: Name of the OOD score.
        outputs: Logits, features, predicted losses and averages of the taps.
    """
    numbers = measure_outputs(calibration, detectors, ood_detector, outputs)
    errors, threshold = numbers["error_probability"], certificate.accept_threshold
    predicted, most_probable, probabilities = predict_classes(calibration, outputs[0], errors)
    outcomes, numbers["ood_p_value"] = certificate.decide(
        numbers["acceptance_score"],
        numbers["ood_score"],
        acceptable=rule.acceptable(errors, probabilities, predicted),
    )
    return Decisions(
        classes=certificate.classes,
        decisions=outcomes,
        predicted=predicted,
        most_probable=most_probable,
        probabilities=probabilities,
        certificate=certificate,
        rule=rule,
        error_limit=None
        if threshold is None
        else float(calibration.error(np.array([threshold]))[0]),
        knows_training=ood_detector in FEATURE_SCORES,
        **numbers,
    )


def measure_outputs(
    calibration: Calibrator, detectors: FittedDetectors, ood_detector: str, outputs: Outputs
) -> dict[str, Values]:
    """Numbers by the field of a decision; NaN where outputs are not finite, or there is none."""
    logits, features, predicted_losses, taps = outputs
    numbers = {name: np.full(len(logits), np.nan) for name in NUMBERS}
    finite = finite_rows(logits, features, taps)
    losses = None
    if predicted_losses is not None:
        numbers["predicted_loss"], losses = predicted_losses, predicted_losses[finite]
    read = [None if values is None else values[finite] for values in (features, taps)]
    scores = scores_of_outputs(logits[finite], read[0], losses, read[1], detectors)
    evidence = detectors.evidence(*read)
    acceptance = calibration.acceptance_scores(scores, logits[finite], evidence)
    numbers["acceptance_score"][finite] = acceptance
    numbers["error_probability"][finite] = calibration.error(acceptance)
    if calibration.loss is not None:
        numbers["expected_loss"][finite] = calibration.loss(scores["predicted_loss"])
    numbers["ood_score"][finite] = scores[ood_detector]
    return numbers


def predict_classes(
    calibration: Calibrator, logits: Logits, errors: Values
) -> tuple[Classes, Classes, Logits]:
    """The class that is named, the most probable one after scaling, and probabilities.

    These agree with the error; where it is not available, they are the scaled ones, or NaN.
    """
    predicted, probabilities = logits.argmax(axis=1), np.full(logits.shape, np.nan)
    most_probable = predicted.copy()
    finite = np.isfinite(logits).all(axis=1)
    wide = logits[finite].astype(np.float64)
    predicted[finite] = calibration.predict(wide)
    most_probable[finite] = calibration.scaling.logarithms(wide).argmax(axis=1)
    probabilities[finite] = calibration.scaling(wide)
    judged = finite & np.isfinite(errors)
    probabilities[judged] = calibration.probabilities(
        logits[judged].astype(np.float64), predicted[judged], errors[judged]
    )
    return predicted, most_probable, probabilities


def check_columns(
    predictions: Predictions,
    calibration: Calibrator,
    used: FittedDetectors,
    ood_detector: str,
    *,
    outputs: str,
) -> None:
    """Check that predictions have what decisions by these scores depend on.

    Raises:
        DataError: They are another kind of outputs, or lack taps, features or predicted losses.
    """
    if predictions.outputs != outputs:
        raise DataError(
            f"the predictions are {predictions.outputs}, and the policy was fitted on {outputs}, "
            "with which their scores cannot be compared; give these"
        )
    reads_taps = used.probes is not None and used.probes.reads_taps
    if reads_taps and predictions.taps is None:
        raise DataError(
            f"the acceptance score {calibration.score} reads the taps of the model, which these "
            "predictions do not have; predict the images with the run or its bundle"
        )
    width = used.directions.shape[1]
    given = 0 if predictions.features is None else predictions.features.shape[1]
    if (used.names or (used.probes is not None and not reads_taps)) and given != width:
        raise DataError(
            f"the policy needs the columns feature_0 to feature_{width - 1}, and there are "
            f"{given or 'none'}; predict again with all of them"
        )
    needed = (ood_detector, *calibration.needed)
    if "predicted_loss" in needed and predictions.predicted_losses is None:
        raise DataError("the policy needs the column predicted_loss; predict again with it")
