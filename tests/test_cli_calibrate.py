import csv
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from commands import one_line, reseal
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images

from misgiving.cli.calibrate import OodDetector
from misgiving.deferral.deferral import Deferral
from misgiving.predictions.inference import predict
from misgiving.predictions.predict import TrainedRun
from misgiving.predictions.record import Predictions
from misgiving.scores.features import FEATURE_SCORES
from misgiving.scores.logits import LOGIT_SCORES
from misgiving.training.config import DataConfig, ModelConfig, TrainingConfig
from misgiving.training.train_run import prepare_training, train_run


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return tmp_path_factory.mktemp("deferring")


@pytest.fixture(scope="module")
def trained(places):
    """A small network on the digits that is often wrong; 1,528 images are held out."""
    run = prepare_training(
        "digits",
        model=ModelConfig(backbone="vgg16_mini", pretrained=False, reads_logits=True),
        training=TrainingConfig(epochs=8, batch_size=16, learning_rate=1e-3, device="cpu"),
        images=DataConfig(validation_share=0.85),
        cache=places / "cache" / "misgiving",
    )
    train_run(run, places / "trained")
    return places / "trained"


@pytest.fixture
def cache_home(places):
    return places / "cache"


@pytest.fixture(scope="module")
def calibrated(trained, places):
    """The run with a policy; made once, by the library."""
    shutil.copytree(trained, places / "calibrated")
    run = TrainedRun.load(places / "calibrated", cache=places / "cache" / "misgiving")
    deferral = Deferral(max_error=0.2, max_ood_false_alarms=0.05)
    deferral.fit(run.predict("digits").predictions).save(places / "calibrated" / "policy")
    return places / "calibrated"


@pytest.fixture
def run_folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def with_policy(calibrated, tmp_path):
    return shutil.copytree(calibrated, tmp_path / "run")


def cases_of(run):
    return json.loads((run / "policy" / "policy.json").read_text())["cases"]


def table(path):
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_calibrate_reports_its_data_and_the_limits_of_its_guarantee(misgiving, run_folder):
    code, _, error = misgiving(
        "calibrate", run_folder, "digits", "--max-error", "0.2", "--class-max-miss", "3=0.3",
        "--device", "cpu",
    )  # fmt: skip
    assert code == 0, error
    assert "unit: image. The data name no patients" in error
    assert "left out: 269 images on which the model was trained" in error
    assert "a quarter of 1487 images, drawn by group with seed 0, and the rest" in error
    assert "; AURC on the tuning set: msp" in error
    assert "at most 20 %" in error
    assert "at most 30 % of 3 cases are accepted as another class" in error
    assert "does not extend to other devices" in error
    assert {path.name for path in (run_folder / "policy").iterdir()} == {
        "policy.json",
        "policy.safetensors",
    }


def test_the_tuning_and_the_calibration_set_share_no_image(calibrated):
    folder, cases = calibrated, cases_of(calibrated)
    tune, calibration = (set(cases[name]["contents"]) for name in ("tuning", "calibration"))
    trained = {row["hash"] for row in table(folder / "split.csv") if row["set"] == "train"}
    assert tune
    assert calibration
    assert not tune & calibration
    assert not (tune | calibration) & trained


def test_the_same_seed_gives_the_same_policy(calibrated, run_folder, misgiving):
    misgiving(
        "calibrate", run_folder, "digits", "--max-error", "0.2", "--max-ood-false-alarms", "0.05",
        "--device", "cpu",
    )  # fmt: skip
    for name in ("policy.json", "policy.safetensors"):
        assert (run_folder / "policy" / name).read_bytes() == (
            calibrated / "policy" / name
        ).read_bytes()


def test_a_policy_is_replaced_only_when_that_is_said(misgiving, with_policy):
    before = (with_policy / "policy" / "policy.json").read_bytes()
    arguments = ("calibrate", with_policy, "digits", "--max-error", "0.3", "--device", "cpu")
    code, _, error = misgiving(*arguments)
    assert code == 2
    assert "--overwrite" in one_line(error)
    assert (with_policy / "policy" / "policy.json").read_bytes() == before
    code, _, error = misgiving(*arguments, "--overwrite")
    assert code == 0, error
    assert "calibrated before with 1487 of these images" in error
    assert (with_policy / "policy" / "policy.json").read_bytes() != before
    assert cases_of(with_policy)["calibrations"] == 1


def test_every_further_seed_warns_that_its_cases_were_used_before(misgiving, run_folder):
    for number in range(2):
        code, _, error = misgiving(
            "calibrate", run_folder, "digits", "--max-error", "0.2", "--seed", number,
            "--overwrite", "--device", "cpu",
        )  # fmt: skip
        assert code == 0, error
        assert ("calibrated before with" in error) == (number > 0)
        cases = cases_of(run_folder)
        assert (cases["calibrations"], cases["repeated_images"]) == (number, 1487 * number)
    groups = cases["repeated_groups"]
    assert f"before with 1487 of these images ({groups} groups), in 1 earlier calib" in error


def test_a_patient_is_the_unit_of_a_table_that_names_patients(misgiving, run_folder, tmp_path):
    from misgiving.data.datasets import load_dataset

    digits = load_dataset("digits")
    lines = ["path,label,patient"]
    for row in range(300, 600):
        Image.fromarray(digits.images.read(row).image).save(tmp_path / f"{row}.png")
        lines.append(f"{row}.png,{digits.labels[row]},p{row // 3}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    code, _, error = misgiving(
        "calibrate", run_folder, f"table:{tmp_path / 't.csv'}", "--max-error", "0.3",
        "--training-data", "digits", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, error
    assert "unit: patient (column patient)." in error
    assert "For one image of each patient, drawn from the population" in error
    policy = json.loads((run_folder / "policy" / "policy.json").read_text())
    assert policy["unit"] == "patient"
    assert policy["cases"]["group_columns"] == ["patient"]
    groups = set(policy["cases"]["calibration"]["groups"])
    assert policy["certificate"]["cases"] == len(groups) <= 75


def test_a_damaged_policy_can_be_replaced(misgiving, with_policy):
    (with_policy / "policy" / "policy.json").write_text("{")
    code, _, error = misgiving(
        "calibrate", with_policy, "digits", "--max-error", "0.3", "--overwrite", "--device", "cpu"
    )
    assert code == 0, error
    unknown = "Warning: the record of an earlier calibration of this run could not be read"
    assert unknown in error
    assert not cases_of(with_policy)["complete"]
    code, _, error = misgiving(
        "calibrate", with_policy, "digits", "--max-error", "0.2", "--overwrite", "--device", "cpu"
    )
    assert unknown in error  # of a calibration after the next one, too
    assert "calibrated before with 1487 of these images" in error
    assert misgiving("evaluate", with_policy, "digits", "--device", "cpu")[0] == 0


def test_predict_gives_an_image_the_score_that_calibrate_gave_it(misgiving, with_policy, tmp_path):
    """The digits as files go through decoding, preprocessing and batches of their own."""
    from misgiving.data.datasets import load_dataset

    digits = load_dataset("digits")
    for row in range(300, 340):
        Image.fromarray(digits.images.read(row).image).save(tmp_path / f"{digits.ids[row]}.png")
    _, output, error = misgiving("predict", with_policy, tmp_path, "--device", "cpu")
    predicted = {Path(row["path"]).stem: row for row in csv.DictReader(output.splitlines())}
    misgiving(
        "evaluate", with_policy, "digits", "--set", "validation", "--out", tmp_path / "out",
        "--device", "cpu",
    )  # fmt: skip
    decided = {row["id"]: row for row in table(tmp_path / "out" / "decisions.csv")}
    shared = sorted(predicted.keys() & decided.keys())
    assert len(shared) > 20, error
    for name in shared:
        for column in ("acceptance_score", "ood_score", "error_probability", "probability"):
            assert float(predicted[name][column]) == pytest.approx(
                float(decided[name][column]), rel=1e-3, abs=1e-5
            )
        assert predicted[name]["decision"] == decided[name]["decision"]


def test_other_preprocessing_makes_another_model(misgiving, with_policy):
    path = with_policy / "config.json"
    preprocessing = json.loads(path.read_text())["preprocessing"]
    reseal(with_policy, preprocessing={**preprocessing, "crop": 0.5})
    code, _, error = misgiving("evaluate", with_policy, "digits", "--device", "cpu")
    assert code == 1
    assert "was calibrated for the model" in one_line(error)


@pytest.mark.parametrize(
    ("arguments", "expected", "says"),
    [
        (["--max-error", "2"], 2, "--max-error"),
        (["--max-error", "0.1", "--confidence", "1"], 2, "--confidence"),
        (["--max-error", "0.1", "--class-max-miss", "eleven=0.1"], 2, "unknown class 'eleven'"),
        (["--max-error", "0.1", "--class-max-miss", "3"], 2, "CLASS=NUMBER, got '3'"),
        (["--max-error", "0.1", "--class-max-miss", "3=0.001"], 1, "of 3 is 0.001"),
        (["--max-error", "0.1", "--max-ood-false-alarms", "0.0001"], 1, "at least"),
        (["--max-error", "0.1", "--ood-detector", "nearest"], 2, "--ood-detector"),
    ],
)
def test_targets_that_cannot_be_certified_are_refused(
    misgiving, run_folder, arguments, expected, says
):
    code, _, error = misgiving("calibrate", run_folder, "digits", *arguments, "--device", "cpu")
    assert code == expected
    assert says in one_line(error)
    assert not (run_folder / "policy").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--class-max-miss", "eleven=0.1"], "--class-max-miss has the unknown class 'eleven'"),
        (["--cost", "eleven=10"], "--cost has the unknown class 'eleven'"),
    ],
)
def test_a_name_that_the_model_does_not_know_is_refused_before_any_image_is_read(
    misgiving, run_folder, arguments, says, monkeypatch
):
    monkeypatch.setattr("misgiving.predictions.predict.load_dataset", None)
    code, _, error = misgiving("calibrate", run_folder, "digits", "--max-error", "0.1", *arguments)
    assert code == 2
    assert says in one_line(error)


def test_predict_applies_the_policy(misgiving, with_policy, tmp_path):
    for number, pixels in enumerate(load_sample_images().images):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    code, output, error = misgiving(
        "predict", with_policy, tmp_path / "0.png", tmp_path / "1.png", "--device", "cpu"
    )
    assert code == 0, error
    rows = list(csv.DictReader(output.splitlines()))
    assert list(rows[0]) == [
        "path", "predicted_class", "probability", "predicted_loss", "decision", "reason",
        "error_probability", "expected_loss", "ood_p_value", "acceptance_score", "ood_score",
    ]  # fmt: skip
    for row in rows:
        assert row["decision"] in ("accept", "defer", "ood")
        assert row["reason"]
        assert 0 < float(row["ood_p_value"]) <= 1


def test_evaluate_measures_the_policy_by_class(misgiving, with_policy, tmp_path):
    code, output, error = misgiving(
        "evaluate", with_policy, "digits", "--set", "validation", "--out", tmp_path / "out",
        "--device", "cpu",
    )  # fmt: skip
    assert code == 0, error
    assert "1487 of these 1528 images: the numbers of its decisions are optimistic" in error
    page = (tmp_path / "out" / "report.html").read_text()
    assert "1487 of these 1528 images: the numbers of its decisions are optimistic" in page
    assert "class 3</th>" in page
    assert page.count("data:image/jpeg") == 24
    groups = table(tmp_path / "out" / "subgroups.csv")
    known = Predictions.read(tmp_path / "out" / "predictions.npz").units
    assert sum(int(row["cases"]) for row in groups) == len(set(known)) < 1528  # near duplicates
    decisions = table(tmp_path / "out" / "decisions.csv")
    assert len(decisions) == 1528
    accepted = [row for row in decisions if row["decision"] == "accept"]
    measured = {
        row["metric"]: float(row["value"])
        for row in table(tmp_path / "out" / "measurements.csv")
        if row["detector"] == "policy"
    }
    assert measured["coverage"] == pytest.approx(len(accepted) / 1528)
    wrong = sum(row["true_class"] != row["predicted_class"] for row in accepted)
    assert measured["error_among_accepted"] == pytest.approx(wrong / len(accepted))
    assert f"the policy accepts {len(accepted) / 15.28:.1f} % (95 % interval" in output


def test_ood_images_are_measured_with_the_policy_of_the_run(misgiving, with_policy, tmp_path):
    (tmp_path / "photographs").mkdir()
    for number, pixels in enumerate(load_sample_images().images):
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{number}.png")
    code, _, error = misgiving(
        "evaluate", with_policy, "digits", "--set", "validation", "--out", tmp_path / "out",
        "--ood", tmp_path / "photographs", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, error
    rows = table(tmp_path / "out" / "measurements.csv")
    found = {row["metric"]: float(row["value"]) for row in rows if row["dataset"] == "photographs"}
    assert 0 <= found["auroc"] <= 1
    shares = [found[name] for name in ("coverage", "deferred_share", "ood_share")]
    assert sum(shares) == pytest.approx(1.0)


def test_an_ood_folder_that_is_missing_is_refused_before_anything_is_computed(
    misgiving, with_policy, tmp_path, monkeypatch
):
    computed = []
    monkeypatch.setattr("misgiving.predictions.predict.predictions_of", computed.append)
    code, _, error = misgiving(
        "evaluate", with_policy, "digits", "--ood", tmp_path / "nowhere", "--device", "cpu"
    )
    assert code == 1
    assert "nowhere" in one_line(error)
    assert computed == []


@pytest.mark.parametrize("name", ["validation", "unseen_classes"])
def test_an_ood_set_that_has_the_name_of_another_set_is_refused(
    misgiving, with_policy, tmp_path, name
):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    code, _, error = misgiving(
        "evaluate", with_policy, "digits", "--set", "validation", "--ood", f"{name}={tmp_path}",
        "--device", "cpu",
    )  # fmt: skip
    assert code == 2
    assert f"--ood '{name}' names two sets" in one_line(error)


@pytest.mark.parametrize("place", ["file", "file/folder"])
def test_evaluate_refuses_an_output_that_cannot_be_written_before_anything_is_computed(
    misgiving, with_policy, tmp_path, monkeypatch, place
):
    (tmp_path / "file").touch()
    monkeypatch.setattr("misgiving.predictions.predict.predictions_of", None)
    out = tmp_path / place
    code, _, error = misgiving("evaluate", with_policy, "digits", "--out", out, "--device", "cpu")
    assert code == 2
    assert "; choose another --out" in one_line(error)


def test_evaluate_does_not_replace_the_table_of_its_images(
    misgiving, with_policy, tmp_path, monkeypatch
):
    monkeypatch.setattr("misgiving.predictions.predict.predictions_of", None)
    table = tmp_path / "decisions.csv"
    table.write_text("path,label\n")
    code, _, error = misgiving(
        "evaluate", with_policy, f"table:{table}", "--out", tmp_path, "--device", "cpu"
    )
    assert code == 2
    assert "decisions.csv: is read, and would be replaced; choose another --out" in one_line(error)
    assert table.read_text() == "path,label\n"


def test_the_cases_of_a_runs_policy_are_known_in_its_file_of_predictions(
    misgiving, with_policy, tmp_path
):
    code, _, error = misgiving("evaluate", with_policy, "digits", "--device", "cpu")
    assert code == 0, error
    predictions = with_policy / "evaluation" / "predictions.npz"
    out = tmp_path / "again"
    code, _, said = misgiving("evaluate", predictions, "--policy", with_policy, "--out", out)
    assert code == 0, said
    count = re.search(r"fitted on (\d+) of these 1528 images; its decisions are", error)[1]
    assert f"fitted on {count} of these 1528 images; its decisions are" in said
    decided = table(with_policy / "evaluation" / "decisions.csv")
    assert table(out / "decisions.csv") == decided
    for folder in (with_policy / "evaluation", out):
        (images,) = (
            row["value"]
            for row in table(folder / "measurements.csv")
            if (row["dataset"], row["detector"], row["metric"])
            == ("policy_test", "policy", "images")
        )
        assert float(images) == len(decided)


def test_evaluate_predicts_each_image_once(misgiving, with_policy, tmp_path, monkeypatch):
    (tmp_path / "noise").mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(256, size=(20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "noise" / f"{seed}.png")
    predicted = Counter()

    def counting(model, images, **options):
        predicted.update(images.ids)
        return predict(model, images, **options)

    monkeypatch.setattr("misgiving.predictions.inference.predict", counting)
    code, _, error = misgiving(
        "evaluate", with_policy, "digits", "--ood", tmp_path / "noise", "--device", "cpu"
    )
    assert code == 0, error
    assert len(predicted) == 1528 + 3
    assert set(predicted.values()) == {1}


def test_every_output_has_a_probability_that_is_one_less_the_error(misgiving, with_policy):
    code, _, error = misgiving("evaluate", with_policy, "digits", "--device", "cpu")
    assert code == 0, error
    rows = table(with_policy / "evaluation" / "decisions.csv")
    assert rows
    for row in rows:
        error = float(row["error_probability"])
        assert float(row["probability"]) + error == pytest.approx(1.0)
        if row["decision"] == "accept":
            assert error <= 0.5


def test_costs_are_recorded_and_named_in_the_reasons(misgiving, run_folder):
    code, _, error = misgiving(
        "calibrate", run_folder, "digits", "--max-error", "0.2", "--cost", "3=10", "--device", "cpu"
    )
    assert code == 0, error
    for rule in ("most_probable", "balanced", "logits", "costs"):
        assert re.search(rf"{rule}: 0: \d+ %, .*3: \d+ %", error)
    assert re.search(r"Warning: no class has a target. .* bound this by --class-max-miss\.", error)
    policy = json.loads((run_folder / "policy" / "policy.json").read_text())
    assert (policy["rule"]["rule"], policy["rule"]["costs"]) == ("costs", {"3": 10.0})
    misgiving("evaluate", run_folder, "digits", "--set", "validation", "--device", "cpu")
    rows = table(run_folder / "evaluation" / "decisions.csv")
    costly = [row for row in rows if "missing it costs 10" in row["reason"]]
    assert costly
    assert {row["predicted_class"] for row in costly} == {"3"}
    assert max(float(row["probability"]) for row in costly) <= 0.5


def test_images_that_set_the_policy_do_not_measure_it(misgiving, with_policy):
    code, output, error = misgiving("evaluate", with_policy, "digits", "--device", "cpu")
    assert code == 0, error
    assert "1487 of these 1528 images; its decisions are measured on the others" in error
    assert re.search(r"of 41 images \(\d+ groups\) are classified correctly", output)
    assert len(table(with_policy / "evaluation" / "decisions.csv")) == 1528 - 1487


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_policy_that_was_edited_is_refused_in_one_line(misgiving, with_policy, tmp_path, command):
    path = with_policy / "policy" / "policy.json"
    path.write_text(path.read_text().replace('"max_error": 0.2', '"max_error": 0.1'))
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "black.png")
    data = "digits" if command == "evaluate" else tmp_path / "black.png"
    code, _, error = misgiving(command, with_policy, data, "--device", "cpu")
    assert code == 1
    assert "policy.json" in one_line(error)
    assert "misgiving calibrate" in error


def test_a_policy_of_another_model_is_refused(misgiving, with_policy):
    state = load_file(with_policy / "model.safetensors")
    first = next(name for name, values in state.items() if values.is_floating_point())
    save_file(
        {**state, first: state[first] + torch.tensor(0.01)}, with_policy / "model.safetensors"
    )
    reseal(with_policy)
    code, _, error = misgiving("evaluate", with_policy, "digits", "--device", "cpu")
    assert code == 1
    assert "was calibrated for the model" in one_line(error)


def test_three_images_are_too_few(misgiving, run_folder, tmp_path):
    for number, name in enumerate(["0", "1", "1"]):
        (tmp_path / "few" / name).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "few" / name / f"{number}.png")
    code, _, error = misgiving(
        "calibrate", run_folder, f"folder:{tmp_path / 'few'}", "--max-error", "0.2",
        "--training-data", "digits", "--device", "cpu",
    )  # fmt: skip
    assert code == 1
    assert re.search(r"few groups of images \(3\) for 4 sets; give images of at", one_line(error))


def test_a_column_of_the_tables_can_be_trained(misgiving, tmp_path):
    for name, reads in (("proposed+logits", True), ("vanilla", False)):
        code, _, error = misgiving(
            "train", "digits", "--out", tmp_path / name, "--model", name, "--epochs", "1",
            "--backbone", "vgg16_mini", "--no-pretrained", "--device", "cpu",
        )  # fmt: skip
        assert code == 0, error
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["architecture"]["reads_logits"] is reads
        assert config["estimates_losses"] is reads


def test_every_score_can_detect_ood_images():
    scores = {*LOGIT_SCORES, *FEATURE_SCORES, "predicted_loss"}
    assert set(get_args(OodDetector)) == scores
