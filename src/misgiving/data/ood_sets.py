"""Out-of-distribution sets that need no download, for runs on the digits.

They are named for what they are: stand-ins, none of them a set of the paper.
"""

import hashlib
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt8

from misgiving.data.datasets import Dataset, HashedImage, ImageArray, ImageSource
from misgiving.data.preprocessing import decode
from misgiving.errors import DataError, UsageError
from misgiving.registry import Registry

Picture = UInt8[np.ndarray, "height width 3"]

CROPS = 256
CROP_SIZE = 64
HISTOLOGY = ("ihc.png",)
PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "moon.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
"""All of the package's photographs of everyday things that its wheel holds."""


@runtime_checkable
class OodSet(Protocol):
    """Makes an out-of-distribution set to go with held-out images; same seed, same bytes."""

    def __call__(self, held_out: Dataset, *, seed: int) -> Dataset: ...


def histology(held_out: Dataset, *, seed: int) -> Dataset:
    """Crops of one immunohistochemistry picture; as one source, they are worth about one image."""
    contents = f"{CROPS} crops of {CROP_SIZE} x {CROP_SIZE} pixels from one histology picture"
    return _crops(held_out, "histology", HISTOLOGY, contents=contents, seed=seed)


def photographs(held_out: Dataset, *, seed: int) -> Dataset:
    """Crops of photographs of people, animals, things and textures, balanced over the pictures."""
    contents = (
        f"{CROPS} crops of {CROP_SIZE} x {CROP_SIZE} pixels from {len(PHOTOGRAPHS)} photographs"
    )
    return _crops(held_out, "photographs", PHOTOGRAPHS, contents=contents, seed=seed)


def _crops(
    held_out: Dataset, name: str, pictures: tuple[str, ...], *, contents: str, seed: int
) -> Dataset:
    random = np.random.default_rng(seed)
    shares = [len(part) for part in np.array_split(np.arange(CROPS), len(pictures))]
    crops = [
        _random_crops(_picture(picture), share, random)
        for picture, share in zip(pictures, shares, strict=True)
    ]
    sources = np.repeat([picture.partition(".")[0] for picture in pictures], shares)
    return replace(
        held_out,
        name=name,
        classes=("ood",),
        labels=np.zeros(CROPS, dtype=np.int64),
        ids=tuple(f"{name}-{number:04d}" for number in range(CROPS)),
        groups=tuple(sources.tolist()),
        images=ImageArray(np.concatenate(crops)),
        contents=f"{contents} in scikit-image",
    )


def _picture(name: str) -> Picture:
    try:
        data = (files("skimage") / "data" / name).read_bytes()
    except ModuleNotFoundError as failure:
        raise UsageError(
            "this set needs scikit-image; run: pip install 'misgiving[train]'"
        ) from failure
    except FileNotFoundError as failure:
        raise DataError(f"{name}: not in this scikit-image; install another version") from failure
    return decode(data, name)


def _random_crops(
    picture: Picture, count: int, random: np.random.Generator
) -> UInt8[np.ndarray, "count side side 3"]:
    """Crops at places that are all different."""
    rows, columns = (side - CROP_SIZE + 1 for side in picture.shape[:2])
    places = random.choice(rows * columns, size=count, replace=False)
    return np.stack(
        [
            picture[top : top + CROP_SIZE, left : left + CROP_SIZE]
            for top, left in zip(*np.unravel_index(places, (rows, columns)), strict=True)
        ]
    )


def boxes(held_out: Dataset, *, seed: int) -> Dataset:
    """Held-out digits, each with a black box over the bounding box of its ink."""
    del seed  # nothing is drawn at random
    return replace(
        held_out,
        name="boxes",
        classes=("ood",),
        labels=np.zeros(len(held_out), dtype=np.int64),
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
        return HashedImage(hashlib.sha256(boxed.tobytes()).hexdigest(), boxed)

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


OOD_SETS: Registry[OodSet] = Registry(
    "OOD set", histology=histology, photographs=photographs, boxes=boxes
)
