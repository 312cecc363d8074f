"""Images that cannot be read: all of them are found, and then it is failed or gone on without."""

import errno
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from misgiving.data.datasets import Dataset
from misgiving.data.decoding import in_order
from misgiving.errors import BadImage, BadImages, DataError, visible
from misgiving.registry import Registry

Result = TypeVar("Result")

FAIL, SKIP = "fail", "skip"
NAMED = 3  # of several bad images in one line
OF_THE_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # which say nothing about a file


def collected(
    work: Callable[[int], Result], ids: Sequence[str]
) -> Callable[[int], Result | BadImage]:
    """What does the same work, but gives a bad image back where it cannot be read.

    A machine without memory or file handles is no fault of the image, and stays an error.
    """

    def attempt(index: int) -> Result | BadImage:
        try:
            return work(index)
        except DataError as failure:
            if (cause := failure.__cause__) is not None and _is_of_the_machine(cause):
                raise cause from failure
            return BadImage(ids[index], visible(str(failure)))

    return attempt


def _is_of_the_machine(cause: BaseException) -> bool:
    return isinstance(cause, MemoryError) or (
        isinstance(cause, OSError) and cause.errno in OF_THE_MACHINE
    )


def _fail(bad: Sequence[BadImage], total: int) -> None:
    """Refuse bad images, all at once."""
    if len(bad) == 1:
        raise refusal(f"{bad[0]}; or leave it out with --on-bad-image skip", bad, total)
    if bad:
        raise refusal(
            f"{len(bad)} of {total} images cannot be read ({first_names(bad)}); repair or remove "
            "them, or leave them out with --on-bad-image skip",
            bad,
            total,
        )


def _skip(bad: Sequence[BadImage], total: int) -> None:
    """Go on without bad images, if any image is left."""
    if len(bad) == total:
        raise refusal(f"none of the {total} images can be read ({bad[0]})", bad, total)


ON_BAD_IMAGE: Registry[Callable[[Sequence[BadImage], int], None]] = Registry(
    "--on-bad-image", **{FAIL: _fail, SKIP: _skip}
)
"""Called with the images that cannot be read, and of how many; raises where it is not gone on."""


def refusal(message: str, bad: Sequence[BadImage], total: int) -> BadImages:
    """The error that says this about these of so many images."""
    error = BadImages(message)
    error.images, error.whole = tuple(bad), len(bad) == total
    return error


def first_names(bad: Sequence[BadImage]) -> str:
    """The first few, for a sentence.

    >>> first_names([BadImage(name, "") for name in "abcde"])
    'a, b, c and 2 more'
    """
    names = ", ".join(visible(one.image) for one in bad[:NAMED])
    return f"{names} and {len(bad) - NAMED} more" if len(bad) > NAMED else names


def skipped_sentences(bad: Sequence[BadImage], kept: int, *, of: str = "") -> list[str]:
    """A sentence that says how many images were left out, and which; none where none was."""
    if not bad:
        return []
    total = f"{len(bad)} of {len(bad) + kept} images" + (f" of {of}" if of else "")
    return [f"left out: {total} that cannot be read ({first_names(bad)})"]


def without(dataset: Dataset, bad: Sequence[BadImage]) -> Dataset:
    """The set without these images.

    Raises:
        BadImages: A class that had images has none left.
    """
    names = {one.image for one in bad}
    kept = dataset.select(np.flatnonzero([name not in names for name in dataset.ids]))
    for label in np.setdiff1d(dataset.labels, kept.labels):
        count = int(np.sum(dataset.labels == label))
        raise refusal(
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
    report: Callable[[int, int], None] | None = None,
) -> tuple[Dataset, list[BadImage]]:
    """The images of a set that can be read, and those that cannot: each is decoded to know.

    Args:
        dataset: The set.
        on_bad_image: A rule of `ON_BAD_IMAGE`.
        report: Told how many images are done, of how many.

    Raises:
        BadImages: There is a bad image and the rule is `fail`, or nothing is left.
    """
    rule = ON_BAD_IMAGE[on_bad_image]
    bad: list[BadImage] = []
    looks = in_order(
        collected(lambda index: dataset.images.read(index).hash, dataset.ids), len(dataset)
    )
    for done, look in enumerate(looks, start=1):
        bad += [look] if isinstance(look, BadImage) else []
        if report:
            report(done, len(dataset))
    rule(bad, len(dataset))
    return without(dataset, bad), bad
