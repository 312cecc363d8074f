"""Near duplicates: the same picture encoded, scaled or lit anew.

Dermoscopic images look alike, a blob in the middle, so a hash alone would join many that are not.
A pair must agree in a difference hash (Krawetz, 2013) and in its grey thumbnails.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8, UInt64
from PIL import Image

from misgiving.data.decoding import Picture
from misgiving.manifests import sha256_of

Pair = tuple[int, int]
AnyPicture = UInt8[np.ndarray, "_ _ 3"]  # of which each has a size of its own
Bits = UInt64[np.ndarray, " words"]
Thumbnails = UInt8[np.ndarray, "pairs side side"]
Grey = Float32[np.ndarray, "pairs side side"]

HASH_SIDE = 16  # 256 bits in four words
THUMBNAIL_SIDE = 32
COARSE_SIDE = 4  # what a thumbnail's detail is the difference from
BLOCK = 128  # images that are compared with all later ones, or read, at a time

# Chosen on 2,465 dermoscopic images of ISIC 2019, at 200 x 150 pixels. Of their 3,035,928 pairs of
# different lesions none passes; those whose hashes agree have a correlation of at most 0.980 and
# one of detail of at most 0.969. Of 6,170 copies (JPEG of quality 30 or 75, half or double size,
# another shape, 12 % lighter or darker, less contrast, three of these at once) 6,168 pass.
MOST_BITS = 48
LEAST_CORRELATION = 0.98
LEAST_DETAIL_CORRELATION = 0.975
MOST_BRIGHTER = 48.0  # grey levels, on average
FLAT = 0.5  # standard deviation in grey levels below which there is nothing to correlate


class Hashes(NamedTuple):
    """What images are compared by: a difference hash and a grey thumbnail of each."""

    bits: UInt64[np.ndarray, "n words"]
    thumbnails: UInt8[np.ndarray, "n side side"]


@runtime_checkable
class StoredImages(Protocol):
    """Prepared images that are read by position, such as `misgiving.data.cache.ImageSet`."""

    def __len__(self) -> int: ...

    def read(self, indices: Int[np.ndarray, " m"]) -> UInt8[np.ndarray, "m size size 3"]:
        """Pixels of these images."""


class PictureHash(NamedTuple):
    """One row of `Hashes`."""

    bits: Bits
    thumbnail: UInt8[np.ndarray, "side side"]


def picture_hash(image: Picture) -> PictureHash:
    """Difference hash and thumbnail of the grey image, squeezed into a square."""
    grey = Image.fromarray(image).convert("L")
    thumbnail = grey.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR)
    return PictureHash(_difference_hash(grey), np.asarray(thumbnail))


def perceptual_hash(image: Picture) -> Bits:
    """256 bits that say where the grey image gets lighter to the right, in four words.

    Similar pictures differ in few bits.

    >>> ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8)[:, None], (50, 1, 3))
    >>> np.bitwise_count(perceptual_hash(ramp)).tolist()
    [64, 64, 64, 64]
    """
    return _difference_hash(Image.fromarray(image).convert("L"))


def _difference_hash(grey: Image.Image) -> Bits:
    small = grey.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BILINEAR)
    values = np.asarray(small)
    return np.packbits(values[:, 1:] > values[:, :-1]).view(np.uint64)


def stacked(hashes: Iterable[PictureHash]) -> Hashes:
    """Hashes of all images in this order."""
    rows = list(hashes)
    return Hashes(
        np.array([row.bits for row in rows], np.uint64).reshape(len(rows), HASH_SIDE**2 // 64),
        np.array([row.thumbnail for row in rows], np.uint8).reshape(
            len(rows), THUMBNAIL_SIDE, THUMBNAIL_SIDE
        ),
    )


def image_hashes(images: StoredImages) -> Hashes:
    """Hashes of prepared images, of which only a block is in memory at a time."""
    return stacked(picture_hash(image) for image in _one_by_one(images))


def _one_by_one(images: StoredImages) -> Iterator[Picture]:
    for start in range(0, len(images), BLOCK):
        yield from images.read(np.arange(start, min(start + BLOCK, len(images))))


def near_duplicates(images: Hashes | Iterable[AnyPicture]) -> list[Pair]:
    """Positions of the pairs that show the same picture, the smaller first, in order of the first.

    Two agree if few bits of their hashes differ and their grey thumbnails correlate, both as they
    are and without their coarse light and dark, which many lesions share. Copies that are turned,
    mirrored or cropped by more than about 2 % are not found.
    """
    hashes = images if isinstance(images, Hashes) else stacked(map(picture_hash, images))
    return [
        pair
        for start in range(0, len(hashes.bits), BLOCK)
        for pair in _agreeing(hashes, _similar_bits(hashes.bits, start))
    ]


def _similar_bits(bits: UInt64[np.ndarray, "n words"], start: int) -> Int[np.ndarray, "pairs 2"]:
    """Pairs of a block's images and later ones whose hashes differ in few bits."""
    block = bits[start : start + BLOCK]
    differing = np.zeros((len(block), len(bits) - start), dtype=np.uint16)
    for word in range(bits.shape[1]):
        differing += np.bitwise_count(block[:, word, None] ^ bits[start:, word])
    first, second = np.nonzero(differing <= MOST_BITS)
    later = second > first
    return np.stack([first[later], second[later]], axis=1) + start


def _agreeing(hashes: Hashes, pairs: Int[np.ndarray, "pairs 2"]) -> Iterator[Pair]:
    """Those of these pairs whose thumbnails agree."""
    for start in range(0, len(pairs), BLOCK):
        first, second = pairs[start : start + BLOCK].T
        agree = _alike(hashes.thumbnails[first], hashes.thumbnails[second])
        yield from zip(first[agree].tolist(), second[agree].tolist(), strict=True)


def _alike(first: Thumbnails, second: Thumbnails) -> Bool[np.ndarray, " pairs"]:
    one, other = (thumbnails.astype(np.float32) for thumbnails in (first, second))
    brighter = np.abs(one.mean(axis=(1, 2)) - other.mean(axis=(1, 2)))
    agree: Bool[np.ndarray, " pairs"] = (
        (_correlation(one, other) >= LEAST_CORRELATION)
        & (_correlation(_detail(one), _detail(other)) >= LEAST_DETAIL_CORRELATION)
        & (brighter <= MOST_BRIGHTER)
    )
    return agree


def _correlation(one: Grey, other: Grey) -> Float32[np.ndarray, " pairs"]:
    """Pearson's correlation of each pair; two flat ones agree, and one flat one with nothing."""
    one, other = (values - values.mean(axis=(1, 2), keepdims=True) for values in (one, other))
    deviations = one.std(axis=(1, 2)), other.std(axis=(1, 2))
    flat = np.minimum(*deviations) < FLAT
    scale = np.where(flat, 1, deviations[0] * deviations[1])
    both_flat = np.maximum(*deviations) < FLAT
    correlation = (one * other).mean(axis=(1, 2)) / scale
    return np.asarray(np.where(flat, both_flat, correlation), dtype=np.float32)


def _detail(grey: Grey) -> Grey:
    """What is left without the means of coarse squares."""
    side = THUMBNAIL_SIDE // COARSE_SIDE
    squares = grey.reshape(len(grey), COARSE_SIDE, side, COARSE_SIDE, side)
    left: Grey = (squares - squares.mean(axis=(2, 4), keepdims=True)).reshape(grey.shape)
    return left


def joined_groups(groups: Sequence[str], pairs: Iterable[Pair]) -> tuple[str, ...]:
    """Every image's group once the groups of near duplicates are one, named by its first name.

    >>> joined_groups(["c", "b", "a", "d"], [(0, 1), (1, 2)])
    ('a', 'a', 'a', 'd')
    """
    parents = {group: group for group in groups}

    def root(group: str) -> str:
        while parents[group] != group:
            parents[group] = parents[parents[group]]  # halves the way for the next time
            group = parents[group]
        return group

    for first, second in pairs:
        lower, higher = sorted((root(groups[first]), root(groups[second])))
        parents[higher] = lower
    return tuple(root(group) for group in groups)


SAME_CONTENT, SAME_PIXELS, NEAR = "same content", "same pixels", "near duplicates"


class Traits(NamedTuple):
    """What an image is compared by: SHA-256 of the file and of the pixels, and how it looks."""

    content: str
    pixels: str
    seen: PictureHash


class Copy(NamedTuple):
    """Two images, by position, that show the same, and in what way."""

    first: int
    second: int
    kind: str


def traits_of(content: str, image: Picture) -> Traits:
    """Traits of a decoded image whose file has this SHA-256."""
    pixels = sha256_of(f"{image.shape}".encode() + image.tobytes())
    return Traits(content, pixels, picture_hash(image))


def copies(images: Sequence[Traits | None]) -> list[Copy]:
    """Each image that repeats an earlier one, with the first such, and then near duplicates.

    An image of the same content is not named again for its pixels, nor identical ones as near
    duplicates. Images that could not be read, None, are no copies.
    """
    contents: dict[str, int] = {}
    first_of: dict[str, int] = {}
    distinct: dict[int, PictureHash] = {}
    found = []
    for index, image in enumerate(images):
        if image is None:
            continue
        if (first := contents.setdefault(image.content, index)) != index:
            found.append(Copy(first, index, SAME_CONTENT))
        elif (first := first_of.setdefault(image.pixels, index)) != index:
            found.append(Copy(first, index, SAME_PIXELS))
        else:
            distinct[index] = image.seen
    positions = list(distinct)
    near = near_duplicates(stacked(distinct.values()))
    return found + [Copy(positions[first], positions[second], NEAR) for first, second in near]
