"""Black boxes over the ink of dark writing on light paper: a set for runs on the digits."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8

from misgiving.data.datasets import Dataset, HashedImage, ImageSource
from misgiving.data.ood_sets.built import outliers
from misgiving.manifests import sha256_of

Picture = UInt8[np.ndarray, "height width 3"]


def boxes(held_out: Dataset, *, seed: int) -> Dataset:
    """Held-out digits, each with a black box over the bounding box of its ink."""
    del seed  # nothing is drawn at random
    return outliers(
        held_out,
        name="boxes",
        ids=tuple(f"boxes-{identity}" for identity in held_out.ids),
        groups=held_out.ids,
        images=BoxedImages(held_out.images),
        contents=f"{len(held_out)} held-out images with a black box over the ink",
    )


@dataclass(frozen=True, eq=False)
class BoxedImages:
    """Images of another source with a black box over the ink."""

    source: ImageSource

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> HashedImage:
        boxed = _boxed(self.source.read(index).image)
        return HashedImage(sha256_of(boxed.tobytes()), boxed)

    def key(self, index: int) -> str:
        return f"boxed|{self.source.key(index)}"

    def select(self, indices: Int[np.ndarray, " m"]) -> "BoxedImages":
        return BoxedImages(self.source.select(indices))


def _boxed(image: Picture) -> Picture:
    ink = _ink(image)
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    boxed = image.copy()
    boxed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 0
    return boxed


def _ink(image: Picture) -> Bool[np.ndarray, "height width"]:
    """Pixels at least half as dark as the darkest; fainter ones are the soft edge of a stroke."""
    darkness = 255 - image.mean(axis=2)
    return np.asarray(darkness >= darkness.max() / 2)
