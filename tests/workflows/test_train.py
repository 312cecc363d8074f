from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from coloured import coloured_set, split_of

from misgiving.checkpoint import Checkpoint
from misgiving.errors import DataError, UsageError
from misgiving.workflows.evaluate import (
    held_out,
    name_of,
    warnings_of,
)
from misgiving.workflows.related_images import of_training_groups, related_to_training


def test_images_are_aligned_with_a_models_classes_by_name(images):
    aligned, left_out = images.align(("c", "x", "a"))
    assert left_out == 8
    assert aligned.classes == ("c", "x", "a")
    for name, label in zip(aligned.ids, aligned.labels, strict=True):
        original = images.classes[images.labels[images.ids.index(name)]]
        assert aligned.classes[label] == original


def test_data_of_other_classes_is_refused(images):
    with pytest.raises(DataError, match=r"\(a, b, c\).*\(x, y\)"):
        images.align(("x", "y"))


def test_training_images_are_left_out_by_content_even_under_another_name(images):
    split = split_of(images, ["train"] * 10 + ["validation"] * 14)
    renamed = replace(images, ids=tuple(f"copy of {name}" for name in images.ids))
    measured, seen = held_out(renamed, split)
    assert seen == 10
    assert set(measured.hashes) == set(images.hashes[10:])


def test_images_that_the_model_has_never_seen_all_count(images):
    split = split_of(images, ["train"] * 24)
    measured, seen = held_out(coloured_set(seed=7), split)
    assert (len(measured), seen) == (24, 0)


def test_a_set_of_training_images_alone_is_refused(images):
    with pytest.raises(UsageError, match=r"trained on all 24.*train"):
        held_out(images, split_of(images, ["train"] * 24))


def test_new_images_of_a_patient_of_the_training_set_are_told_apart(images):
    patients = tuple(f"patient {number // 2}" for number in range(24))
    split = split_of(replace(images, groups=patients), ["train"] * 12 + ["test"] * 12)
    new = replace(coloured_set(seed=7), groups=patients)
    assert of_training_groups(new, split).tolist() == [True] * 12 + [False] * 12
    # what is in the split is where the split says, and an image's own name is no patient
    assert not of_training_groups(replace(images, groups=patients), split).any()
    own = split_of(images, ["train"] * 24)
    assert not of_training_groups(
        replace(coloured_set(seed=7), ids=images.ids, groups=images.ids), own
    ).any()


def test_a_patient_that_was_joined_to_another_keeps_the_own_name_of_its_images(images):
    # A near duplicate joins the last patient to the first, by whose name the split knows both.
    patients = tuple(f"patient {number // 2:02}" for number in range(24))
    joined = (*patients[:22], "patient 00", "patient 00")
    trained = replace(images, groups=patients)
    split = split_of(replace(images, groups=joined), ["train"] * 24)
    run = Mock(Checkpoint, split=split, classes=images.classes, configuration={})
    new = coloured_set(seed=7)
    both = replace(
        trained,
        images=np.concatenate([trained.images, new.images]),
        rows=np.arange(48),
        labels=np.concatenate([trained.labels, new.labels]),
        ids=(*trained.ids, *map(str, range(24))),
        groups=patients * 2,
        hashes=trained.hashes + new.hashes,
    )
    found, groups, remarks = related_to_training(run, both, Mock())
    fresh = found.select(np.arange(24, 48))
    assert of_training_groups(fresh, split, groups).all()
    alone = replace(fresh, groups=patients)
    assert of_training_groups(alone, split).tolist() == [True] * 22 + [False] * 2
    assert remarks == []


def test_numbers_of_the_images_that_the_epoch_was_chosen_on_are_called_optimistic(images):
    split = split_of(images, ["train"] * 8 + ["tune"] * 8 + ["test"] * 8)
    run = Mock(Checkpoint, split=split, configuration={"training": {"keep": "best"}})
    said = "best on its set tune, on which numbers are optimistic"
    assert said in warnings_of(run, images, None)[0]
    assert said in warnings_of(run, images.select(np.arange(8, 16)), "tune")[0]
    assert warnings_of(run, images.select(np.arange(16, 24)), "test") == []


def test_one_part_can_be_asked_for(images):
    split = split_of(images, ["train"] * 10 + ["validation"] * 14)
    measured, _ = held_out(images, split, set_name="train")
    assert measured.hashes == images.hashes[:10]


def test_a_part_that_the_split_does_not_have_is_refused_with_those_it_has(images):
    split = split_of(images, ["train"] * 10 + ["validation"] * 14)
    with pytest.raises(UsageError, match=r"no set 'test'; choose from train, validation"):
        held_out(images, split, set_name="test")


@pytest.mark.parametrize("name", ["validation", "tune", "test"])
def test_measured_images_of_one_set_of_the_split_have_its_name(images, name):
    split = split_of(images, ["train"] * 10 + [name] * 14)
    assert name_of(held_out(images, split)[0], split) == name


def test_new_images_are_called_test_and_images_of_several_sets_held_out(images):
    split = split_of(images, ["train"] * 10 + ["tune"] * 7 + ["test"] * 7)
    assert name_of(held_out(images, split)[0], split) == "held_out"
    assert name_of(coloured_set(seed=7), split) == "test"
    mixed = replace(images, hashes=(*images.hashes[-7:], *map(str, range(17))))
    assert name_of(mixed, split) == "held_out"


def test_a_copy_of_a_training_image_is_not_measured_as_validation(images):
    twice = replace(images, hashes=(images.hashes[0], *images.hashes[:-1]))
    split = split_of(twice, ["train"] + ["validation"] * 23)
    measured, _ = held_out(twice, split, set_name="validation")
    assert images.hashes[0] not in measured.hashes
    assert len(measured) == 22
