"""Section 4.3 of the paper: images of classes that the model was not trained on."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from misgiving.data.cache import ImageSet
from misgiving.evaluation.measures import Measurement
from misgiving.report.names import UNSEEN_SET
from misgiving.reproduction.ood_detection import Detection, measure_outliers
from misgiving.reproduction.trial_data import TrainedUnit


def unseen_images(images: ImageSet, unseen: tuple[str, ...]) -> ImageSet:
    """All images of the unseen classes."""
    numbers = [images.classes.index(name) for name in unseen]
    return images.select(np.flatnonzero(np.isin(images.labels, numbers)))


def unseen_sets(together: ImageSet, unseen: tuple[str, ...]) -> Mapping[str, Int[np.ndarray, " n"]]:
    """Positions, among the images of all unseen classes, of all of them and of each class."""
    return {
        UNSEEN_SET: np.arange(len(together)),
        **{
            f"unseen/{name}": np.flatnonzero(together.labels == together.classes.index(name))
            for name in unseen
        },
    }


def measure_new_classes(trained: TrainedUnit, detection: Detection) -> list[Measurement]:
    """Measure the detectors of 4.2 on the unseen classes, together and one by one."""
    unseen = trained.trial_data.protocol.unseen
    together = unseen_images(trained.trial_data.images, unseen)
    scores = detection.detectors(together)
    measurements = []
    for name, rows in unseen_sets(together, unseen).items():
        of_set = {detector: values[rows] for detector, values in scores.items()}
        groups = together.select(rows).groups
        measurements += measure_outliers(trained, detection, name, of_set, groups)
    return measurements
