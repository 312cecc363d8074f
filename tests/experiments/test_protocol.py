import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tiny import TINY

from misgiving.errors import UsageError
from misgiving.experiments.collection import collect
from misgiving.experiments.protocol import (
    MODELS,
    Bench,
    Listener,
    Unit,
    is_finished,
    protocol_for,
    reproduce_units,
    units,
)


def test_every_unit_has_a_folder_of_its_own():
    folders = {unit.folder for unit in units(TINY)}
    assert len(folders) == 2 * 2 * 2


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
    sources = set(bench.ood_dataset("boxes", 0).groups)
    assert sources <= set(run.part("validation").ids)


def test_the_columns_change_what_they_say():
    trainings = {name: replace(TINY.training, **MODELS[name]) for name in MODELS}
    assert not trainings["vanilla"].estimates_losses
    assert trainings["mse"].auxiliary == "mse"
    assert trainings["detached"].joint_epochs == 0
    assert trainings["proposed"] == TINY.training


def test_a_finished_unit_is_not_done_again(bench, reproduction):
    listened = []
    bench.listener, before = Listener(on_unit=listened.append), bench.listener
    reproduce_units(bench, reproduction)
    bench.listener = before
    assert listened == []


@pytest.mark.parametrize("changes", [{"seed": 9}, {"validation_share": 0.7}])
def test_a_unit_of_other_settings_does_not_count_as_finished(reproduction, cache, changes):
    unit = Unit("generalization", 0, "vanilla")
    other = Bench(replace(TINY, **changes), cache)
    assert not is_finished(reproduction / unit.folder, other.record(unit))


def test_a_unit_of_other_code_does_not_count_as_finished(bench, reproduction, tmp_path):
    unit = Unit("generalization", 0, "vanilla")
    copy = tmp_path / "unit"
    shutil.copytree(reproduction / unit.folder, copy)
    record = json.loads((copy / "unit.json").read_text())
    (copy / "unit.json").write_text(json.dumps({**record, "code": "older"}))
    assert not is_finished(copy, bench.record(unit))


def test_the_same_seed_gives_the_same_results_byte_for_byte(bench, reproduction, tmp_path):
    missing = Unit("ood_detection", 1, "proposed")
    shutil.copytree(reproduction, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / missing.folder)
    (tmp_path / "again" / "collected.json").unlink()
    reproduce_units(bench, tmp_path / "again")
    collect(bench, tmp_path / "again")
    for name in ("results.csv", "intervals.csv", "histories.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (reproduction / name).read_bytes()


def test_a_unit_that_fails_leaves_nothing(bench, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("misgiving.experiments.protocol.write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        reproduce_units(bench, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_processes_give_the_results_of_one(tmp_path, cache, reproduction):
    small = Bench(replace(TINY, trials=1, models=("vanilla",)), cache)
    reproduce_units(small, tmp_path, jobs=2)
    for unit in units(small.protocol):
        columns = [
            [
                row.rsplit(",", 1)[0]
                for row in (folder / unit.folder / "results.csv").read_text().splitlines()
            ]
            for folder in (tmp_path, reproduction)
        ]
        assert columns[0] == columns[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "trials must be at least 1"),
        ({"models": ("vanila",)}, "unknown model 'vanila'; choose from vanilla"),
        ({"ood_sets": ("nct",)}, "choose from"),
        ({"ood_sets": ("boxes",)}, "tuning set 'histology' must be one of ood_sets"),
    ],
)
def test_impossible_protocols_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        replace(TINY, **changes)


def test_a_class_that_the_data_does_not_have_is_refused(cache):
    with pytest.raises(UsageError, match="unknown class 'MEL'"):
        Bench(replace(TINY, unseen=("MEL",)), cache)


def test_a_protocol_takes_what_is_changed():
    changed = protocol_for("digits", trials=5, epochs=7, backbone="test_convnext", models=None)
    assert (changed.trials, changed.training.epochs) == (5, 7)
    assert changed.model.backbone == "test_convnext"
    assert changed.models == protocol_for("digits").models


def test_data_without_a_protocol_is_refused():
    with pytest.raises(UsageError, match="choose from digits"):
        protocol_for("folder:photos")


def test_less_than_one_job_is_refused(bench, tmp_path):
    with pytest.raises(UsageError, match="jobs must be at least 1"):
        reproduce_units(bench, tmp_path, jobs=0)
