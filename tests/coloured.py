"""Small image sets: in memory, one that can be learned in seconds, and photographs in files."""

from collections import Counter

import numpy as np
from PIL import Image

from misgiving.data.cache import ImageSet
from misgiving.data.datasets.dataset import ArrayImage, Dataset


def coloured_set(size=24, classes=3, side=16, seed=0):
    """Noisy images whose mean colour determines the class: small and learnable."""
    random = np.random.default_rng(seed)
    labels = np.arange(size) % classes
    images = random.integers(0, 120, (size, side, side, 3))
    images[np.arange(size), :, :, labels % 3] += 100
    names = tuple(f"image-{seed}-{number}" for number in range(size))
    return ImageSet(
        images=images.astype(np.uint8),
        rows=np.arange(size),
        labels=labels,
        ids=names,
        groups=("",) * size,
        hashes=tuple(f"{seed:04d}{number:060d}" for number in range(size)),
        classes=tuple("abcdefgh"[:classes]),
    )


class FragileImage(ArrayImage):
    """An image that may not be readable; counts how often it is tried."""

    def __init__(self, pixels, number, error, tried):
        super().__init__(pixels)
        vars(self).update(number=number, error=error, tried=tried)

    def content(self):
        self.tried[self.number] += 1
        if self.error:
            raise self.error
        return super().content()


class Fragile(tuple):
    """Images of which some cannot be read; counts how often each is tried."""

    def __new__(cls, images, bad=(), error=None):
        tried, errors = (
            Counter(),
            [error if number in bad else None for number in range(len(images))],
        )
        numbered = zip(images, range(len(images)), errors, strict=True)
        made = super().__new__(cls, (FragileImage(*image, tried) for image in numbered))
        made.tried = tried
        return made


def dataset_of(images, **changes):
    """A data set of the classes a and b in turn, of pixels or of another source of them."""
    source = tuple(map(ArrayImage, images)) if isinstance(images, np.ndarray) else images
    count = len(source)
    ids = changes.get("ids", tuple(f"i{number}" for number in range(count)))
    fields = {"name": "toy", "classes": ("a", "b"), "labels": np.arange(count) % 2}
    fields["groups"] = ("",) * count
    return Dataset(**{**fields, "images": source, "ids": ids, **changes})


def write_photos(folder):
    """Write four grey photographs of two classes; gives their files."""
    paths = [folder / f"{name}.png" for name in ("NV/one", "NV/two", "DF/three", "DF/four")]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 200 + number, dtype=np.uint8)).save(path)
    return paths
