import ast
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY

from misgiving.data.preprocessing import AugmentationSettings
from misgiving.errors import UsageError
from misgiving.reproduction.config import Unit
from misgiving.reproduction.protocol import units
from misgiving.reproduction.trial_data import AFTERWARDS, TRAINING, TrialData
from misgiving.training.config import DataConfig


def test_all_models_of_a_trial_see_the_same_split_and_trials_differ(trial_data):
    parts = {unit: trial_data.setup(unit).sets for unit in units(TINY)}
    for trial in range(2):
        vanilla, proposed = (parts[Unit("generalization", trial, m)] for m in TINY.models)
        assert np.array_equal(vanilla, proposed)
    first, second = (parts[Unit("generalization", trial, "vanilla")] for trial in range(2))
    assert not np.array_equal(first, second)


def test_models_of_4_2_are_trained_on_in_distribution_classes_alone(trial_data):
    run = trial_data.setup(Unit("ood_detection", 0, "vanilla"))
    assert run.images.classes == TINY.in_distribution
    assert {
        name for name in np.array(trial_data.images.ids)[trial_data.images.labels >= 7]
    }.isdisjoint(run.images.ids)


def test_boxes_are_made_of_held_out_images(trial_data):
    run = trial_data.setup(Unit("ood_detection", 0, "vanilla"))
    sources = set(trial_data.outliers(0)["boxes"].dataset.groups)
    assert sources <= set(run.images_of("validation").ids)


def test_a_class_that_the_data_does_not_have_is_refused(cache):
    with pytest.raises(UsageError, match="unknown class 'MEL'"):
        TrialData(replace(TINY, unseen=("MEL",)), cache)


def test_a_network_that_cannot_be_built_is_refused_before_images_are_prepared(tmp_path):
    network = replace(TINY.model, backbone="resnet19")
    with pytest.raises(UsageError, match="unknown backbone 'resnet19'"):
        TrialData(replace(TINY, model=network), tmp_path, trains=True)
    assert not any(tmp_path.iterdir())


def test_the_grouped_split_measures_what_nothing_was_chosen_on(cache):
    trial_data = TrialData(replace(TINY, images=DataConfig(split="grouped")), cache)
    run = trial_data.setup(Unit("ood_detection", 0, "vanilla"))
    assert trial_data.evaluation_sets == ("tune", "tune", "test")
    assert set(run.sets) == {"train", "tune", "calibrate", "test"}
    sources = set(trial_data.outliers(0)["boxes"].dataset.groups)
    assert sources <= set(run.images_of("test").ids)


def test_another_learning_rate_changes_alone(trial_data):
    usual = trial_data.setup(Unit("generalization", 1, "proposed"))
    other = trial_data.setup(Unit("learning_rate/0.0003", 1, "proposed"))
    assert other.training == replace(usual.training, learning_rate=3e-4)
    assert np.array_equal(other.sets, usual.sets)


def test_leakage_is_told_for_both_splits_of_every_trial(trial_data):
    found = trial_data.leakage()
    assert len(found) == 2 * TINY.trials
    assert all(one.separate for one in found)


def test_other_outliers_make_another_record(trial_data, cache):
    unit = Unit("ood_detection", 0, "vanilla")
    other = TrialData(replace(TINY, unseen=("8", "9")), cache)
    assert trial_data.record(unit) != other.record(unit)
    assert trial_data.record(unit) == TrialData(TINY, cache).record(unit)


PACKAGE = Path(str(files("misgiving")))
# change no model
CARRIED = ("errors", "files", "manifests", "predictions", "registry", "results", "scores")


def test_the_listed_code_exists():
    assert [place for place in (*TRAINING, *AFTERWARDS) if not (PACKAGE / place).exists()] == []


def test_all_code_that_training_imports_counts_as_training_code():
    # of `predictions.inference` it takes the fingerprint of weights only
    imported = imported_by("training.train_run", but="predictions.inference")
    others = [
        module
        for module in imported
        if module.partition(".")[0] not in (*CARRIED, "misgiving")
        and len(ast.parse(source_of(module).read_text()).body) > 1  # more than a docstring
        and source_of(module).relative_to(PACKAGE).parts[0] not in TRAINING
    ]
    assert others == []


def test_no_unit_imports_code_on_which_none_depends():
    # of `report` a unit takes names only; `tables` writes what is read from all units
    imported = imported_by("reproduction.runner", but="reproduction.tables")
    others = {name for name in imported if name.partition(".")[0] in AFTERWARDS}
    assert others <= {"report", "report.names"}


def imported_by(start, *, but=None):
    """Modules of the package that one imports, directly or not, with the packages they are in."""
    waiting, seen = [start], set()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        for node in ast.walk(ast.parse(source_of(module).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("misgiving"):
                names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
                paths = [name.split(".")[1:] for name in names]
                found = {".".join(path[:end]) for path in paths for end in range(1, len(path) + 1)}
                waiting += [name for name in found - seen - {but} if source_of(name)]
    return seen


def source_of(module):
    """The file of a module of the package, if it is one."""
    place = PACKAGE / module.replace(".", "/")
    found = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in found if path.is_file()), None)


def test_images_are_augmented_only_where_the_configuration_says_so(cache):
    plain = TrialData(replace(TINY, images=replace(TINY.images, augment=False)), cache)
    assert plain.augmentation == AugmentationSettings.none()
    assert TrialData(TINY, cache).augmentation != AugmentationSettings.none()
