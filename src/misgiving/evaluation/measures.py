"""Measurements of predictions: pure functions that give rows of the results."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from misgiving.arrays import Classes, Names, Probabilities, Replicates, Values, Weights
from misgiving.calibration.apply import LEARNED
from misgiving.errors import Parameter, UsageError
from misgiving.metrics.calibration import (
    brier_score,
    classwise_calibration_error,
    negative_log_likelihood,
    reliability,
)
from misgiving.metrics.classification import accuracy, balanced_accuracy, macro_auroc, sensitivities
from misgiving.metrics.loss_estimation import (
    error_auroc,
    order_agreement,
    r_squared,
    spearman,
    spread_ratio,
)
from misgiving.metrics.ood import ood_metrics
from misgiving.metrics.selective import RiskCoverage
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import all_scores

if TYPE_CHECKING:
    from misgiving.deferral.decisions import Decisions

Measured = float | Replicates | Int[np.ndarray, ""] | np.generic

POLICY_SET = "policy_test"
"""Name, in results, of the images on which a policy is measured."""

FAILURE_SCORES = ("msp", "entropy", "max_logit", "max_logit_norm", "predicted_loss", *LEARNED)
NOT_MEASURED = frozenset(("train", "excluded"))
COVERAGES = (0.5, 0.8, 0.9)
RISKS = (0.05, 0.1, 0.2)


class Measurement(NamedTuple):
    """One value: of a metric, on a data set, by a detector (empty where none applies)."""

    dataset: str
    detector: str
    metric: str
    value: float


def measured_sets(sets: Collection[str], set_name: str | None = None) -> Collection[str]:
    """The set of this name; None: `test`, or else all that the model was not trained on.

    Raises:
        UsageError: There is none.
    """
    chosen = {set_name} if set_name is not None else {"test"} & {*sets} or {*sets} - NOT_MEASURED
    if not chosen & {*sets}:
        choices = ", ".join(sorted({*sets} - {""})) or "none"
        if set_name is not None:
            message = f"no row is in the set {set_name!r}; the sets of these predictions: {choices}"
            raise UsageError(message)
        message = f"the model was trained or chosen on all of these images (sets {choices}); give "
        raise UsageError(f"{message}others, or choose a set with ", Parameter("set", "train"))
    return chosen


def with_score(
    predictions: Predictions, name: str, score: Callable[[Predictions], Any]
) -> Predictions:
    """Add a confidence by a function of predictions.

    Raises:
        UsageError: It does not give a finite number for each image.
    """
    values, count = np.asarray(score(predictions), dtype=np.float64), len(predictions)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise UsageError(f"{name!r} must return a finite number for each of {count} images")
    return replace(predictions, scores={**predictions.scores, name: values})


def measure_classification(
    predictions: Predictions, dataset: str, *, decisions: "Decisions | None" = None
) -> list[Measurement]:
    """Accuracy, balanced accuracy, sensitivity per class, macro AUROC, and the count of errors.

    Args:
        predictions: Of the set.
        dataset: Its name in the results.
        decisions: Of a policy, whose classes and probabilities are measured; None: the classes of
            the largest logits, and the softmax.
    """
    labels, classes = predictions.labels, predictions.classes
    outputs = predictions if decisions is None else decisions
    predicted = predictions.choices if decisions is None else decisions.predicted
    per_class = sensitivities(labels, predicted, num_classes=len(classes))
    values = {
        "accuracy": accuracy(labels, predicted),
        "balanced_accuracy": balanced_accuracy(labels, predicted, num_classes=len(classes)),
        "auroc": macro_auroc(labels, outputs.probabilities),
        "errors": (predicted != labels).sum(),
        "images": len(predictions),
        **{f"sensitivity/{name}": value for name, value in zip(classes, per_class, strict=True)},
    }
    return measurements_of(dataset, "" if decisions is None else "policy", values)


def measure_loss_estimation(
    predictions: Predictions, dataset: str, *, class_weights: Sequence[float] | None = None
) -> list[Measurement]:
    """Agreement of the order of predicted losses, and of MSP, with that of the true losses.

    `spearman` and `order_agreement` are against the loss that the estimator was trained on, with
    `class_weights`; those against the plain cross-entropy end in `_plain`. For MSP the predicted
    loss is the negated confidence.
    """
    trained, plain = predictions.true_losses(class_weights), predictions.true_losses()
    scores = all_scores(predictions)
    measurements: list[Measurement] = []
    for detector in ("msp", "predicted_loss"):
        if detector not in scores:
            continue
        losses = -scores[detector]
        values = {
            "spearman": spearman(losses, trained),
            "spearman_plain": spearman(losses, plain),
            "order_agreement": order_agreement(losses, trained),
            "order_agreement_plain": order_agreement(losses, plain),
        }
        if detector == "predicted_loss":
            values["spread_ratio"] = spread_ratio(losses, trained)
            values["r_squared"] = r_squared(losses, trained)
        measurements += measurements_of(dataset, detector, values)
    return measurements


def failure_measures(
    confidences: Values,
    predictions: Predictions,
    *,
    predicted: Classes | None = None,
    weights: Weights | None = None,
) -> dict[str, Measured]:
    """Measures of failure prediction by an acceptance score, by name.

    AUROC for errors; the areas under risk over coverage (AURC), its excess over the oracle's
    (E-AURC), of the generalised risk (AUGRC), and of the risk that weighs classes alike; the risk
    at coverages and the coverage at risks. Errors are 0 or 1, of the `predicted` classes, or else
    of those of the largest logits.
    """
    labels = predictions.labels
    errors = predictions.errors if predicted is None else predicted != labels
    curve = RiskCoverage(confidences, errors, weights)
    return {
        "error_auroc": error_auroc(confidences, errors, weights=weights),
        "aurc": curve.aurc(),
        "excess_aurc": curve.excess_aurc(),
        "augrc": curve.augrc(),
        "balanced_aurc": curve.balanced_aurc(labels, num_classes=len(predictions.classes)),
        **{f"risk_at_coverage/{share:g}": curve.risk_at_coverage(share) for share in COVERAGES},
        **{f"coverage_at_risk/{risk:g}": curve.coverage_at_risk(risk) for risk in RISKS},
    }


def measure_failures(
    predictions: Predictions,
    confidences: Mapping[str, Values],
    dataset: str,
    *,
    predicted: Classes | None = None,
) -> list[Measurement]:
    """Every failure measure of every failure score, and of the predictions' own scores."""
    rows: list[Measurement] = []
    for name in dict.fromkeys((*FAILURE_SCORES, *predictions.scores)):
        if name in confidences:
            values = failure_measures(confidences[name], predictions, predicted=predicted)
            rows += measurements_of(dataset, name, values)
    return rows


def measure_calibration(
    probabilities: Probabilities,
    predictions: Predictions,
    dataset: str,
    detector: str,
    *,
    predicted: Classes | None = None,
) -> list[Measurement]:
    """Calibration of class probabilities: of the predicted class, by class, and as a whole.

    `ece` has bins of equal mass, `ece_width` of equal width; both are of the probability of the
    predicted class, or else of the largest logit, whether or not it is the largest.
    """
    labels = predictions.labels
    predicted = predictions.choices if predicted is None else predicted
    confidences, right = probabilities[np.arange(len(labels)), predicted], predicted == labels
    values = {
        "ece": reliability(confidences, right, scheme="mass").error,
        "ece_width": reliability(confidences, right, scheme="width").error,
        "classwise_ece": classwise_calibration_error(probabilities, labels, scheme="mass"),
        "brier": brier_score(probabilities, labels),
        "nll": negative_log_likelihood(probabilities, labels),
    }
    return measurements_of(dataset, detector, values)


def measure_detection(
    inliers: Mapping[str, Float[np.ndarray, " _"]],
    outliers: Mapping[str, Float[np.ndarray, " _"]],
    dataset: str,
) -> list[Measurement]:
    """OOD metrics of every detector on one set; in-distribution is the positive class."""
    rows: list[Measurement] = []
    for detector, scores in inliers.items():
        rows += measurements_of(dataset, detector, ood_metrics(scores, outliers[detector]))
    return rows


def measure_shares(outcomes: Names, dataset: str) -> list[Measurement]:
    """The shares of a set that a policy accepts, defers and calls OOD."""
    names = {"coverage": "accept", "deferred_share": "defer", "ood_share": "ood"}
    return [
        Measurement(dataset, "policy", metric, float((outcomes == outcome).mean()))
        for metric, outcome in names.items()
    ]


def measurements_of(
    dataset: str, detector: str, values: Mapping[str, Measured]
) -> list[Measurement]:
    """One row for each of the values, by metric, that is defined."""
    return [
        Measurement(dataset, detector, metric, float(value))
        for metric, value in values.items()
        if not math.isnan(float(value))
    ]
