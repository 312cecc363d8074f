"""Laws of splits: whole groups, every image once, and nothing but the seed decides."""

from collections import defaultdict
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from strategies import columns, orders

from misgiving.data.splits import (
    Split,
    count_shared_groups,
    grouped_split,
    leakage_of,
    leaks,
    paper_split,
    read_split,
    write_split,
)
from misgiving.errors import DataError, UsageError
from misgiving.groups import partition_groups

CLASSES = ("MEL", "NV", "DF")
SETS = ("train", "tune", "calibrate", "test")
seeds = st.integers(0, 2**32 - 1)


@st.composite
def labelled(draw, least=2, most=60):
    """Labels of three classes, shuffled."""
    counts = draw(st.lists(st.integers(least, most), min_size=3, max_size=3))
    labels = np.repeat(range(3), counts)
    return labels[np.random.default_rng(draw(seeds)).permutation(len(labels))]


@st.composite
def with_lesions(draw):
    """Labels of three classes and lesions of one to three images, some of them of two classes."""
    labels = draw(labelled(least=20, most=30))
    random = np.random.default_rng(draw(seeds))
    lesions = random.integers(len(labels) // draw(st.integers(1, 3)), size=len(labels))
    return labels, [f"lesion {number}" for number in lesions]


def paper(labels, share, seed):
    try:
        return paper_split(labels, CLASSES, validation_share=float(share), seed=seed)
    except UsageError:  # a class would be missing in a part; its own tests see to that
        reject()


def grouped(labels, groups, seed):
    try:
        return grouped_split(labels, CLASSES, groups, seed=seed)
    except DataError:  # the same
        reject()


shares = st.integers(5, 95).map(lambda percent: Fraction(percent, 100))


@given(labelled(), shares, seeds)
def test_each_class_gives_validation_its_share_to_within_one_image(labels, share, seed):
    sets = paper(labels, share, seed)
    held_out = int((sets == "validation").sum())
    assert abs(held_out - share * len(labels)) <= 1
    assert (sets == "train").sum() == len(labels) - held_out
    for label in range(3):
        exact = Fraction(int((labels == label).sum()) * held_out, len(labels))
        assert abs(int((sets[labels == label] == "validation").sum()) - exact) < 1


@given(labelled(), shares, seeds)
def test_the_same_seed_draws_the_same_validation_set(labels, share, seed):
    assert (paper(labels, share, seed) == paper(labels.copy(), share, seed)).all()


@given(with_lesions(), seeds)
def test_every_class_is_in_all_four_sets_and_no_group_in_two(drawn, seed):
    labels, groups = drawn
    sets = grouped(labels, groups, seed)
    sides = defaultdict(set)
    for group, part in zip(groups, sets.tolist(), strict=True):
        sides[group].add(part)
    assert len(sets) == len(labels)
    assert {*zip(labels.tolist(), sets.tolist(), strict=True)} == {*product(range(3), SETS)}
    assert all(len(of_group) == 1 for of_group in sides.values())


@given(with_lesions(), seeds, seeds)
def test_in_another_order_images_stay_in_their_set_of_a_grouped_split(drawn, seed, other):
    labels, groups = drawn
    order = np.random.default_rng(other).permutation(len(labels))
    shuffled = grouped(labels[order], [groups[at] for at in order], seed)
    assert (shuffled == grouped(labels, groups, seed)[order]).all()


named_groups = st.lists(st.sampled_from(["a", "b", "ä", "c d", "lesion"]), min_size=1, max_size=20)


@given(named_groups, st.integers(1, 4), seeds, st.data())
def test_partitioned_groups_stay_together_with_every_image_once_in_any_order(
    groups, count, seed, data
):
    if len(set(groups)) < count:
        reject()
    sets = partition_groups(groups, count, seed=seed)
    assert sorted(np.concatenate(sets).tolist()) == list(range(len(groups)))
    names = [{groups[at] for at in part} for part in sets]
    assert sum(map(len, names)) == len(set(groups))
    assert max(map(len, names)) - min(map(len, names)) <= 1
    order = data.draw(orders(len(groups)))
    shuffled = partition_groups([groups[at] for at in order], count, seed=seed)
    assert [{groups[order[at]] for at in part} for part in shuffled] == names


def split_of(sets, groups, contents):
    return Split(
        ids=tuple(map(str, range(len(sets)))),
        hashes=tuple(f"content {content}" for content in contents),
        sets=tuple(SETS[part] for part in sets),
        labels=("NV",) * len(sets),
        groups=tuple(f"lesion {group}" for group in groups),
    )


@given(columns(4, 6, 8))
def test_leaks_are_the_other_sets_of_all_images_that_share_group_or_content(drawn):
    split = split_of(*drawn)
    images = list(zip(split.sets, split.groups, split.hashes, strict=True))
    for (part, group, content), found in zip(images, leaks(split), strict=True):
        others = {p for p, g, c in images if p != part and (g == group or c == content)}
        assert found.split() == sorted(others)


@given(columns(4, 6, 8))
def test_a_group_is_shared_when_two_of_its_images_are_in_different_sets(drawn):
    split = split_of(*drawn)
    pairs = list(zip(split.groups, split.sets, strict=True))
    apart = {g for g, p in pairs for h, q in pairs if g == h and p != q}
    assert count_shared_groups(split.groups, np.array(split.sets)) == len(apart)
    clean = leakage_of(split, "test").separate
    assert clean == (not any(leaks(split)))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return tmp_path_factory.mktemp("split") / "split.csv"


cells = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@given(rows=st.lists(st.tuples(*[cells] * 5), min_size=1, max_size=5, unique_by=lambda row: row[0]))
def test_a_split_of_any_names_survives_its_table(table, rows):
    ids, hashes, sets, labels, groups = zip(*rows, strict=True)
    split = Split(ids=ids, hashes=hashes, sets=sets, labels=labels, groups=groups)
    write_split(table, split)
    assert read_split(table) == split
