"""Section 4.2 of the paper: telling images of other kinds by ODIN, and by simpler confidences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from misgiving.checkpoint import Checkpoint
from misgiving.data.loading import ImageSet
from misgiving.evaluation.ood_scores import Scores, odin_scores, plain_scores
from misgiving.metrics.ood import ood_metrics
from misgiving.results.schema import Measurement, OdinPoint
from misgiving.scores import (
    EPSILONS,
    TEMPERATURES,
    FittedDetectors,
    Odin,
    Tuning,
    best_of_grid,
    id_only_odin,
    odin_grid,
)


@dataclass(frozen=True, kw_only=True)
class OdinSearch:
    """The grid over which ODIN is tuned, and the set it is tuned on (the paper's: NCT)."""

    tuning_set: str
    temperatures: Sequence[float] = TEMPERATURES
    epsilons: Sequence[float] = EPSILONS

    def grid(self) -> list[Odin]:
        """The points among which the best is looked for."""
        return odin_grid(self.temperatures, self.epsilons)


class OdinChoices(NamedTuple):
    """ODIN as tuned on the named set, and as chosen on in-distribution images alone."""

    tuning: Tuning
    id_only: Odin

    def detectors(self) -> dict[str, Odin]:
        """Every ODIN of the tables by its name there."""
        return {"odin": self.tuning.best, "odin_default": Odin(), "odin_id_only": self.id_only}


class Detection(NamedTuple):
    """Confidences of the inliers and of every outlier set, and what was chosen on the tuning set.

    `chosen` is the detector with the highest AUROC there, whose confidences are given as
    `CHOSEN` once more: on every other set it was chosen without looking.
    """

    inliers: Scores
    outliers: Mapping[str, Scores]
    choices: OdinChoices
    chosen: str


CHOSEN = "best_on_tuning"


def detect(
    checkpoint: Checkpoint,
    inliers: ImageSet,
    outliers: Mapping[str, ImageSet],
    search: OdinSearch,
    *,
    detectors: FittedDetectors,
    tuning_inliers: ImageSet | None = None,
) -> Detection:
    """Tune ODIN on the named set, and score every set by every detector.

    The scores of the whole grid on the tuning sets are used again for the tables.

    Args:
        checkpoint: The trained model.
        inliers: In-distribution images that are measured.
        outliers: Sets that are measured; the tuning set is one of them.
        search: The grid and the tuning set.
        detectors: Fitted on the training part.
        tuning_inliers: In-distribution images to choose on; None for `inliers`, as in the paper.
    """
    grid = list(dict.fromkeys([*search.grid(), Odin()]))
    known = {
        id(images): odin_scores(checkpoint, images, grid)
        for images in (tuning_inliers or inliers, outliers[search.tuning_set])
    }
    choosing = known[id(tuning_inliers or inliers)]
    tuning = best_of_grid(choosing, known[id(outliers[search.tuning_set])], search.grid())
    choices = OdinChoices(tuning, id_only_odin(choosing, search.grid()))

    def scored(images: ImageSet) -> Scores:
        points = choices.detectors()
        found = known.get(id(images)) or odin_scores(
            checkpoint, images, list(dict.fromkeys(points.values()))
        )
        return {name: found[point] for name, point in points.items()} | plain_scores(
            checkpoint, images, detectors
        )

    of_inliers = scored(inliers)
    of_outliers = {name: scored(images) for name, images in outliers.items()}
    tuned_on = of_inliers if tuning_inliers is None else scored(tuning_inliers)
    chosen = best_detector(tuned_on, of_outliers[search.tuning_set])
    return Detection(
        {**of_inliers, CHOSEN: of_inliers[chosen]},
        {name: {**scores, CHOSEN: scores[chosen]} for name, scores in of_outliers.items()},
        choices,
        chosen,
    )


def best_detector(inliers: Scores, outliers: Scores) -> str:
    """The detector with the highest AUROC; of equal ones the first."""
    return max(inliers, key=lambda name: float(ood_metrics(inliers[name], outliers[name])["auroc"]))


def chosen_points(choices: OdinChoices, tuning_set: str) -> list[Measurement]:
    """Temperature and epsilon of each ODIN that was chosen, as rows of the results."""
    points = choices.detectors()
    del points["odin_default"]
    return [
        Measurement(tuning_set, detector, name, value)
        for detector, point in points.items()
        for name, value in {"temperature": point.temperature, "epsilon": point.epsilon}.items()
    ]


def grid_rows(tuning: Tuning) -> list[OdinPoint]:
    """The whole grid with its AUROC on the tuning set."""
    return [OdinPoint(point.temperature, point.epsilon, auroc) for point, auroc in tuning.grid]
