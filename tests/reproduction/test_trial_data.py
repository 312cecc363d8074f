from dataclasses import replace

import numpy as np
import pytest
from tiny import TINY

from misgiving.reproduction.config import Unit
from misgiving.reproduction.protocol import units
from misgiving.reproduction.trial_data import TrialData
from misgiving.training.config import DataConfig


def test_all_models_of_a_trial_see_the_same_split_and_trials_differ(trial_data):
    sets = {unit: trial_data.setup(unit).sets for unit in units(TINY)}
    for trial in range(2):
        vanilla, proposed = (sets[Unit("generalization", trial, m)] for m in TINY.models)
        assert np.array_equal(vanilla, proposed)
    first, second = (sets[Unit("generalization", trial, "vanilla")] for trial in range(2))
    assert not np.array_equal(first, second)
    other = trial_data.setup(Unit("learning_rate/0.0003", 1, "proposed"))
    usual = trial_data.setup(Unit("generalization", 1, "proposed"))
    assert other.training == replace(usual.training, learning_rate=3e-4)
    assert np.array_equal(other.sets, usual.sets)


def test_models_of_4_2_are_trained_on_in_distribution_classes_alone(trial_data):
    setup = trial_data.setup(Unit("ood_detection", 0, "vanilla"))
    assert setup.images.classes == TINY.in_distribution
    unseen = np.array(trial_data.images.ids)[trial_data.images.labels >= 7]
    assert set(unseen).isdisjoint(setup.images.ids)


@pytest.mark.parametrize(("split", "measured"), [("paper", "validation"), ("grouped", "test")])
def test_boxes_are_made_of_images_on_which_nothing_was_trained_or_chosen(cache, split, measured):
    images = TINY.images if split == "paper" else DataConfig(split="grouped")
    trial_data = TrialData(replace(TINY, images=images), cache)
    setup = trial_data.setup(Unit("ood_detection", 0, "vanilla"))
    assert trial_data.evaluation_sets.measured == measured
    boxes, _ = trial_data.outliers(0)["boxes"]
    assert set(boxes.groups) <= set(setup.images_of(measured).ids)
    leakage = trial_data.leakage()
    assert len(leakage) == 2 * TINY.trials
    assert all(row["separate"] for row in leakage)
