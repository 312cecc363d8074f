import csv
import shutil

import numpy as np
import pytest
from commands import one_line, rows_of
from PIL import Image

from misgiving import Deferral, Predictions, evaluate

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
def test_what_is_read_is_not_replaced(misgiving, tmp_path, monkeypatch, words):
    Predictions.read(write_rows(tmp_path / "t.csv", 100)).write(tmp_path / "predictions.npz")
    shutil.copy(tmp_path / "t.csv", tmp_path / "suspect_labels.csv")
    (tmp_path / "link.csv").symlink_to("t.csv")
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    result = misgiving(*words.split())
    assert "is read, and would be replaced; choose another --" in one_line(result.err)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_plan_counts_the_calibration_cases(succeed, tmp_path):
    table = write_rows(tmp_path / "t.csv", 100, patient=[f"p{row // 2}" for row in range(100)])
    result = succeed("plan", table, "--max-error", 0.05)
    said = "four fifths of the groups, has 80 rows. One image of each patient counts: 40 cases"
    assert said in result.err


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
    "predict policy t.csv --out table.xlsx": (2, "that ends in .csv, .parquet, .jsonl"),
    "export run --policy p --out b": (2, "--policy has no effect for a run"),
    "export net.onnx --preprocessing few.csv --out b": (2, "--policy"),
    "export net.onnx --preprocessing none.json --policy p --out b": (1, "none.json"),
}


@pytest.mark.parametrize("words", REFUSED)
@pytest.mark.usefixtures("policy")
def test_wrong_usage_is_one_line(misgiving, tmp_path, monkeypatch, words):
    code, message = REFUSED[words]
    write_rows(tmp_path / "t.csv")
    write_rows(tmp_path / "few.csv", 3)
    (tmp_path / "run").mkdir()
    for name in ("image.png", "report.html"):
        (tmp_path / "run" / name).touch()  # it is not opened
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = misgiving(*words.split())
    assert result.code == code
    assert message in one_line(result.err)
    assert sorted(tmp_path.rglob("*")) == before
