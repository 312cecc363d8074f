"""Each image of a run is in the set of its content, or excluded."""

from dataclasses import replace

import pytest
from bundled import noisy_set

from misgiving.data.splits import Split
from misgiving.predictions.sets import sets_of


def sets_by(split, hashes, groups=None, *, chosen_on_validation=False):
    """Sets of images of these contents and groups, each a letter or two, in one line."""
    hashes = tuple(hashes.split())
    groups = tuple(groups.split()) if groups else ("",) * len(hashes)
    images = replace(noisy_set(len(hashes), seed=0), hashes=hashes, groups=groups)
    facts = {"chosen_on_validation": chosen_on_validation, "is_same_data": False}
    sets = sets_of([images], groups, split, **facts)
    return " ".join(name or "-" for name in sets)


def split(**sets):
    """The set of each content; contents of two letters and more are in a named group."""
    names = [(content, name) for name, contents in sets.items() for content in contents.split()]
    hashes = tuple(content for content, _ in names)
    return Split(
        ids=tuple(f"{content}.png" for content in hashes),
        hashes=hashes,
        sets=tuple(name for _, name in names),
        labels=("a",) * len(names),
        groups=tuple("" if len(content) == 1 else content[0] for content in hashes),
    )


@pytest.mark.parametrize(
    ("hashes", "groups", "expected"),
    [
        ("a t c u x", None, "train test calibrate tune -"),
        ("a x t x", "g g h h", "train excluded test -"),  # new images of both groups
        ("a t c", "g g g", "train excluded excluded"),
        ("t c u", "g g g", "test excluded excluded"),
        ("c u x", "g g g", "calibrate excluded -"),
        ("v x", "g g", "validation -"),
        ("a v", "g g", "train excluded"),
    ],
)
def test_groups_are_in_one_set(hashes, groups, expected):
    known = split(train="a", test="t", calibrate="c", tune="u", validation="v")
    assert sets_by(known, hashes, groups) == expected


@pytest.mark.parametrize(("is_same_data", "expected"), [(True, "train test -"), (False, "- - -")])
def test_images_of_the_runs_own_data_that_were_written_again_stay_in_their_sets(
    is_same_data, expected
):
    again = replace(noisy_set(3, seed=0), hashes=("x", "y", "z"), ids=("a.png", "t.png", "b.png"))
    facts = {"chosen_on_validation": False, "is_same_data": is_same_data}
    sets = sets_of([again], ("",) * 3, split(train="a", test="t"), **facts)
    assert " ".join(name or "-" for name in sets) == expected


def test_images_that_a_run_chose_its_epoch_on_and_new_ones_of_a_training_patient_are_excluded():
    known = split(train="a", validation="v")
    assert sets_by(known, "v x", chosen_on_validation=True) == "excluded -"
    assert sets_by(split(train="p1"), "x y", "p q") == "excluded -"  # also without its images
