"""Which images a policy is made of."""

from dataclasses import replace

import numpy as np
import pytest
from coloured import coloured_set

from misgiving.data.splits import Split
from misgiving.errors import UsageError
from misgiving.experiments.calibrating import material_for

PARTS = ("train",) * 8 + ("tune",) * 6 + ("calibrate",) * 6 + ("test",) * 4


@pytest.fixture
def images():
    images = coloured_set(size=24)
    return replace(images, groups=tuple(f"lesion-{number // 2}" for number in range(24)))


def split_of(images, parts):
    return Split(
        ids=images.ids,
        hashes=images.hashes,
        parts=tuple(parts),
        labels=tuple(images.classes[label] for label in images.labels),
        groups=images.groups,
    )


def material(images, parts, seed=0, keep="last"):
    return material_for(split_of(images, parts), images, images, seed=seed, keep=keep)


def test_a_grouped_run_has_its_own_parts_and_its_test_part_is_left_alone(images):
    found = material(images, PARTS)
    assert found.tune.ids == images.ids[8:14]
    assert found.calibration.ids == images.ids[14:20]
    assert "left out: 4 images of the run's test part, which is only measured" in found.sentences
    assert "left out: 8 images on which the model was trained" in found.sentences


def test_other_images_are_halved_by_group(images):
    found = material(images, ("train",) * 4 + ("validation",) * 20)
    assert len(found.tune) == len(found.calibration) == 10
    assert not set(found.tune.groups) & set(found.calibration.groups)


def test_images_of_lesions_that_were_trained_on_are_left_out(images):
    parts = ["train", "validation"] * 4 + ["validation"] * 16
    found = material(images, parts)
    used = {*found.tune.ids, *found.calibration.ids}
    assert used == set(images.ids[8:])
    sentence = "left out: 4 images of lesions (groups) on which the model was trained"
    assert sentence in found.sentences


def test_groups_are_those_of_the_split_which_may_join_near_duplicates(images):
    joined = replace(images, groups=("lesion-4",) * 24)
    found = material_for(split_of(images, PARTS), joined, joined, seed=0)
    assert found.calibration.groups == images.groups[14:20]


def test_images_on_which_the_epoch_was_chosen_set_no_policy(images):
    with pytest.raises(UsageError, match="on which the run chose its epoch"):
        material(images, ("train",) * 4 + ("validation",) * 20, keep="best")
    assert len(material(images, PARTS, keep="best").tune) == 6  # may be chosen on once more


def test_only_training_images_set_no_policy(images):
    with pytest.raises(UsageError, match=r"none of these images can set a policy \(24 on which"):
        material(images, ("train",) * 24)


def test_the_same_seed_gives_the_same_halves(images):
    parts = ("train",) * 4 + ("validation",) * 20
    first, again, other = (material(images, parts, seed=seed) for seed in (1, 1, 2))
    assert first.tune.ids == again.tune.ids
    assert first.tune.ids != other.tune.ids
    assert not np.array_equal(first.tune.rows, first.calibration.rows)
