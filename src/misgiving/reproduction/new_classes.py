"""Section 4.3 of the paper: images of classes that the model has not been trained on."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from misgiving.data.loading import ImageSet

TOGETHER = "unseen_classes"


def unseen_images(images: ImageSet, unseen: tuple[str, ...]) -> ImageSet:
    """All images of the unseen classes."""
    numbers = [images.classes.index(name) for name in unseen]
    return images.select(np.flatnonzero(np.isin(images.labels, numbers)))


def unseen_sets(together: ImageSet, unseen: tuple[str, ...]) -> Mapping[str, Int[np.ndarray, " n"]]:
    """Positions, among the images of all unseen classes, of all of them and of each class."""
    return {
        TOGETHER: np.arange(len(together)),
        **{
            f"unseen/{name}": np.flatnonzero(together.labels == together.classes.index(name))
            for name in unseen
        },
    }
