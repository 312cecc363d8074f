import math

import numpy as np
import pytest
from policies import CLASSES, drawn_cases, with_errors
from scipy.stats import beta

from misgiving.deferral.certificate import certify_thresholds
from misgiving.deferral.planning import WRONG_SHARES, plan_certification
from misgiving.deferral.settings import Targets
from misgiving.errors import UsageError


def planned(targets, **cases):
    """The outlook for so many images of each class, each alone in its group."""
    labels = np.repeat(np.arange(len(cases)), list(cases.values()))
    return plan_certification(labels, np.arange(len(labels)), tuple(cases), targets)


def bound(wrong, cases, level):
    return 1.0 if wrong == cases else beta.isf(level, wrong + 1, cases - wrong)


def test_the_confident_rates_are_bounds_of_clopper_and_pearson():
    targets = Targets(max_error=0.1, class_max_miss={"MEL": 0.2})
    outlook = planned(targets, NV=264, MEL=32, BCC=72)
    assert (outlook.total, outlook.cases["MEL"], outlook.images["MEL"]) == (368, 32, 32)
    for share, rate in zip(WRONG_SHARES, outlook.error["confident"], strict=True):
        expected = bound(math.ceil(share * 368), 368, 0.5 * 0.2 * 0.05)
        assert (rate.wrong_share, rate.smallest) == (share, pytest.approx(expected))
    assert outlook.classes["MEL"]["confident"][0].smallest == pytest.approx(
        bound(0, 32, 0.8 * 0.05)
    )
    with pytest.raises(UsageError):
        planned(Targets(max_error=0.1, class_max_miss={"ELM": 0.1}), NV=264, MEL=32)


def test_the_average_rates_count_one_case_more_that_is_wrong():
    outlook = planned(Targets(max_error=0.1, class_max_miss={"MEL": 0.2}), NV=264, MEL=32, BCC=72)
    for rates, wrong, cases in (
        (outlook.error, [0, 4, 12, 19], 369),
        (outlook.accepted_half, [0, 2, 6, 10], 184.5),
        (outlook.classes["MEL"], [0, 1, 1, 2], 33),
    ):
        expected = [(1 + count) / cases for count in wrong]
        assert [rate.smallest for rate in rates["average"]] == pytest.approx(expected)
    assert planned(Targets(max_error=0.1), a=5).error["average"][0].more == 4


def test_one_image_of_each_group_counts():
    outlook = plan_certification(
        np.array([0, 0, 0, 1]), np.array([7, 7, 8, 9]), ("a", "b"), Targets(max_error=0.5)
    )
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
    targets = Targets(max_error=math.ceil(1000 * smallest) / 1000)
    assert certify_thresholds(*sets, targets, classes=CLASSES).accepted == 200
    below = Targets(max_error=0.8 * smallest)
    assert certify_thresholds(*sets, below, classes=CLASSES).accept_threshold is None


def test_ood_false_alarms_need_as_many_cases_as_calibration_asks_for():
    targets = Targets(max_error=0.1, max_ood_false_alarms=0.05, simultaneous=False)
    assert planned(targets, a=40).ood_cases == 59
