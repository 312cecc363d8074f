"""OOD sets of crops from scikit-image's pictures, which need no download.

They are stand-ins, none of them a set of the paper.
"""

from importlib.resources import files

import numpy as np
from jaxtyping import UInt8

from misgiving.data.datasets import Dataset, ImageArray
from misgiving.data.decoding import Picture, decode
from misgiving.data.ood_sets.derived import ood_dataset
from misgiving.errors import DataError, UsageError

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
"""All photographs of everyday things in the package's wheel."""


def crops(
    held_out: Dataset,
    seed: int,
    *,
    name: str = "photographs",
    pictures: tuple[str, ...] = PHOTOGRAPHS,
    described: str = f"{len(PHOTOGRAPHS)} photographs",
) -> Dataset:
    """Crops at random places, evenly from all pictures; the picture is the group."""
    size = f"{CROP_SIZE} x {CROP_SIZE}"
    random = np.random.default_rng(seed)
    shares = [len(part) for part in np.array_split(np.arange(CROPS), len(pictures))]
    cut = [
        _random_crops(_picture(picture), share, random)
        for picture, share in zip(pictures, shares, strict=True)
    ]
    sources = np.repeat([picture.partition(".")[0] for picture in pictures], shares)
    return ood_dataset(
        held_out,
        name=name,
        ids=tuple(f"{name}-{number:04d}" for number in range(CROPS)),
        groups=tuple(sources.tolist()),
        images=ImageArray(np.concatenate(cut)),
        contents=f"{CROPS} crops of {size} pixels from {described} in scikit-image",
    )


def histology(held_out: Dataset, seed: int) -> Dataset:
    """Crops of one immunohistochemistry picture."""
    return crops(
        held_out, seed, name="histology", pictures=HISTOLOGY, described="one histology picture"
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
    """Crops at different places."""
    rows, columns = (side - CROP_SIZE + 1 for side in picture.shape[:2])
    places = random.choice(rows * columns, size=count, replace=False)
    return np.stack(
        [
            picture[top : top + CROP_SIZE, left : left + CROP_SIZE]
            for top, left in zip(*np.unravel_index(places, (rows, columns)), strict=True)
        ]
    )
