"""The examples and the code of the documentation, as people run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torchvision.models import resnet18

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MEASURED = re.compile(r"accuracy (0\.\d+), rank correlation of predicted and true losses (0\.\d+)")


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_every_example_trains_a_classifier_that_estimates_its_losses(path, tmp_path):
    command = [sys.executable, path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    accuracy, correlation = map(float, MEASURED.search(done.stdout).groups())
    assert accuracy > 0.5
    assert correlation > 0.3


def test_there_is_an_example_for_each_training_loop():
    names = {path.stem for path in EXAMPLES}
    assert {f"joint_training{loop}" for loop in ("", "_lightning", "_transformers")} <= names


def test_the_loop_for_a_model_that_was_trained_elsewhere_lowers_its_loss():
    page = (ROOT / "docs" / "trained_elsewhere.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    torch.manual_seed(0)
    network = resnet18(num_classes=3).eval()
    images, labels = torch.rand(64, 3, 32, 32), torch.randint(3, (64,))
    names = {"network": network, "held_out": [(images, labels)] * 40}
    exec(code, names)
    model = names["model"].eval()
    with torch.no_grad():
        output = model(images)
        assert torch.equal(output.logits, network(images))
    losses = F.cross_entropy(output.logits, labels, reduction="none")
    assert torch.corrcoef(torch.stack([output.predicted_losses, losses]))[0, 1] > 0.5
