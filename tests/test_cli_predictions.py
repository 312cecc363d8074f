"""Commands on files of predictions, in place of a run and its data."""

import csv
import json
import re
from typing import NamedTuple

import numpy as np
import pytest
from commands import one_line
from PIL import Image
from scipy.stats import binomtest

from misgiving import Deferral, Predictions

CLASSES = ("cat", "dog", "owl")


def write_rows(file, count=400, seed=0, **columns):
    """A file by hand, as from another framework."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    logits = rng.normal(size=(count, 3)) + 3 * np.eye(3)[labels]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    columns = {
        "id": [f"{seed}-{number}" for number in range(count)],
        "label": [CLASSES[label] for label in labels],
        **{f"probability_{name}": shares[:, at] for at, name in enumerate(CLASSES)},
        **columns,
    }
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return file


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(misgiving):
    return lambda *arguments: Result(*misgiving(*arguments))


@pytest.fixture
def policy(run, tmp_path):
    table = write_rows(tmp_path / "predictions.csv")
    options = ("--max-error", 0.1, "--out", tmp_path / "policy")
    assert run("calibrate", table, *options).code == 0
    return tmp_path / "policy"


def test_from_a_file_to_decisions(run, policy, tmp_path):
    new = write_rows(tmp_path / "new.csv", 200, seed=1)
    result = run("predict", policy, new, "--out", tmp_path / "decisions.csv")
    assert result.code == 0
    rows = read(tmp_path / "decisions.csv")
    assert [row["path"] for row in rows] == [f"1-{number}" for number in range(200)]
    expected = Deferral.load(policy).decide(Predictions.read(new))
    assert [row["decision"] for row in rows] == [one.decision for one in expected]
    assert [row["predicted_class"] for row in rows] == [one.predicted_class for one in expected]
    accepted = [row for row in rows if row["decision"] == "accept"]
    assert len(accepted) > 100
    for row in rows:
        assert float(row["probability"]) + float(row["error_probability"]) == pytest.approx(1, 1e-5)


def test_calibrate_says_what_python_says(run, policy, tmp_path):
    result = run(
        "calibrate",
        tmp_path / "predictions.csv",
        "--max-error",
        0.1,
        "--out",
        policy,
        "--overwrite",
        "--seed",
        1,
        "--rule",
        "balanced",
    )
    assert result.code == 0
    assert "predictions.csv: 400 images" in result.err
    assert "a quarter of 400 images, drawn by group with seed 1" in result.err
    assert "calibrated before with 400 of these images" in result.err
    table = Predictions.read(tmp_path / "predictions.csv")
    again = Deferral(max_error=0.1, seed=1, rule="balanced").fit(table)
    assert Deferral.load(policy).certificate_ == again.certificate_
    assert json.loads((policy / "policy.json").read_text())["seed"] == 1


def test_new_predictions_need_no_labels_and_name_their_images(run, policy, tmp_path):
    names = [f"scans/{number}.png" for number in range(20)]
    new = write_rows(tmp_path / "new.csv", 20, seed=2, label=[""] * 20, path=names)
    result = run("predict", policy, new)
    assert result.code == 0
    found = [line.split(",")[0] for line in result.out.splitlines()[1:]]
    assert found == [str(tmp_path / name) for name in names]


def test_paths_of_images_are_written_as_from_the_folder_of_the_command(
    run, policy, tmp_path, monkeypatch
):
    (tmp_path / "sub").mkdir()
    new = write_rows(tmp_path / "sub" / "new.csv", 3, seed=2, path=["a.png", "b.png", "c.png"])
    monkeypatch.chdir(tmp_path)
    place = new.relative_to(tmp_path)
    assert run("predict", policy, place, "--out", "list.csv").code == 0
    paths = {row["path"] for row in read(tmp_path / "list.csv")}
    assert paths == {"sub/a.png", "sub/b.png", "sub/c.png"}


def test_evaluate_measures_the_predictions_and_the_policy(run, policy, tmp_path):
    sites = ["north", "south"] * 150
    new = write_rows(tmp_path / "new.csv", 300, seed=3, site=sites)
    folder = tmp_path / "evaluation"
    assert run("evaluate", new, "--policy", policy, "--out", folder).code == 0
    values = {
        (row["detector"], row["metric"]): float(row["value"])
        for row in read(folder / "measurements.csv")
    }
    table = Predictions.read(new)
    assert values["", "accuracy"] == pytest.approx((table.choices == table.labels).mean())
    decisions = [one.decision for one in Deferral.load(policy).decide(table)]
    assert values["policy", "coverage"] == pytest.approx(decisions.count("accept") / 300)
    assert [row["decision"] for row in read(folder / "decisions.csv")] == decisions
    groups = {(row["name"], row["value"]) for row in read(folder / "subgroups.csv")}
    assert {("site", "north"), ("site", "south"), ("class", "owl")} <= groups


def test_cases_of_the_policy_are_not_measured_unless_there_are_no_others(run, policy, tmp_path):
    own = tmp_path / "predictions.csv"
    both = tmp_path / "both.csv"
    more = write_rows(tmp_path / "more.csv", 100, seed=4).read_text().splitlines()[1:]
    both.write_text(own.read_text() + "\n".join(more) + "\n")
    result = run("evaluate", both, "--policy", policy, "--out", tmp_path / "one")
    assert "fitted on 400 of these 500 images; its decisions are" in result.err
    assert len(read(tmp_path / "one" / "decisions.csv")) == 100
    rows = read(tmp_path / "one" / "measurements.csv")
    values = {(row["dataset"], row["detector"], row["metric"]): row["value"] for row in rows}
    assert float(values["predictions", "", "images"]) == 500
    assert float(values["policy_test", "policy", "images"]) == 100
    for compared in ("msp", "calibrated"):  # on the same images
        assert ("policy_test", compared, "aurc") in values
    assert {row["dataset"] for row in rows if row["detector"] == "policy"} == {"policy_test"}
    result = run("evaluate", own, "--policy", policy, "--out", tmp_path / "two")
    assert "Warning: The policy was fitted on 400 of these 400 images" in result.err
    assert "optimistic" in result.err
    assert len(read(tmp_path / "two" / "decisions.csv")) == 400


def without(path, column, target, order=None):
    """A file without one column, and with its rows in another order."""
    rows = read(path)
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name != column])
        writer.writeheader()
        for at in order if order is not None else range(len(rows)):
            writer.writerow({name: cell for name, cell in rows[at].items() if name != column})
    return target


def test_numbers_of_training_images_are_called_optimistic(run, tmp_path):
    table = write_rows(tmp_path / "t.csv", 200, set=["train", "test"] * 100)
    for name, said in (("train", True), ("test", False)):
        result = run("evaluate", table, "--set", name, "--out", tmp_path / name)
        assert result.code == 0
        page = (tmp_path / name / "report.html").read_text()
        optimistic = "optimistic: the model was trained on these images"
        assert (optimistic in result.err, optimistic in page) == (said, said)


def test_what_is_certified_names_the_unit(run, tmp_path):
    patients = [f"p{number % 150}" for number in range(400)]
    table = write_rows(tmp_path / "t.csv", patient=patients)
    options = ("--max-error", 0.2, "--out", tmp_path / "policy")
    assert run("calibrate", table, *options).code == 0
    new = write_rows(tmp_path / "new.csv", 100, seed=5)
    result = run("evaluate", new, "--policy", tmp_path / "policy", "--out", tmp_path / "one")
    assert re.search(r"for one image of each patient, drawn like the \d+ calibration", result.out)


def test_cases_of_the_policy_are_known_by_their_ids_whatever_their_digits(run, policy, tmp_path):
    rows = read(tmp_path / "predictions.csv")
    rounded = {
        name: [name_cell(name, row[name]) for row in rows] for name in rows[0] if name != "id"
    }
    again = write_rows(tmp_path / "again.csv", 400, **rounded)
    result = run("evaluate", again, "--policy", policy, "--out", tmp_path / "one")
    assert "Warning: The policy was fitted on 400 of these 400 images" in result.err


def name_cell(name, cell):
    return round(float(cell), 4) if name.startswith("probability") else cell


def test_cases_without_ids_are_known_by_their_outputs_in_any_order(run, tmp_path):
    own = without(write_rows(tmp_path / "p.csv", 500), "id", tmp_path / "own.csv")
    order = np.random.default_rng(1).permutation(500)
    used = without(own, "", tmp_path / "used.csv", order[:400])
    options = ("--max-error", 0.1, "--out", tmp_path / "policy")
    assert run("calibrate", used, *options).code == 0
    result = run("evaluate", own, "--policy", tmp_path / "policy", "--out", tmp_path / "one")
    assert "fitted on 400 of these 500 images; its decisions are" in result.err
    result = run("calibrate", own, *options, "--overwrite")
    assert "calibrated before with 400 of these images" in result.err


def test_rounded_outputs_without_ids_do_not_make_one_image_another(run, tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 900)
    first = np.clip(rng.normal(np.where(labels, 0.2, 0.8), 0.2), 0, 1).round(1)
    for name, rows in (("used", slice(0, 500)), ("new", slice(500, 900))):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["label", "probability_0", "probability_1"])
            writer.writerows(zip(labels[rows], first[rows], 1 - first[rows], strict=True))
    options = ("--max-error", 0.3, "--out", tmp_path / "policy")
    assert run("calibrate", tmp_path / "used.csv", *options).code == 0
    options = ("--policy", tmp_path / "policy", "--out", tmp_path / "one")
    result = run("evaluate", tmp_path / "new.csv", *options)
    assert result.code == 0
    used = re.search(r"fitted on (\d+) of these 400 images", result.err)
    assert used is None or int(used[1]) < 100  # where also the number of the row is the same


def test_new_images_of_the_policys_patients_are_not_measured(run, tmp_path):
    patients = [f"p{number % 150}" for number in range(400)]
    used = write_rows(tmp_path / "used.csv", 400, patient=patients)
    options = ("--max-error", 0.2, "--out", tmp_path / "policy")
    assert run("calibrate", used, *options).code == 0
    some = [f"p{number}" for number in range(100, 200)]
    new = write_rows(tmp_path / "new.csv", 100, seed=5, patient=some)
    result = run("evaluate", new, "--policy", tmp_path / "policy", "--out", tmp_path / "one")
    assert "on 0 of these 100 images, and on others of the groups of 50; its" in result.err
    assert len(read(tmp_path / "one" / "decisions.csv")) == 50


def test_a_column_of_metadata_named_class_does_not_hide_the_true_classes(run, policy, tmp_path):
    sites = [f"site {number % 2}" for number in range(300)]
    new = write_rows(tmp_path / "new.csv", 300, seed=3, **{"class": sites})
    assert run("evaluate", new, "--policy", policy, "--out", tmp_path / "one").code == 0
    groups = {(row["name"], row["value"]) for row in read(tmp_path / "one" / "subgroups.csv")}
    assert {("column class", "site 0"), ("class", "cat")} <= groups


def test_evaluate_without_a_policy_and_with_ood_predictions(run, tmp_path):
    table = write_rows(tmp_path / "t.csv", 100, set=["test"] * 60 + ["train"] * 40)
    flat = {f"probability_{name}": [1 / 3] * 30 for name in CLASSES}
    far = write_rows(tmp_path / "far.csv", 30, seed=9, label=[""] * 30, **flat)
    result = run("evaluate", table, "--ood", f"flat={far}", "--out", tmp_path / "out")
    assert result.code == 0
    rows = read(tmp_path / "out" / "measurements.csv")
    values = {(row["dataset"], row["detector"], row["metric"]): float(row["value"]) for row in rows}
    assert values["test", "", "images"] == 60
    assert values["flat", "msp", "auroc"] == 1
    assert not (tmp_path / "out" / "decisions.csv").exists()


def test_ood_predictions_without_predicted_losses_are_measured_by_the_other_scores(run, tmp_path):
    table = write_rows(tmp_path / "t.csv", 60, predicted_loss=np.linspace(0, 1, 60))
    far = write_rows(tmp_path / "far.csv", 30, seed=9)
    result = run("evaluate", table, "--ood", far, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    rows = read(tmp_path / "out" / "measurements.csv")
    detectors = {row["detector"] for row in rows if row["dataset"] == "far"}
    assert "msp" in detectors
    assert "predicted_loss" not in detectors


def test_ood_predictions_of_another_model_are_refused(run, tmp_path):
    table = write_rows(tmp_path / "t.csv", 60, model=["one"] * 60)
    far = write_rows(tmp_path / "far.csv", 30, seed=9, model=["two"] * 30)
    result = run("evaluate", table, "--ood", far, "--out", tmp_path / "out")
    assert result.code == 1
    assert "'far' has model 'two'" in one_line(result.err)


@pytest.mark.parametrize("ood", [False, True])
def test_evaluate_does_not_remove_what_it_reads(run, tmp_path, ood):
    table = write_rows(tmp_path / "t.csv", 100)
    kept = tmp_path / "ev" / "predictions.npz"
    kept.parent.mkdir()
    Predictions.read(table).write(kept)
    arguments = [table, "--ood", f"far={kept}"] if ood else [kept]
    result = run("evaluate", *arguments, "--out", kept.parent)
    assert "is read, and would be replaced; choose another --out" in one_line(result.err)
    assert [*kept.parent.iterdir()] == [kept]


@pytest.mark.parametrize("name", ["t.csv", "link.csv"])
@pytest.mark.usefixtures("policy")
def test_predictions_are_not_replaced_by_decisions(run, tmp_path, monkeypatch, name):
    before = write_rows(tmp_path / "t.csv", 100).read_bytes()
    (tmp_path / "link.csv").symlink_to("t.csv")
    monkeypatch.chdir(tmp_path)
    result = run("predict", "policy", "t.csv", "--out", tmp_path / name)
    assert "is read, and would be replaced; choose another --out" in one_line(result.err)
    assert (tmp_path / name).read_bytes() == before


def test_evaluate_prints_its_findings_and_writes_a_report(run, policy, tmp_path):
    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")
    images = ["a.png", "missing.png"] * 150
    new = write_rows(tmp_path / "new.csv", 300, seed=3, path=images, site=["n", "s"] * 150)
    folder = tmp_path / "evaluation"
    result = run("evaluate", new, "--policy", policy, "--out", folder)
    lines = [*result.out.splitlines(), *result.err.splitlines()]
    assert len(lines) <= 10
    topics = [line.partition(":")[0] for line in result.out.splitlines()]
    assert topics == ["Accuracy", "Acceptance", "Certified", "Groups", "OOD"]
    accepted = [row for row in read(folder / "decisions.csv") if row["decision"] == "accept"]
    wrong = sum(row["true_class"] != row["predicted_class"] for row in accepted)
    low, high = binomtest(wrong, len(accepted)).proportion_ci(0.95, method="exact")
    assert (
        f"of these, {100 * wrong / len(accepted):.1f} % (95 % interval {100 * low:.1f} % to "
        f"{100 * high:.1f} %) are wrong"
    ) in result.out
    page = (folder / "report.html").read_text()
    assert "data:image/jpeg" in page
    assert "The file cannot be read." in page
    assert str(folder / "report.html") in result.err


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (None, "drawn like the calibration cases, from which no difference"),
        ("patient", "drawn like the calibration cases, one of each patient, from which no"),
        ("group", "drawn like the calibration cases, one of each group, from which no"),
    ],
)
def test_predict_names_the_unit_of_the_cases(run, tmp_path, column, expected):
    groups = {} if column is None else {column: [f"p{row // 2}" for row in range(600)]}
    table = write_rows(tmp_path / "t.csv", 600, **groups)
    assert run("calibrate", table, "--max-error", 0.2, "--out", tmp_path / "p").code == 0
    new = write_rows(tmp_path / "new.csv", 100, seed=1)
    result = run("predict", tmp_path / "p", new, "--out", tmp_path / "d.csv")
    assert expected in result.err


@pytest.mark.parametrize(
    ("patients", "says"),
    [
        ([f"p{row // 2}" for row in range(600)], ["unit: patient (column patient)."]),
        ([*["p"] * 3, *[""] * 597], ["unit: patient", "597 of 600 images have no value"]),
        ([""] * 600, ["unit: image."]),
    ],
)
def test_saved_predictions_keep_their_groups(run, tmp_path, patients, says):
    table = Predictions.read(write_rows(tmp_path / "t.csv", 600, patient=patients))
    saved = tmp_path / "t.npz"
    table.write(saved)
    result = run("calibrate", saved, "--max-error", 0.2, "--out", tmp_path / "p")
    assert result.code == 0, result.err
    assert all(words in result.err for words in says)
    assert Predictions.read(saved).groups == table.groups


def test_evaluate_counts_subgroups_by_the_unit_of_the_data(run, policy, tmp_path):
    patients = [f"p{row // 2}" for row in range(300)]
    new = write_rows(tmp_path / "new.csv", 300, seed=3, patient=patients, site=["n", "s"] * 150)
    for options in ([], ["--policy", policy]):
        result = run("evaluate", new, *options, "--out", tmp_path / "out")
        accuracy, groups = (
            line for line in result.out.splitlines() if line.startswith(("Accuracy", "Groups"))
        )
        assert "of 300 images (150 patients) are classified" in accuracy
        assert groups.endswith(" patients, one image of each.")


def test_plan_counts_the_calibration_cases(run, tmp_path):
    table = write_rows(tmp_path / "t.csv", 400)
    result = run("plan", table, "--max-error", 0.05)
    assert result.code == 0
    assert (
        "three quarters of the groups, has 300 images. Each image counts: 300 cases" in result.err
    )
    named = write_rows(tmp_path / "u.csv", 100, set=["tune"] * 40 + ["calibrate"] * 60)
    result = run("plan", named, "--max-error", 0.05)
    assert "The calibration set has 60 images." in result.err


def test_plan_refuses_sets_that_calibrate_refuses(run, tmp_path):
    named = write_rows(tmp_path / "t.csv", 100, set=["train"] * 60 + ["test"] * 40)
    for command, out in (("plan", ()), ("calibrate", ("--out", tmp_path / "p"))):
        result = run(command, named, "--max-error", 0.05, *out)
        assert result.code == 1
        assert "all images were used for training" in one_line(result.err)


@pytest.mark.parametrize("unlabelled", [0, 50])  # of tune, and of calibrate
def test_plan_refuses_sets_without_labels_as_calibrate_does(run, tmp_path, unlabelled):
    labels = ["cat", "dog"] * 50
    labels[unlabelled] = ""
    sets = {"label": labels, "set": ["tune"] * 50 + ["calibrate"] * 50}
    named = write_rows(tmp_path / "t.csv", 100, **sets)
    for command, out in (("plan", ()), ("calibrate", ("--out", tmp_path / "p"))):
        result = run(command, named, "--max-error", 0.05, *out)
        assert result.code == 1
        assert f"1 of 50 rows have no label, the first is '0-{unlabelled}'" in one_line(result.err)


def test_suspect_labels_do_not_replace_the_predictions(run, tmp_path):
    table = write_rows(tmp_path / "suspect_labels.csv", 100)
    before = table.read_bytes()
    result = run("data", "check", table, "--out", tmp_path)
    assert result.code == 2
    assert "suspect_labels.csv: is read, and would be replaced" in one_line(result.err)
    assert table.read_bytes() == before


@pytest.mark.parametrize("sets", [{}, {"set": ["tune"] * 40 + ["calibrate"] * 60}])
def test_plan_of_predictions_sends_no_one_to_a_trained_model(run, tmp_path, sets):
    result = run("plan", write_rows(tmp_path / "t.csv", 100, **sets), "--max-error", 0.05)
    assert "trained model" not in result.err
    assert "`misgiving calibrate` shows how many of the accepted are wrong" in result.err


def test_every_command_counts_all_unlabelled_rows(run, tmp_path):
    table = write_rows(tmp_path / "t.csv", 100, label=[""] * 90 + ["cat"] * 10)
    for command in ("plan", "calibrate"):
        out = [] if command == "plan" else ["--out", tmp_path / "p"]
        result = run(command, table, "--max-error", 0.05, *out)
        assert result.code == 1
        assert "90 of 100 rows have no label, the first is '0-0'" in one_line(result.err)


def test_a_file_without_the_features_of_the_policy_is_named(run, tmp_path):
    features = {f"feature_{at}": np.random.default_rng(at).normal(size=400) for at in range(8)}
    sets = ["train"] * 100 + ["tune"] * 100 + ["calibrate"] * 200
    table = write_rows(tmp_path / "t.csv", 400, set=sets, **features)
    options = ("--max-error", 0.1, "--max-ood-false-alarms", 0.1, "--out", tmp_path / "policy")
    assert run("calibrate", table, *options).code == 0
    result = run("predict", tmp_path / "policy", write_rows(tmp_path / "new.csv", 20, seed=1))
    assert result.code == 1
    assert one_line(result.err).endswith(
        "new.csv: the policy needs the columns feature_0 to feature_7, and there are none; predict "
        "again with all of them"
    )


REFUSED = {
    "no out": (["calibrate", "t.csv", "--max-error", "0.1"], "give --out, the folder"),
    "with data": (
        ["calibrate", "t.csv", "digits", "--max-error", "0.1", "--out", "p"],
        "leave out DATA, here 'digits'",
    ),
    "training data": (
        ["calibrate", "t.csv", "--max-error", "0.1", "--out", "p", "--training-data", "digits"],
        "--training-data is for a run",
    ),
    "no data": (["calibrate", "run", "--max-error", "0.1"], "a run needs DATA"),
    "out of a run": (
        ["calibrate", "run", "digits", "--max-error", "0.1", "--out", "p"],
        "--out is for a file of predictions",
    ),
    "calibrate into another folder": (
        ["calibrate", "t.csv", "--max-error", "0.1", "--out", "other", "--overwrite"],
        "other: exists and is not a policy; choose another folder",
    ),
    "a detector of features": (
        ["calibrate", "t.csv", "--max-error", "0.1", "--out", "p", "--ood-detector", "vim"],
        "--ood-detector 'vim' needs the last layer, which a CSV file does not have; choose from",
    ),
    "an unknown class": (
        ["calibrate", "t.csv", "--max-error", "0.1", "--out", "p", "--class-max-miss", "MEL=0.1"],
        "MEL",
    ),
    "no such file": (["calibrate", "u.csv", "--max-error", "0.1", "--out", "p"], "no such file"),
    "no policy": (["predict", "run", "t.csv"], "contains no policy"),
    "images with a policy": (
        ["predict", "policy", "a.png"],
        "policy: a policy, not a model; `misgiving predict` takes a file of predictions with it, ",
    ),
    "serve a policy": (["serve", "policy"], "`misgiving export GRAPH.onnx --policy policy"),
    "two files": (["predict", "run", "t.csv", "t.csv"], "one file of predictions alone, not 2"),
    "a device to predict": (["predict", "run", "t.csv", "--device", "cpu"], "--device is for"),
    "a cache to evaluate": (
        ["evaluate", "t.csv", "--out", "e", "--cache", "c"],
        "--cache is for images, and t.csv is a file of predictions; leave it out",
    ),
    "bad images to calibrate": (
        ["calibrate", "t.csv", "--max-error", "0.1", "--out", "p", "--on-bad-image", "skip"],
        "--on-bad-image is for images",
    ),
    "bad images to audit": (
        ["data", "check", "t.csv", "--on-bad-image", "fail"],
        "--on-bad-image is for images",
    ),
    "a table of another kind": (["predict", "policy", "t.csv", "--out", "d.xlsx"], "ends in .csv"),
    "evaluate without out": (["evaluate", "t.csv"], "give --out, the folder"),
    "evaluate with data": (["evaluate", "t.csv", "digits", "--out", "e"], "leave out DATA"),
    "evaluate a run with a policy": (["evaluate", "run", "digits", "--policy", "p"], "has its own"),
    "evaluate a run alone": (["evaluate", "run"], "a run needs DATA"),
    "a set that is not there": (
        ["evaluate", "t.csv", "--out", "e", "--set", "test"],
        "no row is in the set 'test'; the sets of these predictions: none",
    ),
    "the name of the measured set": (
        ["evaluate", "t.csv", "--out", "e", "--ood", "predictions.csv"],
        "--ood 'predictions' names other rows of the measurements",
    ),
    "one ood name twice": (
        ["evaluate", "t.csv", "--out", "e", "--ood", "a=t.csv", "--ood", "a=t.csv"],
        "'a' is named twice",
    ),
}

UNREADABLE = {
    "no such file",
    "no policy",
    "images with a policy",
    "serve a policy",
    "a tool without images",
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.usefixtures("policy")
def test_wrong_usage_is_one_line(run, tmp_path, monkeypatch, case):
    arguments, message = REFUSED[case]
    write_rows(tmp_path / "t.csv")
    (tmp_path / "run").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = run(*arguments)
    assert result.code == (1 if case in UNREADABLE else 2)
    assert message in one_line(result.err)
    assert sorted(tmp_path.rglob("*")) == before


def test_logits_are_refused_beside_probabilities(run, policy, tmp_path):
    likely = write_rows(tmp_path / "likely.csv", 60, seed=5)
    rows = read(likely)
    logits = tmp_path / "logits.csv"
    with logits.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", *(f"logit_{name}" for name in CLASSES)])
        for row in rows:
            shares = [np.log(float(row[f"probability_{name}"])) for name in CLASSES]
            writer.writerow([row["id"], row["label"], *shares])
    out = tmp_path / "out"
    for arguments, name in (
        (("predict", policy, logits, "--out", tmp_path / "d.csv"), "logits.csv"),
        (("evaluate", logits, "--policy", policy, "--out", out), "logits.csv"),
        (("evaluate", likely, "--ood", f"far={logits}", "--out", out), "far"),
    ):
        result = run(*arguments)
        assert result.code == 1
        assert name in one_line(result.err)
        assert "probabilities" in result.err
        assert not [*tmp_path.glob("d.csv"), *tmp_path.glob("r.csv"), *tmp_path.glob("out")]
