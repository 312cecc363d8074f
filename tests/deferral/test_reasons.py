"""Reasons of decisions, by a policy that is certified on drawn cases."""

import math
from dataclasses import replace

import numpy as np
import pytest
from policies import decided, policy_with

from misgiving.deferral.decisions import (
    ALL_ACCEPTED,
    AT_OOD_THRESHOLD,
    NO_THRESHOLD,
    NOT_FINITE,
    SURPASSED,
    Decision,
)
from misgiving.deferral.rules import DecisionRule
from misgiving.deferral.scored_cases import ScoredCases
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import certify_thresholds


def cases(seed, count=400):
    random = np.random.default_rng(seed)
    scores = random.uniform(size=count)
    return ScoredCases(
        scores=scores,
        ood_scores=random.normal(size=count),
        wrong=random.random(count) < 0.4 * (1 - scores),
        labels=random.integers(2, size=count),
    )


@pytest.fixture(scope="module")
def certificate():
    targets = Targets(max_error=0.15, max_ood_false_alarms=0.1)
    return certify_thresholds(cases(0), cases(1), targets, classes=("a", "b"))


def reason(
    certificate, *, score=1.0, ood_score=9.0, error=math.nan, scaled=0, detector="knn", **rule
):
    """The reason for what a policy with this certificate decides."""
    limit = rule.pop("limit", 0.12)
    deferral = policy_with(certificate, ood_detector=detector, rule=DecisionRule(**rule))
    return decided(deferral, score, ood_score, error, scaled=scaled, error_limit=limit).reason


@pytest.mark.parametrize(
    ("detector", "expected"),
    [
        ("knn", "less like the training images than all calibration cases (p = 0.0025)"),
        ("max_logit", "lower OOD score than all calibration cases (p = 0.0025)"),
        ("predicted_loss", "lower OOD score than all calibration cases (p = 0.0025)"),
    ],
)
def test_only_a_detector_of_training_features_speaks_of_training_images(
    certificate, detector, expected
):
    assert reason(certificate, ood_score=-9.0, detector=detector) == expected


def test_reasons_name_the_error_and_its_limit_where_they_are_known(certificate):
    assert "0.31 is above 0.12" in reason(certificate, score=0.0, error=0.31)
    assert "0.02 is within 0.12" in reason(certificate, score=1.0, error=0.02)


def test_a_reason_never_contradicts_its_decision(certificate):
    assert "score 1.00 is at least" in reason(certificate, score=1.0, error=0.5)
    assert "score 0.00 is below" in reason(certificate, score=0.0, error=0.01)


def test_without_an_error_limit_the_reason_is_the_score(certificate):
    assert "score 0.00 is below" in reason(certificate, score=0.0, error=0.4, limit=None)


def test_the_reason_for_an_ood_image_says_how_unusual_it_is(certificate):
    third = sorted(certificate.ood_scores)[2]
    assert "all but 0.75 % of the" in reason(certificate, ood_score=third + 1e-9)
    assert "(p = 0.01)" in reason(certificate, ood_score=third + 1e-9)
    assert "than all calibration cases" in reason(certificate, ood_score=-99.0)


def test_scores_that_are_missing_or_exactly_at_the_limit_are_named(certificate):
    assert reason(certificate, score=math.nan) == NOT_FINITE
    assert reason(certificate, ood_score=math.nan) == NOT_FINITE
    assert reason(certificate, ood_score=certificate.ood_threshold) == AT_OOD_THRESHOLD


@pytest.mark.parametrize(
    ("threshold", "expected"), [(None, NO_THRESHOLD), (-math.inf, ALL_ACCEPTED)]
)
def test_a_policy_that_accepts_nothing_or_everything_says_so(certificate, threshold, expected):
    assert reason(replace(certificate, accept_threshold=threshold)) == expected


def test_an_answer_that_is_more_likely_wrong_than_right_is_deferred_whatever_its_score(certificate):
    assert "0.62 is above 0.50" in reason(certificate, score=1.0, error=0.62)
    everything = replace(certificate, accept_threshold=-math.inf)
    assert "0.62 is above 0.50" in reason(everything, error=0.62)
    accepted = reason(certificate, score=1.0, error=0.62, max_error_probability=0.7)
    assert "score 1.00 is at least" in accepted


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("balanced", "relative to its share"),
        ("costs", "because missing it costs 10, and missing b 1"),
        ("logits", "largest logit"),
        ("most_probable", "by the calibrated classifier alone"),
    ],
)
def test_the_reason_says_why_another_class_than_the_most_probable_is_named(
    certificate, rule, words
):
    ruled = {"rule": rule, "costs": {"a": 10.0} if rule == "costs" else {}}
    said = reason(certificate, score=0.0, error=0.8, scaled=1, **ruled)
    assert words in said
    assert "b is more probable" in said
    assert words not in reason(certificate, score=0.0, error=0.2, scaled=1, **ruled)


@pytest.mark.parametrize("rule", ["balanced", "costs"])
def test_a_rule_that_did_not_change_the_name_is_not_its_reason(certificate, rule):
    """The class named was the most probable one until the error estimator lowered it."""
    ruled = {"rule": rule, "costs": {"b": 2.0} if rule == "costs" else {}}
    said = reason(certificate, score=0.0, error=0.8, **ruled)
    assert "a is named by the calibrated classifier alone, though b is more probable" in said


def test_an_image_that_is_never_accepted_is_not_deferred_for_want_of_a_threshold(certificate):
    nothing = replace(certificate, accept_threshold=None)
    assert "0.62 is above 0.50" in reason(nothing, error=0.62)
    assert reason(nothing, error=0.3) == NO_THRESHOLD


def test_an_answer_that_another_class_surpasses_is_deferred_for_that(certificate):
    deferral = policy_with(certificate, rule=DecisionRule(max_error_probability=0.9))
    one = decided(deferral, 1.0, 9.0, 0.6, decisions=np.array(["defer"]))
    assert SURPASSED in one.reason


def test_the_probability_is_that_of_the_predicted_class():
    decision = Decision("defer", "b", {"a": 0.7, "b": 0.3}, *[None] * 2, "why", *[None] * 4)
    assert decision.probability == 0.3
