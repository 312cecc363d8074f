"""`max_deferred`: the threshold is a rank of scores without labels, and the error is bounded."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from policies import WORST, certify, drawn_cases, outputs

from misgiving import Deferral
from misgiving.deferral.decision_tables import with_reviews
from misgiving.deferral.targets import Targets
from misgiving.errors import UsageError

UNUSED = drawn_cases(20, 1000)  # no label chooses the threshold
ALONE = Targets(max_deferred=0.3, max_ood_false_alarms=None)


@pytest.mark.parametrize("guarantee", ["confident", "average"])
def test_the_share_that_is_deferred_and_the_error_of_the_accepted_hold(guarantee):
    """Scores are uniform, so the share below a threshold is the threshold itself."""
    shares, broken = [], 0
    for seed in range(200):
        certificate = certify(UNUSED, drawn_cases(120, seed), ALONE, guarantee)
        shares.append(certificate.accept_threshold)
        broken += WORST * (1 - shares[-1]) ** 2 / 3 > certificate.error_bound
    assert broken <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)
    if guarantee == "average":
        assert np.mean(shares) == pytest.approx(35 / 121, abs=3 * 0.042 / 14)
        return
    assert sum(share > 0.3 for share in shares) <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)
    assert np.mean(shares) > 0.2  # and not much less is deferred


def test_of_equal_scores_all_are_deferred_or_none():
    cases = drawn_cases(100, 0)
    tied = replace(cases, scores=np.repeat([0.1, 0.5, 0.9], [15, 30, 55]))
    certificate = certify(UNUSED, tied, Targets(max_deferred=0.4, max_ood_false_alarms=None))
    assert certificate.capacity.most == 31  # of 100 at 40 % (Wilks)
    assert 0.1 < certificate.accept_threshold <= 0.5
    assert (certificate.accepted, certificate.capacity.accepted) == (85, 85)
    assert certificate.wrong == tied.wrong[15:].sum()


@pytest.mark.parametrize("guarantee", ["confident", "average"])
def test_the_share_holds_where_scores_are_tied(guarantee):
    """A quarter of the images has the lowest score, and a twentieth more the next one."""
    shares = []
    for seed in range(200):
        cases = drawn_cases(120, seed)
        scores = np.random.default_rng(seed).choice([0.1, 0.2, 0.9], size=120, p=[0.25, 0.1, 0.65])
        certificate = certify(UNUSED, replace(cases, scores=scores), ALONE, guarantee)
        shares.append(
            0.25 * (certificate.accept_threshold > 0.1) + 0.1 * (certificate.accept_threshold > 0.2)
        )
    if guarantee == "average":
        assert np.mean(shares) <= 0.3
    else:
        assert np.mean(np.array(shares) > 0.3) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_cases_that_are_never_accepted_count_as_deferred():
    cases = drawn_cases(200, 0)
    some = replace(cases, acceptable=np.arange(200) % 10 > 0)
    certificate = certify(UNUSED, some, ALONE)
    most = certificate.capacity.most
    assert certificate.cases - certificate.accepted == most
    many = replace(cases, acceptable=np.arange(200) % 2 > 0)
    certificate = certify(UNUSED, many, ALONE)
    assert (certificate.accept_threshold, certificate.accepted) == (-math.inf, 100)
    assert certificate.cases - certificate.capacity.accepted > certificate.capacity.most


def test_beside_a_target_of_errors_it_decides_nothing():
    cases = drawn_cases(400, 0)
    errors = Targets(max_error=0.1, max_ood_false_alarms=None)
    alone, both = (
        certify(cases, cases, targets) for targets in (errors, replace(errors, max_deferred=0.3))
    )
    assert both.accept_threshold == alone.accept_threshold > both.capacity.threshold
    assert (both.accepted, both.error_bound) == (alone.accepted, alone.error_bound)
    assert alone.capacity is None


def test_an_estimator_has_no_other_target_unless_it_is_given(tmp_path):
    deferral = Deferral(max_deferred=0.2).fit(outputs(200, 1), outputs(300, 2))
    assert deferral.certificate_.targets.max_error is None
    decisions = deferral.decide(outputs(2000, 3)[0])
    assert 0.1 < (decisions.decisions != "accept").mean() < 0.25
    deferral.save(tmp_path / "policy")
    assert Deferral.load(tmp_path / "policy").certificate_ == deferral.certificate_
    assert Deferral().fit(outputs(200, 1), outputs(300, 2)).certificate_.targets.max_error == 0.05
    with pytest.raises(UsageError, match=r"max_deferred. must be a number between 0 and 1"):
        Deferral(max_deferred=1.5).fit(outputs(200, 1), outputs(300, 2))


def test_the_least_certain_of_a_batch_are_left_for_people():
    given = ["accept", "defer", "accept", "ood", "accept", "accept", None]  # the last is damaged
    scores = [5.0, 1, 3, 9, 2, 4, None]
    table = pd.DataFrame({"decision": given, "acceptance_score": scores, "reason": "w"})
    left_of = {1: [0, 2, 4, 5], 2: [0, 2, 4, 5], 3: [0, 2, 5], 5: [0], 9: []}
    for reviews, accepted in left_of.items():
        left = with_reviews(table, reviews)
        assert left.index[left["decision"] == "accept"].tolist() == accepted
        assert left["decision"].isna().tolist() == [False] * 6 + [True]
    assert left["reason"][4] == "among the 9 least certain of these cases"
    assert table["decision"].tolist()[:6] == given[:6]
