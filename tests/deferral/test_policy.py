"""Certificates of drawn cases: decisions by their thresholds, their file, and their summary."""

import json
from dataclasses import replace

import numpy as np
import pytest
from policies import policy_with

from misgiving import Deferral
from misgiving.deferral.policy_file import PolicyFile
from misgiving.deferral.settings import DecisionRule, Targets
from misgiving.deferral.thresholds import certify_thresholds
from misgiving.errors import DataError
from misgiving.manifests import sha256_of_json
from misgiving.report.sentences import certificate_sentences

EVERYTHING = Targets(
    max_error=0.15,
    class_max_miss={"MEL": 0.2},
    max_ood_false_alarms=0.1,
)
KINDS = {
    "everything": EVERYTHING,
    "plain": Targets(max_error=0.1),
    "accepts all": Targets(max_error=0.9),
    "nothing attainable": replace(EVERYTHING, max_error=0.001),
}
DAMAGED = r"policy\.json: .*run `misgiving calibrate`"


@pytest.fixture
def certificates(drawn_cases, classes):
    def make(kind):
        return certify_thresholds(
            drawn_cases(300, 1), drawn_cases(400, 2), KINDS[kind], classes=classes
        )

    return make


def decisions(certificate, scores, ood_scores=None):
    ood_scores = [9.0] * len(scores) if ood_scores is None else ood_scores
    return certificate.decide(np.array(scores), np.array(ood_scores), np.ones(len(scores), bool))[
        0
    ].tolist()


def test_the_threshold_is_accepted_and_what_is_below_it_deferred(certificates):
    certificate = certificates("plain")
    at = certificate.accept_threshold
    assert decisions(certificate, [at, np.nextafter(at, 0), 2.0]) == ["accept", "defer", "accept"]
    narrow = np.float32(at)  # is compared as it is
    assert float(narrow) != at
    assert decisions(certificate, [narrow]) == ["accept" if float(narrow) >= at else "defer"]


def test_an_image_below_the_ood_limit_is_ood_and_one_at_it_deferred(certificates):
    certificate = certificates("everything")
    at = certificate.ood_threshold
    ood_score = [np.nextafter(at, -9), at, np.nextafter(at, 9), np.nan]
    assert decisions(certificate, [1.0] * 4, ood_score) == ["ood", "defer", "accept", "defer"]
    nothing = certificates("nothing attainable")  # OOD images are still detected
    assert decisions(nothing, [1.0, 1.0], [9.0, -99.0]) == ["defer", "ood"]


def test_without_an_ood_rule_no_image_is_ood_but_p_values_are_given(certificates):
    outcomes, p_values = certificates("plain").decide(
        np.array([1.0, 1.0]), np.array([-99.0, np.nan]), np.array([True, True])
    )
    assert outcomes.tolist() == ["accept", "accept"]
    assert p_values.tolist() == pytest.approx([1 / 401, np.nan], nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_that_is_not_finite_is_deferred(kind, certificates):
    assert decisions(certificates(kind), [np.nan, np.inf, -np.inf]) == ["defer"] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_comes_back_from_its_file_as_it_was(kind, certificates, tmp_path):
    policy = policy_with(certificates(kind))
    policy.write(tmp_path)
    loaded = Deferral.load(tmp_path)
    for name in ("certificate_", "calibration_", "rule_", "cases_", "unit_", "model_"):
        assert getattr(loaded, name) == getattr(policy, name)
    assert certificate_sentences(loaded) == certificate_sentences(policy)
    json.loads((tmp_path / "policy.json").read_text(), parse_constant=pytest.fail)


@pytest.fixture
def content(certificates, tmp_path):
    """What a policy file says, without its checksum."""
    policy_with(certificates("everything")).write(tmp_path)
    content = json.loads((tmp_path / "policy.json").read_text())
    del content["checksum"]
    return content


def test_content_that_is_not_a_policy_is_refused_although_its_checksum_is_right(content, tmp_path):
    def read(content):
        checked = {**content, "checksum": sha256_of_json(content)}
        (tmp_path / "policy.json").write_text(json.dumps(checked))
        return PolicyFile.read(tmp_path)

    assert read(content)
    for other in (content | {"format": 2}, {"format": 1, "certificate": {}}):
        with pytest.raises(DataError, match=DAMAGED):
            read(other)


def leaves(value, path=()):
    """Paths of everything in nested JSON that is no container."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else list(enumerate(value))[:2]
        for key, inner in items:
            yield from leaves(inner, (*path, key))
    else:
        yield path


@pytest.mark.usefixtures("content")
def test_a_change_of_anything_but_the_layout_is_refused_in_one_line(tmp_path):
    path = tmp_path / "policy.json"
    policy, written = PolicyFile.read(tmp_path), json.loads(path.read_text())
    for leaf in leaves(written):
        changed = json.loads(json.dumps(written))
        inside = changed
        for key in leaf[:-1]:
            inside = inside[key]
        inside[leaf[-1]] = 0.123456
        path.write_text(json.dumps(changed))
        with pytest.raises(DataError, match=DAMAGED):
            PolicyFile.read(tmp_path)
    path.write_text(json.dumps(dict(reversed(written.items())), indent=7))
    assert PolicyFile.read(tmp_path) == policy


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"checksum": NaN}', "[" * 100_000, "\udcff"],
    ids=["empty", "cut off", "list", "number", "no checksum", "NaN", "deep", "bytes"],
)
def test_a_file_that_is_not_a_policy_is_refused(text, tmp_path):
    (tmp_path / "policy.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=DAMAGED):
        Deferral.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("everything", ["at most 20 % of MEL cases", "all targets together hold"]),
        ("accepts all", ["every acceptable prediction accepted", "the target holds with a conf"]),
        ("nothing attainable", ["Every prediction is deferred", "not certified"]),
    ],
)
def test_the_summary_states_what_is_certified(kind, said, certificates):
    lines = certificate_sentences(policy_with(certificates(kind)))
    assert all(any(words in line for line in lines) for words in said), lines


def test_the_summary_names_a_class_target_that_no_threshold_certifies(drawn_cases, classes):
    cases = replace(drawn_cases(400, 2), wrong=np.ones(400, dtype=bool))
    asked = Targets(max_error=0.1, class_max_miss={"MEL": 0.03})
    certificate = certify_thresholds(drawn_cases(300, 1), cases, asked, classes=classes)
    lines = certificate_sentences(policy_with(certificate))
    assert any("MEL" in line and "3 %" in line for line in lines)
    assert not any("smallest certifiable error" in line for line in lines)  # the class fails


COST_WORDS = "missing MEL costs 10, missing NV costs 0.5 and missing any other class costs 1."
REPEATED = {"calibrations": 2, "repeated_images": 7, "repeated_groups": 5}


@pytest.mark.parametrize(
    ("rule", "fields", "said"),
    [
        ({}, {"unit": "patient"}, "For one image of each patient,"),
        ({"costs": {"MEL": 10.0, "NV": 0.5}}, {}, COST_WORDS),
        ({"max_error_probability": 0.7}, {}, "Warning: answers that are more"),
        ({}, REPEATED, "calibrated before with 7 of these images (5 groups), in 2"),
        ({}, {"complete": False}, "could not be read, so it is not known"),
    ],
)
def test_the_summary_names_unit_rule_and_warnings(rule, fields, said, certificates):
    certificate = certificates("plain")
    lines = certificate_sentences(policy_with(certificate, rule=DecisionRule(**rule), **fields))
    assert sum(said in line for line in lines) == 1
    plain = certificate_sentences(policy_with(certificate, rule=DecisionRule()))
    assert not any("Warning" in line for line in plain)
