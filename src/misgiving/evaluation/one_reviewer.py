"""One score for errors and OOD images, and the separate ones, where one reviewer gets both."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from misgiving.calibration.apply import Calibrator
from misgiving.calibration.error_or_ood import (
    ACCEPTANCE,
    ERROR_OR_OOD,
    FEATURE_NORM,
    ErrorOrOod,
    error_or_ood,
)
from misgiving.calibration.fit import Fitted
from misgiving.evaluation.measures import measure_detection
from misgiving.metrics.loss_estimation import error_auroc
from misgiving.metrics.mixed import mixed_aurc, mixed_auroc
from misgiving.metrics.selective import aurc
from misgiving.results.predictions import Predictions, Scores
from misgiving.results.schema import Measurement
from misgiving.scores.detectors import FittedDetectors, all_scores, evidence_of

OOD_SHARE = 0.5

Wrong = Bool[np.ndarray, " n"]


class OneReviewer(NamedTuple):
    """Combined score of a model's outputs, fitted on its tuning set.

    Attributes:
        combined: The combination.
        calibrator: Names the classes, and gives the acceptance score.
        detectors: Fitted on the training set; None: only scores of the outputs themselves.
    """

    combined: ErrorOrOod
    calibrator: Calibrator
    detectors: FittedDetectors | None

    def scores(
        self, predictions: Predictions, known: Scores | None = None
    ) -> dict[str, Float[np.ndarray, " _"]]:
        """The separate scores by name, the acceptance score, and the combined score.

        `known` are the separate scores of these images, if they were computed before.
        """
        separate = all_scores(predictions, self.detectors) if known is None else known
        scores = with_feature_norm(separate, predictions)
        scores[ACCEPTANCE] = acceptance_scores_of(
            self.calibrator, scores, predictions, self.detectors
        )
        return {**scores, ERROR_OR_OOD: self.combined(scores)}

    def wrong(self, predictions: Predictions) -> Wrong:
        """True where the named class is not the true one."""
        return np.asarray(self.calibrator.named(predictions.logits) != predictions.labels)


def acceptance_scores_of(
    calibrator: Calibrator,
    scores: Scores,
    predictions: Predictions,
    detectors: FittedDetectors | None,
) -> Float[np.ndarray, " n"]:
    """The acceptance score of these images."""
    evidence = None if detectors is None else evidence_of(predictions, detectors)
    return calibrator.acceptance_scores(scores, predictions.logits, evidence)


def with_feature_norm(
    scores: Scores, predictions: Predictions
) -> dict[str, Float[np.ndarray, " _"]]:
    """Add the 1-norm of the features, a score of SIRC, where features are known."""
    features = predictions.features.astype(np.float64)
    return {**scores, **({FEATURE_NORM: np.abs(features).sum(axis=1)} if features.size else {})}


def fit_one_reviewer(
    tune: Predictions,
    fitted: Fitted,
    detectors: FittedDetectors | None,
    *,
    outliers: Predictions | None = None,
    ood_share: float = OOD_SHARE,
) -> OneReviewer:
    """Fit the combined score on the tuning set.

    Args:
        tune: The tuning set; nothing may be measured on it.
        fitted: The calibrator that was fitted on it, with its cross-fitted classes and scores.
        detectors: Fitted on the training set.
        outliers: OOD images for tuning; nothing may be measured on these either.
        ood_share: The share of OOD images to expect, where there are some for tuning.
    """
    scores = with_feature_norm(all_scores(tune, detectors), tune)
    scores[ACCEPTANCE] = fitted.scores
    others = None
    if outliers is not None:
        others = with_feature_norm(all_scores(outliers, detectors), outliers)
        others[ACCEPTANCE] = acceptance_scores_of(fitted.calibrator, others, outliers, detectors)
    wrong = fitted.named != tune.labels
    combined = error_or_ood(scores, wrong, outliers=others, ood_share=ood_share)
    return OneReviewer(combined, fitted.calibrator, detectors)


def measure_one_reviewer(
    reviewer: OneReviewer,
    test: Predictions,
    outliers: Mapping[str, Predictions],
    dataset: str,
    *,
    ood_share: float = OOD_SHARE,
) -> list[Measurement]:
    """Measure the combined score, and every separate score on the same mixtures.

    On the in-distribution images it is AURC and AUROC for errors, beside those of the acceptance
    score; on each OOD set the OOD metrics, and the AURC and AUROC of the mixture by every score.

    Args:
        reviewer: The combined score.
        test: In-distribution images on which nothing was fitted.
        outliers: OOD images by the name of their set, among them those of unseen classes.
        dataset: Name of the in-distribution images in the results.
        ood_share: The share of OOD images in each mixture.
    """
    scores, wrong = reviewer.scores(test), reviewer.wrong(test)
    rows = measure_errors(
        {name: scores[name] for name in (ACCEPTANCE, ERROR_OR_OOD)}, wrong, dataset
    )
    combined = {ERROR_OR_OOD: scores[ERROR_OR_OOD]}
    for of_set, predictions in outliers.items():
        others = reviewer.scores(predictions)
        rows += measure_detection(combined, others, of_set)
        rows += measure_mixture(scores, wrong, others, of_set, ood_share=ood_share)
    return rows


def measure_errors(scores: Scores, wrong: Wrong, dataset: str) -> list[Measurement]:
    """AURC and AUROC for errors by each score."""
    values = {
        (name, metric): float(measure(of_images, wrong))
        for name, of_images in scores.items()
        for metric, measure in (("aurc", aurc), ("error_auroc", error_auroc))
    }
    return _rows(dataset, values)


def measure_mixture(
    inliers: Scores, wrong: Wrong, outliers: Scores, dataset: str, *, ood_share: float = OOD_SHARE
) -> list[Measurement]:
    """AURC and AUROC by each score of both sets where OOD images count as errors."""
    values = {
        (name, metric): measure(of_images, wrong, outliers[name], ood_share=ood_share)
        for name, of_images in inliers.items()
        if name in outliers
        for metric, measure in (("mixed_aurc", mixed_aurc), ("mixed_auroc", mixed_auroc))
    }
    return _rows(dataset, values)


def _rows(dataset: str, values: Mapping[tuple[str, str], float]) -> list[Measurement]:
    return [
        Measurement(dataset, detector, metric, value)
        for (detector, metric), value in values.items()
        if not math.isnan(value)
    ]
