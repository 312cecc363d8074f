"""Section 4.2 of the paper: OOD detection by ODIN, and by detectors that need no tuning."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from misgiving.checkpoint import Checkpoint
from misgiving.data.cache import ImageSet
from misgiving.deferral.bounds import kth_lowest, tolerance_rank
from misgiving.deferral.scored_cases import one_per_group
from misgiving.evaluation.measures import Measurement, measure_classification, measure_detection
from misgiving.metrics.ood import ood_metrics
from misgiving.predictions.inference import odin_scores, predict
from misgiving.predictions.record import Predictions
from misgiving.report.names import CHOSEN
from misgiving.reproduction.config import OdinGrid
from misgiving.reproduction.policies import (
    MAX_OOD_FALSE_ALARMS,
    fitted_detectors,
    policy_sets,
)
from misgiving.reproduction.score_files import save_scores
from misgiving.reproduction.tables import write_table
from misgiving.reproduction.trial_data import TrainedUnit
from misgiving.scores.detectors import FittedDetectors, all_scores, default_ood_detector
from misgiving.scores.odin import Odin
from misgiving.scores.odin_tuning import best_of_grid, id_only_odin, odin_grid
from misgiving.scores.outputs import Scores


class TunedDetectors:
    """All detectors of one model: ODIN as tuned on a named set, ODIN's default, and the others.

    `chosen` has the highest AUROC on the tuning set. Its scores are also given as `CHOSEN`; on
    every other set it was chosen without looking at that set.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        fitted: FittedDetectors,
        search: OdinGrid,
        *,
        inliers: ImageSet,
        outliers: ImageSet,
    ) -> None:
        """Tune ODIN on these in-distribution images and these images of the tuning set."""
        self._checkpoint, self._fitted = checkpoint, fitted
        grid = odin_grid(search.temperatures, search.epsilons)
        points = list(dict.fromkeys([*grid, Odin()]))
        inlier_scores, outlier_scores = (
            odin_scores(checkpoint, images, points) for images in (inliers, outliers)
        )
        self.tuning = best_of_grid(inlier_scores, outlier_scores, grid, criterion=search.criterion)
        self.odins = {
            "odin": self.tuning.best,
            "odin_default": Odin(),
            "odin_id_only": id_only_odin(inlier_scores, grid),
        }
        self._scored = [  # the grid's scores serve for the tables too
            (inliers, self._with_plain(inliers, inlier_scores)),
            (outliers, self._with_plain(outliers, outlier_scores)),
        ]
        self.chosen = best_detector(*(scores for _, scores in self._scored))

    def __call__(self, images: ImageSet) -> Scores:
        """Scores of a set by every detector."""
        for scored, scores in self._scored:
            if scored is images:
                return {**scores, CHOSEN: scores[self.chosen]}
        points = list(dict.fromkeys(self.odins.values()))
        scores = self._with_plain(images, odin_scores(self._checkpoint, images, points))
        return {**scores, CHOSEN: scores[self.chosen]}

    def _with_plain(
        self, images: ImageSet, odin: Mapping[Odin, Float[ndarray, " _"]]
    ) -> dict[str, Float[ndarray, " _"]]:
        tuned = {name: odin[point] for name, point in self.odins.items()}
        estimates_losses = self._checkpoint.estimates_losses
        predictions = predict(self._checkpoint.model, images, estimates_losses=estimates_losses)
        return tuned | all_scores(predictions, self._fitted)


def best_detector(inliers: Scores, outliers: Scores) -> str:
    """The detector with the highest AUROC; of equal ones the first."""
    return max(inliers, key=lambda name: float(ood_metrics(inliers[name], outliers[name])["auroc"]))


class OodRule(NamedTuple):
    """An image is OOD if its score by this detector is below the limit."""

    detector: str
    limit: float


class Detection(NamedTuple):
    """The detectors of one model, and what is measured of the inliers.

    Attributes:
        detectors: All of them, as tuned.
        inliers: Their scores of the measured inliers.
        rule: The OOD rule, as in a policy.
    """

    detectors: TunedDetectors
    inliers: Scores
    rule: OodRule


def measure_ood_detection(trained: TrainedUnit) -> tuple[list[Measurement], Detection]:
    """Tune the detectors of one model, and measure them on every OOD set."""
    setup, measured, folder = trained.setup, trained.measured, trained.folder
    search, tuning = trained.trial_data.protocol.odin, setup.evaluation_sets.tuning
    inliers = setup.images_of(measured)
    sets = policy_sets(trained)
    fitted = fitted_detectors(sets.training)
    outliers = {
        name: ood.images for name, ood in trained.trial_data.outliers(trained.unit.trial).items()
    }
    detectors = TunedDetectors(
        trained.checkpoint,
        fitted,
        search,
        inliers=inliers if tuning == measured else setup.images_of(tuning),
        outliers=outliers[search.tuning_set],
    )
    rule = ood_rule(sets.calibration, fitted, seed=setup.training.seed)
    scores = detectors(inliers)
    save_scores(folder, measured, scores, inliers.groups)
    detection = Detection(detectors, scores, rule)
    grid = [
        (odin.temperature, odin.epsilon, *measured) for odin, *measured in detectors.tuning.grid
    ]
    columns = ["temperature", "epsilon", "auroc", "fpr_at_tpr95"]
    write_table(folder / "odin_grid.csv", pd.DataFrame(grid, columns=columns))
    rows = [
        *measure_classification(trained.predictions, measured),
        *_choices(detectors, search.tuning_set),
        # only the inliers that did not set the limit
        measure_ood_rule(all_scores(sets.test, fitted), rule, measured),
    ]
    for name, images in outliers.items():
        rows += measure_outliers(trained, detection, name, detectors(images), images.groups)
    return rows, detection


def _choices(detectors: TunedDetectors, tuning_set: str) -> list[Measurement]:
    """Temperature and epsilon of each tuned ODIN, and the chosen detector."""
    tuned = {name: odin for name, odin in detectors.odins.items() if name != "odin_default"}
    return [
        *(
            Measurement(tuning_set, name, metric, value)
            for name, odin in tuned.items()
            for metric, value in (("temperature", odin.temperature), ("epsilon", odin.epsilon))
        ),
        Measurement(tuning_set, detectors.chosen, "chosen", 1.0),
    ]


def measure_outliers(
    trained: TrainedUnit, detection: Detection, name: str, scores: Scores, groups: tuple[str, ...]
) -> list[Measurement]:
    """Measure the detectors and the OOD rule on a set of outliers, and keep its scores."""
    save_scores(trained.folder, name, scores, groups)
    return [
        *measure_detection(detection.inliers, scores, name),
        measure_ood_rule(scores, detection.rule, name),
    ]


def ood_rule(calibration: Predictions, fitted: FittedDetectors, *, seed: int) -> OodRule:
    """The rule by which at most `MAX_OOD_FALSE_ALARMS` are called OOD, at 95 % confidence.

    It is that of a policy, which there shares the confidence with the target error rate. The limit
    is -inf, so that no image is OOD, where there are too few groups to certify that.
    """
    rows = one_per_group(calibration.units, seed=seed)
    rank = tolerance_rank(len(rows), rate=MAX_OOD_FALSE_ALARMS, level=0.05)
    detector = default_ood_detector(fitted)
    confidences = all_scores(calibration, fitted)[detector][rows]
    return OodRule(detector, float(kth_lowest(confidences, rank)) if rank else -math.inf)


def measure_ood_rule(scores: Scores, rule: OodRule, dataset: str) -> Measurement:
    """The share of a set that the rule calls OOD."""
    share = float((scores[rule.detector] < rule.limit).mean())
    return Measurement(dataset, "ood_rule", "ood_share", share)
