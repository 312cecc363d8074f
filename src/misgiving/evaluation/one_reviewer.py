"""One score for errors and OOD images, and the separate ones, where one reviewer gets both."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from misgiving.calibrators.apply import Calibrator
from misgiving.calibrators.error_or_ood import (
    ACCEPTANCE,
    ERROR_OR_OOD,
    FEATURE_NORM,
    ErrorOrOod,
    error_or_ood,
)
from misgiving.calibrators.fit import Fitted
from misgiving.metrics.loss_estimation import error_auroc
from misgiving.metrics.mixed import mixed_aurc, mixed_auroc
from misgiving.metrics.selective import aurc
from misgiving.results.predictions import Predictions
from misgiving.results.schema import Measurement
from misgiving.scores.detectors import FittedDetectors, all_scores

OOD_SHARE = 0.5

Scores = dict[str, Float[np.ndarray, " _"]]


class OneReviewer(NamedTuple):
    """What gives the combined score of a model's outputs, fitted on its tuning set.

    Attributes:
        combined: The combination.
        calibrator: Names the classes, and gives the acceptance score.
        detectors: Fitted on the training set; None: only scores of the outputs themselves.
    """

    combined: ErrorOrOod
    calibrator: Calibrator
    detectors: FittedDetectors | None

    def scores(self, predictions: Predictions) -> Scores:
        """The separate scores by name, the acceptance score, and the combined score."""
        scores = separate_scores(predictions, self.detectors)
        scores[ACCEPTANCE] = self.calibrator.acceptance_scores(scores, predictions.logits)
        return {**scores, ERROR_OR_OOD: self.combined(scores)}


def separate_scores(predictions: Predictions, detectors: FittedDetectors | None) -> Scores:
    """All scores, and the 1-norm of the features (SIRC) where these are known."""
    scores = all_scores(predictions, detectors)
    if predictions.features.shape[1]:
        scores[FEATURE_NORM] = np.abs(predictions.features.astype(np.float64)).sum(axis=1)
    return scores


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
    scores = {**separate_scores(tune, detectors), ACCEPTANCE: fitted.scores}
    others = None
    if outliers is not None:
        others = separate_scores(outliers, detectors)
        others[ACCEPTANCE] = fitted.calibrator.acceptance_scores(others, outliers.logits)
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
    """AURC and AUROC by every score: of errors alone, and mixed with each set of OOD images.

    Args:
        reviewer: The combined score.
        test: In-distribution images on which nothing was fitted.
        outliers: OOD images by the name of their set, among them those of unseen classes.
        dataset: Name of the in-distribution images in the results.
        ood_share: The share of OOD images in each mixture.
    """
    scores = reviewer.scores(test)
    wrong = reviewer.calibrator.named(test.logits) != test.labels
    rows = [
        Measurement(dataset, name, metric, value)
        for name, values in scores.items()
        for metric, value in (
            ("aurc", float(aurc(values, wrong))),
            ("error_auroc", float(error_auroc(values, wrong))),
        )
    ]
    for of_set, predictions in outliers.items():
        others = reviewer.scores(predictions)
        rows += [
            Measurement(
                of_set, name, metric, measure(values, wrong, others[name], ood_share=ood_share)
            )
            for name, values in scores.items()
            for metric, measure in (("mixed_aurc", mixed_aurc), ("mixed_auroc", mixed_auroc))
        ]
    return [row for row in rows if not math.isnan(row.value)]
