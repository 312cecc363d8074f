"""The model, its operating points, and the command for another target error rate."""

import re
import shlex
from importlib import import_module
from unittest.mock import MagicMock

import numpy as np
import pytest
from standin import Calibrated, Standin, cases_like_the_standins, made_policy

from misgiving.deferral.deferral import Deferral
from misgiving.deferral.settings import DecisionRule, Targets
from misgiving.errors import UsageError
from misgiving.report.sentences import certificate_sentences
from misgiving.serve.routes.model import command


def test_the_model_is_described_with_a_summary_of_its_policy(serving, monkeypatch):
    monkeypatch.setattr("misgiving.serve.routes.model.PACKAGES", ("numpy", "not-installed"))
    model = Calibrated()
    client = serving(model, max_bytes=1234, max_files=5, queue=6, timeout=7.0)
    answer = client.get("/model").json()
    assert answer["classes"] == ["dark", "light"]
    assert answer["policy"] == certificate_sentences(model.deferral)
    assert answer["card"] == {"name": "standin"}
    assert answer["model_fingerprint"] == "f" * 64
    given = {"max_bytes": 1234, "max_files": 5, "queue": 6, "timeout": 7}
    own = {"max_pixels": 50_000_000, "max_decoded_bytes": 1_500_000_000}
    assert answer["limits"] == {**given, **own}
    assert "Not a medical device" in answer["notice"]
    assert answer["versions"].keys() == {"python", "numpy"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", answer["versions"]["numpy"])


def test_operating_points_agree_with_the_calibration_cases(serving):
    client = serving(Calibrated())
    answer = client.get("/calibration").json()
    policy, cases = made_policy().certificate_, cases_like_the_standins(500, 2)
    assert answer["unavailable"] is None
    assert answer["operating_points"][-1]["threshold"] is None
    for point in answer["operating_points"]:
        reached = cases.scores >= (-np.inf if point["threshold"] is None else point["threshold"])
        accepted = reached & (cases.ood_scores > policy.ood_threshold)
        wrong = (accepted & cases.wrong).sum()
        assert (point["accepted"], point["wrong"]) == (accepted.sum(), wrong)
        assert point["error"] <= point["bound"]
    assert answer["policy"]["threshold"] == policy.accept_threshold
    assert answer["policy"]["ood_threshold"] == policy.ood_threshold
    assert answer["policy"]["naming"] in client.get("/model").json()["policy"]
    assert answer["command"].startswith("misgiving calibrate RUN NEW_CASES --max-error ")


OPTIONS = {
    **{"confidence": 0.9000001, "max_ood_false_alarms": 0.05, "simultaneous": False},
    "class_max_miss": {"light spot": 0.4000001, "dark": 0.5},
}
COSTS = {"costs": {"light spot": 10.000001, "dark": 2.0}, "max_error_probability": 0.4000001}


@pytest.mark.parametrize(
    ("targets", "rule"),
    [
        (Targets(max_error=0.1), DecisionRule(rule="balanced")),
        (Targets(max_error=0.1, **OPTIONS), DecisionRule(**COSTS)),
    ],
    ids=["few options", "all options"],
)
def test_the_command_changes_only_the_target_error_rate(targets, rule, misgiving, monkeypatch):
    policy = made_policy(targets, classes=("dark", "light spot"), rule=rule)
    policy.seed, asked = 7, []

    def check_classes(deferral, _):
        asked.append(deferral.get_params())
        raise UsageError("asked")

    monkeypatch.setattr(import_module("misgiving.cli.calibrate"), "open_run", MagicMock())
    monkeypatch.setattr(Deferral, "check_classes", check_classes)
    words = shlex.split(command(policy).replace("{max_error}", "0.2"))
    assert words[1:4] == ["calibrate", "RUN", "NEW_CASES"]
    assert misgiving(*words[1:])[0] == 2
    (parameters,) = asked
    expected = policy.get_params() | {"max_error": 0.2}
    assert {name: value or None for name, value in parameters.items()} == {
        name: value or None for name, value in expected.items()
    }
    words = command(policy, of_graph=True)
    assert words.startswith("misgiving calibrate NEW_PREDICTIONS.csv --out POLICY --max-error ")


def test_a_policy_that_accepts_nothing_and_a_model_without_a_policy_say_so(serving):
    client = serving(Calibrated(made_policy(Targets(max_error=0.001))))
    saved = client.get("/calibration").json()["policy"]
    assert (saved["accepts"], saved["threshold"]) == (False, None)
    client = serving(Standin())
    answer = client.get("/drift").json()
    assert (answer["tests"], answer["alarm"]) == ([], False)
    for reason in (client.get("/calibration").json()["unavailable"], answer["summary"]):
        assert "misgiving calibrate" in reason
