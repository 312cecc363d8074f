"""The set of each image that a run predicts: the one that it has in the run's split, or `excluded`.

An image is excluded if it is not independent of the training or of a set that comes before its own,
by one of the rules in `EXCLUSIONS`.
"""

from collections.abc import Callable, Mapping, Sequence

from misgiving.data.cache import ImageSet
from misgiving.data.splits import Split
from misgiving.predictions.schema import EXCLUDED, VALIDATION

PRECEDENCE = ("train", "test", EXCLUDED, "calibrate", "tune", VALIDATION)
"""Sets by rank: of a group with images in several, those in the first one keep their set."""

EXCLUSIONS: Mapping[str, Callable[[str, str, bool], bool]] = {
    "in a set, and its group in an earlier one": lambda own, first, _: own not in ("", first),
    "new, and its group in the training set": lambda own, first, _: (own, first) == ("", "train"),
    "new, and its group was trained on": lambda own, _, was_trained: not own and was_trained,
}
"""Rules on an image's own set, empty for a new image, on the first one in `PRECEDENCE` of the sets
of its group's images, and on whether the split names its group and has a training image of it."""


def sets_of(
    sources: Sequence[ImageSet],
    joined: Sequence[str],
    split: Split,
    *,
    chosen_on_validation: bool,
    is_same_data: bool,
) -> tuple[str, ...]:
    """Set of each image in the run's split, by its content; empty for a new one.

    A content in two sets is in the training set. In the run's own data, an image of another content
    is found by its id: it was written again. Images of the validation set are excluded if the run
    chose its epoch on them.

    Args:
        sources: The images, with the groups that the data name.
        joined: Groups of all images, as `related_groups` joins them.
        split: Of the run.
        chosen_on_validation: True for a run that kept its best epoch.
        is_same_data: True for the data that the run was trained on.
    """
    set_of = dict(zip(split.hashes, split.sets, strict=True))
    set_of |= dict.fromkeys(split.hashes_of("train"), "train")
    set_of_id = dict(zip(split.ids, split.sets, strict=True)) if is_same_data else {}
    replaced = {VALIDATION: EXCLUDED} if chosen_on_validation else {}
    rows = zip(split.groups, split.sets, strict=True)
    trained = {group for group, name in rows if group and name == "train"}
    sets, was_trained = [], []
    for images in sources:
        for content, name, group in zip(images.hashes, images.ids, images.groups, strict=True):
            own = set_of.get(content) or set_of_id.get(name, "")
            sets.append(replaced.get(own, own))
            was_trained.append(group in trained)
    first: dict[str, str] = {}
    for name in reversed(PRECEDENCE):
        units = zip(joined, sets, strict=True)
        first |= {unit: name for unit, own in units if own == name and unit}
    return tuple(
        EXCLUDED
        if any(is_so(own, first.get(unit, own), seen) for is_so in EXCLUSIONS.values())
        else own
        for own, unit, seen in zip(sets, joined, was_trained, strict=True)
    )
