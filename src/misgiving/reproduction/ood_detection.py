"""Sections 4.2 and 4.3: OOD images and unseen classes, by ODIN and detectors without tuning."""

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from misgiving.data.cache import ImageSet
from misgiving.deferral.bounds import tolerance_rank
from misgiving.evaluation.measures import (
    Measurement,
    measure_classification,
    measure_detection,
    measurements_of,
)
from misgiving.metrics.ood import ood_metrics
from misgiving.predictions.inference import odin_scores, predictions_of
from misgiving.predictions.record import Predictions
from misgiving.reproduction.config import CHOSEN, MAX_OOD_FALSE_ALARMS, UNSEEN_SET
from misgiving.reproduction.generalization import policy_sets
from misgiving.reproduction.tables import Scores, group_names, save_scores, write_table
from misgiving.reproduction.trial_data import TrainedUnit
from misgiving.scores.detectors import FittedDetectors, all_scores, default_ood_detector
from misgiving.scores.odin import Odin, best_of_grid, id_only_odin, odin_grid


class TunedDetectors:
    """All detectors of one model: ODIN as tuned on an OOD set, ODIN's default, and the others.

    `chosen` has the highest AUROC on the tuning set, of equal ones the first. Its scores are also
    given as `CHOSEN`; on every other set it was chosen without looking at that set.
    """

    def __init__(
        self,
        trained: TrainedUnit,
        fitted: FittedDetectors,
        inliers: ImageSet,
        outliers: Mapping[str, ImageSet],
    ) -> None:
        """Tune ODIN on `inliers`, or on the set to tune on where there is one; write the grid."""
        self._checkpoint, self._fitted = trained.checkpoint, fitted
        search, tuning = trained.trial_data.protocol.odin, trained.setup.evaluation_sets.tuning
        inside = inliers if tuning == trained.measured else trained.setup.images_of(tuning)
        grid = odin_grid(search.temperatures, search.epsilons)
        points = list(dict.fromkeys([*grid, Odin()]))
        sets = inside, outliers[search.tuning_set]
        scored = [odin_scores(self._checkpoint, images, points) for images in sets]
        tuned = best_of_grid(scored[0], scored[1], grid, criterion=search.criterion)
        self.odins = {
            "odin": tuned.best,
            "odin_default": Odin(),
            "odin_id_only": id_only_odin(scored[0], grid),
        }
        # the grid's scores serve for the tables too
        self._scored = [*zip(sets, map(self._with_plain, sets, scored), strict=True)]
        (_, familiar), (_, strange) = self._scored
        self.chosen = max(
            familiar, key=lambda name: float(ood_metrics(familiar[name], strange[name])["auroc"])
        )
        rows = [{**vars(odin), **values} for odin, values in tuned.grid.items()]
        write_table(trained.folder / "odin_grid.csv", pd.DataFrame(rows))

    def __call__(self, images: ImageSet) -> Scores:
        """Scores of a set by every detector."""
        scores = next((scores for scored, scores in self._scored if scored is images), None)
        if scores is None:
            points = list(dict.fromkeys(self.odins.values()))
            scores = self._with_plain(images, odin_scores(self._checkpoint, images, points))
        return {**scores, CHOSEN: scores[self.chosen]}

    def _with_plain(self, images: ImageSet, odin: Mapping[Odin, Float[np.ndarray, " _"]]) -> Scores:
        tuned = {name: odin[point] for name, point in self.odins.items()}
        return {**tuned, **all_scores(predictions_of(self._checkpoint, images), self._fitted)}


def measure_detectors(trained: TrainedUnit) -> dict[str, list[Measurement]]:
    """Tune the detectors of one model, and measure them on every OOD set and unseen class.

    The inliers are those of the measured set; their scores, and those of each set, are kept.
    """
    trial_data, measured, folder = trained.trial_data, trained.measured, trained.folder
    tuning_set = trial_data.protocol.odin.tuning_set
    inliers, sets = trained.setup.images_of(measured), policy_sets(trained)
    fitted = sets.detectors
    outliers = {
        name: images for name, (_, images) in trial_data.outliers(trained.unit.trial).items()
    }
    detectors = TunedDetectors(trained, fitted, inliers, outliers)
    inlier_scores = detectors(inliers)
    save_scores(folder, measured, inlier_scores, group_names(inliers))
    limit = ood_limit(sets.calibration, fitted, seed=trained.setup.training.seed)
    called_ood = partial(ood_share, detector=default_ood_detector(fitted), limit=limit)

    def measure(dataset: str, scores: Scores, images: ImageSet) -> list[Measurement]:
        save_scores(folder, dataset, scores, group_names(images))
        return [*measure_detection(inlier_scores, scores, dataset), called_ood(dataset, scores)]

    rows = [
        *measure_classification(trained.predictions, measured),
        *measurements_of(tuning_set, "odin", vars(detectors.odins["odin"])),
        *measurements_of(tuning_set, "odin_id_only", vars(detectors.odins["odin_id_only"])),
        Measurement(tuning_set, detectors.chosen, "chosen", 1.0),
        called_ood(measured, all_scores(sets.test, fitted)),  # images that did not set the limit
    ]
    for name, images in outliers.items():
        rows += measure(name, detectors(images), images)
    unseen, members_of = unseen_sets(trial_data.images, trial_data.protocol.unseen)
    scores, unseen_rows = detectors(unseen), []
    for name, members in members_of.items():
        of_set = {detector: values[members] for detector, values in scores.items()}
        unseen_rows += measure(name, of_set, unseen.select(members))
    return {"ood_detection": rows, "new_classes": unseen_rows}


def ood_limit(calibration: Predictions, fitted: FittedDetectors, *, seed: int) -> float:
    """The score below which at most `MAX_OOD_FALSE_ALARMS` are called OOD, at 95 % confidence.

    It is that of a policy, and -inf, so that no image is OOD, where there are too few groups.
    """
    rows = calibration.one_per_group(seed=seed)
    rank = tolerance_rank(len(rows), rate=MAX_OOD_FALSE_ALARMS, level=0.05)
    confidences = all_scores(calibration, fitted)[default_ood_detector(fitted)][rows]
    return float(np.sort(confidences)[rank - 1]) if rank else -math.inf


def ood_share(dataset: str, scores: Scores, *, detector: str, limit: float) -> Measurement:
    """The share of a set that is called OOD: images whose score is below the limit."""
    return Measurement(dataset, "ood_rule", "ood_share", float((scores[detector] < limit).mean()))


def unseen_sets(
    images: ImageSet, unseen: tuple[str, ...]
) -> tuple[ImageSet, Mapping[str, Int[np.ndarray, " n"]]]:
    """The images of all unseen classes; and by set, all of them and each class, their positions."""
    numbers = [images.classes.index(name) for name in unseen]
    together = images.select(np.flatnonzero(np.isin(images.labels, numbers)))
    each = {
        f"unseen/{name}": np.flatnonzero(together.labels == number)
        for name, number in zip(unseen, numbers, strict=True)
    }
    return together, {UNSEEN_SET: np.arange(len(together)), **each}
