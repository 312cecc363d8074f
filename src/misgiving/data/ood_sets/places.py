"""Sets of images that lie somewhere: a folder, data of a known kind, or the embedded pictures."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from misgiving.data.datasets import Dataset, load_dataset, unlabelled
from misgiving.data.ood_sets.built import Built, beside_the_paper, outliers, sampled
from misgiving.data.ood_sets.embedded import photographs
from misgiving.errors import DataError

EMBEDDED = "scikit-image"
FEW = 8  # sources that are worth naming one by one


def from_place(
    name: str, place: str, held_out: Dataset, *, seed: int, count: int | None = None
) -> Built:
    """A set of images from outside, treated as the held-out images are.

    Args:
        name: What to call it; the paper's names bring the paper's counts.
        place: A folder of images at any depth; data as in `load_dataset`, whose groups are the
            sources; or `scikit-image` for its photographs.
        held_out: In-distribution images, for their preprocessing.
        seed: Of the sample, and of the crops of `scikit-image`.
        count: At most so many images; by default as many as the paper's set of this name has.

    Raises:
        UsageError: The count is below 1, or the data is of no known kind.
        DataError: There is no such place, or it holds no image.
    """
    whole = _whole(name, place, held_out, seed)
    kept = sampled(whole, name=name, seed=seed, count=count)
    remarks = filter(None, [_sentence(kept), beside_the_paper(name, len(kept))])
    return Built(replace(kept, contents="; ".join(remarks)), 0, len(whole), seed)


def _whole(name: str, place: str, held_out: Dataset, seed: int) -> Dataset:
    if place == EMBEDDED:
        return photographs(held_out, seed=seed, name=name)
    found = _read(name, place)
    if not len(found):
        raise DataError(f"{place}: holds no image; name another place")
    return outliers(
        held_out,
        name=name,
        ids=tuple(f"{name}-{identity}" for identity in found.ids),
        groups=found.groups,
        images=found.images,
        contents="",
    )


def _read(name: str, place: str) -> Dataset:
    """The images of a folder, or else those of data of a known kind."""
    folder = Path(place).expanduser()
    if not folder.is_dir():
        return load_dataset(place)
    found = unlabelled([folder], name=name)
    inside = tuple(Path(identity).relative_to(folder).as_posix() for identity in found.ids)
    return replace(found, ids=inside, groups=inside)  # the same wherever the folder lies


def _sentence(kept: Dataset) -> str:
    if kept.contents:
        return kept.contents
    counts = Counter(kept.groups)
    if len(counts) == len(kept):
        return f"{len(kept)} images, resampled one by one as their sources are not told"
    named = ", ".join(f"{source} {count}" for source, count in sorted(counts.items()))
    sources = named if len(counts) <= FEW else f"{len(counts)} sources"
    return f"{len(kept)} images of {kept.name} ({sources})"
