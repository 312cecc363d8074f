"""Groups of images that are not independent."""

import numpy as np
import pytest

from misgiving.groups import groups_of_columns, images_named_by, joined_groups, unit_of
from misgiving.report.certificate import unit_sentences


def rows_of(columns, *cells):
    rows = [row.split(",") for row in cells]
    return dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))


def sentences(columns, groups):
    return unit_sentences(
        columns, len(groups), list(groups).count(""), images_named_by(columns, groups)
    )


def test_joined_groups_are_the_connected_components():
    generator = np.random.default_rng(0)
    groups = [f"g{number:02d}" for number in generator.integers(0, 30, 60)]
    pairs = [tuple(map(int, pair)) for pair in generator.integers(0, 60, (14, 2))]
    expected = list(groups)
    for _ in range(60):  # spread the least name until nothing changes
        for first, second in pairs:
            least = min(expected[first], expected[second])
            touched = {expected[first], expected[second]}
            expected = [least if name in touched else name for name in expected]
    assert joined_groups(groups, pairs) == tuple(expected)


def test_without_images_there_are_no_groups():
    assert joined_groups([], []) == ()


def test_groups_without_pairs_stay_as_they_are():
    assert joined_groups(["b", "a", "b"], []) == ("b", "a", "b")


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
    groups, _ = groups_of_columns(rows_of(columns, *cells), ["a", "b", "c"])
    first_seen = list(dict.fromkeys(groups))
    assert [first_seen.index(group) for group in groups] == expected


def test_a_group_is_named_by_a_patient_wherever_one_of_its_images_is():
    rows = rows_of(["patient", "lesion"], ",1", "mary,1", ",2", ",2")
    groups, _ = groups_of_columns(rows, ["a", "b", "c", "d"])
    assert groups == ("mary", "mary", "lesion 2", "lesion 2")


def test_images_without_a_patient_count_by_lesion_and_that_is_said():
    rows = rows_of(["patient", "lesion"], "mary,1", ",1", ",2", ",2", ",3")
    groups, group_columns = groups_of_columns(rows, [""] * 5)
    first, *warnings = sentences(group_columns, groups)
    assert first == "unit: patient (columns patient, lesion)."
    assert warnings == [
        "Warning: 3 of 5 images have no value in the column patient, and count by lesion. Lesions "
        "of one patient are not independent."
    ]
    assert unit_of(group_columns, groups) == "patient (lesion where no patient is named)"
    assert unit_of(group_columns, groups[:2]) == "patient"


def test_the_columns_that_define_groups_are_those_with_values():
    rows = rows_of(["lesion_id", "patient_id", "group"], "1,,", "2,,", "2,p,")
    assert groups_of_columns(rows, ["a", "b", "c"])[1] == ("patient_id", "lesion_id")
    assert groups_of_columns(rows_of(["sex"], "f"), ["a"]) == (("a",), ())


def test_a_patient_is_the_unit_where_one_is_known():
    assert unit_of(("patient_id", "lesion_id"), ()) == "patient"
    assert unit_of(("lesion_id",), ("lesion_id 3",)) == "lesion"
    assert unit_of(("group", "patient"), ()) == "group"
    assert unit_of((), ()) == "image"


@pytest.mark.parametrize(
    ("columns", "groups", "said"),
    [
        ((), ["", ""], ["unit: image.", "no patients, lesions or groups"]),
        (("lesion_id",), "xx", ["unit: lesion (column lesion_id)", "not independent"]),
        (("patient", "lesion"), "xx", ["unit: patient (columns patient, lesion)."]),
        (("patient",), ["x", ""], ["Warning: 1 of 2 images have no value in the column patient"]),
    ],
)
def test_the_sentences_say_what_is_independent(columns, groups, said):
    text = " ".join(sentences(columns, groups))
    assert all(words in text for words in said)
    assert ("Warning" in text) == ("Warning" in said[0])
