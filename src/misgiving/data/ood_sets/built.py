"""A set that was built, with what a report says about how."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from misgiving.data.datasets import Dataset, ImageSource
from misgiving.errors import UsageError

PAPER_COUNTS = {
    "b_box": 2025,
    "b_box_70": 2454,
    "imagenet": 3000,
    "nct": 1350,
    "clin_skin": 723,
    "derm_skin": 1565,
}
"""Images in each of the paper's sets ("OOD Datasets")."""


class Built(NamedTuple):
    """An out-of-distribution set and how it came about.

    Attributes:
        dataset: One class; its preprocessing is that of the held-out images.
        left_out: Images from which no sample of this set could be made.
        available: Samples that could be made, of which the set has all or the asked number.
        seed: What the set was drawn with.
    """

    dataset: Dataset
    left_out: int
    available: int
    seed: int


def outliers(
    held_out: Dataset,
    *,
    name: str,
    ids: tuple[str, ...],
    groups: tuple[str, ...],
    images: ImageSource,
    contents: str,
) -> Dataset:
    """A set of one class that is treated as the held-out images are."""
    return replace(
        held_out,
        name=name,
        classes=("ood",),
        labels=np.zeros(len(ids), dtype=np.int64),
        ids=ids,
        groups=groups,
        images=images,
        contents=contents,
        masks=None,
        metadata={},
    )


def sampled(dataset: Dataset, *, name: str, seed: int, count: int | None) -> Dataset:
    """At most `count` images in their order, by default as many as the paper's set has."""
    if count is not None and count < 1:
        raise UsageError(f"count must be at least 1, got {count}")
    wanted = PAPER_COUNTS.get(name) if count is None else count
    if wanted is None or wanted >= len(dataset):
        return dataset
    chosen = np.random.default_rng(seed).choice(len(dataset), size=wanted, replace=False)
    return dataset.select(np.sort(chosen))


def beside_the_paper(name: str, count: int) -> str:
    """Remark for a set that is smaller than the paper's; empty for others.

    >>> beside_the_paper("b_box", 179)
    "179 of the paper's 2025"
    """
    wanted = PAPER_COUNTS.get(name, 0)
    return f"{count} of the paper's {wanted}" if count < wanted else ""
