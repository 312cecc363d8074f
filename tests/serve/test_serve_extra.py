"""The extra `misgiving[serve]` needs no training framework, and serving loads no large library."""

import csv
import json
import subprocess
import sys
import tomllib
import urllib.request
from importlib.metadata import distribution
from pathlib import Path

import pytest
from commands import one_line
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from processes import split, started
from standin import picture

import misgiving
from misgiving.bundle.bundle import Bundle

PACKAGE = Path(misgiving.__file__).parent
FRAMEWORKS = {"torch", "timm", "ray", "onnx", "transformers"}
NOT_LOADED = {"torch", "sklearn", "matplotlib", "pandas", "pyarrow"}
START = """
import atexit, sys
sys.path.insert(0, {folder!r})
atexit.register(lambda: print("loaded:", *{names} & sys.modules.keys()))
from misgiving.cli import run
run()
"""


@pytest.fixture(scope="module")
def distributions():
    """The distributions that `misgiving[serve]` installs, by name."""
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    required, waiting = {"misgiving": distribution("misgiving")}, list(map(Requirement, lines))
    while waiting:
        requirement = waiting.pop()
        installed = distribution(requirement.name)
        required[canonicalize_name(requirement.name)] = installed
        extras = {"", *requirement.extras}
        for needed in map(Requirement, installed.requires or ()):
            applies = needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in extras
            )
            if applies and (canonicalize_name(needed.name) not in required or needed.extras):
                waiting.append(needed)
    return required


@pytest.fixture(scope="module")
def alone(distributions, tmp_path_factory):
    """The command in an environment that has these distributions and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "misgiving").symlink_to(PACKAGE)
    for installed in distributions.values():
        for top in {Path(file).parts[0] for file in installed.files} - {"..", "__pycache__"}:
            (folder / top).exists() or (folder / top).symlink_to(installed.locate_file(top))
    start = START.format(folder=str(folder), names=NOT_LOADED)
    # Isolated (-I) and without site (-S): neither site-packages nor the working folder is found.
    return [sys.executable, "-I", "-S", "-c", start]


def test_the_extra_requires_no_training_framework(distributions):
    assert distributions.keys() >= {"numpy", "onnxruntime", "fastapi"}
    assert not FRAMEWORKS & distributions.keys()


def decided(command, bundle, tmp_path):
    """The case of an image that a service decides about, and the service's standard output."""
    options = ["serve", bundle, "--port", "0", "--store", tmp_path / "cases.sqlite"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started([*command, *map(str, options)], **pipes) as process:
        host, port = split(process.stderr.readline())
        request = urllib.request.Request(
            f"http://{host}:{port}/decisions", picture(0.7), {"Content-Type": "image/png"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            case = json.load(response)["results"][0]["case"]
        process.terminate()
        return case, process.communicate(timeout=60)[0]


def expected(bundle):
    return Bundle.load(bundle).decide([picture(0.7)], ["image"])[0]


def test_a_bundle_is_served_with_the_extra_alone_and_loads_no_large_library(
    alone, exported, tmp_path
):
    case, output = decided(alone, exported[1], tmp_path)
    decision = expected(exported[1])
    assert (case["decision"], case["reason"]) == (decision.decision, decision.reason)
    assert case["error_probability"] == pytest.approx(decision.error_probability, rel=1e-4)
    assert output == "loaded:\n"


def test_images_can_be_predicted_with_the_extra_alone(alone, exported, tmp_path):
    (tmp_path / "image.png").write_bytes(picture(0.7))
    out = tmp_path / "answers.csv"
    command = [*alone, "predict", exported[1], tmp_path / "image.png", "--out", out]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert row["decision"] == expected(exported[1]).decision


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["train", "digits", "--out", "run"], "run: pip install 'misgiving[train]'"),
        (["serve", "nothing"], "nothing: neither a run nor a bundle"),
        (["predict", "nothing", "image.png"], "nothing: neither a run nor a bundle"),
    ],
)
def test_a_missing_extra_or_model_is_explained_without_torch(alone, tmp_path, arguments, reason):
    command = [*alone, *arguments]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert reason in one_line(done.stderr)


@pytest.mark.soak
def test_a_new_environment_with_the_extra_serves(exported, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    install = [tmp_path / "env/bin/pip", "install", "--quiet", f"{PACKAGE.parents[1]}[serve]"]
    subprocess.run(install, check=True, timeout=600)
    assert not list((tmp_path / "env" / "lib").glob("python*/site-packages/torch*"))
    case, _ = decided([tmp_path / "env/bin/misgiving"], exported[1], tmp_path)
    assert case["decision"] == expected(exported[1]).decision
