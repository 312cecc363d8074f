"""Each malformed file of predictions is one line to its user, and leaves nothing behind."""

import os

import numpy as np
import pytest
from commands import one_line
from malformed import MALFORMED

from misgiving import Deferral

COMMANDS = {
    "plan": ("--max-error", "0.1"),
    "calibrate": ("--max-error", "0.1", "--out", "new"),
    "predict": ("--out", "decisions.csv"),
    "evaluate": ("--out", "report"),
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 200)
    logits = random.normal(size=(200, 3)) + 3 * np.eye(3)[labels]
    folder = tmp_path_factory.mktemp("policy") / "policy"
    classes = ["cat", "dog", "owl"]
    Deferral(max_error=0.2).fit((logits, labels), classes=classes).save(folder)
    return folder


def test_there_are_sixty():
    assert len(MALFORMED) >= 60


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_one_line_that_names_the_cause(
    misgiving, policy, tmp_path, monkeypatch, case
):
    name, write, message = MALFORMED[case]
    write(tmp_path / name)
    if case == "no permission" and os.access(tmp_path / name, os.R_OK):
        pytest.skip("this user may read everything")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for command, options in COMMANDS.items():
        first = (policy,) if command == "predict" else ()
        code, out, error = misgiving(command, *first, name, *options)
        assert code == 1, (command, out)
        line = one_line(error)
        assert line.startswith(f"error: {name}: "), command
        assert message in line, command
        assert len(line) < 1000
        assert out == ""
        assert sorted(tmp_path.rglob("*")) == before
