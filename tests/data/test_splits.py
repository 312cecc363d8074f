"""Splits: whole groups, every image once, nothing but the seed decides; their leaks and tables."""

from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from coloured import dataset_of
from hypothesis import given, reject
from hypothesis import strategies as st
from strategies import columns, orders

from misgiving.data.splits import (
    Split,
    cross_validation_split,
    grouped_split,
    leakage_of,
    leaks,
    paper_split,
    read_split,
    split_by_group,
    write_split,
)
from misgiving.errors import DataError, UsageError
from misgiving.groups import partition_groups

CLASSES = ("MEL", "NV", "DF")
SETS = ("train", "tune", "calibrate", "test")
HEADER = "id,hash,set,label,group,leaks_to"
seeds = st.integers(0, 2**32 - 1)
shares = st.integers(5, 95).map(lambda percent: Fraction(percent, 100))


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


@given(labelled(), shares, seeds)
def test_each_class_gives_validation_its_share_to_within_one_image_by_the_seed(labels, share, seed):
    try:
        sets = paper_split(labels, CLASSES, validation_share=float(share), seed=seed)
    except UsageError:  # a class would be missing in a set; another test sees to that
        reject()
    again = paper_split(labels.copy(), CLASSES, validation_share=float(share), seed=seed)
    assert (again == sets).all()
    held_out = int((sets == "validation").sum())
    assert abs(held_out - share * len(labels)) <= 1
    assert (sets == "train").sum() == len(labels) - held_out
    for label in range(3):
        exact = Fraction(int((labels == label).sum()) * held_out, len(labels))
        assert abs(int((sets[labels == label] == "validation").sum()) - exact) < 1


@pytest.mark.parametrize(("percent", "count"), [(7, 100), (14, 50), (28, 25), (55, 100), (7, 200)])
def test_a_decimal_share_holds_out_exactly_so_many_images(percent, count):
    """0.07 * 100 is more than 7 in binary floating point."""
    labels = np.zeros(count, dtype=np.int64)
    sets = paper_split(labels, ("NV",), validation_share=percent / 100, seed=0)
    assert (sets == "validation").sum() * 100 == percent * count


def test_a_share_that_leaves_a_class_out_names_the_rarest():
    labels = np.repeat([0, 1, 2], [40, 150, 10])
    for share in (0.00001, 0.01, 0.02, 0.99, 0.99999):
        with pytest.raises(UsageError, match="'DF'"):
            paper_split(labels, CLASSES, validation_share=share, seed=0)
    for share, seed in product((0.1, 0.9), range(5)):
        sets = paper_split(labels, CLASSES, validation_share=share, seed=seed)
        assert {*sets[labels == 2]} == {"train", "validation"}


@given(with_lesions(), seeds, seeds)
def test_every_class_is_in_all_four_sets_and_no_group_in_two_in_any_order(drawn, seed, other):
    labels, groups = drawn
    try:
        sets = grouped_split(labels, CLASSES, groups, seed=seed)
    except DataError:  # a class has too few groups
        reject()
    sets_of = defaultdict(set)
    for group, name in zip(groups, sets.tolist(), strict=True):
        sets_of[group].add(name)
    assert {*zip(labels.tolist(), sets.tolist(), strict=True)} == {*product(range(3), SETS)}
    assert all(len(names) == 1 for names in sets_of.values())
    order = np.random.default_rng(other).permutation(len(labels))
    shuffled = grouped_split(labels[order], CLASSES, [groups[at] for at in order], seed=seed)
    assert (shuffled == sets[order]).all()


def lesions(labels, per_lesion=3, seed=0):
    """Groups of up to three images of one class each."""
    random = np.random.default_rng(seed)
    groups = np.empty(len(labels), dtype=object)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        for number, lesion in enumerate(np.array_split(members, -(-len(members) // per_lesion))):
            groups[lesion] = f"{label}-{number}"
    return groups.tolist()


@pytest.mark.parametrize("shares", [(70, 5, 15, 10), (60, 10, 20, 10), (50, 20, 10, 20)])
@pytest.mark.parametrize("seed", range(3))
def test_a_grouped_split_gives_each_set_its_share_of_each_class(shares, seed):
    labels = np.repeat([0, 1, 2], [120, 450, 36])
    sets = grouped_split(labels, CLASSES, lesions(labels), shares=shares, seed=seed)
    for name, percent in zip(SETS, shares, strict=True):
        counts = np.bincount(labels[sets == name], minlength=3)
        assert np.abs(counts - np.array([120, 450, 36]) * percent / 100).max() <= 5


def published(sets, *, labels=None, groups=None):
    """Images in these published sets, of two classes in turn."""
    labels = np.arange(len(sets)) % 2 if labels is None else labels
    fields = {"classes": ("a", "b"), "labels": labels, "sets": tuple(sets)}
    fields["groups"] = groups or ("",) * len(sets)
    return dataset_of(np.zeros((len(sets), 1, 1, 3), dtype=np.uint8), **fields)


@pytest.mark.parametrize(
    ("names", "sources"),
    [
        (("train", "validation", "test"), {"tune": "validation", "calibrate": "validation"}),
        (("train", "test"), {"tune": "train", "calibrate": "train"}),
        (("train", "validation"), {"tune": "validation", "calibrate": "validation"}),
        (("train", "validation", "calibrate", "test"), {"tune": "validation"}),
        (("train", "calibrate", "test"), {"tune": "train"}),
        (("train", "tune", "calibrate", "test"), {}),
    ],
)
def test_a_published_split_is_obeyed_and_what_it_lacks_is_drawn_by_group(names, sources):
    sets = np.array(names).repeat([600] + [200] * (len(names) - 1))
    groups = tuple(f"{name} {number // 4}" for number, name in enumerate(sets))
    images = published(sets, groups=groups)
    divided = split_by_group(images, seed=0)
    sources = {"test": "train", **sources} if "test" not in names else sources
    for name in SETS:
        assert {*sets[divided == name].tolist()} == {sources.get(name, name)}
    assert len({*zip(groups, divided.tolist(), strict=True)}) == len({*groups})
    share_of = dict(zip(SETS, (70, 5, 15, 10), strict=True))
    for source in {*sources.values()}:
        parts = [name for name in SETS if sources.get(name, name) == source]
        for name in parts:
            expected = (sets == source).sum() * share_of[name] / sum(map(share_of.get, parts))
            assert abs((divided == name).sum() - expected) <= 12
            assert {*images.labels[divided == name].tolist()} == {0, 1}


def test_a_published_split_with_few_images_of_a_class_is_obeyed_unless_none_can_be_learned():
    sets = ["train"] * 30 + ["validation"] * 12 + ["test"] * 3
    for few, seed in product((1, 2), range(4)):
        labels = np.array([0] * 20 + [1] * 10 + [0] * (12 - few) + [1] * few + [0] * 3)
        divided = split_by_group(published(sets, labels=labels), seed=seed)[30:42]
        assert {*divided.tolist()} == {"tune", "calibrate"}
        assert len({*divided[12 - few :].tolist()}) == few  # of the rare class, one in each
    with pytest.raises(DataError, match="train has no image of class 'b'"):
        split_by_group(published(sets, labels=np.array([0] * 35 + [1] * 10)), seed=0)


def test_without_a_published_split_it_is_drawn_by_group():
    images = published(["train"] * 200)
    plain = replace(images, sets=())
    drawn = grouped_split(plain.labels, plain.classes, plain.units, seed=3)
    assert (split_by_group(plain, seed=3) == drawn).all()


def test_ten_folds_test_each_image_once_and_part_no_group():
    labels = np.repeat([0, 1, 2], [400, 700, 60])
    groups = lesions(labels)
    sets = np.stack([cross_validation_split(labels, groups, seed=30 + fold) for fold in range(10)])
    assert ((sets == "test").sum(axis=0) == 1).all()
    for of_fold in sets:
        assert len({*zip(groups, of_fold.tolist(), strict=True)}) == len({*groups})
        for name, percent in (("train", 80), ("test", 10), ("tune", 5), ("calibrate", 5)):
            counts = np.bincount(labels[of_fold == name], minlength=3)
            assert np.abs(counts - np.array([400, 700, 60]) * percent / 100).max() <= 12
    other = cross_validation_split(labels, groups, seed=40)
    assert (other != sets[0]).any()
    few = np.repeat(range(4), 19)
    with pytest.raises(DataError):
        cross_validation_split(few, lesions(few, per_lesion=1), seed=0)


@pytest.mark.parametrize("count", [4, 9])
def test_every_set_has_a_class_of_at_least_four_groups(count):
    labels = np.repeat([0, 1, 2], [60, 90, count])
    for seed in range(3):
        sets = grouped_split(labels, CLASSES, lesions(labels, per_lesion=1), seed=seed)
        assert {*sets[labels == 2]} == {*SETS}
    few = np.repeat([0, 1, 2], min(count, 8))  # too few for tenths
    sets = grouped_split(few, CLASSES, lesions(few, per_lesion=1), seed=0)
    assert {*zip(few.tolist(), sets.tolist(), strict=True)} == {*product(range(3), SETS)}


def test_a_group_of_a_rare_class_is_drawn_into_any_of_the_sets():
    labels = np.repeat([0, 1], 20)
    groups = lesions(labels, per_lesion=5)
    drawn = [grouped_split(labels, CLASSES, groups, seed=seed)[0] for seed in range(20)]
    assert {*drawn} == {*SETS}


def test_a_set_gives_away_no_group_that_it_alone_has_of_another_class():
    """Group 43 has images of both rare classes."""
    labels = np.repeat([2, 0, 1], [40, 4, 4])
    groups = [str(number) for number in [*range(44), 43, 44, 45, 46]]
    for seed in range(20):
        sets = grouped_split(labels, CLASSES, groups, seed=seed)
        for label in range(3):
            assert {*sets[labels == label]} == {*SETS}


def test_too_few_groups_cannot_be_in_four_sets():
    labels = np.repeat([0, 1], [60, 9])
    with pytest.raises(DataError, match="'NV' has 3 groups"):
        grouped_split(labels, CLASSES, lesions(labels), seed=0)


group_names = st.lists(st.sampled_from(["a", "b", "ä", "c d", "lesion"]), min_size=1, max_size=20)


@given(group_names, st.integers(1, 4), seeds, st.data())
def test_partitioned_groups_stay_together_with_every_image_once_in_any_order(
    groups, count, seed, data
):
    if len(set(groups)) < count:
        with pytest.raises(DataError):
            partition_groups(groups, count, seed=seed)
        return
    sets = partition_groups(groups, count, seed=seed)
    assert sorted(np.concatenate(sets).tolist()) == list(range(len(groups)))
    names = [{groups[at] for at in rows} for rows in sets]
    assert sum(map(len, names)) == len(set(groups))
    assert max(map(len, names)) - min(map(len, names)) <= 1
    order = data.draw(orders(len(groups)))
    shuffled = partition_groups([groups[at] for at in order], count, seed=seed)
    assert [{groups[order[at]] for at in rows} for rows in shuffled] == names


@given(columns(4, 6, 8))
def test_leaks_are_the_other_sets_of_all_images_that_share_group_or_content(drawn):
    sets, groups, contents = drawn
    names = tuple(SETS[number] for number in sets)
    hashes, lesions = tuple(map(str, contents)), tuple(str(group or "") for group in groups)
    split = Split(tuple(map(str, range(len(sets)))), hashes, names, ("NV",) * len(sets), lesions)
    images = list(zip(names, lesions, hashes, strict=True))
    for (name, group, content), leak in zip(images, leaks(split), strict=True):
        others = {s for s, g, c in images if s != name and (g == group != "" or c == content)}
        assert leak.split() == sorted(others)
    apart = {g for s, g, _ in images for t, h, _ in images if g == h != "" and s != t}
    leakage = leakage_of(split, "test")
    assert leakage["shared_groups"] == len(apart)
    assert leakage["separate"] == (not any(leaks(split)))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return tmp_path_factory.mktemp("split") / "split.csv"


cells = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@given(
    rows=st.lists(
        st.tuples(*[cells] * 4, cells | st.just("")),
        min_size=1,
        max_size=5,
        unique_by=lambda row: row[0],
    )
)
def test_a_split_of_any_names_survives_its_table(table, rows):
    split = Split(*zip(*rows, strict=True))
    write_split(table, split)
    assert table.read_text().splitlines()[0] == HEADER
    assert read_split(table) == split


@pytest.mark.parametrize(
    "rows",
    [["id,hash,set", "a,00,train"], [HEADER, "a,00,,MEL,g,"], [HEADER, "a,00"]],
)
def test_a_damaged_table_is_refused(tmp_path, rows):
    (tmp_path / "split.csv").write_text("\n".join(rows))
    with pytest.raises(DataError):
        read_split(tmp_path / "split.csv")
