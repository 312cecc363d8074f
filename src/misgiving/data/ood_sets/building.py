"""The sets that can be made of held-out images or of nothing, by name."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol, runtime_checkable

from misgiving.data.bad_images import FAIL, readable, skipped_sentences
from misgiving.data.datasets import Dataset
from misgiving.data.ood_sets.built import Built, beside_the_paper, sampled
from misgiving.data.ood_sets.derived import KINDS, DerivedImages, derive, description
from misgiving.data.ood_sets.embedded import histology, photographs
from misgiving.data.ood_sets.ink import boxes
from misgiving.data.ood_sets.places import from_place
from misgiving.errors import BadImage
from misgiving.registry import Registry


@runtime_checkable
class OodSet(Protocol):
    """Makes an out-of-distribution set to go with held-out images; same seed, same bytes."""

    def __call__(self, held_out: Dataset, *, seed: int) -> Dataset: ...


def b_box(held_out: Dataset, *, seed: int) -> Dataset:
    """Held-out images, each with a black box over the bounding box of its lesion."""
    return build("b_box", held_out, seed=seed).dataset


def b_box_70(held_out: Dataset, *, seed: int) -> Dataset:
    """Held-out images, each with a black box over about 70 % of its lesion."""
    return build("b_box_70", held_out, seed=seed).dataset


def b_box_70_image(held_out: Dataset, *, seed: int) -> Dataset:
    """Held-out images, each with a black box over 70 % of the image: B-Box-70 read otherwise."""
    return build("b_box_70_image", held_out, seed=seed).dataset


def derm_skin(held_out: Dataset, *, seed: int) -> Dataset:
    """Squares of skin beside the lesion and inside the dermoscope's dark rim."""
    return build("derm_skin", held_out, seed=seed).dataset


OOD_SETS: Registry[OodSet] = Registry(
    "OOD set",
    histology=histology,
    photographs=photographs,
    boxes=boxes,
    b_box=b_box,
    b_box_70=b_box_70,
    b_box_70_image=b_box_70_image,
    derm_skin=derm_skin,
)


def build(name: str, held_out: Dataset, *, seed: int, count: int | None = None) -> Built:
    """Make a set of `OOD_SETS`, and tell what was left out.

    Args:
        name: Of the set.
        held_out: Images that no model was trained on, before preprocessing.
        seed: Same seed, same bytes.
        count: At most so many images; by default as many as the paper's set of this name has.

    Raises:
        UsageError: There is no such set, or the count is below 1.
        DataError: A derived set can be made of none of the images.
    """
    make = OOD_SETS[name]
    if name not in KINDS:
        whole = make(held_out, seed=seed)
        return Built(sampled(whole, name=name, seed=seed, count=count), 0, len(whole), seed)
    built = derive(name, held_out, seed=seed)
    kept = sampled(built.dataset, name=name, seed=seed, count=count)
    return built._replace(dataset=replace(kept, contents=_contents(kept, built.left_out)))


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
    """A set of which every image can be read, and the images that were left out as they cannot.

    Args:
        name: Of the set.
        source: Held-out images that it is made of, or that it is treated like.
        place: Where its images are, as in `from_place`; None to derive them from the source.
        seed: Same seed, same bytes.
        count: At most so many images.
        on_bad_image: `fail`, or `skip` to go on without images that cannot be read.
        report: Told how many images are looked at, of how many.

    Raises:
        BadImages: Images cannot be read and it is not gone on without them.
    """
    look = partial(readable, on_bad_image=on_bad_image, report=report)
    if place is None:
        usable, bad = look(source)
        built = build(name, usable, seed=seed, count=count)
    else:
        built = from_place(name, place, source, seed=seed, count=count)
        usable, bad = look(built.dataset)
        built = built._replace(dataset=usable)
    contents = "; ".join([built.dataset.contents, *skipped_sentences(bad, len(usable))])
    return built._replace(dataset=replace(built.dataset, contents=contents)), bad


def _contents(kept: Dataset, left_out: int) -> str:
    if not isinstance(kept.images, DerivedImages):
        return kept.contents
    sentence = description(kept.name, kept.images, left_out)
    return "; ".join(filter(None, [sentence, beside_the_paper(kept.name, len(kept))]))
