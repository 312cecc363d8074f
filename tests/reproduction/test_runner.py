import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from commands import of_json
from small import SMALL
from tiny import TINY
from waiting import until

from misgiving.checkpoint import load, write_views
from misgiving.errors import TrainingError, UsageError
from misgiving.files import write_json
from misgiving.predictions.inference import predictions_of
from misgiving.reproduction import runner
from misgiving.reproduction.collection import collect
from misgiving.reproduction.config import Unit
from misgiving.reproduction.intervals import MeasuredSet
from misgiving.reproduction.protocol import units
from misgiving.reproduction.report.run import select
from misgiving.reproduction.trial_data import TrainedUnit, TrialData
from misgiving.training.config import DataConfig


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"seed": 9}, "`seed`"),
        ({"images": DataConfig(image_size=8, validation_share=0.7)}, "`image_size`, `split`"),
        ({"learning_rates": (3e-3,)}, None),
        ({"trials": 3}, None),
        ({"unseen": ("8", "9"), "ood_sets": ("histology",)}, "`outliers`, `unseen`"),
    ],
)
def test_finished_units_of_other_settings_are_not_replaced(cache, reproduction, settings, names):
    other = replace(TINY, **settings)
    run = Mock()
    if names is None:
        runner.reproduce_units(TrialData(other, cache), reproduction, run=run)
        assert run.call_count == 1
        return
    for use in (partial(runner.reproduce_units, run=run), collect):
        with pytest.raises(UsageError) as caught:
            use(TrialData(other, cache), reproduction)
        assert f"({names})" in str(caught.value)
    assert not run.called


@pytest.mark.parametrize(
    ("change", "is_trained"),
    [({"measuring_code": "older"}, False), ({"training_code": "older"}, True)],
)
def test_where_only_the_measuring_is_another_the_trained_model_is_measured_again(
    trial_data, reproduction, tmp_path, monkeypatch, change, is_trained
):
    unit = Unit("ood_detection", 0, "proposed")
    whole, folder = reproduction / unit.folder, tmp_path / unit.folder
    shutil.copytree(whole, folder)
    record = of_json(whole / "unit.json")
    (folder / "unit.json").write_text(json.dumps(record | change))
    (folder / "results.csv").unlink()
    train = Mock(side_effect=TrainingError("it is trained"))
    monkeypatch.setattr(runner, "train_run", train)
    run = runner.on_this_machine(threads=1)
    runner.reproduce_units(trial_data, tmp_path, run=run, chosen=[unit])
    assert train.called == is_trained
    assert of_json(folder / "unit.json") == record
    if not is_trained:
        for name in ("results.csv", "run/model.safetensors"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes()
        before, after = (of_json(place / "timing.json")["seconds"] for place in (whole, folder))
        assert after >= before


def test_a_reproduction_measures_one_view_whatever_the_run_takes(
    trial_data, reproduction, tmp_path
):
    unit = Unit("generalization", 0, "proposed")
    whole, folder = reproduction / unit.folder, tmp_path / unit.folder
    shutil.copytree(whole, folder)
    (folder / "unit.json").write_text(
        json.dumps(of_json(whole / "unit.json") | {"measuring_code": "older"})
    )
    write_views(folder / "run", 8)
    run = runner.on_this_machine(threads=1)
    runner.reproduce_units(trial_data, tmp_path, run=run, chosen=[unit])
    assert load(folder / "run").views == 8
    assert (folder / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


def negated_entropy(predictions):
    shares = predictions.probabilities
    return (shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1)


another = negated_entropy


def test_a_score_of_ones_own_is_measured_beside_msp(cache, reproduction, tmp_path):
    name, unit = f"{__name__}:negated_entropy", Unit("generalization", 0, "vanilla")
    data = TrialData(replace(TINY, scores=(name,)), cache)
    folder = shutil.copytree(reproduction / unit.folder, tmp_path / "unit")
    assert not runner.is_finished(folder, data.record(unit))
    setup, checkpoint = data.setup(unit), load(folder / "run")
    predictions = predictions_of(checkpoint, setup.images_of("validation"))
    trained = TrainedUnit(data, unit, setup, checkpoint, predictions, folder)
    rows = runner.MEASURES["generalization"](trained)["generalization"]
    write_json(folder / "unit.json", data.record(unit))
    for scores in ((), (f"{__name__}:another",)):
        other = replace(TINY, scores=scores, trials=1, models=("vanilla",))
        shutil.copytree(folder, tmp_path / unit.folder, dirs_exist_ok=True)
        with pytest.raises(UsageError):
            TrialData(other, cache).records([unit], tmp_path)
    place = ("generalization", "validation")
    values = {(*place, row.detector, row.metric, "vanilla"): {0: row.value} for row in rows}
    own, entropy = (values[*place, score, "aurc", "vanilla"] for score in (name, "entropy"))
    assert own == entropy
    names = {"experiment": place[0], "dataset": place[1], "measured": place[1], "protocol": TINY}
    numbers = {"values": values, "split_ratio": 1.0, "seed": 0}
    intervals = MeasuredSet(folders={"vanilla": {0: folder}}, **names, **numbers).intervals()
    own, entropy = (
        select(intervals, detector=detector, metric="aurc", baseline="msp")["lower"].item()
        for detector in (name, "entropy")
    )
    assert own == entropy


@pytest.mark.parametrize("experiment", ["generalization", "ood_detection"])
def test_a_network_that_has_collapsed_is_measured(trial_data, reproduction, tmp_path, experiment):
    unit = Unit(experiment, 0, "proposed")
    setup = trial_data.setup(unit)
    checkpoint = load(reproduction / unit.folder / "run")
    for parameter in checkpoint.model.parameters():
        parameter.data.zero_()
    predictions = predictions_of(checkpoint, setup.images_of(setup.evaluation_sets.measured))
    assert (np.ptp(predictions.features, axis=0) == 0).all()
    trained = TrainedUnit(trial_data, unit, setup, checkpoint, predictions, tmp_path)
    rows = [row for found in runner.MEASURES[experiment](trained).values() for row in found]
    values = {(row.dataset, row.detector, row.metric): row.value for row in rows}
    assert 0 <= values["validation", "", "accuracy"] <= 1
    if experiment == "ood_detection":
        assert values["histology", "msp", "auroc"] == values["histology", "odin", "auroc"] == 0.5


def test_a_unit_that_fails_leaves_nothing_but_what_its_training_resumes_from(
    trial_data, tmp_path, monkeypatch
):
    monkeypatch.setitem(runner.MEASURES, "generalization", lambda _: {})
    monkeypatch.setattr(runner, "write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runner.reproduce_units(trial_data, tmp_path)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["vanilla.unfinished.safetensors"]


def test_a_reproduction_that_is_killed_and_resumed_in_processes_gives_the_bytes_of_one_process(
    small, cache, check_small, tmp_path
):
    first, second = units(SMALL)
    command = [sys.executable, str(Path(__file__).with_name("small.py")), tmp_path, cache]
    with subprocess.Popen(command) as process:
        place = tmp_path / second.folder.parent
        until(lambda: process.poll() is not None or list(place.glob("*.partial")))
        process.kill()
    assert process.returncode == -signal.SIGKILL
    before = (tmp_path / first.folder / "unit.json").stat().st_mtime_ns
    run = runner.on_this_machine(jobs=2, threads=1)
    runner.reproduce_units(small, tmp_path, run=run)
    assert (tmp_path / first.folder / "unit.json").stat().st_mtime_ns == before
    check_small(tmp_path)


def test_a_training_that_diverges_is_a_result_and_does_not_stop_the_others(
    cache, reproduction, tmp_path, monkeypatch
):
    trial_data = TrialData(replace(TINY, trials=1, learning_rates=(1.0,)), cache)
    diverge = Mock(side_effect=TrainingError("the loss is not finite"))
    monkeypatch.setattr(runner, "train_run", diverge)
    unit = Unit("ood_detection", 0, "proposed")
    shutil.copytree(reproduction / unit.folder, tmp_path / unit.folder)
    runner.reproduce_units(trial_data, tmp_path)
    collect(trial_data, tmp_path)
    results = (tmp_path / "results.csv").read_text().splitlines()
    for experiment in ("generalization", "ood_detection", "learning_rate/1"):
        assert f"{experiment},0,vanilla,validation,,diverged,1.0" in results
    assert any(row.startswith("ood_detection,0,proposed,boxes,odin,auroc,") for row in results)
    assert "vanilla" not in (tmp_path / "intervals.csv").read_text()
