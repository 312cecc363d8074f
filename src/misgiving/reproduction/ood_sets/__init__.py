"""The OOD sets of Section 4.2 and their stand-ins: derived, cropped, or sampled from other data."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from misgiving.arrays import Picture
from misgiving.data.cache import bad_images
from misgiving.data.datasets import load_dataset, unlabelled_images
from misgiving.data.datasets.dataset import ArrayImage, Dataset, without
from misgiving.data.decoding import (
    FAIL,
    BadImage,
    check_bad_images,
    decode,
    skipped_sentences,
)
from misgiving.data.splits import without_training_images
from misgiving.registry import Registry
from misgiving.reproduction.ood_sets.derived import DERIVED_SETS, DerivedImage, derive, ood_dataset
from misgiving.reproduction.published import PAPER_IMAGES

SCIKIT_IMAGE = "scikit-image"
MAX_SOURCES = 8  # sources that are listed one by one

# Crops of scikit-image's pictures need no download. They are stand-ins, and not the paper's sets.
NUM_CROPS = 256
CROP_SIZE = 64
HISTOLOGY = ("ihc.png",)  # immunohistochemistry
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


def picture_crops(
    held_out: Dataset,
    seed: int,
    *,
    name: str = "photographs",
    pictures: tuple[str, ...] = PHOTOGRAPHS,
) -> Dataset:
    """Crops at random positions, evenly from all pictures; the picture is the group."""
    described = "one histology picture" if pictures == HISTOLOGY else f"{len(pictures)} photographs"
    random = np.random.default_rng(seed)
    shares = [len(part) for part in np.array_split(np.arange(NUM_CROPS), len(pictures))]
    data = files("skimage") / "data"
    crops = [
        random_crops(decode((data / picture).read_bytes(), picture), share, random)
        for picture, share in zip(pictures, shares, strict=True)
    ]
    sources = np.repeat([picture.partition(".")[0] for picture in pictures], shares)
    return ood_dataset(
        held_out,
        name,
        tuple(f"{name}-{number:04d}" for number in range(NUM_CROPS)),
        groups=tuple(sources.tolist()),
        images=tuple(map(ArrayImage, np.concatenate(crops))),
        contents=f"{NUM_CROPS} crops of {CROP_SIZE} x {CROP_SIZE} pixels from {described} in "
        "scikit-image",
    )


def random_crops(
    picture: Picture, count: int, random: np.random.Generator
) -> UInt8[np.ndarray, "count side side 3"]:
    """Square crops at different positions."""
    windows = np.lib.stride_tricks.sliding_window_view(picture, (CROP_SIZE, CROP_SIZE, 3))
    windows = windows[:, :, 0]
    places = random.choice(windows.shape[0] * windows.shape[1], size=count, replace=False)
    return windows[np.unravel_index(places, windows.shape[:2])]


OOD_SETS: Registry[Callable[[Dataset, int], Dataset]] = Registry(
    "OOD set",
    histology=partial(picture_crops, name="histology", pictures=HISTOLOGY),
    photographs=picture_crops,
    **{name: partial(derive, name) for name in DERIVED_SETS},
)
"""Makers of all possible images of a set, given held-out images and a seed."""


def build(
    name: str,
    held_out: Dataset,
    *,
    seed: int,
    place: str | None = None,
    count: int | None = None,
    run: Path | None = None,
) -> Dataset:
    """Make an OOD set, with the preprocessing of images that no model was trained on.

    The same seed gives the same bytes.

    Args:
        name: Of `OOD_SETS`; of any kind where there is a `place`.
        held_out: Images that no model was trained on.
        seed: Of the random draw.
        place: A folder of images at any depth; data as in `load_dataset`, whose groups are the
            sources; or `scikit-image` for crops of its photographs.
        count: Largest number of images; by default that of the paper's set of this name.
        run: Images of `place` that it was trained on are left out.

    Raises:
        UsageError: There is no such set or kind of data, or no image is left.
        DataError: No image is suitable for a derived set, or `place` has none.
    """
    if place is None:
        whole = OOD_SETS[name](held_out, seed)
    elif place == SCIKIT_IMAGE:
        whole = picture_crops(held_out, seed, name=name)
    else:
        others = images_at(place, name)
        if run is not None:
            others = without_training_images(replace(others, name=place), run)
        ids = tuple(f"{name}-{identity}" for identity in others.ids)
        whole = ood_dataset(held_out, name, ids, groups=others.groups, images=others.images)
    size = min(count or PAPER_IMAGES.get(name) or len(whole), len(whole))
    chosen = np.random.default_rng(seed).choice(len(whole), size=size, replace=False)
    drawn = whole.select(np.sort(chosen))
    return replace(drawn, contents=_contents(drawn))


def _contents(drawn: Dataset) -> str:
    """Number and origin of the images of a set, and what is missing."""
    counts = Counter(group for group in drawn.groups if group)
    origin = drawn.contents
    if derived := [image for image in drawn.images if isinstance(image, DerivedImage)]:
        automatic = sum(image.region[1] for image in derived)
        origin = f"{len(drawn)} images with {DERIVED_SETS[derived[0].kind][1]}"
        origin += f"; lesion located automatically in {automatic}" if automatic else ""
    elif not origin and len(counts) in (0, len(drawn)):
        origin = f"{len(drawn)} images, resampled one by one as their sources are not known"
    elif not origin:
        listed = ", ".join(f"{source} {count}" for source, count in sorted(counts.items()))
        sources = listed if len(counts) <= MAX_SOURCES else f"{len(counts)} sources"
        origin = f"{len(drawn)} images of {drawn.name} ({sources})"
    contents = [origin]
    if drawn.left_out:
        plural = "s" * (drawn.left_out > 1)
        contents.append(f"{drawn.left_out} image{plural} left out as unsuitable")
    if len(drawn) < (expected := PAPER_IMAGES.get(drawn.name, 0)):
        contents.append(f"{len(drawn)} of the paper's {expected}")
    return "; ".join(contents)


def images_at(place: str, name: str) -> Dataset:
    """The images of a folder at any depth, or data as in `load_dataset`; none is opened.

    Raises:
        UsageError: It is neither a folder nor one of the forms of data.
        DataError: It contains no images.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        return load_dataset(place)
    images = unlabelled_images([folder], name=name)
    inside = tuple(Path(path).relative_to(folder).as_posix() for path in images.ids)
    return replace(images, ids=inside)  # wherever the folder is


def readable_set(
    name: str,
    source: Dataset,
    *,
    place: str | None,
    seed: int,
    count: int | None = None,
    run: Path | None = None,
    on_bad_image: str = FAIL,
    report: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Dataset, list[BadImage]]:
    """A set of `build` in which every image can be read, and the images that were left out.

    The held-out images are those of the `source` that `run` was not trained on. `report` is called
    with the number of images that were checked, and the total.

    Raises:
        BadImagesError: Images cannot be read, and are not skipped.
    """
    if place is not None:
        checked = build(name, source, seed=seed, place=place, count=count, run=run)
    else:
        checked = source if run is None else without_training_images(source, run)
    bad = bad_images(checked, report)
    check_bad_images(bad, len(checked), on_bad_image)
    usable = without(checked, bad)
    made = build(name, usable, seed=seed, count=count) if place is None else usable
    contents = "; ".join([made.contents, *skipped_sentences(bad, len(usable))])
    return replace(made, contents=contents), bad
