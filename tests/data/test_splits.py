import numpy as np
import pytest

from misgiving.data.splits import (
    SPLITS,
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
HEADER = "id,hash,set,label,group,leaks_to"
LABELS = np.repeat([0, 1, 2], [40, 150, 10])


def validated(sets, labels=LABELS):
    return [int(((sets == "validation") & (labels == label)).sum()) for label in range(3)]


def tiny_split():
    return Split(
        ids=("a,b", ' "c"\n'),
        hashes=("00", "01"),
        sets=("train", "validation"),
        labels=("MEL", "naïve"),
        groups=("g", "h"),
    )


def test_every_class_gives_its_share_to_validation():
    assert validated(paper_split(LABELS, CLASSES, seed=0)) == [4, 15, 1]


def test_all_other_images_are_trained_on():
    sets = paper_split(LABELS, CLASSES, validation_share=0.3, seed=0)
    assert sorted(set(sets.tolist())) == ["train", "validation"]
    assert validated(sets) == [12, 45, 3]


def test_the_seed_decides_the_split():
    first, again, other = (paper_split(LABELS, CLASSES, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_a_class_without_images_is_ignored():
    labels = np.repeat([0, 2], 20)
    assert validated(paper_split(labels, CLASSES, seed=0), labels) == [2, 0, 2]


def test_a_class_of_one_image_is_refused_by_name():
    labels = np.array([0] * 20 + [1])
    with pytest.raises(DataError, match=r"'NV' has one image.*leave the class out"):
        paper_split(labels, CLASSES, seed=0)


def test_nothing_cannot_be_split():
    with pytest.raises(DataError, match="no images to split"):
        paper_split(np.array([], dtype=np.int64), CLASSES, seed=0)


@pytest.mark.parametrize("share", [0.00001, 0.01, 0.02, 0.99, 0.99999])
def test_a_share_that_leaves_a_class_out_names_the_rarest_and_a_share_that_works(share):
    with pytest.raises(UsageError, match=r"'DF' \(10 images\).*from 0\.1 to 0\.9"):
        paper_split(LABELS, CLASSES, validation_share=share, seed=0)


@pytest.mark.parametrize("share", [0.1, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_the_shares_that_are_recommended_work(share, seed):
    sets = paper_split(LABELS, CLASSES, validation_share=share, seed=seed)
    assert 0 < validated(sets)[2] < 10


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(UsageError, match=r"validation_share.* must be in"):
        paper_split(LABELS, CLASSES, validation_share=share, seed=0)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(UsageError, match=r"seed.* must be in"):
        paper_split(LABELS, CLASSES, seed=seed)


def test_the_papers_split_is_found_by_name():
    drawn = SPLITS["paper"].draw(LABELS, CLASSES, (), validation_share=0.2, seed=3)
    assert (drawn == paper_split(LABELS, CLASSES, validation_share=0.2, seed=3)).all()


def test_groups_in_more_than_one_set_are_counted_once_each():
    groups = ["a", "a", "a", "b", "b", "c", "d", "d"]
    sets = np.array(["train", "tune", "test", "train", "train", "test", "train", "tune"])
    assert count_shared_groups(groups, sets) == 2


def test_a_split_survives_its_table(tmp_path):
    write_split(tmp_path / "split.csv", tiny_split())
    assert read_split(tmp_path / "split.csv") == tiny_split()


def test_the_table_has_the_columns_that_others_rely_on(tmp_path):
    write_split(tmp_path / "split.csv", tiny_split())
    assert (tmp_path / "split.csv").read_text().startswith("id,hash,set,label,group,leaks_to\n")


def test_the_length_of_a_split_is_its_number_of_images():
    assert len(tiny_split()) == 2


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["id,hash,set", "a,00,train"], "column label, group"),
        ([HEADER, "a,00,,MEL,g,"], "row 2 has an empty cell"),
        ([HEADER, "a,0,t,M,g,", "a,1,t,M,g,"], "id occurs more than once"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, rows, says):
    (tmp_path / "split.csv").write_text("\n".join(rows))
    with pytest.raises(DataError, match=rf"split\.csv.*{says}"):
        read_split(tmp_path / "split.csv")


def lesions(labels, of_lesion=3, seed=0):
    """Groups of up to three images of one class each."""
    random = np.random.default_rng(seed)
    groups = np.empty(len(labels), dtype=object)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        for number, lesion in enumerate(np.array_split(members, -(-len(members) // of_lesion))):
            groups[lesion] = f"{label}-{number}"
    return groups.tolist()


GROUPED = np.repeat([0, 1, 2], [120, 450, 36])


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_on_two_sides_of_a_grouped_split(seed):
    groups = lesions(GROUPED, seed=seed)
    sets = grouped_split(GROUPED, CLASSES, groups, seed=seed)
    for lesion in set(groups):
        sides = {part for part, group in zip(sets, groups, strict=True) if group == lesion}
        assert len(sides) == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_grouped_split_gives_each_set_its_share_of_each_class(seed):
    sets = grouped_split(GROUPED, CLASSES, lesions(GROUPED), seed=seed)
    for part, percent in {"train": 70, "tune": 5, "calibrate": 15, "test": 10}.items():
        counts = np.bincount(GROUPED[sets == part], minlength=3)
        assert np.abs(counts - np.array([120, 450, 36]) * percent / 100).max() <= 5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [4, 5, 9, 19])
def test_every_set_has_a_class_of_at_least_four_groups(count, seed):
    labels = np.repeat([0, 1, 2], [120, 450, count])
    sets = grouped_split(labels, CLASSES, lesions(labels, of_lesion=1), seed=seed)
    assert {*sets[labels == 2]} == {"train", "tune", "calibrate", "test"}


def test_fewer_groups_than_folds_are_split_too():
    labels = np.repeat([0, 1], 20)
    sets = grouped_split(labels, CLASSES, lesions(labels, of_lesion=5), seed=0)
    for name in ("train", "tune", "calibrate", "test"):
        assert np.bincount(labels[sets == name]).tolist() == [5, 5]


def test_a_group_of_a_rare_class_is_drawn_into_any_of_the_sets():
    labels = np.repeat([0, 1], 20)
    groups = lesions(labels, of_lesion=5)
    drawn = [grouped_split(labels, CLASSES, groups, seed=seed)[0] for seed in range(20)]
    assert {*drawn} == {"train", "tune", "calibrate", "test"}


def test_a_set_gives_away_no_group_that_it_alone_has_of_another_class():
    """Group 43 has images of both rare classes."""
    labels = np.repeat([2, 0, 1], [40, 4, 4])
    groups = [str(number) for number in [*range(44), 43, 44, 45, 46]]
    for seed in range(30):
        sets = grouped_split(labels, CLASSES, groups, seed=seed)
        for label in range(3):
            assert {*sets[labels == label]} == {"train", "tune", "calibrate", "test"}


def test_the_seed_decides_a_grouped_split():
    groups = lesions(GROUPED)
    first, again, other = (grouped_split(GROUPED, CLASSES, groups, seed=s) for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_a_class_of_three_groups_cannot_be_in_four_sets():
    labels = np.repeat([0, 1], [60, 9])
    with pytest.raises(DataError, match=r"'NV' has 3 groups.*paper"):
        grouped_split(labels, CLASSES, lesions(labels), seed=0)
    with pytest.raises(DataError, match=r"'NV' has 1 group,"):
        grouped_split(labels, CLASSES, lesions(labels, of_lesion=9), seed=0)


def test_classes_of_fewer_than_ten_images_have_no_tenths():
    labels = np.repeat([0, 1, 2], 8)
    with pytest.raises(DataError, match="no class has more than 8 images"):
        grouped_split(labels, CLASSES, lesions(labels, of_lesion=1), seed=0)


def test_the_leakage_check_names_the_other_sets_of_a_group_and_of_a_copy():
    split = Split(
        ids=("a", "b", "c", "d", "e"),
        hashes=("0", "1", "2", "0", "4"),
        sets=("train", "test", "tune", "calibrate", "test"),
        labels=("NV",) * 5,
        groups=("x", "x", "x", "y", "z"),
    )
    assert leaks(split) == ("calibrate test tune", "train tune", "test train", "train", "")
    assert leakage_of(split, "test")[2:] == (1, 1, 2, False)
    assert "of 2 test images, 1 have" in leakage_of(split, "test").sentence("test")


def test_the_table_holds_the_leakage_check_of_each_image(tmp_path):
    write_split(tmp_path / "split.csv", tiny_split())
    assert (tmp_path / "split.csv").read_text().splitlines()[1] == '"a,b",00,train,MEL,g,'


@pytest.mark.parametrize("count", [3, 4])
def test_partitioned_sets_share_no_group_and_hold_every_image(count):
    groups = [f"g{number // 3}" for number in range(300)]
    drawn = partition_groups(groups, count, seed=1)
    assert len(drawn) == count
    assert sorted(np.concatenate(drawn).tolist()) == list(range(300))
    names = [{groups[row] for row in rows} for rows in drawn]
    assert sum(map(len, names)) == 100
    assert max(map(len, names)) - min(map(len, names)) <= 1
    assert [rows.tolist() for rows in partition_groups(groups, count, seed=1)] == [
        rows.tolist() for rows in drawn
    ]
    assert [rows.tolist() for rows in partition_groups(groups, count, seed=2)] != [
        rows.tolist() for rows in drawn
    ]


def test_too_few_groups_cannot_be_partitioned():
    with pytest.raises(DataError, match=r"too few groups of images \(2\)"):
        partition_groups(["a", "b", "a"], 3, seed=0)


@pytest.mark.parametrize(("percent", "count"), [(7, 100), (14, 50), (28, 25), (55, 100), (7, 200)])
def test_a_decimal_share_holds_out_exactly_so_many_images(percent, count):
    """0.07 * 100 is more than 7 in binary floating point."""
    labels = np.zeros(count, dtype=np.int64)
    sets = paper_split(labels, ("NV",), validation_share=percent / 100, seed=0)
    assert (sets == "validation").sum() * 100 == percent * count
