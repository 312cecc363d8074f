"""The images that a policy is fitted on."""

from dataclasses import replace

import numpy as np
import pytest
from coloured import coloured_set, split_of

from misgiving.errors import UsageError
from misgiving.workflows.calibrate import choose_sets

SETS = ("train",) * 8 + ("tune",) * 6 + ("calibrate",) * 6 + ("test",) * 4


@pytest.fixture
def images():
    images = coloured_set(size=24)
    return replace(images, groups=tuple(f"lesion-{number // 2}" for number in range(24)))


def chosen(images, sets, seed=0, keep="last"):
    training = images.select(np.flatnonzero(np.array(sets) == "train"))
    return choose_sets(split_of(images, sets), images, training, seed=seed, keep=keep)


def test_a_grouped_run_has_its_own_sets_and_its_test_set_is_not_used(images):
    found = chosen(images, SETS)
    assert found.tuning.ids == images.ids[8:14]
    assert found.calibration.ids == images.ids[14:20]
    assert "left out: 4 images of the run's test set, which is only measured" in found.summary
    assert "left out: 8 images on which the model was trained" in found.summary


def test_a_quarter_of_other_images_tunes_and_the_rest_certifies(images):
    found = chosen(images, ("train",) * 8 + ("validation",) * 16)
    assert (len(found.tuning), len(found.calibration)) == (4, 12)
    assert not set(found.tuning.groups) & set(found.calibration.groups)


def test_images_of_groups_that_were_trained_on_are_left_out(images):
    sets = ["train", "validation"] * 4 + ["validation"] * 16
    found = chosen(images, sets)
    used = {*found.tuning.ids, *found.calibration.ids}
    assert used == set(images.ids[8:])
    sentence = "left out: 4 images of groups on which the model was trained"
    assert sentence in found.summary


def test_images_that_are_all_of_one_trained_group_set_no_policy(images):
    joined = replace(images, groups=("lesion-4",) * 24)
    with pytest.raises(UsageError, match="of groups"):
        choose_sets(split_of(images, SETS), joined, joined, seed=0)


def test_a_new_photograph_of_a_lesion_that_the_split_joined_to_a_trained_one_is_left_out(images):
    joined = replace(images, groups=("lesion-0",) * 4 + images.groups[4:])  # lesions 0 and 1
    split = split_of(joined, ("train",) * 4 + ("validation",) * 20)
    new = coloured_set(size=6, seed=5)
    new = replace(new, groups=("lesion-1",) * 2 + new.groups[2:])
    training = images.select(np.arange(4))
    found = choose_sets(split, new, training, seed=0)
    assert {*found.tuning.ids, *found.calibration.ids} == set(new.ids[2:])


def test_copies_are_one_case_and_on_one_side(images):
    twice = np.repeat(np.arange(8, 24), 2)
    copies = replace(
        images.select(twice),
        ids=tuple(f"copy-{number}" for number in range(32)),
        groups=tuple(f"copy-{number}" for number in range(32)),
    )
    training = images.select(np.arange(8))
    found = choose_sets(split_of(training, ("train",) * 8), copies, training, seed=0)
    assert (len(set(found.tuning.groups)), len(set(found.calibration.groups))) == (4, 12)
    assert not set(found.tuning.hashes) & set(found.calibration.hashes)


def test_a_copy_of_a_training_image_in_another_file_is_left_out(images):
    copy = replace(
        images.select(np.arange(6)),
        ids=tuple(f"copy-{number}" for number in range(6)),
        groups=tuple(f"copy-{number}" for number in range(6)),
        hashes=tuple(f"other bytes {number}" for number in range(6)),
    )
    training = images.select(np.arange(2))
    found = choose_sets(split_of(training, ("train",) * 2), copy, training, seed=0)
    assert {*found.tuning.ids, *found.calibration.ids} == {f"copy-{n}" for n in range(2, 6)}


def test_a_file_that_only_has_the_name_of_a_training_image_is_used(images):
    training = images.select(np.arange(4))
    training = replace(training, groups=training.ids)
    others = coloured_set(size=8, seed=5)
    others = replace(others, ids=images.ids[:8], groups=images.ids[:8])
    found = choose_sets(split_of(training, ("train",) * 4), others, training, seed=0)
    assert len(found.tuning) + len(found.calibration) == 8


def test_images_on_which_the_epoch_was_chosen_set_no_policy(images):
    with pytest.raises(UsageError, match="on which the run chose its epoch"):
        chosen(images, ("train",) * 4 + ("validation",) * 20, keep="best")
    assert len(chosen(images, SETS, keep="best").tuning) == 6  # may be chosen on once more


def test_where_the_epoch_was_chosen_on_tune_its_images_are_left_out(images):
    sets = ("train",) * 4 + ("tune",) * 6 + ("",) * 14
    found = chosen(images, sets, keep="best")
    assert {*found.tuning.ids, *found.calibration.ids} == set(images.ids[10:])
    assert {*chosen(images, sets).tuning.ids, *chosen(images, sets).calibration.ids} == set(
        images.ids[4:]
    )


def test_images_outside_the_runs_own_sets_are_left_out_and_counted(images):
    found = chosen(images, (*SETS[:20], "", "", "", ""))
    assert any("left out: 4 images that are in neither" in line for line in found.summary)


def test_only_training_images_set_no_policy(images):
    with pytest.raises(UsageError, match=r"none of these images can set a policy \(24 on which"):
        chosen(images, ("train",) * 24)


def test_the_same_seed_gives_the_same_halves(images):
    sets = ("train",) * 4 + ("validation",) * 20
    first, again, other = (chosen(images, sets, seed=seed) for seed in (1, 1, 2))
    assert first.tuning.ids == again.tuning.ids
    assert first.tuning.ids != other.tuning.ids
    assert not np.array_equal(first.tuning.rows, first.calibration.rows)


def test_what_the_split_joined_stays_together(images):
    joined = replace(images, groups=images.groups[:8] + ("one lesion",) * 8 + images.groups[16:])
    split = split_of(joined, ("train",) * 8 + ("validation",) * 16)
    found = choose_sets(split, images, images.select(np.arange(8)), seed=0)
    sets = [set(part.ids) & set(images.ids[8:16]) for part in (found.tuning, found.calibration)]
    assert sorted(map(len, sets)) == [0, 8]
