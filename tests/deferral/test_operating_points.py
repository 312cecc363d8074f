from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from misgiving.deferral import Targets, calibrate
from misgiving.deferral.multiple_testing import candidate_thresholds
from misgiving.deferral.operating_points import Evidence
from misgiving.deferral.plan import Plan

CLASSES = ("NV", "MEL", "BCC")
WORST = 0.6
OOD = Targets(max_error=0.1, max_ood_false_alarms=0.1)


@pytest.fixture
def found(drawn_cases, classes):
    return calibrate(drawn_cases(300, 1), drawn_cases(400, 2), OOD, classes=classes)


def test_every_setting_is_counted_and_bounded_as_by_scalar_loops(found, drawn_cases):
    cases, of = drawn_cases(400, 2), found.evidence
    for setting in of.settings(confidence=0.9):
        rows = [
            wrong
            for score, likeness, wrong in zip(
                cases.scores, cases.ood_scores, cases.wrong, strict=True
            )
            if score >= setting.threshold and likeness > found.ood_threshold
        ]
        assert (setting.accepted, setting.wrong) == (len(rows), sum(rows))
        assert setting.coverage == len(rows) / 400
        assert setting.error == sum(rows) / len(rows)
        level = stats.binom.cdf(sum(rows), len(rows), setting.bound)
        assert level == pytest.approx(0.1 / len(of.thresholds), rel=1e-6)


def test_the_setting_of_the_policy_accepts_what_the_policy_accepts(found):
    (own,) = [
        one
        for one in found.evidence.settings(confidence=0.95)
        if one.threshold == found.accept_threshold
    ]
    assert (own.accepted, own.wrong) == (found.accepted, found.wrong)


def test_a_setting_that_accepts_nothing_is_bounded_by_nothing():
    evidence = Evidence(
        thresholds=(0.9, -np.inf), scores=(0.5, 0.4), wrong=(False, True), kept=(True, True)
    )
    strict, _ = evidence.settings(confidence=0.95)
    assert (strict.accepted, strict.error, strict.bound) == (0, None, 1.0)


def share_exceeded(drawn_cases, *, draws, size, confidence, thresholds):
    """Share of calibration sets for which the true error exceeds the bound of any setting.

    Scores are uniform and the risk at s is WORST (1 - s)^2, so that the error from t on is
    WORST (1 - t)^2 / 3.
    """
    exceeded, all_kept = 0, np.ones(size, dtype=bool)
    for seed in range(draws):
        evidence = Evidence.of(thresholds, drawn_cases(size, seed), all_kept)
        settings = evidence.settings(confidence=confidence)
        true = [WORST * (1 - max(one.threshold, 0.0)) ** 2 / 3 for one in settings]
        exceeded += any(error > one.bound for error, one in zip(true, settings, strict=True))
    return exceeded / draws


def test_no_setting_exceeds_its_bound_in_more_draws_than_the_confidence_allows(drawn_cases):
    thresholds = np.array([0.6, 0.4, 0.2, -np.inf])
    share = share_exceeded(drawn_cases, draws=1000, size=200, confidence=0.4, thresholds=thresholds)
    assert 0.2 < share <= 0.6


@pytest.mark.soak
@pytest.mark.parametrize("size", [60, 300, 1000])
def test_bounds_hold_at_once_in_many_draws(size, drawn_cases):
    thresholds = candidate_thresholds(drawn_cases(300, 10**6).scores)
    share = share_exceeded(
        drawn_cases, draws=10_000, size=size, confidence=0.95, thresholds=thresholds
    )
    assert share <= 0.05


def test_the_share_that_is_accepted_lies_in_its_interval_whatever_was_chosen(drawn_cases):
    plan = Plan.of(drawn_cases(300, 10**6), OOD, classes=CLASSES, cases=150)
    missed = chosen = 0
    for seed in range(300):
        cases = drawn_cases(150, seed)
        counts = plan.count(cases)
        threshold = float(plan.thresholds[plan.position(counts)])
        evidence = Evidence.of(plan.thresholds, cases, counts.kept)
        low, high = evidence.acceptance(threshold, ood_rule=True, level=0.1)
        true = (1 - max(threshold, 0.0)) * stats.norm.sf(float(counts.limit))
        missed += not low <= true <= high
        chosen += threshold > 0
    assert missed <= 0.1 * 300
    assert chosen > 50


def test_the_limit_case_is_no_case_of_the_interval_and_the_level_is_shared(found):
    alone = found.evidence.acceptance(found.accept_threshold, ood_rule=False, level=0.1)
    ruled = found.evidence.acceptance(found.accept_threshold, ood_rule=True, level=0.1)
    each = 0.1 / (len(found.evidence.thresholds) * 400)
    assert stats.binom.cdf(found.accepted, 399, ruled.upper) == pytest.approx(each / 2, rel=1e-6)
    assert ruled.lower < alone.lower < found.accepted / 400 < alone.upper < ruled.upper


def test_evidence_tells_no_order_of_the_cases(found, drawn_cases, classes):
    turned = drawn_cases(400, 2)[np.arange(400)[::-1]]
    again = calibrate(drawn_cases(300, 1), turned, OOD, classes=classes)
    assert replace(again.evidence, wrong=()) == replace(found.evidence, wrong=())
    assert list(found.evidence.scores) == sorted(found.evidence.scores, reverse=True)
