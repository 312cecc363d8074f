import json
from dataclasses import replace

import numpy as np
import pytest
from policies import certificate_of, outcomes, policy_with, write

from misgiving import Deferral
from misgiving.calibration.apply import Scaling
from misgiving.deferral.outcomes import ClassErrors, ClassOutcome
from misgiving.deferral.policy_file import PolicyFile
from misgiving.deferral.sentences import certificate_sentences, three_digits
from misgiving.deferral.targets import DecisionRule, Targets
from misgiving.errors import DataError
from misgiving.files import sha256_of_json

EVERYTHING = Targets(max_error=0.15, class_max_miss={"MEL": 0.2}, max_ood_false_alarms=0.1)
KINDS = {
    "everything": EVERYTHING,
    "plain": Targets(max_error=0.1, max_ood_false_alarms=None),
    "accepts all": Targets(max_error=0.9),
    "average": Targets(max_error=0.15, max_silent_error=0.1),
    "nothing attainable": replace(EVERYTHING, max_error=0.001),
}
CERTIFICATES = {
    kind: certificate_of(targets, guarantee="average" if kind == "average" else "confident")
    for kind, targets in KINDS.items()
}


def test_a_score_of_single_precision_is_compared_as_it_is():
    at, ones = CERTIFICATES["plain"].accept_threshold, np.ones(1)
    narrow = np.float32(at)
    assert float(narrow) != at
    found = outcomes(CERTIFICATES["plain"], np.array([narrow]), ones, ones > 0, at)
    assert found.tolist() == ["accept" if float(narrow) >= at else "defer"]


def test_without_an_ood_rule_no_image_is_ood_but_p_values_are_given():
    certificate, ood_scores = CERTIFICATES["plain"], np.array([-99.0, np.nan])
    ones = np.ones(2)
    assert outcomes(certificate, ones, ood_scores, ones > 0).tolist() == ["accept", "accept"]
    assert certificate.ood_p_values(ood_scores).tolist() == pytest.approx(
        [1 / 401, np.nan], nan_ok=True
    )


@pytest.fixture
def content(tmp_path):
    """The content of a policy file, without its checksum."""
    write(policy_with(CERTIFICATES["everything"], ood_detector="max_logit"), tmp_path)
    content = json.loads((tmp_path / "policy.json").read_text())
    del content["checksum"]
    return content


def test_only_the_layout_of_a_file_may_change_and_only_its_format_is_read(content, tmp_path):
    (policy, _), path = PolicyFile.read(tmp_path), tmp_path / "policy.json"
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items())), indent=7))
    assert PolicyFile.read(tmp_path)[0] == policy
    other = content | {"format": 2}
    path.write_text(json.dumps({**other, "checksum": sha256_of_json(other)}))
    with pytest.raises(DataError):
        PolicyFile.read(tmp_path)


def test_a_policy_that_cannot_decide_is_refused_when_it_is_read(tmp_path):
    deferral = policy_with(CERTIFICATES["everything"], ood_detector="max_logit")
    two_biases = Scaling(temperature=1.0, biases=(0.0, 0.0))
    calibration = replace(deferral.calibration_, scaling=two_biases)
    deferral.policy_ = replace(deferral.policy_, calibration=calibration)
    write(deferral, tmp_path)
    with pytest.raises(DataError):
        Deferral.load(tmp_path)


COST_WORDS = "missing MEL costs 10, missing NV costs 0.5 and missing any other class costs 1."


@pytest.mark.parametrize(
    ("kind", "rule", "fields", "said"),
    [
        ("everything", {}, {}, ["at most 20 % of MEL cases", "targets of errors together hold"]),
        ("accepts all", {}, {}, ["every acceptable prediction accepted", "the target of errors"]),
        ("nothing attainable", {}, {}, ["Every prediction is deferred", "not certified"]),
        ("average", {}, {}, ["On average, at most 15 % of the accepted", "batches of at least 50"]),
        ("average", {}, {}, ["On average, at most 10 % of all cases are accepted with a wrong"]),
        ("plain", {}, {"unit": "patient"}, ["For one case of each patient,"]),
        ("plain", {"costs": {"MEL": 10.0, "NV": 0.5}}, {}, [COST_WORDS]),
        ("plain", {"max_error_probability": 0.7}, {}, ["Warning: answers that are more"]),
    ],
)
def test_the_summary_names_what_is_certified_and_what_weakens_it(kind, rule, fields, said):
    policy = policy_with(CERTIFICATES[kind], rule=DecisionRule(**rule), **fields)
    lines = certificate_sentences(policy)
    assert all(any(words in line for line in lines) for words in said), lines
    plain = certificate_sentences(policy_with(CERTIFICATES[kind]))
    assert not any("Warning" in line for line in plain)


MISSED = ClassErrors(
    name="MEL", cases=29, missed=25, missed_bound=0.9, predicted=8, wrong=4, wrong_bound=0.8,
    confused_with="NV",
)  # fmt: skip
LIMIT = ClassOutcome(name="MEL", rate=0.1, cases=29, missed=0, smallest_certifiable_rate=0.1031)
MET = replace(LIMIT, smallest_certifiable_rate=0.09)
OPTION = "`class_max_miss={'MEL': 0.1}`"


@pytest.mark.parametrize("brief", [False, True])
@pytest.mark.parametrize(
    ("limit", "accepted", "says"),
    [
        (MET, 100, f" With {OPTION}, 25 % of the cases would be accepted instead of ALL. "
                   "Certify this target with new cases."),
        (MET, 0, f" With {OPTION}, no threshold would meet all targets."),
        (LIMIT, 0, f" {OPTION} cannot be certified with these 29 cases (smallest: 10.4 %)."),
        (None, 0, ""),
    ],
)  # fmt: skip
def test_a_failing_class_comes_first_with_what_would_limit_it(limit, accepted, says, brief):
    plain = CERTIFICATES["plain"]
    first = replace(MISSED, limit=limit, accepted_with_limit=accepted)
    others = [replace(MISSED, name=f"no. {number}", missed=20) for number in range(6)]
    policy = policy_with(replace(plain, class_errors=(first, *others)))
    lines = certificate_sentences(policy, brief=brief)
    assert lines[0] == (
        "Warning: 25 of 29 MEL cases are accepted as another class, and 4 of 8 cases accepted as "
        "MEL are of another class, most often NV."
        + says.replace("ALL", three_digits(plain.accepted / plain.cases))
    )
    assert sum(line.startswith("Warning: 20 of 29 no. ") for line in lines) == 4
    assert lines[5] == "Warning: more classes are often missed or wrong: no. 4, no. 5."
    assert not any("Worst class" in line for line in lines)
