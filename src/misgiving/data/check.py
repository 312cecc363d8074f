"""Check of a labelled image set before training: damage, duplicates and contradictions.

Near duplicates are the same picture in another encoding, size or light. Dermoscopic images look
alike, a blob in the middle, so that a hash alone would join many different ones. A pair must agree
in a difference hash (Krawetz, 2013) and in its grey thumbnails.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt64
from PIL import Image

from misgiving.arrays import Mask, Picture
from misgiving.data.cache import ImageSet, Report
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.datasets.tags import with_tags
from misgiving.data.decoding import ignored_sentences, in_order
from misgiving.data.splits import Split
from misgiving.errors import reason_of
from misgiving.files import sha256_of
from misgiving.groups import Pair, chained, join_groups

FINDINGS_FILE = "findings.csv"
FINDING_COLUMNS = ("check", "image", "other", "detail")  # by their ids; the other one compared
DARK_LEVEL = 16  # of 255: the brightest value of 12 bits that are stored as 16


Grey = Float32[np.ndarray, "_ side side"]
Hashes = Shaped[np.ndarray, "*images"]
"""`PICTURE_HASH` of one image or of several."""

HASH_SIDE = 16  # 256 bits in four words
THUMBNAIL_SIDE = 32
COARSE_SIDE = 4  # detail is the difference from a thumbnail of this side
BLOCK_IMAGES = 128  # images that are read, or compared with all later ones, at a time

# Chosen on 2,465 dermoscopic images of ISIC 2019, at 200 x 150 pixels. None of their 3,035,928
# pairs of different lesions passes; pairs whose hashes agree have a correlation of at most 0.980
# and one of detail of at most 0.969. Of 6,170 copies (JPEG of quality 30 or 75, half or double
# size, another shape, 12 % lighter or darker, less contrast, or three of these) 6,168 pass.
MOST_BITS = 48
LEAST_CORRELATION = 0.98
LEAST_DETAIL_CORRELATION = 0.975
MOST_BRIGHTER = 48.0  # grey levels, on average
FLAT = 0.5  # standard deviation in grey levels below which there is nothing to correlate

PICTURE_HASH = np.dtype(
    [("bits", np.uint64, HASH_SIDE**2 // 64), ("thumbnail", np.uint8, (THUMBNAIL_SIDE,) * 2)]
)
"""Type of a difference hash with a grey thumbnail."""

Fault = tuple[int, int, str]
"""Position of an image, of the earlier one it is compared with or else its own, and the detail."""

Facts = tuple[str, str, Hashes, int]
"""SHA-256 of an image's content and of its pixels, its picture hash and its brightest value."""

Check = tuple[str, Sequence[Fault], int, str]
"""Name of a check, the images concerned, its count and a remark."""

Summary = tuple[str, int, str]
"""Name, count and remark of the images, of a class or of a check; the count of a check is the
number of images, pairs or groups concerned."""

Finding = tuple[str, str, str, str]
"""An image with a problem: a row of `FINDING_COLUMNS`."""


def data_check(
    dataset: Dataset, *, report: Report | None = None
) -> tuple[list[Summary], list[Finding]]:
    """Check every image and label of a set; an unreadable image is a finding.

    Only hashes and a thumbnail of each image are kept.
    """
    dataset = with_tags(dataset, dataset.preprocessing)
    images: dict[int, Facts] = {}
    unreadable: list[Fault] = []
    for index, facts in enumerate(in_order(partial(_facts_of, dataset), len(dataset))):
        if isinstance(facts, str):
            unreadable.append((index, index, facts))
        else:
            images[index] = facts
        if report:
            report(index + 1, len(dataset))
    dark = [
        (index, index, f"brightest value {brightest} of 255")
        for index, (*_, brightest) in images.items()
        if brightest <= DARK_LEVEL
    ]
    advice = "as 12 bits in 16; save them with the whole range of values" if dark else ""
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes)).tolist()
    sizes = zip(dataset.classes, counts, strict=True)
    ignored = dataset.ignored
    about = "".join(ignored_sentences(ignored)).removeprefix("ignored: ")
    checks: list[Check] = [
        ("images", (), len(dataset), f"in {len(dataset.classes)} classes"),
        *((f"images of {name}", (), count, "") for name, count in sizes),
        *([("ignored files", (), sum(ignored.values()), about)] if ignored else []),
        ("unreadable files", unreadable, len(unreadable), unreadable[0][2] if unreadable else ""),
        *_checks_of_relations(dataset, images),
        ("nearly black images", dark, len(dark), advice),
    ]
    ids = dataset.ids
    findings = [
        (name, ids[index], "" if other == index else ids[other], detail)
        for name, pairs, _, _ in checks
        for index, other, detail in pairs
    ]
    return [(name, count, remark) for name, _, count, remark in checks], findings


def _facts_of(dataset: Dataset, index: int) -> Facts | str:
    """Facts of an image, or in one line the reason why it cannot be read."""
    try:
        content, image = dataset.images[index].read()
        pixels = sha256_of(f"{image.shape}".encode() + image.tobytes())
        return content, pixels, picture_hash(image), int(image.max())
    except Exception as failure:  # whatever happens, the other images are still checked
        return reason_of(failure).encode(errors="backslashreplace").decode()


def _checks_of_relations(dataset: Dataset, images: Mapping[int, Facts]) -> Iterator[Check]:
    """Checks of copies and of groups; the count is that of pairs, and that of groups.

    A pair of copies is listed once, by its closest agreement.
    """
    units, labels = dataset.units.tolist(), [dataset.classes[label] for label in dataset.labels]
    same_content = _repeats((index, facts[0]) for index, facts in images.items())
    same_pixels = _repeats((index, facts[1]) for index, facts in images.items())
    hashes = {index: facts[2] for index, facts in images.items() if index not in same_pixels}
    positions = list(hashes)
    near = near_duplicates(np.array([*hashes.values()], dtype=PICTURE_HASH))
    same_alone = [pair for pair in same_pixels.items() if pair[0] not in same_content]
    copies = {
        "files of the same content": [*same_content.items()],
        "files of the same pixels alone": same_alone,
        "near duplicates": [(positions[second], positions[first]) for first, second in near],
    }
    groups = sorted(_repeats(enumerate(units)).items(), key=lambda pair: pair[1])
    members = [(index, other, dataset.groups[index]) for index, other in groups]

    def differing(faults: Sequence[Fault], values: Sequence[str] = labels) -> list[Fault]:
        """Those whose labels or other values differ, which are added to the detail."""
        return [
            (index, other, f"{detail}: {values[index]}, {values[other]}")
            for index, other, detail in faults
            if values[index] != values[other]
        ]

    def of_copies(name: str, faults: Sequence[Fault]) -> Check:
        apart = sum(units[index] != units[other] for index, other, _ in faults)
        return name, faults, len(faults), f"{apart} of different groups" if faults else ""

    def of_groups(name: str, faults: Sequence[Fault], remark: str = "") -> Check:
        return name, faults, len({first for _, first, _ in faults}), remark

    for name, pairs in copies.items():
        yield of_copies(name, [(*pair, name) for pair in pairs])
    grouped = len(groups) + len({first for _, first in groups})
    remark = f"{grouped} images; {len({*units})} groups in all"
    yield of_groups("groups with several images", members, remark)
    everything = [(*pair, name) for name, pairs in copies.items() for pair in pairs]
    yield of_copies("copies with different labels", differing(everything))
    yield of_groups("groups with different labels", differing(members))
    if dataset.sets:
        yield of_copies("copies in different sets", differing(everything, dataset.sets))
        yield of_groups("groups in different sets", differing(members, dataset.sets))


def _repeats(keys: Iterable[tuple[int, Hashable]]) -> dict[int, int]:
    """The first position with the same key, for each position that is another."""
    first: dict[Hashable, int] = {}
    pairs = ((index, first.setdefault(key, index)) for index, key in keys)
    return {index: earliest for index, earliest in pairs if index != earliest}


def picture_hash(image: Picture) -> Hashes:
    """Hash and thumbnail of the grey image, squeezed into a square, as a `PICTURE_HASH`.

    A bit is set where the image gets lighter to the right; similar pictures differ in few bits.

    >>> ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8)[:, None], (50, 1, 3))
    >>> np.bitwise_count(picture_hash(ramp)["bits"]).tolist()
    [64, 64, 64, 64]
    """
    import imagehash  # half a second, with SciPy and PyWavelets

    grey = Image.fromarray(image).convert("L")
    thumbnail = grey.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR)
    bits = np.packbits(imagehash.dhash(grey, HASH_SIDE).hash).view(np.uint64)
    return np.array((bits, np.asarray(thumbnail)), dtype=PICTURE_HASH)


def image_hashes(images: ImageSet) -> Hashes:
    """Hashes of prepared images; one block at a time is in memory."""
    hashes = [
        picture_hash(image)
        for start in range(0, len(images), BLOCK_IMAGES)
        for image in images.read(np.arange(start, min(start + BLOCK_IMAGES, len(images))))
    ]
    return np.array(hashes, dtype=PICTURE_HASH)


def near_duplicates(hashes: Hashes) -> list[Pair]:
    """Positions of the pairs that show the same picture, ordered, the smaller position first.

    Two images agree if few bits of their hashes differ, and if their grey thumbnails correlate,
    with and without the coarse light and dark that many lesions share. Copies that are turned,
    mirrored or cropped by more than about 2 % are not found.
    """
    duplicates: list[Pair] = []
    thumbnails = hashes["thumbnail"]
    light = thumbnails.mean(axis=(1, 2), dtype=np.float32)
    for start in range(0, len(hashes["bits"]), BLOCK_IMAGES):
        pairs = _similar_bits(hashes["bits"], start)
        pairs = pairs[np.abs(np.subtract(*light[pairs.T])) <= MOST_BRIGHTER]
        for measure, least in (np.asarray, LEAST_CORRELATION), (_detail, LEAST_DETAIL_CORRELATION):
            first, second = (np.unique(side, return_inverse=True) for side in pairs.T)
            grey = (thumbnails[numbers].astype(np.float32) for numbers, _ in (first, second))
            alike = _correlation(*map(measure, grey)) >= least
            pairs = pairs[alike[first[1], second[1]]]
        duplicates += map(tuple, pairs.tolist())
    return duplicates


def contradictory_copies(images: ImageSet, near: Iterable[Pair]) -> list[Pair]:
    """Pairs of these near duplicates, and of the same content, whose labels differ."""
    same = {(first, second) for second, first in _repeats(enumerate(images.hashes)).items()}
    pairs = sorted(same.union(near))
    return [pair for pair in pairs if len({*images.labels[list(pair)].tolist()}) > 1]


def related_groups(sources: Sequence[ImageSet], split: Split) -> tuple[str, ...]:
    """Group of each image, joined where images may show the same object; empty for a single one.

    Joined are images of one named group, of one group of the run's split, of the same content, and
    near duplicates.
    """
    contents = [content for images in sources for content in images.hashes]
    groups = [g for images in sources for g in images.groups]
    ids = [name for images in sources for name in images.ids]
    group_of = dict(zip(split.hashes, split.groups, strict=True))
    pairs = [
        *near_duplicates(np.concatenate([*map(image_hashes, sources)])),
        *chained(contents),
        *chained([group_of.get(content, "") for content in contents]),
    ]
    return join_groups(groups, ids, pairs)


def _similar_bits(bits: UInt64[np.ndarray, "n words"], start: int) -> Int[np.ndarray, "pairs 2"]:
    """Pairs of a block's images and later ones whose hashes differ in few bits."""
    block = bits[start : start + BLOCK_IMAGES]
    differing = np.zeros((len(block), len(bits) - start), dtype=np.uint16)
    for word in range(bits.shape[1]):
        differing += np.bitwise_count(block[:, word, None] ^ bits[start:, word])
    first, second = np.nonzero(differing <= MOST_BITS)
    later = second > first
    return np.stack([first[later], second[later]], axis=1) + start


def _correlation(first: Grey, second: Grey) -> Float32[np.ndarray, "_ _"]:
    """Pearson's correlation of each with each; two flat images agree, a flat one with no other."""
    (left, left_is_flat), (right, right_is_flat) = map(_standardised, (first, second))
    both_flat = np.logical_and.outer(left_is_flat, right_is_flat)
    return np.asarray(left @ right.T + both_flat, dtype=np.float32)


def _standardised(grey: Grey) -> tuple[Float32[np.ndarray, "n pixels"], Mask]:
    """Thumbnails as vectors of mean 0 and length 1, those that are flat as zeros."""
    vectors = grey.reshape(len(grey), THUMBNAIL_SIDE**2)
    vectors = vectors - vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1)
    flat = lengths < FLAT * THUMBNAIL_SIDE
    return vectors / np.where(flat, np.inf, lengths)[:, None], flat


def _detail(grey: Grey) -> Grey:
    """The difference from the means of coarse squares."""
    side = THUMBNAIL_SIDE // COARSE_SIDE
    squares = grey.reshape(len(grey), COARSE_SIDE, side, COARSE_SIDE, side)
    detail: Grey = (squares - squares.mean(axis=(2, 4), keepdims=True)).reshape(grey.shape)
    return detail
