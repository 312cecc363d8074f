"""A bundle needs no training framework, and serving loads no large library."""

import csv
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from services import ask, split, started
from standin import picture

from misgiving.bundle.bundle import Bundle

FRAMEWORKS = {"torch", "timm", "ray", "onnx", "transformers"}
NOT_LOADED = {"torch", "sklearn", "matplotlib", "pandas", "pyarrow"}
START = """
import atexit, sys
class Absent:
    def find_spec(name, *_):
        if name in {frameworks}:
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Absent)
atexit.register(lambda: print("loaded:", *{names} & sys.modules.keys()))
from misgiving.cli import run
run()
"""


@pytest.fixture
def alone():
    """The command where no training framework can be imported."""
    start = START.format(frameworks=FRAMEWORKS, names=NOT_LOADED)
    return [sys.executable, "-c", start]


def test_a_bundle_is_served_and_predicts_without_frameworks_and_loads_no_large_library(
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
