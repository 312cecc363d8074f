import numpy as np
import pytest

from misgiving.data.splits import (
    Split,
    grouped_split,
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


def test_a_class_of_one_image_is_refused_by_name():
    labels = np.array([0] * 20 + [1])
    with pytest.raises(DataError, match="'NV'"):
        paper_split(labels, CLASSES, seed=0)


@pytest.mark.parametrize("share", [0.00001, 0.01, 0.02, 0.99, 0.99999])
def test_a_share_that_leaves_a_class_out_names_the_rarest_and_a_share_that_works(share):
    with pytest.raises(UsageError, match=r"'DF' \(10 images\).*from 0\.1 to 0\.9"):
        paper_split(LABELS, CLASSES, validation_share=share, seed=0)


@pytest.mark.parametrize("share", [0.1, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_the_shares_that_are_recommended_work(share, seed):
    sets = paper_split(LABELS, CLASSES, validation_share=share, seed=seed)
    assert 0 < validated(sets)[2] < 10


@pytest.mark.parametrize(
    ("name", "value"),
    [("validation_share", share) for share in (0.0, 1.0, -0.1, float("nan"))]
    + [("seed", seed) for seed in (-1, 2**32)],
)
def test_a_share_or_seed_out_of_range_is_refused(name, value):
    with pytest.raises(UsageError, match=name):
        paper_split(LABELS, CLASSES, **{"seed": 0, name: value})


def test_the_table_has_the_columns_that_others_rely_on_and_quotes(tmp_path):
    write_split(tmp_path / "split.csv", tiny_split())
    header, row, *_ = (tmp_path / "split.csv").read_text().splitlines()
    assert (header, row) == (HEADER, '"a,b",00,train,MEL,g,')


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["id,hash,set", "a,00,train"], "its columns are not"),
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


def test_a_class_of_three_groups_cannot_be_in_four_sets():
    labels = np.repeat([0, 1], [60, 9])
    with pytest.raises(DataError, match="'NV' has 3 groups"):
        grouped_split(labels, CLASSES, lesions(labels), seed=0)
    with pytest.raises(DataError, match="'NV' has 1 group"):
        grouped_split(labels, CLASSES, lesions(labels, of_lesion=9), seed=0)
    labels = np.repeat([0, 1, 2], 8)  # too few for tenths
    with pytest.raises(DataError, match="8"):
        grouped_split(labels, CLASSES, lesions(labels, of_lesion=1), seed=0)


def test_too_few_groups_cannot_be_partitioned():
    with pytest.raises(DataError, match=r"too few groups of images \(2\)"):
        partition_groups(["a", "b", "a"], 3, seed=0)


@pytest.mark.parametrize(("percent", "count"), [(7, 100), (14, 50), (28, 25), (55, 100), (7, 200)])
def test_a_decimal_share_holds_out_exactly_so_many_images(percent, count):
    """0.07 * 100 is more than 7 in binary floating point."""
    labels = np.zeros(count, dtype=np.int64)
    sets = paper_split(labels, ("NV",), validation_share=percent / 100, seed=0)
    assert (sets == "validation").sum() * 100 == percent * count
