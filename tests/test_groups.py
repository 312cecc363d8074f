import numpy as np
import pytest

from misgiving.groups import groups_of_columns, join_groups, names_of_groups, one_per_group


def rows_of(columns, *cells):
    rows = [row.split(",") for row in cells]
    return dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))


def test_joined_groups_are_the_connected_components():
    generator = np.random.default_rng(0)
    groups = [f"g{number:02d}" for number in generator.integers(0, 30, 60)]
    ids = [f"i{number:02d}" for number in generator.permutation(60)]
    groups[::4] = [""] * 15
    pairs = [tuple(map(int, pair)) for pair in generator.integers(0, 60, (14, 2))]
    expected = [group or name for group, name in zip(groups, ids, strict=True)]
    for _ in range(60):  # spread the least name until nothing changes; "g..." is less than "i..."
        for first, second in pairs:
            least = min(expected[first], expected[second])
            touched = {expected[first], expected[second]}
            expected = [least if name in touched else name for name in expected]
    alone = [
        "" if not group and expected.count(name) == 1 else name
        for group, name in zip(groups, expected, strict=True)
    ]
    assert join_groups(groups, ids, pairs) == tuple(alone)
    assert join_groups(["b", "a", "b"], ["x", "y", "z"], []) == ("b", "a", "b")
    assert join_groups([], [], []) == ()


@pytest.mark.parametrize(
    ("columns", "cells", "expected"),
    [
        (["lesion_id"], ["1", "1", "2"], [0, 0, 1]),
        (["patient", "lesion"], ["p,1", "p,2", "q,3"], [0, 0, 1]),  # a patient has two lesions
        (["lesion_id", "patient_id"], ["1,p", "2,p", "3,q"], [0, 0, 1]),
        (["patient", "lesion"], ["p,1", ",1", "q,2"], [0, 0, 1]),  # the lesion tells the patient
        (["group", "patient"], ["g,p", "h,p", "k,q"], [0, 0, 1]),  # a group finer than patients
        (["group", "patient"], ["g,p", "g,q", "h,r"], [0, 0, 1]),  # a group of patients
        (["patient", "lesion"], ["7,8", ",7", "8,9"], [0, 1, 2]),  # a patient is not a lesion
        (["patient", "lesion"], [",", ",", "p,"], [0, 1, 2]),
    ],
)
def test_images_that_share_a_group_a_patient_or_a_lesion_are_one_group(columns, cells, expected):
    groups, _ = groups_of_columns(rows_of(columns, *cells), 3)
    groups = names_of_groups(groups, ["a", "b", "c"])
    first_seen = list(dict.fromkeys(groups))
    assert [first_seen.index(group) for group in groups] == expected


def test_a_group_is_named_by_a_patient_and_the_columns_that_define_groups_are_those_with_values():
    rows = rows_of(["patient", "lesion"], ",1", "mary,1", ",2", ",2")
    groups, _ = groups_of_columns(rows, 4)
    assert groups == ("mary", "mary", "lesion 2", "lesion 2")
    rows = rows_of(["lesion_id", "patient_id", "group"], "1,,", "2,,", "2,p,")
    assert groups_of_columns(rows, 3)[1] == ("patient_id", "lesion_id")
    assert groups_of_columns(rows_of(["sex"], "f"), 1) == (("",), ())


def test_every_group_gives_one_image_each_equally_often_by_the_seed():
    groups = np.array([1, 0, 1, 2, 1])
    drawn = [one_per_group(groups, seed=seed).tolist() for seed in range(900)]
    assert all(sorted(groups[rows].tolist()) == [0, 1, 2] for rows in drawn)
    assert all(sorted(rows) == rows for rows in drawn)
    assert drawn[:9] == [one_per_group(groups, seed=seed).tolist() for seed in range(9)]
    of_largest = [np.mean([at in rows for rows in drawn]) for at in (0, 2, 4)]
    np.testing.assert_allclose(of_largest, 1 / 3, atol=0.06)
