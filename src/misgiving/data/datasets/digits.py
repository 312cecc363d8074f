"""`digits`: a small set that needs no download."""

import numpy as np

from misgiving.data.datasets.dataset import Dataset
from misgiving.data.datasets.images import ImageArray
from misgiving.data.preprocessing import AugmentationSettings, Preprocessing


def read_digits(_: str) -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels, as dark ink on white paper (scikit-learn)."""
    from sklearn.datasets import load_digits  # an extra, which reading files does without

    bunch = load_digits()
    ink = np.rint(255 - bunch.images * (255 / 16)).astype(np.uint8)
    ids = tuple(f"digit-{number:04d}" for number in range(len(ink)))
    return Dataset(
        name="digits",
        classes=tuple(str(name) for name in bunch.target_names),
        labels=bunch.target.astype(np.int64),
        ids=ids,
        groups=ids,
        images=ImageArray(np.repeat(ink[..., None], 3, axis=3)),
        preprocessing=Preprocessing(image_size=16, crop=1.0, color_constancy="none"),
        augmentation=AugmentationSettings(flips=False, rotation=10.0),  # a turned 6 is a 9
        contents="1797 handwritten digits of 8 x 8 pixels from scikit-learn",
    )
