"""`calibrate` of a run, and what `evaluate` and `predict` do with its policy."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import CPU, call, of_json, reseal, rows_of, write_rows
from PIL import Image
from sklearn.datasets import load_sample_images

from misgiving.checkpoint import load
from misgiving.data.datasets import load_dataset, write_sample
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.sets import drawn_sets
from misgiving.predictions.inference import fingerprint_of
from misgiving.predictions.predict import TrainedRun
from misgiving.predictions.record import Predictions
from misgiving.training.config import DataConfig, ModelConfig, Recipe, TrainingConfig
from misgiving.training.train_run import prepare_training, train_run


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A run of a small network on the digits that is often wrong; 1,528 images are held out."""
    place = tmp_path_factory.mktemp("deferring")
    recipe = Recipe(
        model=ModelConfig(backbone="vgg16_mini", pretrained=False, reads_logits=True),
        training=TrainingConfig(epochs=8, batch_size=16, learning_rate=1e-3, device="cpu"),
        images=DataConfig(validation_share=0.85),
    )
    prepared, model = prepare_training("digits", recipe, cache=place / "cache" / "misgiving")
    train_run(prepared, model, place / "trained")
    (place / "photographs").mkdir()
    for number, pixels in enumerate(load_sample_images().images):
        Image.fromarray(pixels).save(place / "photographs" / f"{number}.png")
    return place


@pytest.fixture(scope="module")
def cache_home(places):
    return places / "cache"


@pytest.fixture(scope="module")
def calibrated(places, cache_home):
    """The run with a policy, and what `calibrate` said."""
    run = shutil.copytree(places / "trained", places / "calibrated")
    said = call(
        "calibrate", run, "digits", "--max-error", "0.2", "--class-max-miss", "3=0.3",
        "--verbose", *CPU, cache=cache_home,
    )  # fmt: skip
    assert said.code == 0, said.err
    return run, said.err


@pytest.fixture
def with_policy(calibrated, tmp_path):
    return shutil.copytree(calibrated[0], tmp_path / "run")


@pytest.fixture(scope="module")
def evaluated(calibrated, places, cache_home):
    """The folder of an evaluation of all held-out images, and what was said."""
    said = call(
        "evaluate", calibrated[0], "digits", "--set", "validation",
        "--ood", places / "photographs", "--out", places / "evaluated", *CPU, cache=cache_home,
    )  # fmt: skip
    assert said.code == 0, said.err
    return places / "evaluated", said


def test_the_command_gives_the_policy_of_the_library_on_sets_that_share_no_image(
    calibrated, cache_home, tmp_path
):
    run, error = calibrated
    for words in (
        "left out: 269 cases on which the model was trained, or copies of these",
        "a fifth of 1487 cases, drawn by group with seed 0, and the rest",
        "at most 30 % of 3 cases are accepted as another class",
        "does not extend to other devices",
    ):
        assert words in error
    predicted = TrainedRun(run, cache=cache_home / "misgiving").predict("digits").predictions
    deferral = Deferral(max_error=0.2, class_max_miss={"3": 0.3})
    deferral.fit(predicted).save(tmp_path / "policy")
    made, expected = (
        {path.name: path.read_bytes() for path in (folder / "policy").iterdir()}
        for folder in (run, tmp_path)
    )
    assert made == expected
    cases = of_json(run / "policy" / "policy.json")["cases"]
    tune, calibration = (set(cases[name]["contents"]) for name in ("tuning", "calibration"))
    training = {row["hash"] for row in rows_of(run / "split.csv") if row["set"] == "train"}
    assert len(tune | calibration | training) == len(tune) + len(calibration) + len(training)
    assert tune
    assert calibration


def test_a_calibration_chooses_the_views_compares_them_and_the_run_keeps_the_number(
    fail, succeed, with_policy, cache_home, tmp_path
):
    words = ("calibrate", with_policy, "digits", "--max-error", "0.3", "--overwrite", *CPU)
    assert "views" not in succeed(*words).err  # of a digit, one view alone makes sense
    said = succeed(*words, "--views", "2").err
    (sentence,) = (line for line in said.splitlines() if line.startswith("Mean of 2 views"))
    assert "with --views 1 accuracy" in sentence
    stated = [float(number) for number in re.findall(r"(?:accuracy|AURC) ([\d.]*\d)", sentence)]
    expected = []
    for views in (2, 1):
        run = TrainedRun(with_policy, cache=cache_home / "misgiving", views=views)
        tuning = drawn_sets(run.predict("digits").predictions, seed=0)[0]
        errors = tuning.errors[np.argsort(-tuning.probabilities.max(axis=1))]
        risks = np.cumsum(errors) / np.arange(1, len(errors) + 1)
        expected += [100 * (1 - errors.mean()), risks.mean()]
    assert stated == pytest.approx(expected, abs=0.05)
    assert stated[1::2] == pytest.approx(expected[1::2], abs=1e-4)
    assert stated[0] != stated[2]
    for _ in range(2):
        checkpoint = load(with_policy)
        assert checkpoint.views == 2
        assert Deferral.load(with_policy).policy_.model == fingerprint_of(checkpoint)
        succeed(*words)
    succeed("evaluate", with_policy, "digits", "--out", tmp_path / "evaluated", *CPU)
    assert "--views" in fail(2, *words, "--views", "3")
    Predictions.of(([[1.0, 0.0]], [0])).write(tmp_path / "p.csv")
    of_table = ("calibrate", tmp_path / "p.csv", "--max-error", "0.3")
    of_draw = ("calibrate", with_policy, "digits", "--labels", tmp_path / "p.csv")
    for others in (of_table, of_draw):
        assert "--views" in fail(2, *others, "--views", "2")
    assert load(with_policy).views == 2


def test_a_policy_is_replaced_only_when_that_is_said_and_also_if_it_is_damaged(
    fail, succeed, with_policy
):
    file = with_policy / "policy" / "policy.json"
    file.write_text("{")
    arguments = ("calibrate", with_policy, "digits", "--max-error", "0.3", *CPU)
    assert "--overwrite" in fail(2, *arguments)
    assert file.read_text() == "{"
    _, _, error = succeed(*arguments, "--overwrite")
    lines = [line.split(":")[0] for line in error.splitlines()]
    assert lines == [
        "Accepted", "Wrong", "Worst class", "Out-of-distribution",
        "Warning", "Next",
    ]  # fmt: skip
    assert "Warning: calibrated before with" in error
    assert f"Next: misgiving predict {with_policy} NEW_IMAGES (wrote {with_policy}/policy" in error
    assert Deferral.load(with_policy / "policy").certificate_.ood_rank > 1
    _, _, error = succeed(*arguments, "--overwrite", "--max-ood-false-alarms", "off")
    assert Deferral.load(with_policy / "policy").certificate_.ood_rank is None
    assert "--max-ood-false-alarms is off" in error
    strict = ("--max-error", "0.0001", "--overwrite")
    _, _, error = succeed("calibrate", with_policy, "digits", *strict, *CPU)
    page = "docs/how_to/everything_is_deferred.md"
    assert "Accepted: nothing" in error
    assert "the smallest certifiable error is" in error
    assert f"Next: {page}" in error
    assert (Path(__file__).parents[1] / page).is_file()


def test_predict_gives_an_image_the_score_that_calibrate_gave_it(
    misgiving, calibrated, evaluated, places, tmp_path
):
    """The digits as files go through decoding, preprocessing and batches of their own."""
    digits = load_dataset("digits")
    for row in range(300, 340):
        Image.fromarray(digits.images[row].read().image).save(tmp_path / f"{digits.ids[row]}.png")
    _, output, error = misgiving("predict", calibrated[0], tmp_path, places / "photographs", *CPU)
    rows = list(csv.DictReader(output.splitlines()))
    assert list(rows[0]) == [
        "path", "predicted_class", "probability", "predicted_loss", "answer", "decision", "reason",
        "error_probability", "expected_cost", "expected_loss", "ood_p_value", "acceptance_score",
        "ood_score",
        *(f"probability_{digit}" for digit in range(10)),
    ]  # fmt: skip
    assert all(0 < float(row["ood_p_value"]) <= 1 for row in rows)
    predicted = {Path(row["path"]).stem: row for row in rows}
    decided = {row["id"]: row for row in rows_of(evaluated[0] / "decisions.csv")}
    shared = sorted(predicted.keys() & decided.keys())
    threshold = Deferral.load(calibrated[0] / "policy").certificate_.ood_threshold
    assert len(shared) > 20, error
    for name in shared:
        for column in ("acceptance_score", "ood_score", "error_probability", "probability"):
            assert float(predicted[name][column]) == pytest.approx(
                float(decided[name][column]), rel=1e-3, abs=1e-5
            )
        at_threshold = float(decided[name]["ood_score"]) == pytest.approx(threshold, rel=1e-4)
        assert at_threshold or predicted[name]["decision"] == decided[name]["decision"]


@pytest.mark.parametrize(
    ("code", "arguments", "says"),
    [
        (2, "calibrate RUN digits --costs eleven=10", "--costs has the unknown class 'eleven'"),
        (1, "evaluate RUN digits --ood TMP/nowhere", "nowhere"),
        (2, "evaluate RUN digits --ood policy_test=TMP", "--ood 'policy_test' names two sets"),
        (2, "evaluate RUN table:TMP/decisions.csv --out TMP", "is read, and would be replaced"),
    ],
)
def test_wrong_names_are_refused_before_any_image_is_read(
    fail, calibrated, tmp_path, monkeypatch, code, arguments, says
):
    monkeypatch.setattr("misgiving.predictions.predict.load_dataset", None)
    monkeypatch.setattr("misgiving.predictions.inference.predictions_of", None)
    (tmp_path / "decisions.csv").write_text("path,label\n")
    words = arguments.replace("RUN", str(calibrated[0])).replace("TMP", str(tmp_path)).split()
    extra = ("--max-error", "0.1", "--overwrite") if words[0] == "calibrate" else CPU
    assert says in fail(code, *words, *extra)
    assert (tmp_path / "decisions.csv").read_text() == "path,label\n"


def test_evaluate_says_that_images_were_calibrated_on_and_shows_some_of_them(evaluated):
    folder, said = evaluated
    optimistic = "1487 of these 1487 images: the numbers of its decisions are optimistic"
    page = (folder / "report.html").read_text()
    assert "left out: 41 cases of groups on which the model was trained" in said.err
    assert optimistic in said.err
    assert optimistic in page
    assert page.count("data:image/jpeg") == 24
    groups = rows_of(folder / "subgroups.csv")
    units = set(Predictions.read(folder / "predictions.npz").units)
    assert sum(int(row["cases"]) for row in groups) == len(units) < 1487  # near duplicates


@pytest.mark.usefixtures("evaluated")  # where one set has scores by ODIN
def test_a_run_lists_suspect_labels_beside_the_check_of_the_images(
    succeed, calibrated, cache_home, tmp_path
):
    succeed("data", "check", "digits", "--model", calibrated[0], "--out", tmp_path, *CPU)
    assert (tmp_path / "findings.csv").is_file()
    bases = {row["id"]: row["basis"] for row in rows_of(tmp_path / "suspect_labels.csv")}
    images = TrainedRun(calibrated[0], cache=cache_home / "misgiving").predict("digits").predictions
    new = {*images.in_set("validation").ids}  # and no near duplicates of training images
    assert bases == {name: "held-out" if name in new else "cross-fitted" for name in bases}
    assert {*bases.values()} == {"cross-fitted", "held-out"}


@pytest.mark.parametrize("words", ["evaluate {run} digits", "predict {run} {images}"])
def test_the_policy_of_another_model_is_refused_in_one_line(fail, with_policy, places, words):
    preprocessing = of_json(with_policy / "config.json")["preprocessing"]
    reseal(with_policy, preprocessing={**preprocessing, "crop": 0.5})
    places = {"run": with_policy, "images": places / "photographs"}
    said = fail(1, *words.format(**places).split(), *CPU)
    assert "was calibrated for the model" in said
    assert "misgiving calibrate" in said


@pytest.fixture
def audited(tmp_path, misgiving):
    """Write an audit sample of digits, with values for some of its rows."""
    assert misgiving("data", "sample", tmp_path / "digits").code == 0
    paths = sorted((tmp_path / "digits").rglob("*.png"))[::3]

    def write(name, changed=lambda _: {}):
        fixed = {"audited": "yes", "standing": "right", "sample_of": "a@0.05", "after_alarm": "no"}
        rows = [
            fixed | {"id": str(n), "label": path.parent.name, "path": str(path)} | changed(n)
            for n, path in enumerate(paths)
        ]
        with (tmp_path / name).open("w", newline="") as file:
            table = csv.DictWriter(file, [*rows[0]])
            table.writeheader()
            table.writerows(rows)
        return tmp_path / name

    return write


def test_from_cases_takes_an_audit_sample_and_refuses_other_reviews(
    with_policy, audited, misgiving
):
    command = ("calibrate", with_policy, "--max-error", "0.5", "--overwrite", *CPU)
    sample = audited("audit.csv")
    reviews = audited("cases.csv", lambda n: {"audited": "no"} if n == 7 else {})
    refused = misgiving(*command, "--from-cases", reviews)
    assert (refused.code, "7 is not audited" in refused.err) == (1, True)
    assert misgiving(*command, "digits", "--from-cases", sample).code == 2
    assert misgiving(*command, "digits", "--across-policies").code == 2
    assert misgiving(*command, "--from-cases", sample).code == 0
    again = misgiving(*command, "--from-cases", sample, "--seed", 1)
    images = len(Deferral.load(with_policy / "policy").cases_.images)
    assert (again.code, f"before with {images} of these cases" in again.err) == (0, True)
    assert "alarm" not in again.err


def test_a_sample_of_several_policies_is_taken_only_on_request_and_never_joined_by_hand(
    with_policy, audited, misgiving
):
    command = ("calibrate", with_policy, "--max-error", "0.5", "--overwrite", *CPU)
    joined = audited("joined.csv", lambda n: {"sample_of": f"{'ab'[n % 2]}@0.05"})
    assert "joins 2 samples" in misgiving(*command, "--from-cases", joined).err
    both = audited("both.csv", lambda _: {"sample_of": "a@0.05 b@0.1"})
    refused = misgiving(*command, "--from-cases", both)
    assert (refused.code, "give --across-policies" in refused.err) == (1, True)
    assert misgiving(*command, "--from-cases", both, "--across-policies").code == 0
    spans = audited("spans.csv", lambda n: {"after_alarm": "yes" if n > 99 else "no"})
    assert "spans an alarm" in misgiving(*command, "--from-cases", spans).err


def test_cases_that_nobody_can_judge_count_as_wrong_whatever_the_model_predicts(
    with_policy, audited, misgiving
):
    command = ("calibrate", with_policy, "--max-error", "0.9", "--overwrite", *CPU)
    marks = {"label": "", "standing": "ungradable"}
    # of the class that the copy of the table gives them for the time being
    ungradable = audited("audit.csv", lambda n: marks if 0 < n < 55 else {})
    refused = misgiving(*command, "--from-cases", ungradable, "--class-max-miss", "1=0.1")
    assert (refused.code, "no class of the model for 1" in refused.err) == (1, True)
    observed = []
    for sample in (audited("judged.csv"), ungradable):
        assert misgiving(*command, "--from-cases", sample).code == 0
        everything = Deferral.load(with_policy / "policy").certificate_.operating_points[-1]
        observed.append(everything.wrong / everything.accepted)
    assert observed[1] > observed[0] + 0.05  # about a tenth of the cases


def test_cases_are_drawn_from_a_folder_with_the_tuning_set_of_the_run(
    places, tmp_path, succeed, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(places / "trained", "run")
    write_sample(Path("pool"))
    draw = "draw", "run", "pool", "--max-error", "0.2", "--cases", "150", "--out", "to_label.csv"
    said = succeed(*draw, *CPU).err
    assert "Drawn: 150 of these" in said
    rows = rows_of(Path("to_label.csv"))
    assert all(row["path"] == f"pool/{row['id']}" for row in rows)
    write_rows(Path("to_label.csv"), [row | {"label": row["id"].split("/")[0]} for row in rows])
    succeed("calibrate", "run", "pool", "--labels", "to_label.csv", *CPU)
    deferral = Deferral.load(run)
    assert deferral.certificate_.cases == 150
    assert deferral.certificate_.ood_rank
    assert len(deferral.certificate_.pool.scores) == 1000
    assert deferral.policy_.used_detectors.names == ("knn_layers",)
    succeed("predict", "run", "pool", "--out", "predictions.csv", *CPU)
    rows, certificate = rows_of(Path("predictions.csv")), deferral.certificate_
    accepted = sum(row["decision"] == "accept" for row in rows)
    limit = pytest.approx(certificate.ood_threshold, rel=1e-4)  # the score of an image, which
    at_limit = sum(float(row["ood_score"]) == limit for row in rows)  # other batches round
    assert abs(accepted - certificate.accepted_images) <= at_limit < 5
