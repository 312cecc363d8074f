import json
from dataclasses import replace

import numpy as np
import pytest

from misgiving.deferral import DeferralPolicy, DriftMonitor, Targets, calibrate
from misgiving.deferral.storage import checksum
from misgiving.errors import DataError, UsageError

EVERYTHING = Targets(
    max_error=0.15,
    class_max_miss={"MEL": 0.2},
    max_ood_false_alarms=0.1,
    prevalence={"MEL": 0.1},
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
        found = calibrate(drawn_cases(300, 1), drawn_cases(400, 2), KINDS[kind], classes=classes)
        names = {"score": "confidence", "ood_detector": "knn", "seed": 3}
        prints = {"model_fingerprint": "a" * 64, "calibration_fingerprint": "b" * 64}
        return DeferralPolicy(calibration=found, **names, **prints, **fields)

    return make


def decisions(policy, *columns):
    return [decided.decision for decided in policy.decide(*map(np.array, columns))]


def test_the_threshold_is_accepted_and_what_is_below_it_deferred(policies):
    policy = policies("plain")
    at = policy.accept_threshold
    assert decisions(policy, [at, np.nextafter(at, 0), 2.0]) == ["accept", "defer", "accept"]


def test_a_float32_score_is_compared_as_it_is(policies):
    policy = policies("plain")
    at = np.float32(policy.accept_threshold)
    expected = "accept" if float(at) >= policy.accept_threshold else "defer"
    assert policy.decide(np.array([at]))[0].decision == expected
    assert float(at) != policy.accept_threshold


def test_an_image_below_the_ood_limit_is_ood_and_one_at_it_deferred(policies):
    policy = policies("everything")
    at, sure = policy.ood_threshold, 1.0
    likeness = [np.nextafter(at, -9), at, np.nextafter(at, 9)]
    assert decisions(policy, [sure] * 3, likeness) == ["ood", "defer", "accept"]


def test_without_a_ood_rule_no_image_is_ood_but_p_values_are_shown(policies):
    found = policies("plain").decide(np.array([1.0]), np.array([-99.0]))[0]
    assert (found.decision, found.p_value) == ("accept", pytest.approx(1 / 401))


def test_where_nothing_is_attainable_nothing_is_accepted_and_ood_images_are_still_told(
    policies,
):
    policy = policies("nothing attainable")
    assert decisions(policy, [1.0, 1.0], [9.0, -99.0]) == ["defer", "ood"]
    assert "no threshold keeps" in policy.decide(np.array([1.0]), np.array([9.0]))[0].reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("score", "likeness"), [(np.nan, 9.0), (np.inf, 9.0), (-np.inf, 9.0)])
def test_a_score_that_is_not_finite_is_deferred(kind, score, likeness, policies):
    assert decisions(policies(kind), [score], [likeness]) == ["defer"]


def test_an_undefined_familiarity_is_deferred_where_it_counts(policies):
    assert decisions(policies("everything"), [1.0], [np.nan]) == ["defer"]
    assert decisions(policies("plain"), [1.0], [np.nan]) == ["accept"]
    assert policies("plain").decide(np.array([1.0]), np.array([np.nan]))[0].p_value is None


def test_reasons_name_the_error_and_its_limit_where_they_are_known(policies):
    policy = policies("plain", error_limit=0.12)
    at = policy.accept_threshold
    deferred, accepted = policy.decide(np.array([at - 0.1, 1.0]), None, np.array([0.31, 0.02]))
    expected = "probability of error 0.31 is above 0.12, up to which answers are accepted"
    assert deferred.reason == expected
    assert accepted.reason.startswith("probability of error 0.02 is within 0.12")


def test_a_reason_never_contradicts_its_decision(policies):
    policy = policies("plain", error_limit=0.12)
    found = policy.decide(np.array([1.0]), None, np.array([0.5]))[0]
    assert (found.decision, "score 1.00 is at least" in found.reason) == ("accept", True)


def test_a_reason_of_a_ood_image_says_how_unusual_it_is(policies):
    policy = policies("everything")
    third = sorted(policy.calibration_ood_scores)[2]
    reason = policy.decide(np.array([1.0]), np.array([third + 1e-9]))[0].reason
    assert reason.endswith("all but 0.75 % of the calibration cases (p = 0.01)")


def test_a_missing_familiarity_is_refused(policies):
    with pytest.raises(UsageError, match="ood_scores is missing; give the confidences of knn"):
        policies("everything").decide(np.array([1.0]))


@pytest.mark.usefixtures("as_in_use")
def test_columns_of_other_lengths_are_refused(policies):
    with pytest.raises(UsageError, match="expected_errors has length 2 but scores has length 1"):
        policies("plain").decide(np.zeros(1), None, np.zeros(2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_comes_back_from_its_file_as_it_was(kind, policies, tmp_path):
    policy = policies(kind, error_limit=0.1)
    policy.save(tmp_path / "policy.json")
    loaded = DeferralPolicy.load(tmp_path / "policy.json")
    assert loaded == policy
    assert loaded.sentences() == policy.sentences()
    json.loads((tmp_path / "policy.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_of_before_calibration_cases_were_kept_is_read_without_them(kind, policies):
    policy = policies(kind)
    content = {name: of for name, of in policy.to_dict().items() if name != "checksum"} | {
        "format": 1
    }
    del content["calibration"]["evidence"]
    loaded = DeferralPolicy.from_dict({**content, "checksum": checksum(content)})
    assert loaded == replace(policy, calibration=replace(policy.calibration, evidence=None))
    monitor = DriftMonitor(loaded)
    assert [test.name for test in monitor.tests] == ["familiarity"]
    assert monitor.missing == ["the policy keeps no calibration scores; calibrate again"]


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


def test_another_order_and_spacing_is_no_change(policies, tmp_path):
    policy = policies("everything")
    content = dict(reversed(policy.to_dict().items()))
    (tmp_path / "policy.json").write_text(json.dumps(content, indent=7))
    assert DeferralPolicy.load(tmp_path / "policy.json") == policy


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"checksum": NaN}', "[" * 100_000, "\udcff"],
    ids=["empty", "cut off", "list", "number", "no checksum", "NaN", "deep", "bytes"],
)
def test_a_file_that_is_no_policy_is_refused(text, tmp_path):
    (tmp_path / "policy.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"policy\.json: is not a policy"):
        DeferralPolicy.load(tmp_path / "policy.json")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"policy\.json: cannot be read \(No such file"):
        DeferralPolicy.load(tmp_path / "policy.json")


def test_content_that_is_no_policy_is_refused_although_its_checksum_is_right():
    content = {"format": 1, "calibration": {"accept_threshold": None}}
    with pytest.raises(DataError, match="policy: is not a policy"):
        DeferralPolicy.from_dict({**content, "checksum": checksum(content)})


def test_another_model_is_refused(policies):
    policies("plain").refuse_other_model("a" * 64)
    with pytest.raises(DataError, match=r"calibrated for the model a{12}, not for c{12}; run"):
        policies("plain").refuse_other_model("c" * 64)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("everything", "Of the answers that are accepted, at most 15 % are wrong"),
        ("everything", "Of cases of MEL, at most 20 % are accepted as another class"),
        ("everything", "at most 10 % are called OOD"),
        ("everything", "all targets together hold with a confidence of 95 %"),
        ("everything", "if nothing but the mix of classes changes"),
        ("accepts all", "The score defers nothing"),
        ("plain", "the promise holds with a confidence of 95 %"),
        ("nothing attainable", "Every answer is deferred"),
        (
            "nothing attainable",
            "these cases would certify with the targets for classes kept is",
        ),
        ("nothing attainable", "chosen after looking at these cases is no promise"),
    ],
)
def test_the_sentences_say_it(kind, told, policies):
    assert any(told in sentence for sentence in policies(kind).sentences())


def test_a_class_rate_that_no_threshold_keeps_is_named(drawn_cases, classes, policies):
    cases = replace(drawn_cases(400, 2), wrong=np.ones(400, dtype=bool))
    asked = Targets(max_error=0.1, class_max_miss={"MEL": 0.03})
    found = calibrate(drawn_cases(300, 1), cases, asked, classes=classes)
    lines = replace(policies("plain"), calibration=found).sentences()
    assert any("Of cases of MEL, 3 % cannot be promised at any threshold" in of for of in lines)
    assert not any("share of errors" in of for of in lines)  # the class is what fails
