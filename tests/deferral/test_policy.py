import json
from dataclasses import replace

import numpy as np
import pytest

from misgiving.deferral.policy import FORMAT, DeferralPolicy, RepeatedCases
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import certify_thresholds
from misgiving.errors import DataError, UsageError
from misgiving.manifests import sha256_of_json

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
def policies(drawn_cases, classes):
    def make(kind, **fields):
        found = certify_thresholds(
            drawn_cases(300, 1), drawn_cases(400, 2), KINDS[kind], classes=classes
        )
        names = {"score": "confidence", "ood_detector": "knn", "seed": 3}
        prints = {"model_fingerprint": "a" * 64, "calibration_fingerprint": "b" * 64}
        return DeferralPolicy(certificate=found, **names, **prints, **fields)

    return make


def decisions(policy, *columns):
    return policy.decide(*map(np.array, columns)).decisions.tolist()


def test_the_threshold_is_accepted_and_what_is_below_it_deferred(policies):
    policy = policies("plain")
    at = policy.accept_threshold
    assert decisions(policy, [at, np.nextafter(at, 0), 2.0]) == ["accept", "defer", "accept"]


def test_a_float32_score_is_compared_as_it_is(policies):
    policy = policies("plain")
    at = np.float32(policy.accept_threshold)
    expected = "accept" if float(at) >= policy.accept_threshold else "defer"
    assert decisions(policy, [at]) == [expected]
    assert float(at) != policy.accept_threshold


def test_an_image_below_the_ood_limit_is_ood_and_one_at_it_deferred(policies):
    policy = policies("everything")
    at, sure = policy.ood_threshold, 1.0
    ood_score = [np.nextafter(at, -9), at, np.nextafter(at, 9)]
    assert decisions(policy, [sure] * 3, ood_score) == ["ood", "defer", "accept"]


def test_without_an_ood_rule_no_image_is_ood_but_p_values_are_given(policies):
    found = policies("plain").decide(np.array([1.0]), np.array([-99.0]))
    assert found.decisions.tolist() == ["accept"]
    assert found.p_values.tolist() == pytest.approx([1 / 401])


def test_where_nothing_is_certifiable_nothing_is_accepted_and_ood_images_are_still_detected(
    policies,
):
    policy = policies("nothing attainable")
    assert decisions(policy, [1.0, 1.0], [9.0, -99.0]) == ["defer", "ood"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("score", "ood_score"), [(np.nan, 9.0), (np.inf, 9.0), (-np.inf, 9.0)])
def test_a_score_that_is_not_finite_is_deferred(kind, score, ood_score, policies):
    assert decisions(policies(kind), [score], [ood_score]) == ["defer"]


def test_a_nan_ood_score_is_deferred_under_an_ood_rule(policies):
    assert decisions(policies("everything"), [1.0], [np.nan]) == ["defer"]
    assert decisions(policies("plain"), [1.0], [np.nan]) == ["accept"]
    assert np.isnan(policies("plain").decide(np.array([1.0]), np.array([np.nan])).p_values)


def test_missing_ood_scores_are_refused(policies):
    with pytest.raises(UsageError, match=r"ood_scores is missing.*knn"):
        policies("everything").decide(np.array([1.0]))


@pytest.mark.usefixtures("as_in_use")
def test_columns_of_other_lengths_are_refused(policies):
    with pytest.raises(UsageError, match="ood_scores has length 2 but scores has length 1"):
        policies("plain").decide(np.zeros(1), np.zeros(2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_comes_back_from_its_file_as_it_was(kind, policies, tmp_path):
    policy = policies(kind, error_limit=0.1)
    policy.save(tmp_path / "policy.json")
    loaded = DeferralPolicy.load(tmp_path / "policy.json")
    assert loaded == policy
    assert loaded.summary() == policy.summary()
    json.loads((tmp_path / "policy.json").read_text(), parse_constant=pytest.fail)


def loaded(folder, content):
    """Load a policy file with this content and a checksum that fits it."""
    (folder / "policy.json").write_text(
        json.dumps({**content, "checksum": sha256_of_json(content)})
    )
    return DeferralPolicy.load(folder / "policy.json")


def test_a_policy_of_an_older_format_is_refused_with_the_remedy(policies, tmp_path):
    content = {**policies("plain").to_dict(), "format": 2}
    del content["checksum"]
    with pytest.raises(DataError, match=r"policy\.json: .*format 2.*`misgiving calibrate`"):
        loaded(tmp_path, content)


def leaves(value, path=()):
    """Paths of everything in nested JSON that is no container."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else list(enumerate(value))[:2]
        for key, inner in items:
            yield from leaves(inner, (*path, key))
    else:
        yield path


def test_a_change_of_anything_is_refused_in_one_line(policies, tmp_path):
    path = tmp_path / "policy.json"
    content = policies("everything").to_dict()
    for leaf in leaves(content):
        changed = json.loads(json.dumps(content))
        inside = changed
        for key in leaf[:-1]:
            inside = inside[key]
        inside[leaf[-1]] = 0.123456
        path.write_text(json.dumps(changed))
        told = "has format 0.123456" if leaf == ("format",) else "was changed after it was calib"
        with pytest.raises(DataError, match=rf"policy\.json: {told}.*run `misgiving calibrate`"):
            DeferralPolicy.load(path)


def test_key_order_and_spacing_do_not_matter(policies, tmp_path):
    policy = policies("everything")
    content = dict(reversed(policy.to_dict().items()))
    (tmp_path / "policy.json").write_text(json.dumps(content, indent=7))
    assert DeferralPolicy.load(tmp_path / "policy.json") == policy


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"checksum": NaN}', "[" * 100_000, "\udcff"],
    ids=["empty", "cut off", "list", "number", "no checksum", "NaN", "deep", "bytes"],
)
def test_a_file_that_is_not_a_policy_is_refused(text, tmp_path):
    (tmp_path / "policy.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"policy\.json: .*run `misgiving calibrate`"):
        DeferralPolicy.load(tmp_path / "policy.json")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"policy\.json: .*No such file"):
        DeferralPolicy.load(tmp_path / "policy.json")


def test_content_that_is_not_a_policy_is_refused_although_its_checksum_is_right(tmp_path):
    content = {"format": FORMAT, "certificate": {"accept_threshold": None}}
    with pytest.raises(DataError, match=r"policy\.json: .*run `misgiving calibrate`"):
        loaded(tmp_path, content)


def test_another_model_is_refused(policies):
    policies("plain").refuse_other_model("a" * 64)
    with pytest.raises(DataError, match=r"calibrated for the model a{12}, not for c{12}; run"):
        policies("plain").refuse_other_model("c" * 64)


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
    lines = policies(kind).summary()
    assert any(all(words in line for words in said) for line in lines), lines


def test_the_summary_names_a_class_target_that_no_threshold_certifies(
    drawn_cases, classes, policies
):
    cases = replace(drawn_cases(400, 2), wrong=np.ones(400, dtype=bool))
    asked = Targets(max_error=0.1, class_max_miss={"MEL": 0.03})
    found = certify_thresholds(drawn_cases(300, 1), cases, asked, classes=classes)
    lines = replace(policies("plain"), certificate=found).summary()
    assert any("MEL" in line and "3 %" in line for line in lines)
    assert not any("smallest certifiable error" in line for line in lines)  # the class fails


@pytest.mark.parametrize(
    ("unit", "said"), [("patient", "For one image of each patient,"), ("image", "For images,")]
)
def test_the_summary_names_the_unit(unit, said, policies):
    policy = replace(policies("plain"), unit=unit)
    assert sum(line.startswith(said) for line in policy.summary()) == 1


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
    lines = replace(policies("plain"), rule=rule, costs=costs).summary()
    (line,) = [line for line in lines if f"Rule {rule}:" in line]
    assert said in line


@pytest.mark.parametrize(("highest", "warned"), [(0.4, False), (0.5, False), (0.7, True)])
def test_the_summary_warns_where_answers_may_be_more_likely_wrong_than_right(
    highest, warned, policies
):
    lines = replace(policies("plain"), max_error_probability=highest).summary()
    assert any(line.startswith("Warning: answers that are more") for line in lines) == warned
    weighed = replace(policies("plain"), max_error_probability=highest, rule="balanced").summary()
    assert any("although another class is more probable" in line for line in weighed) == warned


def test_a_policy_keeps_that_its_cases_were_used_before(policies, tmp_path):
    repeated = RepeatedCases(calibrations=2, images=7, groups=5, complete=True)
    policy = replace(policies("plain"), unit="patient", repeated=repeated)
    policy.save(tmp_path / "policy.json")
    loaded = DeferralPolicy.load(tmp_path / "policy.json")
    assert loaded == policy
    assert "calibrated before with 7 of these images (5 groups), in 2" in loaded.summary()[-1]
    unknown = replace(policy, repeated=replace(repeated, groups=0, complete=False))
    assert "could not be read, so it is not known" in unknown.summary()[-1]
    assert not any("calibrated before" in line for line in unknown.summary())
