import csv
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from commands import rows_of
from PIL import Image
from scipy.stats import beta

from misgiving import Deferral, Predictions, evaluate
from misgiving.errors import DataError
from misgiving.evaluation.suspect_labels import suspect_labels

CLASSES = ("cat", "dog", "owl")
PLANTED = set(range(0, 300, 10))


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


@pytest.fixture(scope="module")
def cache_home(tmp_path_factory):
    """Beside the folders of the tests, which compare what these hold."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A policy on 400 rows, made once, beside these rows."""
    place = tmp_path_factory.mktemp("fitted")
    table = Predictions.read(write_rows(place / "predictions.csv"))
    Deferral(max_error=0.1).fit(table).save(place / "policy")
    return place


@pytest.fixture
def policy(fitted, tmp_path):
    shutil.copytree(fitted, tmp_path, dirs_exist_ok=True)
    return tmp_path / "policy"


def test_calibrate_and_predict_say_what_python_says(misgiving, succeed, policy, tmp_path):
    table = tmp_path / "predictions.csv"
    options = ("--max-error", 0.1, "--seed", 1, "--rule", "balanced", "--out", policy)
    assert misgiving("calibrate", table, *options).code == 2  # it is there
    assert "before" not in succeed("calibrate", table, *options, "--overwrite").err
    elsewhere = (*options[:3], 2, *options[4:-1], tmp_path / "elsewhere")
    assert "calibrated before with 400 of these" in succeed("calibrate", table, *elsewhere).err
    again = Deferral(max_error=0.1, seed=1, rule="balanced").fit(Predictions.read(table))
    assert Deferral.load(policy).certificate_ == again.certificate_

    new = write_rows(tmp_path / "new.csv", 200, seed=1, label=[""] * 200)
    succeed("predict", policy, new, "--out", tmp_path / "decisions.csv")
    rows = rows_of(tmp_path / "decisions.csv")
    assert [row["id"] for row in rows] == [f"1-{number}" for number in range(200)]
    expected = again.decide(Predictions.read(new))
    assert [row["decision"] for row in rows] == [each.decision for each in expected]
    assert [row["predicted_class"] for row in rows] == [each.predicted_class for each in expected]
    assert expected[3:5].to_frame()["id"].tolist() == ["1-3", "1-4"]
    for name, values in expected.to_frame().items():
        cells = [row[name] for row in rows]
        if values.dtype.kind == "f":
            cells = [float(cell or "nan") for cell in cells]
            assert cells == pytest.approx(values.tolist(), rel=1e-5, nan_ok=True)
        else:
            assert cells == values.tolist()
    assert {f"probability_{name}" for name in CLASSES} < {*rows[0]}


def test_calibrate_says_first_which_class_is_missed_and_the_option_against_it(succeed, tmp_path):
    random, names = np.random.default_rng(0), np.array(["cat", "dog", "sea owl"])
    predicted = random.integers(2, size=600)
    logits = {name: 6.0 * (predicted == at) + random.random(600) for at, name in enumerate(names)}
    labels = np.where(random.random(600) < 0.05, 2, predicted)
    columns = {f"logit_{name}": values for name, values in logits.items()}
    table = tmp_path / "t.csv"
    pd.DataFrame({"label": names[labels], **columns}).to_csv(table, index=False)
    words = ("calibrate", table, "--max-error", 0.2, "--out", tmp_path / "policy")
    for more in ([], ["--verbose", "--overwrite"]):
        said = succeed(*words, *more).err.splitlines()
        (first,) = (line for line in said if "sea owl" in line and "--class-max-miss" in line)
        assert re.match(r"Warning: (\d+) of \1 sea owl cases are accepted as another class", first)
        assert " --class-max-miss 'sea owl=0.1' cannot be certified with these " in first
        following = "Accepted: " if not more else "Certified: at most 20 %"
        assert said[said.index(first) + 1].startswith(following)


def test_calibrate_lists_the_columns_that_it_does_not_use_and_doubts(succeed, tmp_path):
    columns = {"patient_nr": ["a"] * 400, "age": ["1"] * 400, "probability_elk": ["0"] * 400}
    table = write_rows(tmp_path / "t.csv", **columns)
    said = succeed("calibrate", table, "--max-error", 0.2, "--out", tmp_path / "policy").err
    assert "columns without a meaning to the policy: patient_nr, age" in said
    assert "Warning: no calibration case is of the class elk; nothing is known" in said


def test_evaluate_writes_what_python_measures(succeed, policy, tmp_path):
    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")
    columns = {"path": ["a.png", "missing.png"] * 150, "site": ["north", "south"] * 150}
    new = write_rows(tmp_path / "new.csv", 300, seed=3, **columns)
    flat = {f"probability_{name}": [1 / 3] * 30 for name in CLASSES}
    far = write_rows(tmp_path / "far.csv", 30, seed=9, label=[""] * 30, **flat)
    folder = tmp_path / "evaluation"
    result = succeed("evaluate", new, "--policy", policy, "--ood", f"flat={far}", "--out", folder)
    expected = evaluate(
        Predictions.read(new), Deferral.load(policy), ood={"flat": Predictions.read(far)}
    )
    rows = [tuple(row.values()) for row in rows_of(folder / "measurements.csv")]
    assert rows == [(*row[:3], str(row.value)) for row in expected.measurements]
    decided = rows_of(folder / "decisions.csv")
    assert [row["decision"] for row in decided] == expected.decisions.decisions.tolist()
    topics = [line.partition(":")[0] for line in result.out.splitlines()]
    assert topics == ["Accuracy", "Acceptance", "Certified", "Groups", "OOD"]
    accepted = [row for row in decided if row["decision"] == "accept"]
    wrong = sum(row["true_class"] != row["predicted_class"] for row in accepted)
    assert f"of these, {100 * wrong / len(accepted):.1f} % (95 % interval " in result.out
    page = (folder / "report.html").read_text()
    assert "data:image/jpeg" in page
    assert "The file cannot be read." in page


def test_evaluate_measures_readers_where_it_is_asked_to(succeed, policy, tmp_path):
    columns = {"set": ["tune", "test"] * 150, "reader_ann": ["cat", "", "owl"] * 100}
    new = write_rows(tmp_path / "new.csv", 300, seed=3, **columns)
    words = ("evaluate", new, "--policy", policy, "--out", tmp_path / "evaluation")
    assert "Readers" not in succeed(*words).out
    assert "Readers: with ann on the " in succeed(*words, "--readers").out
    expected = evaluate(Predictions.read(new), Deferral.load(policy), readers=True)
    rows = {tuple(row.values()) for row in rows_of(tmp_path / "evaluation" / "measurements.csv")}
    assert {(*row[:3], str(row.value)) for row in expected.measurements} == rows


@pytest.mark.parametrize(
    "words",
    [
        "predict policy t.csv --out link.csv",
        "predict policy t.csv --contact-sheet t.csv",
        "data check table:suspect_labels.csv --out .",
        "evaluate t.csv --ood far=predictions.npz --out .",
    ],
)
@pytest.mark.usefixtures("policy")
def test_what_is_read_is_not_replaced(fail, tmp_path, monkeypatch, words):
    Predictions.read(write_rows(tmp_path / "t.csv", 100)).write(tmp_path / "predictions.npz")
    shutil.copy(tmp_path / "t.csv", tmp_path / "suspect_labels.csv")
    (tmp_path / "link.csv").symlink_to("t.csv")
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert "is read, and would be replaced; choose another --" in fail(2, *words.split())
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def percent(share):
    return f"{math.ceil(1000 * share) / 10:g} %"


def cells_of(output, start):
    """Cells of the table row that starts with these words."""
    (row,) = (line for line in output.splitlines() if start in line)
    return [cell.strip() for cell in re.split("[│┃]", row)[1:-1]]


def test_plan_has_the_bounds_of_both_guarantees_and_counts_groups(succeed, tmp_path):
    _, output, error = succeed("plan", "digits", "--max-error", "0.05")
    shares = (0.0, 0.01, 0.03, 0.05)
    wrong = [math.ceil(share * 269 - 1e-9) for share in shares]
    for guarantee, expected in (
        ("confident", [beta.isf(0.5 * 0.05, k + 1, 269 - k) for k in wrong]),
        ("average", [(k + 1) / 270 for k in wrong]),
    ):
        name = f"error, all 269 cases accepted: {guarantee}"
        assert cells_of(output, name) == [name, *map(percent, expected)]
    assert cells_of(output, "if so many")[1:] == ["0 %", "1 %", "3 %", "5 %"]
    assert "needs no more cases if none is wrong, or if 1 % are wrong." in error
    table = write_rows(tmp_path / "t.csv", 100, patient=[f"p{row // 2}" for row in range(100)])
    said = "four fifths of the groups, has 80 rows. One case of each patient counts: 40 cases"
    assert said in succeed("plan", table, "--max-error", 0.05).err


def test_an_audit_costs_reviews_and_finds_a_doubled_error(misgiving):
    arguments = ("--audit", "0.1", "--cases-per-week", "200")
    _, output, _ = misgiving("plan", "digits", "--max-error", "0.1", *arguments)
    assert cells_of(output, "reviews each week")[1:] == ["", "20", "10"]
    assert cells_of(output, "(10 % wrong)")[1:] == ["", "2", "1"]
    _, answers, *weeks = cells_of(output, "20 % from the start: median")
    assert 80 < int(answers) < 130
    assert weeks == [f"{int(answers) / number:.1f} weeks" for number in (20, 10)]
    assert int(cells_of(output, "20 % after 500 audits: median")[1]) > int(answers)
    _, output, _ = misgiving("plan", "digits", "--max-silent-error", "0.1", *arguments)
    assert cells_of(output, "20 % from the start: median")[1:] == [answers, weeks[0], weeks[0]]


REFUSED = {  # exit code, and what the line names
    "calibrate t.csv --max-error 0.1": (2, "--out is required"),
    "calibrate t.csv --out p": (2, "--max-error must be given, or --max-silent-error"),
    "calibrate t.csv digits --max-error 0.1 --out p": (2, "DATA has no effect"),
    "calibrate run digits --max-error 0.1 --out p": (2, "--out has no effect for run"),
    "calibrate t.csv --max-error 0.1 --out p --ood-detector vim": (2, "--ood-detector 'vim'"),
    "calibrate few.csv --max-error 0.1 --out p": (1, "few groups of images (3)"),
    "predict run t.csv": (1, "policy.json: missing"),
    "data check t.csv --model run": (2, "--model"),
    "data check folder:run --device cpu": (2, "--device has no effect without --model"),
    "evaluate t.csv --out e --ood predictions.csv": (2, "--ood 'predictions'"),
    "evaluate t.csv --out run": (2, "run/report.html: is not of an evaluation; choose another --o"),
    "evaluate run folder:run": (1, "give a folder that `misgiving train` or"),
    "predict policy t.csv --contact-sheet /proc/sheet.html": (2, "/proc/sheet.html: cannot be"),
    "predict policy t.csv --out t.jsonl --contact-sheet t.jsonl": (2, "are both t.jsonl"),
    "predict policy t.csv --out table.xlsx": (2, "that ends in .csv, .parquet, .jsonl"),
    "export run --policy p --out b": (2, "--policy has no effect for a run"),
    "export net.onnx --preprocessing few.csv --out b": (2, "--policy"),
    "export net.onnx --preprocessing none.json --policy p --out b": (1, "none.json"),
}


@pytest.mark.parametrize("words", REFUSED)
@pytest.mark.usefixtures("policy")
def test_wrong_usage_is_one_line(fail, tmp_path, monkeypatch, words):
    code, message = REFUSED[words]
    write_rows(tmp_path / "t.csv")
    write_rows(tmp_path / "few.csv", 3)
    (tmp_path / "run").mkdir()
    for name in ("image.png", "report.html"):
        (tmp_path / "run" / name).touch()  # it is not opened
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert message in fail(code, *words.split())
    assert sorted(tmp_path.rglob("*")) == before


def columns_with_errors(count=300):
    """Predictions of which every tenth label is not the class that the outputs name."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, count)
    labels = (truth + (np.arange(count) % 10 == 0)) % 3
    return {
        "id": [f"image {number}" for number in range(count)],
        "label": np.array(CLASSES)[labels],
        "logits": random.normal(size=(count, 3)) + 6 * np.eye(3)[truth],
        "features": random.normal(size=(count, 4)) + 5 * np.eye(4)[truth],
        "classes": CLASSES,
    }, np.array(CLASSES)[truth]


def numbers(suspects):
    return [int(suspect.id.split()[1]) for suspect in suspects]


def test_planted_errors_in_held_out_predictions_are_listed_first(succeed, tmp_path):
    columns, truth = columns_with_errors()
    paths = [str(tmp_path / f"{number}.png") for number in range(300)]
    given = Predictions.of({**columns, "path": paths})
    suspects = suspect_labels(given).suspects
    assert len({*numbers(suspects[:30])} & PLANTED) >= 28
    for number, row in zip(numbers(suspects[:20]), suspects, strict=False):
        assert (row.label, row.suggested_class) == (columns["label"][number], truth[number])
        assert row.basis == "held-out"
    scores = [suspect.score for suspect in suspects]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0.5

    given.write(tmp_path / "p.npz")
    succeed("data", "check", tmp_path / "p.npz", "--out", tmp_path / "audit")
    rows = rows_of(tmp_path / "audit" / "suspect_labels.csv")
    expected = [(paths[int(row.id.split()[1])], str(row.score)) for row in suspects]
    assert [(row["path"], row["score"]) for row in rows] == expected


def test_a_classifier_that_knows_its_training_labels_by_heart_is_not_believed(succeed, tmp_path):
    columns, _ = columns_with_errors()
    columns["logits"] = 5.0 * (columns["label"][:, None] == np.array(CLASSES))
    columns["set"] = ["train"] * 200 + ["test"] * 100
    suspects = suspect_labels(Predictions.of(columns)).suspects
    trained = [suspect for suspect in suspects if numbers([suspect])[0] < 200]
    assert {suspect.basis for suspect in trained} == {"cross-fitted"}
    assert len({*numbers(trained)} & PLANTED) >= 18
    plain = replace(Predictions.of(columns), features=None)
    assert not [number for number in numbers(suspect_labels(plain).suspects) if number < 200]
    plain.write(tmp_path / "p.npz")
    said = succeed("data", "check", tmp_path / "p.npz").err
    assert "left out: 0 images without a label, 200 of the training" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"label": [""] * 99},
        {"label": ["cat"] * 99},
        {"label": [*CLASSES] * 33, "set": ["train"] * 99, "features": np.empty((99, 0))},
        {"label": ["dog", *["cat"] * 98], "set": ["train"] * 99},
    ],
    ids=["no labels", "one class", "no features", "a class of one image"],
)
def test_labels_that_cannot_be_judged_are_refused(changes):
    with pytest.raises(DataError):
        suspect_labels(Predictions.of(columns_with_errors(99)[0] | changes))
