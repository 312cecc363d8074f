"""OOD sets that are made of held-out images: the lesion or the ink boxed, or cropped away.

Lesions are boxed as in Pacheco et al. (2020), whom the paper follows ("OOD Datasets"). Boxes and
crops are made in the pixels of the image file, before preprocessing.
"""

import zlib
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from misgiving.arrays import Picture, PixelMask
from misgiving.data.datasets.dataset import Dataset, SourceImage
from misgiving.data.decoding import decode, in_order, read_bytes
from misgiving.errors import DataError
from misgiving.groups import names_of_groups
from misgiving.reproduction.ood_sets.lesions import (
    dark_rim,
    locate_lesion,
    mask_of,
    resized,
    widened,
)

# Shares of the shorter side.
BOX_MARGIN = 0.05  # around a lesion that was located automatically, which may be found too small
SKIN_MARGIN = 0.1
RIM_MARGIN = 0.02  # for the rim's soft edge
LARGEST_CROP, SMALLEST_CROP = 0.35, 0.2

COVERED = 0.7  # of the lesion or of the image: the paper's "~70 %"
CROPPED = "derm_skin"  # the other sets are boxed


Box = tuple[slice, slice]
"""Rows and columns of a rectangle: `image[box]` are its pixels."""


def bounding_box(lesion: PixelMask) -> Box:
    """The smallest box around the lesion."""
    rows, columns = ndimage.find_objects(lesion.astype(np.uint8))[0]
    return rows, columns


def box_over_share(lesion: PixelMask) -> Box:
    """A box that covers about 70 % of the lesion's pixels.

    The box has the shape of the bounding box, lies inside it around the lesion's centre of mass,
    and has the size whose share is nearest to 70 %.
    """
    around = bounding_box(lesion)
    inside = lesion[around]
    scales = np.linspace(0, 1, 2 * sum(inside.shape) + 1)
    (heights, tops), (widths, lefts) = (
        _spans(scales, size, float(np.mean(places)) + 0.5)
        for size, places in zip(inside.shape, np.nonzero(inside), strict=True)
    )
    boxes = np.broadcast_arrays(tops, lefts[:, None], heights, widths[:, None])
    tops, lefts, heights, widths = boxes  # each side rounded down or up
    bottoms, rights = tops + heights, lefts + widths
    corners = _integral(inside)
    counts = corners[bottoms, rights] + corners[tops, lefts]
    counts = counts - corners[tops, rights] - corners[bottoms, lefts]
    best = np.abs(counts / inside.sum() - COVERED).argmin()
    top, left, height, width = (values.flat[best].item() for values in boxes)
    top, left = around[0].start + top, around[1].start + left
    return np.s_[top : top + height, left : left + width]


def _spans(
    scales: Float[np.ndarray, " n"], size: int, centre: float
) -> tuple[Int[np.ndarray, "2 n"], Int[np.ndarray, "2 n"]]:
    """Lengths, rounded down and up but at least 1, and starts that keep them inside."""
    exact = scales * size
    lengths = np.clip(np.stack([np.floor(exact), np.ceil(exact)]).astype(np.int64), 1, size)
    starts = np.clip(np.round(centre - lengths / 2).astype(np.int64), 0, size - lengths)
    return lengths, starts


def box_over_image(lesion: PixelMask) -> Box:
    """A box of the image's shape over 70 % of it, centred on the lesion as far as possible."""
    rows, columns = lesion.shape
    height = max(round(rows * COVERED**0.5), 1)
    width = min(max(round(COVERED * rows * columns / height), 1), columns)
    top, left = (
        min(max(round((edges.start + edges.stop - size) / 2), 0), side - size)
        for edges, size, side in zip(
            bounding_box(lesion), (height, width), lesion.shape, strict=True
        )
    )
    return np.s_[top : top + height, left : left + width]


def clean_square(soiled: PixelMask, random: np.random.Generator) -> Box | None:
    """A random square without a soiled pixel, of the largest possible side.

    Its side is 20 to 35 % of the image's shorter side. All its positions are equally likely.

    Returns:
        None where not even the smallest square is clean.
    """
    shorter = min(soiled.shape)
    smallest, largest = (max(round(part * shorter), 1) for part in (SMALLEST_CROP, LARGEST_CROP))
    corners = _integral(soiled)

    def is_clean(side: int) -> Bool[np.ndarray, "tops lefts"]:
        """Upper left corners of the squares of this side that are clean."""
        lower, upper = corners[side:], corners[:-side]
        return np.asarray(
            lower[:, side:] - upper[:, side:] - lower[:, :-side] + upper[:, :-side] == 0
        )

    sides = range(largest, smallest - 1, -1)
    best = bisect_left(sides, True, key=lambda side: bool(is_clean(side).any()))
    if best == len(sides):
        return None
    clean = is_clean(sides[best])
    top, left = divmod(int(random.choice(np.flatnonzero(clean))), clean.shape[1])
    return np.s_[top : top + sides[best], left : left + sides[best]]


def _integral(mask: PixelMask) -> Int[np.ndarray, "rows columns"]:
    """Number of set pixels above and to the left of each pixel corner."""
    return np.pad(mask.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))


def ood_dataset(held_out: Dataset, name: str, ids: tuple[str, ...], **facts: Any) -> Dataset:
    """A set of one class with the preprocessing of the held-out images, and with other facts."""
    labels = np.zeros(len(ids), dtype=np.int64)
    facts = {"contents": "", "masks": None, "metadata": {}, "sets": (), **facts}
    return replace(held_out, name=name, classes=("ood",), labels=labels, ids=ids, **facts)


Region = tuple[Box, bool]
"""The box or crop of an image, and True if its lesion was located automatically."""


def _by_lesion(
    rule: Callable[[PixelMask], Box] | None, margin: float, dataset: Dataset, index: int, seed: int
) -> Region | None:
    """A box by the lesion's pixels in a mask file, or else where it is located; or a crop beside.

    A located lesion is widened by the margin, a share of the image's shorter side.
    """
    image, identity = dataset.images[index].read().image, dataset.ids[index]
    path = None if dataset.masks is None else mask_of(dataset.masks, identity)
    if path is None:
        lesion = widened(locate_lesion(image), margin * min(image.shape[:2]))
    else:
        lesion = resized(decode(read_bytes(path), str(path))[..., 0] >= 128, image.shape[:2])
    if not lesion.any():
        return None
    if rule is not None:
        return rule(lesion), path is None
    rim = widened(dark_rim(image), RIM_MARGIN * min(lesion.shape))
    # by id, so that an image has the same crop whatever other images are in the set
    random = np.random.default_rng([seed, zlib.crc32(identity.encode())])
    crop = clean_square(lesion | rim, random)
    return None if crop is None else (crop, path is None)


def _over_ink(dataset: Dataset, index: int, _seed: int) -> Region:
    """Box the pixels at least half as dark as the darkest; fainter ones are soft edges."""
    darkness = 255 - dataset.images[index].read().image.mean(axis=2)
    return bounding_box(darkness >= darkness.max() / 2), False


DERIVED_SETS: Mapping[str, tuple[Callable[[Dataset, int, int], Region | None], str]] = {
    "boxes": (_over_ink, "a black box over the ink"),
    "b_box": (partial(_by_lesion, bounding_box, BOX_MARGIN), "a black box over the lesion"),
    "b_box_70": (
        partial(_by_lesion, box_over_share, 0.0),
        "a black box over about 70 % of the lesion",
    ),
    "b_box_70_image": (
        partial(_by_lesion, box_over_image, 0.0),
        "a black box over 70 % of the image",
    ),
    CROPPED: (
        partial(_by_lesion, None, SKIN_MARGIN),
        "only a square of the skin beside the lesion",
    ),
}
"""The region of an image by data set, position and seed, and a description, by name of the set."""


@dataclass(frozen=True, eq=False)
class DerivedImage(SourceImage):
    """Another image, boxed or cropped when it is read."""

    source: SourceImage
    kind: str
    region: Region

    def content(self) -> tuple[Picture, str]:
        image, (box, _) = self.source.read().image, self.region
        changed = image[box] if self.kind == CROPPED else image.copy()
        if self.kind != CROPPED:
            changed[box] = 0
        return changed, ""

    def key(self) -> str:
        """Image and region; the region depends on seed and mask."""
        return f"{self.kind}|{self.region[0]}|{self.source.key()}"


def derive(name: str, held_out: Dataset, seed: int) -> Dataset:
    """Derive a set of the images that are suitable; images and masks are read now.

    Raises:
        DataError: No image is suitable, or an image or a mask cannot be read.
    """
    results = in_order(lambda index: DERIVED_SETS[name][0](held_out, index, seed), len(held_out))
    regions = {index: region for index, region in enumerate(results) if region is not None}
    if not regions:
        raise DataError(f"{held_out.name}: no held-out image is suitable for {name}; give masks")
    chosen = held_out.select(np.array([*regions]))
    ids = tuple(f"{name}-{identity}" for identity in chosen.ids)
    pairs = zip(chosen.images, regions.values(), strict=True)
    images = tuple(DerivedImage(image, name, region) for image, region in pairs)
    left_out = len(held_out) - len(ids)
    # An image and what is made of it are of one group.
    groups = tuple(names_of_groups(chosen.groups, chosen.ids))
    return ood_dataset(held_out, name, ids, groups=groups, images=images, left_out=left_out)
