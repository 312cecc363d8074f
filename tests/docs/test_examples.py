import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
LIGHTNING = Path(sys.prefix) / "lightning"  # made by `make docs-check`
TRAINED = r"accuracy (0\.\d+), rank correlation of predicted and true losses (0\.\d+)"
# What each example prints, and the least value of each number.
PRINTED = {
    "joint_training": (TRAINED, (0.5, 0.3)),
    "joint_training_lightning": (TRAINED, (0.5, 0.3)),
    "joint_training_transformers": (TRAINED, (0.5, 0.3)),
    "hugging_face_model": (TRAINED, (0.5, 0.3)),
    "label_errors": (r"precision (0\.\d+) among", (0.8,)),
    "ood_table": (r"knn +(0\.\d+) +(0\.\d+)", (0.7, 0.9)),
    "service_call": (r"decision: (?:accept|defer|ood)\npredicted_class: \d\n", ()),
}
OTHERS = {"dossier", "fiftyone_samples", "label_studio_tasks"}  # have tests of their own
DECISIONS = """\
path,predicted_class,probability,decision,reason,error_probability,ood_p_value,unreadable,\
probability_cat,probability_dog,probability_owl
a.png,cat,0.9,accept,within the target,0.1,0.5,,0.9,0.1,0
b.png,dog,0.6,defer,above the target,0.4,0.5,,0.4,0.6,0
c.png,,,,,,,no image,,,
"""


@pytest.mark.parametrize("name", PRINTED)
def test_every_example_prints_what_it_is_about(name, tmp_path):
    path = [*sys.path, str(LIGHTNING)] if name == "joint_training_lightning" else sys.path
    pipes = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    pipes["env"] = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run([sys.executable, EXAMPLES / f"{name}.py"], **pipes)
    assert done.returncode == 0, done.stderr
    pattern, least = PRINTED[name]
    found = re.search(pattern, done.stdout)
    assert found, done.stdout
    assert all(float(value) > bound for value, bound in zip(found.groups(), least, strict=True))


def test_every_example_is_executed():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PRINTED, *OTHERS}


def test_label_studio_reads_decisions_with_its_own_package(tmp_path):
    pytest.importorskip("label_studio_sdk")
    (tmp_path / "decisions.csv").write_text(DECISIONS)
    script = EXAMPLES / "label_studio_tasks.py"
    command = [sys.executable, script, "decisions.csv", "https://host/images/"]
    subprocess.run(command, cwd=tmp_path, check=True)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [task["data"]["image"][-5:] for task in tasks] == ["b.png", "a.png"]
    labels = (tmp_path / "labels.xml").read_text()
    assert re.findall(r'<Choice value="(\w+)"', labels) == ["cat", "dog", "owl"]


def test_fiftyone_reads_decisions_with_its_own_package(tmp_path, monkeypatch):
    pytest.importorskip("fiftyone")
    (tmp_path / "decisions.csv").write_text(DECISIONS)
    monkeypatch.syspath_prepend(EXAMPLES)
    samples = import_module("fiftyone_samples").samples_of(tmp_path / "decisions.csv")
    assert [sample["misgiving"]["label"] for sample in samples] == ["cat", "dog"]
