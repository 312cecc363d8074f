import json
from dataclasses import replace

import numpy as np
import pytest
from policies import policy_with

from misgiving import Deferral
from misgiving.deferral.policy_file import PolicyFile
from misgiving.deferral.rules import DecisionRule
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import certify_thresholds
from misgiving.errors import DataError, UsageError
from misgiving.manifests import sha256_of_json
from misgiving.report.certificate import certificate_sentences

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


@pytest.fixture
def certificates(drawn_cases, classes):
    def make(kind):
        return certify_thresholds(
            drawn_cases(300, 1), drawn_cases(400, 2), KINDS[kind], classes=classes
        )

    return make


@pytest.fixture
def policies(certificates):
    return lambda kind, **fields: policy_with(certificates(kind), **fields)


def decisions(certificate, *columns):
    return certificate.decide(*map(np.array, columns))[0].tolist()


def test_the_threshold_is_accepted_and_what_is_below_it_deferred(certificates):
    certificate = certificates("plain")
    at = certificate.accept_threshold
    assert decisions(certificate, [at, np.nextafter(at, 0), 2.0]) == ["accept", "defer", "accept"]


def test_a_float32_score_is_compared_as_it_is(certificates):
    certificate = certificates("plain")
    at = np.float32(certificate.accept_threshold)
    expected = "accept" if float(at) >= certificate.accept_threshold else "defer"
    assert decisions(certificate, [at]) == [expected]
    assert float(at) != certificate.accept_threshold


def test_an_image_below_the_ood_limit_is_ood_and_one_at_it_deferred(certificates):
    certificate = certificates("everything")
    at, sure = certificate.ood_threshold, 1.0
    ood_score = [np.nextafter(at, -9), at, np.nextafter(at, 9)]
    assert decisions(certificate, [sure] * 3, ood_score) == ["ood", "defer", "accept"]


def test_without_an_ood_rule_no_image_is_ood_but_p_values_are_given(certificates):
    outcomes, p_values = certificates("plain").decide(np.array([1.0]), np.array([-99.0]))
    assert outcomes.tolist() == ["accept"]
    assert p_values.tolist() == pytest.approx([1 / 401])


def test_where_nothing_is_certifiable_nothing_is_accepted_and_ood_images_are_still_detected(
    certificates,
):
    certificate = certificates("nothing attainable")
    assert decisions(certificate, [1.0, 1.0], [9.0, -99.0]) == ["defer", "ood"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("score", "ood_score"), [(np.nan, 9.0), (np.inf, 9.0), (-np.inf, 9.0)])
def test_a_score_that_is_not_finite_is_deferred(kind, score, ood_score, certificates):
    assert decisions(certificates(kind), [score], [ood_score]) == ["defer"]


def test_a_nan_ood_score_is_deferred_under_an_ood_rule(certificates):
    assert decisions(certificates("everything"), [1.0], [np.nan]) == ["defer"]
    assert decisions(certificates("plain"), [1.0], [np.nan]) == ["accept"]
    assert np.isnan(certificates("plain").decide(np.array([1.0]), np.array([np.nan]))[1])


def test_missing_ood_scores_are_refused(certificates):
    with pytest.raises(UsageError, match="ood_scores is missing"):
        certificates("everything").decide(np.array([1.0]))


@pytest.mark.usefixtures("as_in_use")
def test_columns_of_other_lengths_are_refused(certificates):
    with pytest.raises(UsageError, match="ood_scores has length 2 but scores has length 1"):
        certificates("plain").decide(np.zeros(1), np.zeros(2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_comes_back_from_its_file_as_it_was(kind, policies, tmp_path):
    policy = policies(kind)
    policy.write(tmp_path)
    loaded = Deferral.load(tmp_path)
    for name in ("certificate_", "calibration_", "rule_", "cases_", "unit_", "model_"):
        assert getattr(loaded, name) == getattr(policy, name)
    assert certificate_sentences(loaded) == certificate_sentences(policy)
    json.loads((tmp_path / "policy.json").read_text(), parse_constant=pytest.fail)


def read(folder, content):
    """Read a policy file with this content and a checksum that fits it."""
    (folder / "policy.json").write_text(
        json.dumps({**content, "checksum": sha256_of_json(content)})
    )
    return PolicyFile.read(folder)


@pytest.fixture
def content(policies, tmp_path):
    """What a policy file says, without its checksum."""
    policies("everything").write(tmp_path)
    content = json.loads((tmp_path / "policy.json").read_text())
    del content["checksum"]
    return content


def test_a_policy_of_another_format_is_refused_with_the_remedy(content, tmp_path):
    read(tmp_path, content)
    with pytest.raises(DataError, match=r"policy\.json: .*format.*`misgiving calibrate`"):
        read(tmp_path, content | {"format": 2})


def leaves(value, path=()):
    """Paths of everything in nested JSON that is no container."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else list(enumerate(value))[:2]
        for key, inner in items:
            yield from leaves(inner, (*path, key))
    else:
        yield path


@pytest.mark.usefixtures("content")
def test_a_change_of_anything_is_refused_in_one_line(tmp_path):
    path = tmp_path / "policy.json"
    written = json.loads(path.read_text())
    for leaf in leaves(written):
        changed = json.loads(json.dumps(written))
        inside = changed
        for key in leaf[:-1]:
            inside = inside[key]
        inside[leaf[-1]] = 0.123456
        path.write_text(json.dumps(changed))
        with pytest.raises(DataError, match=r"policy\.json: .*run `misgiving calibrate`"):
            PolicyFile.read(tmp_path)


@pytest.mark.usefixtures("content")
def test_key_order_and_spacing_do_not_matter(tmp_path):
    path = tmp_path / "policy.json"
    policy, written = PolicyFile.read(tmp_path), json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(written.items())), indent=7))
    assert PolicyFile.read(tmp_path) == policy


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"checksum": NaN}', "[" * 100_000, "\udcff"],
    ids=["empty", "cut off", "list", "number", "no checksum", "NaN", "deep", "bytes"],
)
def test_a_file_that_is_not_a_policy_is_refused(text, tmp_path):
    (tmp_path / "policy.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"policy\.json: .*run `misgiving calibrate`"):
        Deferral.load(tmp_path)


def test_content_that_is_not_a_policy_is_refused_although_its_checksum_is_right(tmp_path):
    with pytest.raises(DataError, match=r"policy\.json: .*run `misgiving calibrate`"):
        read(tmp_path, {"format": 1, "certificate": {"accept_threshold": None}})


def test_another_model_is_refused(policies):
    policies("plain").check_model("f" * 64)
    with pytest.raises(DataError, match=r"calibrated for the model f{12}, not for c{12}; run"):
        policies("plain").check_model("c" * 64)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("everything", ["at most 15 % of the accepted predictions are wrong"]),
        ("everything", ["at most 20 % of MEL cases", "accepted as another class"]),
        ("everything", ["10 %", "called out-of-distribution"]),
        ("everything", ["all targets together hold", "confidence of 95 %"]),
        ("accepts all", ["every acceptable prediction accepted"]),
        ("plain", ["the target holds with a confidence of 95 %"]),
        ("nothing attainable", ["Every prediction is deferred", "0.1 %"]),
        ("nothing attainable", ["smallest certifiable error", "class targets met"]),
        ("nothing attainable", ["after looking at these cases", "not certified"]),
    ],
)
def test_the_summary_states_what_is_certified(kind, said, policies):
    lines = certificate_sentences(policies(kind))
    assert any(all(words in line for words in said) for line in lines), lines


def test_the_summary_names_a_class_target_that_no_threshold_certifies(drawn_cases, classes):
    cases = replace(drawn_cases(400, 2), wrong=np.ones(400, dtype=bool))
    asked = Targets(max_error=0.1, class_max_miss={"MEL": 0.03})
    found = certify_thresholds(drawn_cases(300, 1), cases, asked, classes=classes)
    lines = certificate_sentences(policy_with(found))
    assert any("MEL" in line and "3 %" in line for line in lines)
    assert not any("smallest certifiable error" in line for line in lines)  # the class fails


@pytest.mark.parametrize(
    ("unit", "said"), [("patient", "For one image of each patient,"), ("image", "For images,")]
)
def test_the_summary_names_the_unit(unit, said, policies):
    lines = certificate_sentences(policies("plain", unit=unit))
    assert sum(line.startswith(said) for line in lines) == 1


@pytest.mark.parametrize(
    ("rule", "costs", "said"),
    [
        ("most_probable", {}, "the class with the highest calibrated probability is named"),
        ("balanced", {}, "the highest probability relative to its share of the tuning set"),
        (
            "costs",
            {"MEL": 10.0, "NV": 0.5},
            "where missing MEL costs 10, missing NV costs 0.5 and missing any other class costs 1.",
        ),
        ("logits", {}, "the largest logit"),
    ],
)
def test_the_summary_names_the_rule_and_its_costs(rule, costs, said, policies):
    lines = certificate_sentences(policies("plain", rule=DecisionRule(rule=rule, costs=costs)))
    (line,) = [line for line in lines if f"Rule {rule}:" in line]
    assert said in line


@pytest.mark.parametrize(("highest", "warned"), [(0.4, False), (0.5, False), (0.7, True)])
def test_the_summary_warns_where_answers_may_be_more_likely_wrong_than_right(
    highest, warned, policies
):
    plain, weighed = (
        certificate_sentences(
            policies("plain", rule=DecisionRule(rule=rule, max_error_probability=highest))
        )
        for rule in ("most_probable", "balanced")
    )
    assert any(line.startswith("Warning: answers that are more") for line in plain) == warned
    assert any("although another class is more probable" in line for line in weighed) == warned


def test_a_policy_says_that_its_cases_were_used_before(policies):
    repeated = {"calibrations": 2, "repeated_images": 7, "repeated_groups": 5}
    lines = certificate_sentences(policies("plain", **repeated))
    assert "calibrated before with 7 of these images (5 groups), in 2" in lines[-1]
    unknown = certificate_sentences(policies("plain", complete=False))
    assert "could not be read, so it is not known" in unknown[-1]
    assert not any("calibrated before" in line for line in unknown)
