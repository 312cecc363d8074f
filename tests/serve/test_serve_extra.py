"""The extra `misgiving[serve]` needs no training framework, and serving loads no large library."""

import csv
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from services import ask, split, started
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
    assert distributions.keys() >= {"numpy", "onnxruntime", "fastapi"}
    assert not FRAMEWORKS & distributions.keys()
    folder = tmp_path_factory.mktemp("packages")
    (folder / "misgiving").symlink_to(PACKAGE)
    for installed in distributions.values():
        for top in {Path(file).parts[0] for file in installed.files} - {"..", "__pycache__"}:
            (folder / top).exists() or (folder / top).symlink_to(installed.locate_file(top))
    start = START.format(folder=str(folder), names=NOT_LOADED)
    # Isolated (-I) and without site (-S): neither site-packages nor the working folder is found.
    return [sys.executable, "-I", "-S", "-c", start]


def test_a_bundle_is_served_and_predicts_with_the_extra_alone_and_loads_no_large_library(
    alone, exported, tmp_path
):
    options = ["serve", exported[1], "--port", 0, "--store", tmp_path / "cases.sqlite"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started([*alone, *map(str, options)], **pipes) as process:
        where = split(process.stderr.readline())
        case = ask(where, "POST", "/decisions", picture(0.7))[2]["results"][0]["case"]
        card = ask(where, "GET", "/model")[2]["card"]
        maps = Path(f"/proc/{process.pid}/maps")
        assert not maps.exists() or "libtorch" not in maps.read_text()
        process.send_signal(signal.SIGTERM)
        output, said = process.communicate(timeout=120)
    assert (process.returncode, output) == (0, "loaded:\n")
    assert "stopped" in said
    assert "Traceback" not in said
    bundle = Bundle.load(exported[1])
    (expected,) = bundle.decide([picture(0.7)], ["image"])
    assert (case["decision"], case["reason"]) == (expected.decision, expected.reason)
    assert case["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    for name in ("error_probability", "predicted_loss", "acceptance_score", "ood_score"):
        assert case[name] == pytest.approx(getattr(expected, name), rel=1e-4), name
    assert (case["model_fingerprint"], card) == (bundle.fingerprint, bundle.card)
    (tmp_path / "image.png").write_bytes(picture(0.7))
    out = tmp_path / "answers.csv"
    command = [*alone, "predict", exported[1], tmp_path / "image.png", "--out", out]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert row["decision"] == case["decision"]
