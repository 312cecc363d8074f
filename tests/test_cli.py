import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from commands import QUICK, TRAIN, rows_of
from PIL import Image

from misgiving import cli

HEAVY = {"torch", "sklearn", "scipy", "pandas", "numpy", "PIL", "matplotlib", "ray"}
HEAVY |= {"fastapi", "jinja2"}
LIGHTLY = """
import sys, atexit, misgiving.cli
atexit.register(lambda: print("imported:", *set(sys.modules) & {heavy}))
sys.argv = {words}
misgiving.cli.run()
"""


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("reproduce --help", 0, ["Usage"]),
        (
            "train digits --out run --optimizer adm",
            2,
            ['invalid value "adm" for --optimizer', '"adam"', "--help-all"],
        ),
        (
            "calibrate run digits --max-error 0.1 --class-max-miss MEL=3",
            2,
            ["--class-max-miss must be between 0 and 1, got {'MEL': 3.0}"],
        ),
        ("predict run ''", 2, ["an argument is empty"]),  # it would be the working folder
    ],
)
def test_help_and_a_value_that_cannot_be_used_import_no_heavy_library(words, code, says):
    script = LIGHTLY.format(heavy=HEAVY, words=["misgiving", *shlex.split(words)])
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stdout.splitlines()[-1].strip() == "imported:"
    assert all(word in done.stdout + done.stderr for word in says)


def commands_of(app):
    for command in map(app.__getitem__, app):
        if command.default_command is None:
            yield from commands_of(command)
        elif command.default_command.__module__.startswith("misgiving"):
            yield command


def test_every_command_and_every_option_says_what_it_does():
    commands = [*commands_of(cli.app)]
    assert len(commands) == 21
    for command in commands:
        assert command.help
        options = command.assemble_argument_collection(parse_docstring=True)
        assert [o.name for o in options if not (o.children or o.parameter.help)] == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"optimizer": "adamw", "schedule": "cosine", "class_weights": "none"}),
        (["--recipe", "paper"], {"optimizer": "adam", "schedule": "steps", "learning_rate": 1e-4}),
        (["--auxiliary", "none"], {"auxiliary": "none", "optimizer": "adamw"}),
    ],
)
def test_train_follows_a_recipe_but_for_what_is_given(misgiving, monkeypatch, options, expected):
    from misgiving.training import train_run as workflow

    found = []

    def prepare(_, recipe, **__):
        found.append(recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, "prepare_training", prepare)
    assert misgiving("train", "digits", "--out", "run", *options).code == 130
    training = vars(found[0].training)
    assert {name: training[name] for name in expected} == expected
    assert found[0].images.split == ("paper" if "paper" in options else "grouped")


@pytest.mark.parametrize("there", [True, False])
def test_evaluate_leaves_out_near_duplicates_of_training_images(
    succeed, run_folder, photos, tmp_path, there
):
    copies = tmp_path / "copies"
    split = rows_of(run_folder / "split.csv")
    for row in split:  # all images of the run, a little lighter
        path = copies / row["id"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(Image.open(photos / row["id"])) + np.uint8(8)).save(path)
    trained = sum(row["set"] == "train" for row in split)
    if not there:
        photos.rename(tmp_path / "moved")
    error = succeed("evaluate", run_folder, f"folder:{copies}", "--device", "cpu").err
    assert (f"left out: {trained} cases of groups on which the model was" in error) == there
    assert (f"{24 - trained} of {24 - trained} images are measured" in error) == there
    sought = f"near duplicates were sought of 0 of {trained} training images"
    assert (sought in error) != there


def test_evaluate_measures_held_out_and_ood_images(succeed, run_folder, photos, tmp_path):
    for name in ("scans", "others=1"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (20, 20), (255, 255, number)).save(tmp_path / name / f"{number}.png")
    scans, other = tmp_path / "scans", tmp_path / "others=1"
    command = ("evaluate", run_folder, f"folder:{photos}", "--device", "cpu")
    _, output, error = succeed(*command, "--ood", f"b_box={scans}", "--ood", scans, "--ood", other)
    assert "6 of 6 images are measured" in error
    assert "left out: 18 cases on which the model was trained, or copies of these" in error
    assert "of 6 images are classified correctly" in output
    rows = rows_of(run_folder / "evaluation" / "measurements.csv")
    assert next(float(row["value"]) for row in rows if row["metric"] == "images") == 6
    values = {(r["dataset"], r["detector"], r["metric"]): float(r["value"]) for r in rows}
    assert {"b_box", "scans", "others=1"} <= {
        row["dataset"] for row in rows if row["metric"] == "auroc"
    }
    for detector in ("odin_default", "msp", "energy", "predicted_loss"):
        assert 0 <= values["scans", detector, "fpr_at_tpr95"] <= 1
    auroc = values["scans", "max_logit", "auroc"]
    assert f"scans (3 images): AUROC {auroc:.3f} (" in output


def test_only_a_run_is_replaced_and_only_if_that_is_asked(fail, succeed, run_folder, photos):
    before = (run_folder / "model.safetensors").stat().st_mtime_ns
    words = ("train", f"folder:{photos}", *TRAIN, "--out")
    assert "--overwrite" in fail(2, *words, run_folder)
    said = "choose another folder, or --overwrite where it has a split.csv"
    assert said in fail(2, *words, photos, "--overwrite")
    assert len(list(photos.rglob("*.png"))) == 24
    succeed(*words, run_folder, "--overwrite")
    assert (run_folder / "model.safetensors").stat().st_mtime_ns > before
    assert [path.name for path in run_folder.parent.iterdir() if path.name.startswith(".")] == []


def test_train_says_how_well_it_does_what_is_little_and_what_is_next(succeed, photos, tmp_path):
    run, data = tmp_path / "my run", f"folder:{photos}"
    words = ("train", data, "--out", run, *QUICK, "--image-size", "16", "--batch-size", "8")
    shares = ("--split", "grouped", "--split-shares", "40/20/20/20")
    _, output, error = succeed(*words, *shares)
    accuracy = 100 * float(rows_of(run / "history.csv")[-1]["accuracy"])
    assert f"epoch 1/1: validation accuracy {accuracy:.1f} %" in error
    assert f"Next: misgiving calibrate '{run}' {data} --max-error 0.05" in error
    tuning = sum(row["set"] == "tune" for row in rows_of(run / "split.csv"))
    assert f"Warning: {tuning} groups" in error
    assert tuning > 2
    assert not re.search("squared|spread|tensors", output + error)


REFUSED = [
    ("--backbone resnet19", 2, "resnet18"),
    ("--weights nowhere.safetensors", 1, "nowhere.safetensors"),
    ("--precision transformer-engine", 2, "--precision"),
    ("--validation-share 0.4 --split grouped", 2, "--validation-share has no effect"),
    ("--split grouped --split-shares 60/10/20", 2, "--split-shares must be four multiples of 5"),
    ("--split-shares 60/10/20/10", 2, "--split-shares has no effect with --split paper"),
    ("--schedule cosine --decay-every 3", 2, "--decay-every has no effect with --schedule cosine"),
    ("--auxiliary none --margin 3", 2, "--margin has no effect with --auxiliary none"),
    ("--taps none", 2, "--taps"),
    ("--image-size 15", 2, "vgg16_mini"),
    ("--device mps", 2, "cannot compute here with --device mps"),
    ("--epoch 3", 2, "--epoch"),
]


@pytest.mark.parametrize(("options", "code", "culprit"), REFUSED, ids=[row[0] for row in REFUSED])
def test_bad_options_are_one_line_that_names_the_culprit_before_images_are_prepared(
    fail, photos, tmp_path, cache_home, options, code, culprit
):
    words = ("train", f"folder:{photos}", "--out", tmp_path / "run", *TRAIN, *options.split())
    assert culprit in fail(code, *words)
    assert not (tmp_path / "run").exists()
    assert not (cache_home / "misgiving").exists()
