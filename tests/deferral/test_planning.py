import math

import numpy as np
import pytest
from scipy.stats import beta

from misgiving.deferral.planning import WRONG_SHARES, plan_certification
from misgiving.deferral.scored_cases import ScoredCases
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import certify_thresholds
from misgiving.errors import UsageError

CASES = {"NV": 264, "MEL": 32, "BCC": 72}


def bound(wrong, cases, level):
    return 1.0 if wrong == cases else beta.isf(level, wrong + 1, cases - wrong)


def test_the_rates_are_bounds_of_clopper_and_pearson():
    targets = Targets(max_error=0.1, class_max_miss={"MEL": 0.2})
    found = plan_certification(CASES, targets)
    assert found.cases == 368
    for share, rate in zip(WRONG_SHARES, found.error, strict=True):
        expected = bound(math.ceil(share * 368), 368, 0.9 * 0.025)
        assert (rate.wrong_share, rate.smallest) == (share, pytest.approx(expected))
    (of,) = found.classes
    assert (of.name, of.cases) == ("MEL", 32)
    assert of.rates[0].smallest == pytest.approx(bound(0, 32, 0.025))


@pytest.mark.parametrize("target", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("accepted", [1, 2], ids=["all accepted", "half accepted"])
def test_so_many_more_cases_are_needed_and_no_fewer(target, accepted):
    found = plan_certification({"a": 40}, Targets(max_error=target))
    for rate in found.error if accepted == 1 else found.accepted_half:
        if rate.wrong_share >= target:
            assert rate.more is None
            continue

        def certified(more, share=rate.wrong_share):
            cases = (40 + more) // accepted
            return bound(math.ceil(share * cases - 1e-9), cases, 0.9 * 0.05) <= target

        assert all(certified(rate.more + further) for further in range(300))
        assert rate.more == 0 or not certified(rate.more - 1)


def test_no_more_cases_are_needed_where_the_target_is_certified():
    for rate in plan_certification({"a": 100}, Targets(max_error=0.057)).error[:2]:
        assert rate.smallest <= 0.057
        assert rate.more == 0


def test_a_number_of_cases_that_nobody_has_is_not_searched():
    found = plan_certification({"a": 180}, Targets(max_error=0.0301)).error
    assert [rate.more is None for rate in found] == [False, False, True, True]


def test_calibration_certifies_the_planned_rate_where_no_case_is_wrong():
    smallest = plan_certification({"a": 200}, Targets(max_error=0.5)).error[0].smallest
    random = np.random.default_rng(0)
    tuning, calibration = (
        ScoredCases(
            scores=random.random(size),
            wrong=np.zeros(size, dtype=bool),
            labels=np.zeros(size, dtype=int),
        )
        for size in (200, 200)
    )
    targets = Targets(max_error=math.ceil(1000 * smallest) / 1000)
    assert certify_thresholds(tuning, calibration, targets, classes=("a",)).accepted == 200
    below = Targets(max_error=0.8 * smallest)
    assert certify_thresholds(tuning, calibration, below, classes=("a",)).accept_threshold is None


def test_ood_false_alarms_need_as_many_cases_as_calibration_asks_for():
    targets = Targets(max_error=0.1, max_ood_false_alarms=0.05, simultaneous=False)
    assert plan_certification(CASES, targets).ood_cases == 59


def test_a_target_of_an_unknown_class_is_refused():
    with pytest.raises(UsageError, match=r"ELM.*NV, MEL, BCC"):
        plan_certification(CASES, Targets(max_error=0.1, class_max_miss={"ELM": 0.1}))
