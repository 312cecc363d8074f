from dataclasses import replace

import numpy as np
import pytest
from tiny import TINY

from misgiving.errors import UsageError
from misgiving.experiments.bench import Bench
from misgiving.experiments.protocol import Unit, units


def test_all_models_of_a_trial_see_the_same_split_and_trials_differ(bench):
    parts = {unit: bench.run(unit).parts for unit in units(TINY)}
    for trial in range(2):
        vanilla, proposed = (parts[Unit("generalization", trial, m)] for m in TINY.models)
        assert np.array_equal(vanilla, proposed)
    first, second = (parts[Unit("generalization", trial, "vanilla")] for trial in range(2))
    assert not np.array_equal(first, second)


def test_models_of_4_2_are_trained_on_in_distribution_classes_alone(bench):
    run = bench.run(Unit("ood_detection", 0, "vanilla"))
    assert run.images.classes == TINY.in_distribution
    assert {name for name in np.array(bench.images.ids)[bench.images.labels >= 7]}.isdisjoint(
        run.images.ids
    )


def test_boxes_are_made_of_held_out_images(bench):
    run = bench.run(Unit("ood_detection", 0, "vanilla"))
    sources = set(bench.outliers(0)["boxes"].built.dataset.groups)
    assert sources <= set(run.part("validation").ids)


def test_a_class_that_the_data_does_not_have_is_refused(cache):
    with pytest.raises(UsageError, match="unknown class 'MEL'"):
        Bench(replace(TINY, unseen=("MEL",)), cache)


def test_the_grouped_split_measures_what_nothing_was_chosen_on(cache):
    bench = Bench(replace(TINY, split="grouped"), cache)
    run = bench.run(Unit("ood_detection", 0, "vanilla"))
    assert bench.roles == ("tune", "tune", "test")
    assert set(run.parts) == {"train", "tune", "calibrate", "test"}
    sources = set(bench.outliers(0)["boxes"].built.dataset.groups)
    assert sources <= set(run.part("test").ids)


def test_a_swept_rate_changes_the_rate_alone(bench):
    usual = bench.run(Unit("generalization", 1, "proposed"))
    swept = bench.run(Unit("learning_rate/0.0003", 1, "proposed"))
    assert swept.training == replace(usual.training, learning_rate=3e-4)
    assert np.array_equal(swept.parts, usual.parts)


def test_leakage_is_told_for_both_splits_of_every_trial(bench):
    sentences = bench.leakage()
    assert len(sentences) == 2 * TINY.trials
    assert all("no group (lesion) and no identical image is in two parts" in s for s in sentences)


def test_other_outliers_make_another_record(bench, cache):
    unit = Unit("ood_detection", 0, "vanilla")
    other = Bench(replace(TINY, unseen=("8", "9")), cache)
    assert bench.record(unit) != other.record(unit)
    assert bench.record(unit) == Bench(TINY, cache).record(unit)
