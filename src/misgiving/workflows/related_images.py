"""Images that may show the same object: of one patient or lesion, or near duplicates."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from misgiving.checkpoint import Checkpoint
from misgiving.data.cache import ImageSet
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.duplicates import concatenated, image_hashes, near_duplicates
from misgiving.data.splits import Split
from misgiving.errors import BadImagesError, ExplainedError
from misgiving.groups import chained, joined_groups

OFFERED = "offered "  # before the group of an image that is only its own name in its data


def training_images(
    checkpoint: Checkpoint,
    images: ImageSet,
    training_data: str | None,
    prepared: Callable[[Dataset], ImageSet],
) -> ImageSet:
    """The training images in the given data, or else in the data of the run; may be none."""
    hashes = checkpoint.split.hashes_of("train")

    def trained_on(offered: ImageSet) -> ImageSet:
        return offered.select(np.flatnonzero([content in hashes for content in offered.hashes]))

    found = trained_on(images)
    known = str(checkpoint.configuration.get("data", {}).get("name", ""))
    complete = len(found) >= checkpoint.split.sets.count("train")
    data = training_data or ("" if complete else known)
    if data:
        try:
            others = trained_on(prepared(load_dataset(data)).align(checkpoint.classes)[0])
            found = others if training_data else max(found, others, key=len)
        except ExplainedError as failure:
            if training_data or (isinstance(failure, BadImagesError) and not failure.whole):
                raise  # else the run's data was moved, and the images that were found must do
    return found


def with_joined_groups(
    split: Split, images: ImageSet, training: ImageSet
) -> tuple[ImageSet, list[str]]:
    """Join the groups of images that may show the same object; also gives the training groups.

    Joined are images of one named group, of one group of the run's split, and near duplicates.
    """
    known, trained = set(images.hashes), set(training.hashes)
    others = training.select(np.flatnonzero([of not in known for of in training.hashes]))
    named = [*_named_groups(others, "training "), *_named_groups(images, OFFERED)]
    contents = [*others.hashes, *images.hashes]
    group_of = dict(zip(split.hashes, split.groups, strict=True))
    pairs = [
        *near_duplicates(concatenated(map(image_hashes, (others, images)))),
        *chained(contents),
        *chained([group_of.get(content, "") for content in contents]),
    ]
    groups = joined_groups(named, pairs)
    of_training = {
        group for content, group in zip(contents, groups, strict=True) if content in trained
    }
    return replace(images, groups=groups[len(others) :]), sorted(of_training)


def _named_groups(images: ImageSet, prefix: str) -> list[str]:
    """Names of groups; a prefix marks those that are only an image's own name in its data."""
    return [
        f"{prefix}{group}" if group == identity else group
        for group, identity in zip(images.groups, images.ids, strict=True)
    ]


def related_to_training(
    checkpoint: Checkpoint, images: ImageSet, prepared: Callable[[Dataset], ImageSet]
) -> tuple[ImageSet, frozenset[str], list[str]]:
    """Join the groups of images; also gives those of training images, and a sentence if few are.

    The model's training images are taken from these, or else from the data of the run.
    """
    training = training_images(checkpoint, images, None, prepared)
    joined, trained = with_joined_groups(checkpoint.split, images, training)
    groups = tuple(group.removeprefix(OFFERED) for group in joined.groups)
    trained_on = checkpoint.split.sets.count("train")
    sentence = (
        f"near duplicates of training images were sought among {len(training)} of {trained_on}; "
        "the others were not found"
    )
    return (
        replace(images, groups=groups),
        frozenset(group.removeprefix(OFFERED) for group in trained),
        [sentence] * (len(training) < trained_on),
    )


def of_training_groups(
    images: ImageSet, split: Split, trained_groups: Collection[str] = ()
) -> Bool[np.ndarray, " n"]:
    """True for images that are not in the split, but show a patient or lesion of its training set.

    Of images in the split, the split says where they belong.

    Args:
        images: With groups as in `related_to_training`, or as their data name them.
        split: Of the run.
        trained_groups: Groups of training images, besides those that the split names.
    """
    rows = zip(split.groups, split.ids, split.sets, strict=True)
    trained = {group for group, identity, name in rows if name == "train" and group != identity}
    known = set(split.hashes)
    new = np.array([content not in known for content in images.hashes], dtype=bool)
    found = np.array([group in trained_groups for group in images.groups], dtype=bool)
    return np.asarray(new & (found | in_named_groups(images.groups, images.ids, trained)))


def in_named_groups(
    groups: Sequence[str], own: Sequence[str], named: Collection[str]
) -> Bool[np.ndarray, " n"]:
    """True for images of named groups; a group that is only the image's own is none.

    >>> in_named_groups(["ann", "b.png"], ["a.png", "b.png"], {"ann", "b.png"})
    array([ True, False])
    """
    pairs = zip(groups, own, strict=True)
    return np.array([group != name and group in named for group, name in pairs], dtype=bool)
