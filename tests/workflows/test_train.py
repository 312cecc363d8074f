from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from coloured import coloured_set, split_of

from misgiving.checkpoint import Checkpoint
from misgiving.errors import DataError
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
