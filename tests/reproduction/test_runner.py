import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import killed
from small import SMALL
from threadpoolctl import threadpool_info
from tiny import TINY

from misgiving.checkpoint import load
from misgiving.errors import DataError, TrainingError, UsageError
from misgiving.predictions.inference import predictions_of
from misgiving.reproduction import runner as units_module
from misgiving.reproduction.aggregate.collection import collect
from misgiving.reproduction.config import Unit
from misgiving.reproduction.protocol import chosen_units, units
from misgiving.reproduction.runner import (
    is_finished,
    is_trained,
    jobs_for,
    on_this_machine,
    reproduce_units,
)
from misgiving.reproduction.trial_data import Progress, TrainedUnit, TrialData
from misgiving.training.config import DataConfig


@pytest.fixture
def unmeasured(monkeypatch):
    """The models of Section 4.1 are trained and not measured."""
    monkeypatch.setitem(units_module.MEASURES, "generalization", lambda _: {})


def test_a_finished_unit_is_not_done_again(trial_data, reproduction):
    finished = []
    trial_data.progress, before = Progress(on_unit=finished.append), trial_data.progress
    reproduce_units(trial_data, reproduction)
    trial_data.progress = before
    assert finished == []


@pytest.mark.parametrize("changes", [{"seed": 9}, {"images": DataConfig(validation_share=0.7)}])
def test_a_unit_of_other_settings_does_not_count_as_finished(reproduction, cache, changes):
    unit = Unit("generalization", 0, "vanilla")
    other = TrialData(replace(TINY, **changes), cache)
    assert not is_finished(reproduction / unit.folder, other.record(unit))


@pytest.mark.parametrize("experiment", ["generalization", "ood_detection"])
@pytest.mark.parametrize("constant", ["features", "outputs"])
def test_a_network_that_has_collapsed_is_measured(
    trial_data, reproduction, tmp_path, experiment, constant
):
    unit = Unit(experiment, 0, "proposed")
    setup = trial_data.setup(unit)
    checkpoint = load(reproduction / unit.folder / "run")
    network = checkpoint.model.backbone if constant == "features" else checkpoint.model
    for parameter in network.parameters():
        parameter.data.zero_()
    predictions = predictions_of(checkpoint, setup.images_of(setup.evaluation_sets.measured))
    assert (np.ptp(predictions.features, axis=0) == 0).all()
    trained = TrainedUnit(trial_data, unit, setup, checkpoint, predictions, tmp_path)
    rows = [row for found in units_module.MEASURES[experiment](trained).values() for row in found]
    values = {(row.dataset, row.detector, row.metric): row.value for row in rows}
    assert 0 <= values["validation", "", "accuracy"] <= 1
    if experiment == "ood_detection":
        assert values["histology", "msp", "auroc"] == 0.5
        assert values["histology", "odin", "auroc"] == 0.5


def test_a_unit_of_other_code_does_not_count_as_finished(trial_data, reproduction, tmp_path):
    unit = Unit("generalization", 0, "vanilla")
    copy = tmp_path / "unit"
    shutil.copytree(reproduction / unit.folder, copy)
    record = json.loads((copy / "unit.json").read_text())
    (copy / "unit.json").write_text(json.dumps({**record, "code": "older"}))
    assert not is_finished(copy, trial_data.record(unit))


def test_the_same_seed_gives_the_same_results_byte_for_byte(trial_data, reproduction, tmp_path):
    missing = Unit("ood_detection", 1, "proposed")
    shutil.copytree(reproduction, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / missing.folder)
    (tmp_path / "again" / "collected.json").unlink()
    reproduce_units(trial_data, tmp_path / "again")
    collect(trial_data, tmp_path / "again")
    for name in ("results.csv", "intervals.csv", "histories.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (reproduction / name).read_bytes()


@pytest.mark.usefixtures("unmeasured")
def test_a_unit_that_fails_leaves_nothing_but_what_its_training_goes_on_from(
    trial_data, tmp_path, monkeypatch
):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("misgiving.reproduction.runner.write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        reproduce_units(trial_data, tmp_path)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["vanilla.unfinished.safetensors"]


def killed_while_at_work(command, out, moment):
    """Kill a reproduction a moment after its first unit began; False if it had ended before."""
    process = subprocess.Popen(command)
    while process.poll() is None and not (out / "units").exists():
        time.sleep(0.02)
    if killed(process, moment):
        return True
    shutil.rmtree(out)
    return False


def test_a_reproduction_killed_at_a_random_moment_ends_in_the_same_results(
    small_reproduction, cache, tmp_path
):
    out, chance = tmp_path / "killed", random.Random(0)
    command = [sys.executable, str(Path(__file__).with_name("small.py")), str(out), str(cache)]
    assert any(killed_while_at_work(command, out, chance.uniform(0.0, 2.0)) for _ in range(20))
    small = TrialData(SMALL, cache)
    reproduce_units(small, out, run=on_this_machine(threads=1))
    collect(small, out)
    for name in ("results.csv", "intervals.csv", "histories.csv", "confusions.csv"):
        assert (out / name).read_bytes() == (small_reproduction / name).read_bytes()
    assert [path for path in out.rglob("*.partial") if path.is_dir()] == []


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_processes_give_the_bytes_of_one_with_as_many_threads(
    reproduction, tmp_path, cache, threads
):
    small = TrialData(SMALL, cache)
    if threads == 1:
        shutil.copytree(reproduction / "units", tmp_path / "one" / "units")
    for name, jobs in (("one", 1), ("several", 2)):
        run = on_this_machine(jobs=jobs, threads=threads)
        reproduce_units(small, tmp_path / name, run=run)
    for unit in units(small.protocol):
        for name in ("results.csv", "run/history.csv", "run/model.safetensors"):
            one, several = (tmp_path / place / unit.folder / name for place in ("one", "several"))
            assert one.read_bytes() == several.read_bytes()


def test_a_unit_runs_with_the_threads_it_records_and_others_are_left_as_they_were(
    trial_data, tmp_path, monkeypatch
):
    def numbers():
        return {torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())}

    seen = []
    monkeypatch.setattr(units_module, "_results", lambda *_: seen.append(numbers()) or [])
    before = numbers()
    unit = Unit("generalization", 0, "vanilla")
    reproduce_units(trial_data, tmp_path, run=on_this_machine(threads=3), chosen=[unit])
    assert seen == [{3}]
    assert json.loads((tmp_path / unit.folder / "timing.json").read_text())["threads"] == 3
    assert numbers() == before


def test_a_unit_that_is_finished_with_other_threads_counts(trial_data, reproduction):
    finished = []
    trial_data.progress, before = Progress(on_unit=finished.append), trial_data.progress
    reproduce_units(trial_data, reproduction, run=on_this_machine(threads=7))
    trial_data.progress = before
    assert finished == []


def test_units_with_other_threads_are_collected_anew(trial_data, reproduction, tmp_path):
    shutil.copytree(reproduction, tmp_path / "copy")
    before = json.loads((tmp_path / "copy" / "settings.json").read_text())["unit_threads"]
    timing = tmp_path / "copy" / Unit("generalization", 1, "vanilla").folder / "timing.json"
    timing.write_text(json.dumps({"seconds": 1.0, "threads": 64}))
    collect(trial_data, tmp_path / "copy")
    after = json.loads((tmp_path / "copy" / "settings.json").read_text())["unit_threads"]
    assert after == [*before, 64]


def test_less_than_one_job_is_refused():
    with pytest.raises(UsageError, match="jobs"):
        on_this_machine(jobs=0)


@pytest.mark.parametrize(
    ("device", "cores", "count", "jobs"),
    [
        ("cpu", 2, 60, 2),
        ("cpu", 2, 1, 1),
        ("cpu", 64, 60, 8),
        ("cpu", None, 60, 1),
        ("cpu", 2, 0, 1),
        ("cuda", 64, 60, 1),
    ],
)
def test_units_use_the_cores_that_there_are(monkeypatch, device, cores, count, jobs):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(units_module, "device_named", torch.device)
    protocol = replace(TINY, training=replace(TINY.training, device=device))
    assert jobs_for(protocol, count) == jobs


def test_only_the_chosen_units_are_done(trial_data, tmp_path, monkeypatch):
    monkeypatch.setattr(units_module, "_results", lambda *_: [])
    chosen = chosen_units(TINY, experiment="generalization", trial=1, model="vanilla")
    reproduce_units(trial_data, tmp_path, chosen=chosen)
    finished = [unit for unit in units(TINY) if (tmp_path / unit.folder).exists()]
    assert finished == [Unit("generalization", 1, "vanilla")]


def test_a_rate_at_which_training_diverges_is_a_result(cache, tmp_path, monkeypatch):
    def diverge(*_, **__):
        raise TrainingError("the loss is not finite")

    trial_data = TrialData(replace(TINY, learning_rates=(1.0,)), cache)
    monkeypatch.setattr("misgiving.reproduction.runner.train_run", diverge)
    reproduce_units(trial_data, tmp_path, chosen=[Unit("learning_rate/1", 0, "vanilla")])
    results = tmp_path / "units" / "learning_rate" / "1" / "trial-0" / "vanilla" / "results.csv"
    assert results.read_text().splitlines()[1:] == [
        "learning_rate/1,0,vanilla,validation,,diverged,1.0"
    ]


def test_a_swept_rate_keeps_its_curve_and_not_its_weights(cache, tmp_path):
    trial_data = TrialData(replace(TINY, learning_rates=(3e-3,)), cache)
    unit = Unit("learning_rate/0.003", 0, "vanilla")
    reproduce_units(trial_data, tmp_path, chosen=[unit])
    assert (tmp_path / unit.folder / "run" / "history.csv").is_file()
    assert not (tmp_path / unit.folder / "run" / "model.safetensors").exists()
    assert "validation,,diverged,0.0" in (tmp_path / unit.folder / "results.csv").read_text()


def test_nothing_cannot_be_collected(trial_data, tmp_path):
    with pytest.raises(DataError, match="no unit is finished"):
        collect(trial_data, tmp_path)


def test_a_training_that_diverges_does_not_stop_the_others(
    cache, reproduction, tmp_path, monkeypatch
):
    trial_data = TrialData(replace(TINY, trials=1), cache)
    whole = units_module.train_run

    def diverge_without_estimator(run, *arguments, **options):
        if not run.training.estimates_losses:
            raise TrainingError("the loss is not finite")
        return whole(run, *arguments, **options)

    monkeypatch.setattr(units_module, "train_run", diverge_without_estimator)
    unit = Unit("ood_detection", 0, "proposed")
    shutil.copytree(reproduction / unit.folder, tmp_path / unit.folder)
    reproduce_units(trial_data, tmp_path)
    collect(trial_data, tmp_path)
    results = (tmp_path / "results.csv").read_text()
    assert "generalization,0,vanilla,validation,,diverged,1.0" in results
    assert "ood_detection,0,vanilla,validation,,diverged,1.0" in results
    assert "ood_detection,0,proposed,boxes,odin,auroc," in results
    assert "vanilla" not in (tmp_path / "intervals.csv").read_text()


def test_a_unit_whose_measuring_code_changed_is_measured_again_and_not_trained(
    trial_data, reproduction, tmp_path, monkeypatch
):
    unit = Unit("generalization", 0, "proposed")
    shutil.copytree(reproduction / unit.folder, tmp_path / unit.folder)
    path = tmp_path / unit.folder / "unit.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "code": "older"}))
    (tmp_path / unit.folder / "results.csv").unlink()
    monkeypatch.setattr(units_module, "train_run", lambda *_, **__: pytest.fail("trained again"))
    reproduce_units(trial_data, tmp_path, chosen=[unit])
    for name in ("results.csv", "reliability.csv", "run/history.csv", "run/model.safetensors"):
        again, before = (root / unit.folder / name for root in (tmp_path, reproduction))
        assert again.read_bytes() == before.read_bytes()
    assert json.loads(path.read_text()) == trial_data.record(unit)


@pytest.mark.parametrize("change", [{"training_code": "older"}, {"training": {}}, {"versions": {}}])
def test_a_unit_that_was_trained_otherwise_is_not_only_measured(
    trial_data, reproduction, tmp_path, change
):
    unit = Unit("generalization", 0, "proposed")
    shutil.copytree(reproduction / unit.folder, tmp_path / "unit")
    path = tmp_path / "unit" / "unit.json"
    record = json.loads(path.read_text())
    assert is_trained(tmp_path / "unit", trial_data.record(unit))
    path.write_text(json.dumps({**record, **change}))
    assert not is_trained(tmp_path / "unit", trial_data.record(unit))
