"""Unreadable images: all of them are found, and then fail the command or are left out."""

from collections.abc import Callable, Sequence

import numpy as np

from misgiving.data.datasets.dataset import Dataset
from misgiving.data.decoding import in_order, returning_bad_images
from misgiving.errors import BadImage, BadImagesError, visible

FAIL, SKIP = "fail", "skip"
MAX_NAMES = 3  # bad images that are named in one line


def check_bad_images(bad: Sequence[BadImage], total: int, on_bad_image: str) -> None:
    """Check that there are no unreadable images, or with `skip` that others are left.

    Raises:
        BadImagesError: The images cannot be used.
    """
    if on_bad_image == SKIP:
        if len(bad) == total:
            raise BadImagesError(f"none of the {total} images can be read ({bad[0]})", bad, total)
    elif len(bad) == 1:
        raise BadImagesError(f'{bad[0]}; or leave it out with `on_bad_image="skip"`', bad, total)
    elif bad:
        raise BadImagesError(
            f"{len(bad)} of {total} images cannot be read ({first_names(bad)}); repair or remove "
            'them, or leave them out with `on_bad_image="skip"`',
            bad,
            total,
        )


def first_names(bad: Sequence[BadImage]) -> str:
    """The first few names.

    >>> first_names([BadImage(name, "") for name in "abcde"])
    'a, b, c and 2 more'
    """
    names = ", ".join(visible(image.image) for image in bad[:MAX_NAMES])
    return f"{names} and {len(bad) - MAX_NAMES} more" if len(bad) > MAX_NAMES else names


def skipped_sentences(bad: Sequence[BadImage], kept: int, *, name: str = "") -> list[str]:
    """A sentence about the images that were left out, if there are any."""
    if not bad:
        return []
    total = f"{len(bad)} of {len(bad) + kept} images" + (f" of {name}" if name else "")
    return [f"left out: {total} that cannot be read ({first_names(bad)})"]


def without(dataset: Dataset, bad: Sequence[BadImage]) -> Dataset:
    """The set without these images.

    Raises:
        BadImagesError: No image of a class is left.
    """
    names = {image.image for image in bad}
    kept = dataset.select(np.flatnonzero([name not in names for name in dataset.ids]))
    for label in np.setdiff1d(dataset.labels, kept.labels):
        count = int(np.sum(dataset.labels == label))
        raise BadImagesError(
            f"{dataset.name}: none of the {count} images of class {dataset.classes[label]!r} can be"
            " read; repair them, or take the class out of the data",
            bad,
            len(dataset),
        )
    return kept


def readable(
    dataset: Dataset,
    *,
    on_bad_image: str = FAIL,
    report: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Dataset, list[BadImage]]:
    """The readable images of a set, and the others; each image is decoded.

    `report` is called with the number of images that are done, and the total.

    Raises:
        BadImagesError: There is a bad image and the rule is `fail`, or nothing is left.
    """
    bad: list[BadImage] = []
    work = returning_bad_images(lambda index: dataset.images.read(index).hash, dataset.ids)
    for done, result in enumerate(in_order(work, len(dataset)), start=1):
        bad += [result] if isinstance(result, BadImage) else []
        report(done, len(dataset))
    check_bad_images(bad, len(dataset), on_bad_image)
    return without(dataset, bad), bad
