"""OOD sets by name or from other data: checked, sampled, and written as PNG with a manifest."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from misgiving.data.bad_images import FAIL, readable, skipped_sentences
from misgiving.data.datasets import DATASETS, load_dataset
from misgiving.data.datasets.dataset import Dataset, ImageArray
from misgiving.data.datasets.folders import read_table, unlabelled_images
from misgiving.data.decoding import Picture, decode
from misgiving.data.ood_sets.derived import KINDS, DerivedImages, derive, ood_dataset
from misgiving.data.splits import without_training_images
from misgiving.errors import BadImage, DataError, UsageError
from misgiving.files import whole_folder, write_csv, write_json
from misgiving.manifests import sha256_of, sha256_of_lines
from misgiving.registry import Registry

MANIFEST, FACTS = "manifest.csv", "manifest.json"
PAPER_COUNTS = {
    "b_box": 2025,
    "b_box_70": 2454,
    "imagenet": 3000,
    "nct": 1350,
    "clin_skin": 723,
    "derm_skin": 1565,
}
"""Images in each of the paper's sets ("OOD Datasets")."""

SCIKIT_IMAGE = "scikit-image"
FEW = 8  # sources that are named one by one

# Crops of scikit-image's pictures need no download. They are stand-ins, and not the paper's sets.
CROPS = 256
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


class Built(NamedTuple):
    """An OOD set and facts about its making.

    Attributes:
        dataset: One class; its preprocessing is that of the held-out images.
        left_out: Images of which no sample of this set could be made.
        available: Samples that could be made, before sampling.
        seed: Of the random draw.
    """

    dataset: Dataset
    left_out: int
    available: int
    seed: int


def picture_crops(
    held_out: Dataset,
    seed: int,
    *,
    name: str = "photographs",
    pictures: tuple[str, ...] = PHOTOGRAPHS,
    described: str = f"{len(PHOTOGRAPHS)} photographs",
) -> Dataset:
    """Crops at random positions, evenly from all pictures; the picture is the group."""
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
    """Crops at different positions."""
    rows, columns = (side - CROP_SIZE + 1 for side in picture.shape[:2])
    places = random.choice(rows * columns, size=count, replace=False)
    return np.stack(
        [
            picture[top : top + CROP_SIZE, left : left + CROP_SIZE]
            for top, left in zip(*np.unravel_index(places, (rows, columns)), strict=True)
        ]
    )


OOD_SETS: Registry[Callable[[Dataset, int], Dataset]] = Registry(
    "OOD set",
    histology=partial(
        picture_crops, name="histology", pictures=HISTOLOGY, described="one histology picture"
    ),
    photographs=picture_crops,
    **{name: partial(derive, name) for name in KINDS},
)
"""Makers of all possible images of a set, given held-out images and a seed."""


def build(name: str, held_out: Dataset, *, seed: int, count: int | None = None) -> Built:
    """Make a set of `OOD_SETS` from images that no model was trained on, before preprocessing.

    The same seed gives the same bytes. `count` is the largest number of images; by default it is
    that of the paper's set of this name.

    Raises:
        UsageError: There is no such set, or the count is below 1.
        DataError: None of the images is suitable for a derived set.
    """
    if name not in OOD_SETS:
        raise UsageError(
            f"unknown OOD set {name!r}; choose from {', '.join(OOD_SETS)}, or give the images of "
            "one of your own as `place`"
        )
    whole = OOD_SETS[name](held_out, seed)
    return _sampled(whole, seed, count, left_out=len(held_out) - len(whole) if name in KINDS else 0)


def _sampled(whole: Dataset, seed: int, count: int | None, *, left_out: int = 0) -> Built:
    """Draw images of a set at random, and describe them."""
    if count is not None and count < 1:
        raise UsageError(f"`count` must be at least 1, got {count}")
    of_paper = PAPER_COUNTS.get(whole.name, 0)
    wanted = count or of_paper or len(whole)
    kept = whole
    if wanted < len(whole):
        chosen = np.random.default_rng(seed).choice(len(whole), size=wanted, replace=False)
        kept = whole.select(np.sort(chosen))
    contents = [kept.contents or _description(kept)]
    if left_out:
        contents.append(f"{left_out} image" + "s" * (left_out > 1) + " left out as unsuitable")
    if len(kept) < of_paper:
        contents.append(f"{len(kept)} of the paper's {of_paper}")
    return Built(replace(kept, contents="; ".join(contents)), left_out, len(whole), seed)


def _description(kept: Dataset) -> str:
    """Number and origin of the images of a set."""
    if isinstance(kept.images, DerivedImages):
        automatic = sum(region.automatic for region in kept.images.regions)
        located = f"; lesion located automatically in {automatic}" if automatic else ""
        return f"{len(kept)} images with {KINDS[kept.images.kind][1]}{located}"
    counts = Counter(kept.groups)
    if len(counts) == len(kept):
        return f"{len(kept)} images, resampled one by one as their sources are not known"
    listed = ", ".join(f"{source} {count}" for source, count in sorted(counts.items()))
    sources = listed if len(counts) <= FEW else f"{len(counts)} sources"
    return f"{len(kept)} images of {kept.name} ({sources})"


def from_place(
    name: str,
    place: str,
    held_out: Dataset,
    *,
    seed: int,
    count: int | None = None,
    run: Path | None = None,
) -> Built:
    """A set of images from elsewhere, with the preprocessing of the held-out images.

    `place` is a folder of images at any depth; data as in `load_dataset`, whose groups are the
    sources; or `scikit-image` for crops of its photographs. Seed and count are as in `build`.
    Images that `run` was trained on are left out.

    Raises:
        UsageError: The count is below 1, the kind of data is not known, or no image is left.
        DataError: `place` does not exist or contains no images.
    """
    if place == SCIKIT_IMAGE:
        whole = picture_crops(held_out, seed, name=name)
    else:
        others = images_at(place, name)
        if run is not None:
            others = without_training_images(replace(others, name=place), run)
        ids = tuple(f"{name}-{identity}" for identity in others.ids)
        groups, images = others.groups, others.images
        whole = ood_dataset(held_out, name=name, ids=ids, groups=groups, images=images)
    return _sampled(whole, seed, count)


def images_at(place: str, name: str) -> Dataset:
    """The images of a folder at any depth, or data as in `load_dataset`; none is opened.

    Raises:
        UsageError: It is neither a folder nor one of the forms of data.
        DataError: It contains no images.
    """
    folder = Path(place).expanduser()
    if folder.is_dir():
        images = unlabelled_images([folder], name=name)
        inside = tuple(Path(path).relative_to(folder).as_posix() for path in images.ids)
        return replace(images, ids=inside, groups=inside)  # wherever the folder is
    if place.partition(":")[0] not in DATASETS:
        what = "is a file" if folder.is_file() else "no such folder"
        raise UsageError(
            f"{place}: {what}; name a folder of images, table:FILE.csv or medmnist:FILE.npz"
        )
    images = load_dataset(place)
    if not len(images):
        raise DataError(f"{place}: contains no images; give another")
    return images


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
) -> tuple[Built, list[BadImage]]:
    """A set in which every image can be read, and the images that were left out.

    It is made as in `from_place`, or without a place as in `build`; the held-out images are the
    `source`. Images that `run` was trained on are left out. `report` is called with the number of
    images that were checked, and the total.

    Raises:
        BadImagesError: Images cannot be read, and are not skipped.
    """
    check = partial(readable, on_bad_image=on_bad_image, report=report)
    if place is None:
        usable, bad = check(source if run is None else without_training_images(source, run))
        built = build(name, usable, seed=seed, count=count)
    else:
        built = from_place(name, place, source, seed=seed, count=count, run=run)
        usable, bad = check(built.dataset)
        built = built._replace(dataset=usable)
    contents = "; ".join([built.dataset.contents, *skipped_sentences(bad, len(usable))])
    return built._replace(dataset=replace(built.dataset, contents=contents)), bad


def read_ood_folder(folder: Path, *, name: str) -> Dataset:
    """The images of a folder, with the groups of a set that `write_ood_set` wrote."""
    images, manifest = unlabelled_images([folder], name=name), folder / MANIFEST
    if not (manifest.is_file() and (folder / FACTS).is_file()):
        return images
    rows = read_table(manifest, ["id", "group"])
    group_of = dict(zip(map(_file_name, rows["id"]), rows["group"], strict=True))
    groups = [group_of.get(Path(path).name, path) for path in images.ids]
    return replace(images, groups=tuple(groups), group_columns=("group",))


def _file_name(identity: str) -> str:
    """The file of an image; bytes that a name cannot have are written as in a web address."""
    return f"{quote(identity, safe=' ()+,;=@')}.png"


def write_ood_set(built: Built, folder: Path) -> Path:
    """Write PNG files named by id, `manifest.csv` and `manifest.json`, replacing the folder.

    A row of the manifest has an image's id, group and SHA-256 of rows, columns and RGB pixels. The
    same set gives the same pixels, and with the same version of Pillow the same bytes.
    """
    dataset = built.dataset
    with whole_folder(folder) as partial_folder:
        rows = []
        for index, identity in enumerate(dataset.ids):
            read = dataset.images.read(index)
            Image.fromarray(read.image).save(partial_folder / _file_name(identity))
            height, width = read.image.shape[:2]
            pixels = sha256_of(f"{height} {width} ".encode() + read.image.tobytes())
            rows.append((identity, dataset.groups[index], pixels))
        facts = {
            "name": dataset.name,
            "seed": built.seed,
            "count": len(dataset),
            "available": built.available,
            "left_out": built.left_out,
            "contents": dataset.contents,
            "checksum": sha256_of_lines(map(",".join, rows)),
        }
        write_csv(partial_folder / MANIFEST, ("id", "group", "sha256"), rows)
        write_json(partial_folder / FACTS, facts)
    return folder
