"""Groups of images that are not independent: of one patient, one lesion or one named group."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from misgiving.arrays import Groups, Rows, Units
from misgiving.errors import DataError

Pair = tuple[int, int]
TUNING_PARTS = 5  # of the images for a policy, one to tune it on; see benchmarks/results.md

UNITS = {
    "group": "group",
    "patient": "patient",
    "patient_id": "patient",
    "lesion": "lesion",
    "lesion_id": "lesion",
}
"""Columns of tables that define groups, the first one to name them, and what each identifies."""


def groups_of_columns(
    columns: Mapping[str, Sequence[str]], count: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Put images that share a group, a patient or a lesion into one group.

    Returns the group of each of `count` images, and the columns that define the groups. Other
    columns, and columns without any value, are ignored. A group is named by the least value of the
    first column that its images have, or else by another column and its value, as in "lesion 3". It
    is empty where an image has no value: it is a group of its own.

    >>> columns = {"patient": ["ann", "ann", "", ""], "lesion_id": ["1", "2", "2", ""]}
    >>> groups_of_columns(columns, 4)
    (('ann', 'ann', 'ann', ''), ('patient', 'lesion_id'))
    """
    given = [column for column in UNITS if column in columns]
    cells = {column: [value.strip() for value in columns[column]] for column in given}
    cells = {column: values for column, values in cells.items() if any(values)}
    first = next(iter(cells), "")
    names = [""] * count
    for column, values in reversed(cells.items()):
        names = [
            name if not value else value if column == first else f"{column} {value}"
            for name, value in zip(names, values, strict=True)
        ]
    if len(cells) > 1:
        pairs = (pair for keys in cells.values() for pair in chained(keys))
        groups = join_groups(cells[first], names, pairs)
        names = [group or name for group, name in zip(groups, names, strict=True)]
    return tuple(names), tuple(cells)


def join_groups(
    groups: Sequence[str], ids: Sequence[str], pairs: Iterable[Pair]
) -> tuple[str, ...]:
    """Group of each image after joining those of these pairs; empty for an image alone.

    It has the first of the names of its groups, or else the first id of its images.

    >>> join_groups(["", "", "", "b", "a"], ["y", "x", "z", "v", "w"], [(0, 1), (3, 4)])
    ('x', 'x', '', 'a', 'a')
    """
    joined, count = [*chained(groups), *pairs], len(groups)
    if not joined:
        return tuple(groups)
    from scipy.sparse import coo_array  # 25 MB, which a service that only decides does not need
    from scipy.sparse.csgraph import connected_components

    first, second = np.array(joined, dtype=np.int64).T
    joins = coo_array((np.ones(len(first)), (first, second)), shape=(count, count))
    component = connected_components(joins, directed=False)[1].tolist()
    members = defaultdict(list)
    for position, number in enumerate(component):
        members[number].append(position)
    names = {}
    for number, images in members.items():
        first_id = min(ids[image] for image in images) if len(images) > 1 else ""
        names[number] = min((groups[image] for image in images if groups[image]), default=first_id)
    return tuple(names[number] for number in component)


def names_of_groups(groups: Sequence[str], ids: Sequence[str]) -> list[str]:
    """Name of the group of each image: its own id where it is a group of its own."""
    return [group or name for group, name in zip(groups, ids, strict=True)]


def unit_numbers(groups: Sequence[str], ids: Sequence[str]) -> Units:
    """Number of the group of each image, in the order of `names_of_groups`.

    >>> unit_numbers(["b", "", "b", ""], ids=["1", "2", "3", "b"])
    array([2, 0, 2, 1])
    """
    numbers = np.unique(np.array(names_of_groups(groups, ids)), return_inverse=True)[1]
    grouped = np.array([bool(group) for group in groups], dtype=int)
    # a group may have the name of an image that is not in it
    return np.asarray(np.unique(2 * numbers + grouped, return_inverse=True)[1])


def chained(keys: Sequence[str]) -> Iterator[Pair]:
    """Pairs of neighbours with the same key; an empty key joins nothing."""
    last: dict[str, int] = {}
    for position, key in enumerate(keys):
        if key and key in last:
            yield last[key], position
        last[key] = position


def partition_groups(groups: Groups, count: int, *, seed: int) -> tuple[Rows, ...]:
    """Positions in `count` random sets of about equally many groups, none of them in two sets."""
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < count:
        raise DataError(
            f"there are too few groups of images ({len(names)}) for {count} sets; give images of "
            f"at least {count}"
        )
    set_of = np.random.default_rng(seed).permutation(len(names)) % count
    return tuple(np.flatnonzero(set_of[members] == number) for number in range(count))


def one_per_group(groups: Units, *, seed: int) -> Int[np.ndarray, " groups"]:
    """Draw one image of each group at random; positions in ascending order.

    >>> len(one_per_group(np.array([0, 1, 0, 0]), seed=0))
    2
    """
    order = np.random.default_rng(seed).permutation(len(groups))
    _, firsts = np.unique(groups[order], return_index=True)
    return np.sort(order[firsts])


def unit_of(columns: Sequence[str]) -> str:
    """The unit of a guarantee, given the columns that define the groups.

    >>> unit_of(("patient_id",)), unit_of(("patient", "lesion")), unit_of(())
    ('patient', 'patient (lesion where no patient is named)', 'image')
    """
    unit, *others = dict.fromkeys(UNITS[column] for column in columns) or ("image",)
    return f"{unit} ({' or '.join(others)} where no {unit} is named)" if others else unit
