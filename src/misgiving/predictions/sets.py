"""Sets and groups of images by the split of a run."""

from collections.abc import Sequence

import numpy as np

from misgiving.data.cache import ImageSet
from misgiving.data.duplicates import image_hashes, near_duplicates
from misgiving.data.splits import Split
from misgiving.groups import chained, join_groups, named_groups
from misgiving.predictions.record import Predictions
from misgiving.predictions.schema import EXCLUDED, VALIDATION

PRECEDENCE = ("train", "test", EXCLUDED, "calibrate", "tune")
"""Sets by rank: of a group with images in several, those in the first one keep their set."""


def related_groups(sources: Sequence[ImageSet], split: Split) -> tuple[str, ...]:
    """Group of each image, joined where images may show the same object; empty for a single one.

    Joined are images of one named group, of one group of the run's split, of the same content, and
    near duplicates.
    """
    contents = [content for images in sources for content in images.hashes]
    groups = [g for images in sources for g in named_groups(images.groups, images.ids)]
    ids = [name for images in sources for name in images.ids]
    group_of = dict(zip(split.hashes, split.groups, strict=True))
    pairs = [
        *near_duplicates(np.concatenate([*map(image_hashes, sources)])),
        *chained(contents),
        *chained([group_of.get(content, "") for content in contents]),
    ]
    return join_groups(groups, ids, pairs)


def sets_of(
    images: Predictions, groups: Sequence[str], split: Split, *, chosen_on_validation: bool
) -> tuple[str, ...]:
    """Set of each image in the run's split, by its content.

    Images of the validation set are excluded if the run chose its epoch on them. Excluded are also
    new images of a group on which the model was trained, and images of a group that has
    images in another set as well, which is named before theirs in `PRECEDENCE`.

    Args:
        images: With hashes and joined groups.
        groups: Of the images as the data name them.
        split: Of the run.
        chosen_on_validation: True for a run that kept its best epoch.
    """
    set_of = dict(zip(split.hashes, split.sets, strict=True))
    set_of |= dict.fromkeys(split.hashes_of("train"), "train")  # of copies in two sets
    sets = [set_of.get(content, "") for content in images.hashes or ()]
    is_new = [content not in set_of for content in images.hashes or ()]
    if chosen_on_validation:
        sets = [EXCLUDED if name == VALIDATION else name for name in sets]
    rows = zip(split.groups, split.ids, split.sets, strict=True)
    trained = {group for group, name, in_set in rows if in_set == "train" and group != name}
    units = images.units.tolist()
    first: dict[int, str] = {}
    for name in reversed(PRECEDENCE):
        first |= {unit: name for unit, own in zip(units, sets, strict=True) if own == name}
    return tuple(
        EXCLUDED
        if (name in PRECEDENCE and name != first[unit])
        or (new and (first.get(unit) == "train" or group in trained))
        else name
        for name, unit, new, group in zip(sets, units, is_new, groups, strict=True)
    )
