import shlex
from dataclasses import replace
from importlib import import_module
from unittest.mock import MagicMock

import numpy as np
from standin import Calibrated, Standin, cases_like_the_standins, made_policy

from misgiving.deferral.deferral import Deferral
from misgiving.deferral.sentences import certificate_sentences
from misgiving.deferral.targets import DecisionRule, Targets
from misgiving.errors import UsageError
from misgiving.serve.routes.model import command


def test_the_model_is_described_and_operating_points_agree_with_the_calibration_cases(serving):
    model = Calibrated()
    client = serving(model, max_bytes=1234)
    described, answer = (client.get(path).json() for path in ("/model", "/calibration"))
    assert described["policy"] == certificate_sentences(model.deferral)
    assert (described["model_fingerprint"], described["limits"]["max_bytes"]) == ("f" * 64, 1234)
    assert "Not a medical device" in described["notice"]
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
    assert answer["policy"]["naming"] in described["policy"]
    assert answer["command"].startswith("misgiving calibrate RUN NEW_CASES --max-error ")


OPTIONS = {
    **{"confidence": 0.9000001, "max_ood_false_alarms": 0.05, "simultaneous": False},
    "class_max_miss": {"light spot": 0.4000001, "dark": 0.5},
}
COSTS = {"costs": {"light spot": 10.000001, "dark": 2.0}, "max_error_probability": 0.4000001}


def test_the_command_changes_only_the_target_error_rate(misgiving, monkeypatch):
    targets, rule = Targets(max_error=0.1, **OPTIONS), DecisionRule(**COSTS)
    policy = made_policy(targets, classes=("dark", "light spot"), rule=rule)
    policy.policy_, policy.seed, asked = replace(policy.policy_, seed=7), 7, []

    def check_parameters(deferral, _):
        asked.append(deferral.get_params())
        raise UsageError("asked")

    monkeypatch.setattr(import_module("misgiving.cli.calibrate"), "open_run", MagicMock())
    monkeypatch.setattr(Deferral, "check_parameters", check_parameters)
    words = shlex.split(command(policy.policy_).replace("{max_error}", "0.2"))
    assert words[1:4] == ["calibrate", "RUN", "NEW_CASES"]
    assert misgiving(*words[1:])[0] == 2
    assert asked == [policy.get_params() | {"max_error": 0.2, "superclasses": {}}]
    words = command(policy.policy_, of_graph=True)
    assert words.startswith("misgiving calibrate NEW_PREDICTIONS.csv --out POLICY --max-error ")


def test_the_command_of_a_policy_on_average_is_for_a_target_that_can_be_served():
    policy = made_policy(Targets(max_silent_error=0.05), guarantee="average").policy_
    words = command(policy)
    assert "average" not in words
    assert "--max-silent-error 0.05" in words
    of_logits = made_policy(Targets(max_error=0.1, max_ood_false_alarms=None))
    assert "--max-ood-false-alarms off" in command(of_logits.policy_)


def test_a_policy_that_accepts_nothing_and_a_model_without_a_policy_say_so(serving):
    client = serving(Calibrated(made_policy(Targets(max_error=0.001))))
    saved = client.get("/calibration").json()["policy"]
    assert (saved["accepts"], saved["threshold"]) == (False, None)
    client = serving(Standin())
    answer = client.get("/drift").json()
    assert (answer["tests"], answer["alarm"]) == ([], False)
    for reason in (client.get("/calibration").json()["unavailable"], answer["summary"]):
        assert "misgiving calibrate" in reason
