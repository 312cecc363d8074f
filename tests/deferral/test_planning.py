import math
from dataclasses import replace

import numpy as np
import pytest
from policies import certificate_of, certify, drawn_cases, with_errors
from scipy.stats import beta

from misgiving.deferral.certify import find_remedies
from misgiving.deferral.guarantees import GUARANTEES
from misgiving.deferral.planning import WRONG_SHARES, plan_certification
from misgiving.deferral.targets import Targets
from misgiving.errors import UsageError


def planned(targets, **cases):
    """The outlook for so many images of each class, each alone in its group."""
    labels = np.repeat(np.arange(len(cases)), list(cases.values()))
    units, names = np.arange(len(labels)), tuple(cases)
    return plan_certification(labels, units, names, targets, GUARANTEES["confident"])


def bound(wrong, cases, level):
    return 1.0 if wrong == cases else beta.isf(level, wrong + 1, cases - wrong)


def test_the_confident_rates_are_bounds_of_clopper_and_pearson():
    targets = Targets(max_error=0.1, class_max_miss={"MEL": 0.2})
    outlook = planned(targets, NV=264, MEL=32, BCC=72)
    assert (outlook.total, outlook.cases["MEL"], outlook.images["MEL"]) == (368, 32, 32)
    for share, rate in zip(WRONG_SHARES, outlook.error["confident"], strict=True):
        expected = bound(math.ceil(share * 368), 368, 0.5 * 0.15 * 0.05)
        assert (rate.wrong_share, rate.smallest) == (share, pytest.approx(expected))
    assert outlook.classes["MEL"]["confident"][0].smallest == pytest.approx(
        bound(0, 32, 0.85 * 0.05)
    )
    with pytest.raises(UsageError):
        planned(Targets(max_error=0.1, class_max_miss={"ELM": 0.1}), NV=264, MEL=32)


def test_the_average_rates_count_one_case_more_that_is_wrong_for_each_class_counted_apart():
    outlook = planned(Targets(max_error=0.1, class_max_miss={"MEL": 0.2}), NV=264, MEL=32, BCC=72)
    for rates, parts, wrong, cases in (
        (outlook.error, 2, [0, 4, 12, 19], 369),
        (outlook.accepted_half, 2, [0, 2, 6, 10], 184.5),
        (outlook.classes["MEL"], 1, [0, 1, 1, 2], 33),
    ):
        expected = [(parts + count) / cases for count in wrong]
        assert [rate.smallest for rate in rates["average"]] == pytest.approx(expected)
    assert planned(Targets(max_error=0.1), a=5).error["average"][0].more == 4
    two = planned(Targets(max_error=0.1, class_max_miss={"a": 0.5}), a=5, b=0)
    assert two.error["average"][0].more == 14  # (2 + 0) / (19 + 1) = 0.1


def test_silent_errors_are_counted_among_all_cases_at_a_level_of_their_own():
    for targets, level in (
        (Targets(max_silent_error=0.02), 0.05),
        (Targets(max_error=0.1, max_silent_error=0.02), 0.85 * 0.05),
    ):
        (none, *_) = planned(targets, a=100).silent["confident"]
        assert none.smallest == pytest.approx(bound(0, 100, level))
        fewest = 100 + none.more
        assert bound(0, fewest, level) <= 0.02 < bound(0, fewest - 1, level)
    assert not planned(Targets(max_silent_error=0.02), a=100).error


def test_one_image_of_each_group_counts():
    labels, units = np.array([0, 0, 0, 1]), np.array([7, 7, 8, 9])
    targets, guarantee = Targets(max_error=0.5), GUARANTEES["confident"]
    outlook = plan_certification(labels, units, ("a", "b"), targets, guarantee)
    assert (outlook.images, outlook.cases) == ({"a": 3, "b": 1}, {"a": 2, "b": 1})


@pytest.mark.parametrize("target", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("accepted", [1, 2], ids=["all accepted", "half accepted"])
def test_so_many_more_cases_are_needed_and_no_fewer(target, accepted):
    outlook = planned(Targets(max_error=target), a=40)
    by_guarantee = outlook.error if accepted == 1 else outlook.accepted_half
    for rate in by_guarantee["confident"]:
        if rate.wrong_share >= target:
            assert rate.more is None
            continue

        def certified(more, share=rate.wrong_share):
            cases = (40 + more) // accepted
            return bound(math.ceil(share * cases - 1e-9), cases, 0.5 * 0.05) <= target

        assert all(certified(rate.more + further) for further in range(300))
        assert rate.more == 0 or not certified(rate.more - 1)


def test_no_more_cases_are_needed_where_the_target_is_certified_and_none_that_nobody_has():
    for rate in planned(Targets(max_error=0.057), a=200).error["confident"][:2]:
        assert rate.smallest <= 0.057
        assert rate.more == 0
    rates = planned(Targets(max_error=0.0301), a=180).error["confident"]
    assert [rate.more is None for rate in rates] == [False, False, True, True]


def test_calibration_certifies_the_planned_rate_where_no_case_is_wrong():
    smallest = planned(Targets(max_error=0.5), a=200).error["confident"][0].smallest
    right = np.zeros(200, dtype=bool)
    sets = [with_errors(drawn_cases(200, seed), right) for seed in (0, 1)]
    targets = Targets(max_error=math.ceil(1000 * smallest) / 1000, max_ood_false_alarms=None)
    assert certify(*sets, targets).accepted == 200
    below = replace(targets, max_error=0.8 * smallest)
    assert certify(*sets, below).accept_threshold == np.inf


def test_an_ood_limit_needs_as_many_cases_as_scipys_beta_distribution_says():
    # the share below the k-th lowest of n cases is Beta(k, n - k + 1)
    def rank(cases):
        ranks = np.arange(1, cases + 1)
        return int((beta.sf(0.05, ranks, cases - ranks + 1) <= 0.05).sum())

    first, half = planned(Targets(max_error=0.1), a=40).ood_cases
    assert [rank(first - 1), rank(first)] == [0, 1]
    assert rank(half - 1) / half < 0.025 <= rank(half) / (half + 1)
    outlooks = [planned(Targets(max_error=0.1), a=cases) for cases in (first - 1, first, 400)]
    assert [outlook.ood_rank for outlook in outlooks] == [None, 1, rank(400)]


def test_ways_out_are_more_cases_another_target_and_the_other_guarantee():
    targets = Targets(max_error=0.02, max_ood_false_alarms=None)
    right = [with_errors(drawn_cases(60, seed), np.zeros(60, dtype=bool)) for seed in (0, 1)]
    few = certify(*right, targets)
    remedies = find_remedies(few)
    # all are accepted, and half a case more than none of 60 is wrong
    needed = next(n for n in range(60, 999) if bound(n * 0.5 / 60.5, n, 0.5 * 0.05) <= 0.02)
    assert 60 + remedies["more_cases"] == pytest.approx(needed, rel=0.03)
    fewest = next(n for n in range(60, 999) if bound(0, n, 0.5 * 0.05) <= 0.02)
    assert 60 + remedies["fewest_cases"] == pytest.approx(fewest, rel=0.03)
    assert remedies["higher_target"] == few.smallest_certifiable.max_error > 0.02
    assert remedies["average_guarantee"] == few.accepted_on_average > 0
    assert "better_model" not in remedies
    silent = Targets(max_error=None, max_silent_error=0.001, max_ood_false_alarms=None)
    remedies = find_remedies(certify(*right, silent))
    needed_in_silence = math.ceil(math.log(0.05) / math.log(0.999))  # without an error
    assert 60 + remedies["more_cases"] == pytest.approx(needed_in_silence, rel=0.03)
    enough = with_errors(drawn_cases(needed, 2), np.zeros(needed, dtype=bool))
    certificate = certify(right[0], enough, targets)
    assert (certificate.accepted, find_remedies(certificate)) == (needed, {})


def test_a_model_is_too_weak_where_the_most_confident_half_has_more_errors_than_the_target():
    targets, cases = Targets(max_error=0.01, max_ood_false_alarms=None), drawn_cases(400, 2)
    error = cases.wrong[np.argsort(-cases.scores)[:200]].mean()
    assert find_remedies(certificate_of(targets))["better_model"] == error > 0.01
