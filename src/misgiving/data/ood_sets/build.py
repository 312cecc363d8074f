"""OOD sets by name or from a place, checked, sampled and written as PNG files with a manifest."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable
from urllib.parse import quote

import numpy as np
from PIL import Image

from misgiving.data.bad_images import FAIL, readable, skipped_sentences
from misgiving.data.datasets import Dataset, HashedImage, load_dataset, unlabelled
from misgiving.data.ood_sets.derived import (
    KINDS,
    Built,
    DerivedImages,
    derive,
    describe,
    ood_dataset,
)
from misgiving.data.ood_sets.scikit_image import histology, photographs
from misgiving.errors import BadImage, DataError, UsageError
from misgiving.files import whole_folder, write_csv, write_json
from misgiving.manifests import sha256_of, sha256_of_lines
from misgiving.registry import Registry

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


@runtime_checkable
class OodSet(Protocol):
    """Makes an OOD set to go with held-out images; same seed, same bytes."""

    def __call__(self, held_out: Dataset, *, seed: int) -> Dataset: ...


def _derived(name: str, held_out: Dataset, *, seed: int) -> Dataset:
    return build(name, held_out, seed=seed).dataset


OOD_SETS: Registry[OodSet] = Registry(
    "OOD set",
    histology=histology,
    photographs=photographs,
    **{name: partial(_derived, name) for name in KINDS},
)


def build(name: str, held_out: Dataset, *, seed: int, count: int | None = None) -> Built:
    """Make a set of `OOD_SETS`.

    Args:
        name: Of the set.
        held_out: Images that no model was trained on, before preprocessing.
        seed: Same seed, same bytes.
        count: Maximum number of images; by default that of the paper's set of this name.

    Raises:
        UsageError: There is no such set, or the count is below 1.
        DataError: None of the images is suitable for a derived set.
    """
    make = OOD_SETS[name]
    if name not in KINDS:
        whole = make(held_out, seed=seed)
        return Built(_sampled(whole, name, seed, count), 0, len(whole), seed)
    built = derive(name, held_out, seed=seed)
    kept = _sampled(built.dataset, name, seed, count)
    assert isinstance(kept.images, DerivedImages)
    contents = [describe(name, kept.images, built.left_out), *_paper_remark(name, len(kept))]
    return built._replace(dataset=replace(kept, contents="; ".join(contents)))


def _sampled(dataset: Dataset, name: str, seed: int, count: int | None) -> Dataset:
    if count is not None and count < 1:
        raise UsageError(f"`count` must be at least 1, got {count}")
    wanted = PAPER_COUNTS.get(name) if count is None else count
    if wanted is None or wanted >= len(dataset):
        return dataset
    chosen = np.random.default_rng(seed).choice(len(dataset), size=wanted, replace=False)
    return dataset.select(np.sort(chosen))


def _paper_remark(name: str, count: int) -> list[str]:
    """A remark about a set that is smaller than the paper's."""
    wanted = PAPER_COUNTS.get(name, 0)
    return [f"{count} of the paper's {wanted}"] if count < wanted else []


def from_place(
    name: str, place: str, held_out: Dataset, *, seed: int, count: int | None = None
) -> Built:
    """A set of images from elsewhere, with the preprocessing of the held-out images.

    Args:
        name: Of the set; the paper's names imply the paper's counts.
        place: A folder of images at any depth; data as in `load_dataset`, whose groups are the
            sources; or `scikit-image` for its photographs.
        held_out: In-distribution images.
        seed: Of the sample, and of the crops of `scikit-image`.
        count: Maximum number of images; by default that of the paper's set of this name.

    Raises:
        UsageError: The count is below 1, or the kind of data is not known.
        DataError: There is no such place, or it holds no image.
    """
    if place == SCIKIT_IMAGE:
        whole = photographs(held_out, seed=seed, name=name)
    else:
        found = _read(name, place)
        if not len(found):
            raise DataError(f"{place}: holds no image; name another place")
        ids = tuple(f"{name}-{identity}" for identity in found.ids)
        whole = ood_dataset(
            held_out, name=name, ids=ids, groups=found.groups, images=found.images, contents=""
        )
    kept = _sampled(whole, name, seed, count)
    contents = [kept.contents or _describe(kept), *_paper_remark(name, len(kept))]
    return Built(replace(kept, contents="; ".join(contents)), 0, len(whole), seed)


def _read(name: str, place: str) -> Dataset:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        return load_dataset(place)
    found = unlabelled([folder], name=name)
    inside = tuple(Path(identity).relative_to(folder).as_posix() for identity in found.ids)
    return replace(found, ids=inside, groups=inside)  # independent of the folder's place


def _describe(kept: Dataset) -> str:
    counts = Counter(kept.groups)
    if len(counts) == len(kept):
        return f"{len(kept)} images, resampled one by one as their sources are not known"
    named = ", ".join(f"{source} {count}" for source, count in sorted(counts.items()))
    sources = named if len(counts) <= FEW else f"{len(counts)} sources"
    return f"{len(kept)} images of {kept.name} ({sources})"


def readable_set(
    name: str,
    source: Dataset,
    *,
    place: str | None,
    seed: int,
    count: int | None = None,
    on_bad_image: str = FAIL,
    report: Callable[[int, int], None] | None = None,
) -> tuple[Built, list[BadImage]]:
    """A set in which every image can be read, and the images that were left out.

    Args:
        name: Of the set.
        source: Held-out images, of which the set is made or whose preprocessing it shares.
        place: Place of its images, as in `from_place`; None to derive them from the source.
        seed: Same seed, same bytes.
        count: Maximum number of images.
        on_bad_image: `fail`, or `skip` to leave out unreadable images.
        report: Called with the number of images that were checked, and the total.

    Raises:
        BadImages: Images cannot be read, and are not skipped.
    """
    check = partial(readable, on_bad_image=on_bad_image, report=report)
    if place is None:
        usable, bad = check(source)
        built = build(name, usable, seed=seed, count=count)
    else:
        built = from_place(name, place, source, seed=seed, count=count)
        usable, bad = check(built.dataset)
        built = built._replace(dataset=usable)
    contents = "; ".join([built.dataset.contents, *skipped_sentences(bad, len(usable))])
    return built._replace(dataset=replace(built.dataset, contents=contents)), bad


class ManifestRow(NamedTuple):
    """One image of a set.

    Attributes:
        id: As in the set.
        group: As in the set.
        sha256: Of the image's rows, columns and 8-bit RGB pixels, in hexadecimal.
    """

    id: str
    group: str
    sha256: str


def manifest(dataset: Dataset) -> Iterator[ManifestRow]:
    """A row for each image in order; one image is in memory at a time."""
    for index in range(len(dataset)):
        yield _row(dataset, index, dataset.images.read(index))


def _row(dataset: Dataset, index: int, read: HashedImage) -> ManifestRow:
    rows, columns = read.image.shape[:2]
    pixels = sha256_of(f"{rows} {columns} ".encode() + read.image.tobytes())
    return ManifestRow(dataset.ids[index], dataset.groups[index], pixels)


def checksum(rows: Iterable[ManifestRow]) -> str:
    """SHA-256 of the rows: equal for sets of the same images in the same order."""
    return sha256_of_lines(map(",".join, rows))


def write_ood_set(built: Built, folder: Path) -> Path:
    """Write PNG files named by id, `manifest.csv` and `manifest.json`, replacing the folder.

    The same set gives the same pixels, and with the same version of Pillow the same bytes. Bytes
    of an id that are not possible in a file name are written as in a web address.
    """
    dataset = built.dataset
    with whole_folder(folder) as partial_folder:
        rows = []
        for index, identity in enumerate(dataset.ids):
            read = dataset.images.read(index)
            name = quote(identity, safe=" ()+,;=@")
            Image.fromarray(read.image).save(partial_folder / f"{name}.png")
            rows.append(_row(dataset, index, read))
        facts = {
            "name": dataset.name,
            "seed": built.seed,
            "count": len(dataset),
            "available": built.available,
            "left_out": built.left_out,
            "contents": dataset.contents,
            "checksum": checksum(rows),
        }
        write_csv(partial_folder / "manifest.csv", ManifestRow._fields, rows)
        write_json(partial_folder / "manifest.json", facts)
    return folder
