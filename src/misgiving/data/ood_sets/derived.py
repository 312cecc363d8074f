"""OOD sets that are made of held-out images: the lesion or the ink boxed, or cropped away.

Lesions are boxed as in Pacheco et al. (2020), whom the paper follows ("OOD Datasets"). Boxes and
crops are made in the pixels of the image file, before preprocessing.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from misgiving.data.datasets.dataset import Dataset, HashedImage, ImageSource
from misgiving.data.decoding import decode, in_order, read_bytes
from misgiving.data.ood_sets.lesions import dark_rim, locate_lesion, mask_of, resized, widened
from misgiving.data.ood_sets.rectangles import (
    Box,
    bounding_box,
    box_over_image,
    box_over_share,
    clean_square,
)
from misgiving.errors import DataError
from misgiving.manifests import sha256_of

Mask = Bool[np.ndarray, "height width"]

# Shares of the shorter side.
BOX_MARGIN = 0.05  # around a lesion that was located automatically, which may be found too small
SKIN_MARGIN = 0.1
CROPPED = "derm_skin"  # the other sets are boxed
RIM_MARGIN = 0.02  # for the rim's soft edge


def ood_dataset(
    held_out: Dataset,
    name: str,
    ids: tuple[str, ...],
    groups: tuple[str, ...],
    images: ImageSource,
    contents: str = "",
) -> Dataset:
    """A set of one class with the preprocessing of the held-out images."""
    return Dataset(
        name=name,
        classes=("ood",),
        labels=np.zeros(len(ids), dtype=np.int64),
        ids=ids,
        groups=groups,
        images=images,
        preprocessing=held_out.preprocessing,
        augmentation=held_out.augmentation,
        contents=contents,
        group_columns=held_out.group_columns,
    )


class Region(NamedTuple):
    """The box or crop of an image, on a grid of `grid` rows and columns."""

    box: Box
    grid: tuple[int, ...]
    automatic: bool


def lesion_of(dataset: Dataset, index: int) -> tuple[Mask | None, bool]:
    """The lesion's pixels by its mask file, or else located, and whether it was located.

    None where no lesion is found.
    """
    if dataset.masks is not None:
        path = mask_of(dataset.masks, dataset.ids[index])
        if path is not None:
            return decode(read_bytes(path), str(path))[..., 0] >= 128, False
    return locate_lesion(dataset.images.read(index).image), True


def _box_lesion(
    dataset: Dataset,
    index: int,
    _seed: int,
    *,
    rule: Callable[[Mask], Box | None],
    margin: float = 0.0,
) -> Region | None:
    """Box an image by a rule for the lesion, with a margin if the lesion was located."""
    mask, automatic = lesion_of(dataset, index)
    if mask is None:
        return None
    if automatic and margin:
        mask = widened(mask, margin * min(mask.shape))
    box = rule(mask)
    return None if box is None else Region(box, mask.shape, automatic)


def _skin_beside_lesion(dataset: Dataset, index: int, seed: int) -> Region | None:
    image = dataset.images.read(index).image
    lesion, automatic = lesion_of(dataset, index)
    if lesion is None:
        return None
    mask = resized(lesion, image.shape[:2])
    shorter = min(mask.shape)
    if automatic:
        mask = widened(mask, SKIN_MARGIN * shorter)
    soiled = mask | widened(dark_rim(image), RIM_MARGIN * shorter)
    # by id, so that an image has the same crop whatever other images are in the set
    random = np.random.default_rng([seed, zlib.crc32(dataset.ids[index].encode())])
    box = clean_square(soiled, random)
    return None if box is None else Region(box, mask.shape, automatic)


def _over_ink(dataset: Dataset, index: int, _seed: int) -> Region | None:
    """Box the pixels at least half as dark as the darkest; fainter ones are soft edges."""
    darkness = 255 - dataset.images.read(index).image.mean(axis=2)
    box = bounding_box(darkness >= darkness.max() / 2)
    return None if box is None else Region(box, darkness.shape, automatic=False)


KINDS: Mapping[str, tuple[Callable[[Dataset, int, int], Region | None], str]] = {
    "boxes": (_over_ink, "a black box over the ink"),
    "b_box": (
        partial(_box_lesion, rule=bounding_box, margin=BOX_MARGIN),
        "a black box over the lesion",
    ),
    "b_box_70": (
        partial(_box_lesion, rule=box_over_share),
        "a black box over about 70 % of the lesion",
    ),
    "b_box_70_image": (
        partial(_box_lesion, rule=box_over_image),
        "a black box over 70 % of the image",
    ),
    CROPPED: (_skin_beside_lesion, "only a square of the skin beside the lesion"),
}
"""The region of an image by data set, position and seed, and a description, by name of the set."""


@dataclass(frozen=True, eq=False)
class DerivedImages:
    """Images of another source, boxed or cropped when they are read."""

    source: ImageSource
    kind: str
    regions: tuple[Region, ...]

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> HashedImage:
        image, region = self.source.read(index).image, self.regions[index]
        box = region.box.scaled(region.grid, image.shape[:2])
        rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
        if self.kind == CROPPED:
            changed = image[rows, columns].copy()
        else:
            changed = image.copy()
            changed[rows, columns] = 0
        return HashedImage(sha256_of(changed.tobytes()), changed)

    def key(self, index: int) -> str:
        """Image and region; the region depends on seed and mask."""
        box, grid, _ = self.regions[index]
        return f"{self.kind}|{[*box, *grid]}|{self.source.key(index)}"

    def select(self, indices: Int[np.ndarray, " m"]) -> "DerivedImages":
        regions = tuple(self.regions[index] for index in indices)
        return DerivedImages(self.source.select(indices), self.kind, regions)


def derive(name: str, held_out: Dataset, seed: int) -> Dataset:
    """Derive a set; masks, and images where necessary, are read now.

    Raises:
        DataError: No image is suitable, or a mask cannot be read.
    """
    find, _ = KINDS[name]
    results = in_order(lambda index: find(held_out, index, seed), len(held_out))
    regions = {index: region for index, region in enumerate(results) if region is not None}
    if not regions:
        raise DataError(f"{held_out.name}: no held-out image is suitable for {name}; give masks")
    chosen = held_out.select(np.array([*regions]))
    ids = tuple(f"{name}-{identity}" for identity in chosen.ids)
    images = DerivedImages(chosen.images, name, tuple(regions.values()))
    made = ood_dataset(held_out, name, ids, chosen.groups, images)
    return replace(made, left_out=len(held_out) - len(made))
