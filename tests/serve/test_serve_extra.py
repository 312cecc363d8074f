"""The extra `misgiving[serve]`: its size, and that serving needs nothing else."""

import csv
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from commands import one_line
from environments import closure, command_in, files_of, linked
from processes import split, started
from standin import picture

import misgiving
from misgiving.bundle.bundle import Bundle

LARGEST = 700e6  # bytes installed, as a container's layer counts them
FRAMEWORKS = {"torch", "timm", "ray", "onnx", "transformers"}


@pytest.fixture(scope="module")
def brought():
    return closure("misgiving", ["serve"])


def test_the_serve_extra_installs_less_than_700_megabytes_and_no_framework(brought):
    sizes = {
        name: sum(path.stat().st_size for path in files_of(package))
        for name, package in brought.items()
    }
    assert brought.keys() >= {"misgiving", "numpy", "onnxruntime", "fastapi"}
    assert not FRAMEWORKS & brought.keys()
    assert sum(sizes.values()) < LARGEST, sorted(sizes.items(), key=lambda item: -item[1])[:8]


@pytest.fixture(scope="module")
def alone(brought, tmp_path_factory):
    return linked(tmp_path_factory.mktemp("alone") / "packages", brought)


def decided(address, content):
    """The case that a service returns for an image."""
    request = urllib.request.Request(
        f"{address}/decisions", content, {"Content-Type": "image/png"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)["results"][0]["case"]


def served_decision(command, bundle, tmp_path):
    options = [bundle, "--port", "0", "--store", tmp_path / "cases.sqlite"]
    command = [*command, "serve", *map(str, options)]
    with started(command, stderr=subprocess.PIPE) as process:
        host, port = split(process.stderr.readline())
        return decided(f"http://{host}:{port}", picture(0.7))


def test_a_bundle_can_be_served_with_the_extra_alone(alone, exported, tmp_path):
    case = served_decision(command_in(alone), exported[1], tmp_path)
    (expected,) = Bundle.load(exported[1]).decide([picture(0.7)], ["image"])
    assert (case["decision"], case["reason"]) == (expected.decision, expected.reason)
    assert case["error_probability"] == pytest.approx(expected.error_probability, rel=1e-4)


def test_images_can_be_predicted_with_the_extra_alone(alone, exported, tmp_path):
    (tmp_path / "image.png").write_bytes(picture(0.7))
    out = tmp_path / "answers.csv"
    command = command_in(alone, "predict", exported[1], tmp_path / "image.png", "--out", out)
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert row["decision"] == Bundle.load(exported[1]).decide([picture(0.7)], ["i"])[0].decision


def test_a_missing_extra_is_explained(alone, tmp_path):
    command = command_in(alone, "train", "digits", "--out", tmp_path / "run")
    done = subprocess.run(command, timeout=120, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is not installed; run: pip install 'misgiving[" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["serve"], ["predict", "image.png"]])
def test_a_missing_model_is_explained_without_torch(alone, tmp_path, words):
    command = command_in(alone, words[0], tmp_path / "nothing", *words[1:])
    done = subprocess.run(command, timeout=120, capture_output=True, text=True)
    assert done.returncode == 1
    assert "nothing: neither a run nor a bundle; give a folder that" in one_line(done.stderr)


@pytest.mark.soak
def test_a_new_environment_with_the_extra_is_small_and_serves(exported, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    (packages,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    before = _bytes(packages)
    source = Path(misgiving.__file__).parents[2]
    install = [tmp_path / "env/bin/pip", "install", "--quiet", f"{source}[serve]"]
    subprocess.run(install, check=True, timeout=600)
    assert _bytes(packages) - before < LARGEST
    assert not list(packages.glob("torch*"))
    command = [str(tmp_path / "env/bin/misgiving")]
    case = served_decision(command, exported[1], tmp_path)
    assert case["decision"] == Bundle.load(exported[1]).decide([picture(0.7)], ["i"])[0].decision


def _bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
