from dataclasses import replace

import numpy as np
import pytest
from tiny import TINY

from misgiving.errors import UsageError
from misgiving.reproduction.protocol import Unit, units
from misgiving.reproduction.trial_data import TrialData


def test_all_models_of_a_trial_see_the_same_split_and_trials_differ(trial_data):
    parts = {unit: trial_data.run(unit).sets for unit in units(TINY)}
    for trial in range(2):
        vanilla, proposed = (parts[Unit("generalization", trial, m)] for m in TINY.models)
        assert np.array_equal(vanilla, proposed)
    first, second = (parts[Unit("generalization", trial, "vanilla")] for trial in range(2))
    assert not np.array_equal(first, second)


def test_models_of_4_2_are_trained_on_in_distribution_classes_alone(trial_data):
    run = trial_data.run(Unit("ood_detection", 0, "vanilla"))
    assert run.images.classes == TINY.in_distribution
    assert {
        name for name in np.array(trial_data.images.ids)[trial_data.images.labels >= 7]
    }.isdisjoint(run.images.ids)


def test_boxes_are_made_of_held_out_images(trial_data):
    run = trial_data.run(Unit("ood_detection", 0, "vanilla"))
    sources = set(trial_data.outliers(0)["boxes"].built.dataset.groups)
    assert sources <= set(run.images_of("validation").ids)


def test_a_class_that_the_data_does_not_have_is_refused(cache):
    with pytest.raises(UsageError, match="unknown class 'MEL'"):
        TrialData(replace(TINY, unseen=("MEL",)), cache)


def test_the_grouped_split_measures_what_nothing_was_chosen_on(cache):
    trial_data = TrialData(replace(TINY, split="grouped"), cache)
    run = trial_data.run(Unit("ood_detection", 0, "vanilla"))
    assert trial_data.evaluation_sets == ("tune", "tune", "test")
    assert set(run.sets) == {"train", "tune", "calibrate", "test"}
    sources = set(trial_data.outliers(0)["boxes"].built.dataset.groups)
    assert sources <= set(run.images_of("test").ids)


def test_a_swept_rate_changes_the_rate_alone(trial_data):
    usual = trial_data.run(Unit("generalization", 1, "proposed"))
    swept = trial_data.run(Unit("learning_rate/0.0003", 1, "proposed"))
    assert swept.training == replace(usual.training, learning_rate=3e-4)
    assert np.array_equal(swept.sets, usual.sets)


def test_leakage_is_told_for_both_splits_of_every_trial(trial_data):
    sentences = trial_data.leakage()
    assert len(sentences) == 2 * TINY.trials
    assert all("no group and no identical image is in two sets" in s for s in sentences)


def test_other_outliers_make_another_record(trial_data, cache):
    unit = Unit("ood_detection", 0, "vanilla")
    other = TrialData(replace(TINY, unseen=("8", "9")), cache)
    assert trial_data.record(unit) != other.record(unit)
    assert trial_data.record(unit) == TrialData(TINY, cache).record(unit)
