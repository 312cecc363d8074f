"""Held-out dermoscopic images with the lesion boxed or cropped away (Pacheco et al., 2020).

Boxes and crops are made in the pixels of the image file; preprocessing comes after.
"""

import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from misgiving.data.datasets import Dataset, HashedImage, ImageSource
from misgiving.data.decoding import decode, read_bytes
from misgiving.data.masks import mask_of
from misgiving.data.ood_sets.built import Built, outliers
from misgiving.data.ood_sets.lesions import dark_rim, locate_lesion, resized, widened
from misgiving.data.ood_sets.rectangles import (
    Box,
    bounding_box,
    box_over_image,
    box_over_share,
    clean_square,
)
from misgiving.errors import DataError
from misgiving.manifests import sha256_of

Picture = UInt8[np.ndarray, "height width 3"]
Mask = Bool[np.ndarray, "height width"]

# Of the shorter side: about a lesion that was located automatically, lest some of it be missed.
BOX_MARGIN = 0.05
SKIN_MARGIN = 0.1
RIM_MARGIN = 0.02  # of the shorter side: the rim's soft edge


class Lesion(NamedTuple):
    """Which pixels of an image are lesion, and whether that is known or was found by search."""

    mask: Mask
    automatic: bool


class Place(NamedTuple):
    """Where an image is boxed or cropped, on a grid of that many rows and columns."""

    box: Box
    grid: tuple[int, int]
    automatic: bool


class Kind(NamedTuple):
    """How a derived set is made: where each image is changed, how, and what a report says."""

    place: Callable[[Dataset, int, int], Place | None]
    change: Callable[[Picture, Box], Picture]
    sentence: str


def blackened(image: Picture, box: Box) -> Picture:
    """A copy with a black box."""
    changed = image.copy()
    changed[box.top : box.bottom, box.left : box.right] = 0
    return changed


def cropped(image: Picture, box: Box) -> UInt8[np.ndarray, "rows columns 3"]:
    """A copy of what is in the box."""
    return image[box.top : box.bottom, box.left : box.right].copy()


def lesion_of(dataset: Dataset, index: int) -> Lesion | None:
    """The lesion by its mask file or else by search; None where none is found."""
    if dataset.masks is not None:
        path = mask_of(dataset.masks, dataset.ids[index])
        if path is not None:
            return Lesion(decode(read_bytes(path), str(path))[..., 0] >= 128, automatic=False)
    mask = locate_lesion(dataset.images.read(index).image)
    return None if mask is None else Lesion(mask, automatic=True)


def _boxed_by(
    rule: Callable[[Mask], Box | None], *, margin: float = 0.0
) -> Callable[[Dataset, int, int], Place | None]:
    """Where to box an image by a rule that looks at its lesion, with a margin if located."""

    def place(dataset: Dataset, index: int, seed: int) -> Place | None:
        del seed  # nothing is drawn at random
        lesion = lesion_of(dataset, index)
        if lesion is None:
            return None
        rows, columns = lesion.mask.shape
        margined = margin * min(rows, columns) if lesion.automatic else 0.0
        box = rule(widened(lesion.mask, margined) if margined else lesion.mask)
        return None if box is None else Place(box, (rows, columns), lesion.automatic)

    return place


def _skin_beside_lesion(dataset: Dataset, index: int, seed: int) -> Place | None:
    image = dataset.images.read(index).image
    lesion = lesion_of(dataset, index)
    if lesion is None:
        return None
    mask = resized(lesion.mask, image.shape[:2])
    shorter = min(mask.shape)
    if lesion.automatic:
        mask = widened(mask, SKIN_MARGIN * shorter)
    soiled = mask | widened(dark_rim(image), RIM_MARGIN * shorter)
    # by the id, so that an image has the same crop whatever other images are in the set
    random = np.random.default_rng([seed, zlib.crc32(dataset.ids[index].encode())])
    box = clean_square(soiled, random)
    rows, columns = mask.shape
    return None if box is None else Place(box, (rows, columns), lesion.automatic)


KINDS = {
    "b_box": Kind(
        _boxed_by(bounding_box, margin=BOX_MARGIN), blackened, "a black box over the lesion"
    ),
    "b_box_70": Kind(
        _boxed_by(box_over_share), blackened, "a black box over about 70 % of the lesion"
    ),
    "b_box_70_image": Kind(
        _boxed_by(box_over_image), blackened, "a black box over 70 % of the image"
    ),
    "derm_skin": Kind(_skin_beside_lesion, cropped, "only a square of the skin beside the lesion"),
}


@dataclass(frozen=True, eq=False)
class DerivedImages:
    """Images of another source, each boxed or cropped in its place when it is read."""

    source: ImageSource
    kind: str
    places: tuple[Place, ...]

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> HashedImage:
        image, place = self.source.read(index).image, self.places[index]
        height, width = image.shape[:2]
        changed = KINDS[self.kind].change(image, place.box.scaled(place.grid, (height, width)))
        return HashedImage(sha256_of(changed.tobytes()), changed)

    def key(self, index: int) -> str:
        """The image, and the place: all that seed and mask have an effect on."""
        box, grid, _ = self.places[index]
        return f"{self.kind}|{[*box, *grid]}|{self.source.key(index)}"

    def select(self, indices: Int[np.ndarray, " m"]) -> "DerivedImages":
        places = tuple(self.places[index] for index in indices)
        return DerivedImages(self.source.select(indices), self.kind, places)


def derive(name: str, held_out: Dataset, *, seed: int) -> Built:
    """All of a derived set; masks, and where need be images, are read now to find the places.

    Raises:
        DataError: No image has a place, or a mask cannot be read.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [*pool.map(lambda i: KINDS[name].place(held_out, i, seed), range(len(held_out)))]
    kept = np.array([i for i, place in enumerate(found) if place is not None], dtype=np.int64)
    if not kept.size:
        raise DataError(f"{held_out.name}: {name} can be made of no held-out image; give masks")
    chosen = held_out.select(kept)
    dataset = outliers(
        held_out,
        name=name,
        ids=tuple(f"{name}-{identity}" for identity in chosen.ids),
        groups=chosen.groups,
        images=DerivedImages(
            chosen.images, name, tuple(place for place in found if place is not None)
        ),
        contents="",
    )
    return Built(dataset, len(held_out) - len(kept), len(kept), seed)


def description(name: str, images: DerivedImages, left_out: int) -> str:
    """What a report says of these images, without how many the paper had."""
    automatic = sum(place.automatic for place in images.places)
    remarks = [f"lesion located automatically in {automatic}"] * (automatic > 0)
    images_left = f"{left_out} image" + "s" * (left_out > 1)
    remarks += [f"{images_left} left out, of which none can be made"] * (left_out > 0)
    sentence = f"{len(images)} images with {KINDS[name].sentence}"
    return "; ".join([sentence, *remarks])
