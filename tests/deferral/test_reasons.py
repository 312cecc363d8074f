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
from misgiving.deferral.settings import DecisionRule, Targets
from misgiving.deferral.thresholds import certify_thresholds


@pytest.fixture
def certificate(drawn_cases):
    targets = Targets(max_error=0.15, max_ood_false_alarms=0.1)
    return certify_thresholds(
        drawn_cases(400, 0), drawn_cases(400, 1), targets, classes=("a", "b", "c")
    )


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
def test_the_reason_for_an_ood_image_says_how_unusual_it_is(certificate, detector, expected):
    assert reason(certificate, ood_score=-9.0, detector=detector) == expected
    third = reason(certificate, ood_score=certificate.ood_scores[2] + 1e-9, detector=detector)
    assert "all but 0.75 % of the" in third
    assert "(p = 0.01)" in third


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({"score": 0.0, "error": 0.31}, "0.31 is above 0.12"),
        ({"score": 1.0, "error": 0.02}, "0.02 is within 0.12"),
        # the error would contradict the decision
        ({"score": 1.0, "error": 0.5}, "score 1.00 is at least"),
        ({"score": 0.0, "error": 0.01}, "score 0.00 is below"),
        ({"score": 0.0, "error": 0.4, "limit": None}, "score 0.00 is below"),
        # an answer that is more likely wrong than right is deferred whatever its score
        ({"score": 1.0, "error": 0.62}, "0.62 is above 0.50"),
        ({"score": 1.0, "error": 0.62, "max_error_probability": 0.7}, "score 1.00 is at least"),
        ({"score": math.nan}, NOT_FINITE),
        ({"ood_score": math.nan}, NOT_FINITE),
    ],
)
def test_a_reason_is_in_terms_of_the_number_that_decided(certificate, numbers, expected):
    assert expected in reason(certificate, **numbers)


def test_a_reason_names_a_limit_that_is_met_exactly_or_does_not_exist(certificate):
    assert reason(certificate, ood_score=certificate.ood_threshold) == AT_OOD_THRESHOLD
    nothing, everything = (replace(certificate, accept_threshold=at) for at in (None, -math.inf))
    assert reason(nothing) == reason(nothing, error=0.3) == NO_THRESHOLD
    assert reason(everything) == ALL_ACCEPTED
    for policy in (nothing, everything):
        assert "0.62 is above 0.50" in reason(policy, error=0.62)


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
    named = reason(certificate, score=0.0, error=0.8, scaled=1, **ruled)
    assert words in named
    assert "b is more probable" in named
    assert words not in reason(certificate, score=0.0, error=0.2, scaled=1, **ruled)
    if rule != "logits":  # a was the most probable class until the error estimator lowered it
        unchanged = reason(certificate, score=0.0, error=0.8, **ruled)
        assert "a is named by the calibrated classifier alone, though b is more" in unchanged


def test_an_answer_that_another_class_surpasses_is_deferred_for_that(certificate):
    deferral = policy_with(certificate, rule=DecisionRule(max_error_probability=0.9))
    decision = decided(deferral, 1.0, 9.0, 0.6, decisions=np.array(["defer"]))
    assert SURPASSED in decision.reason


def test_the_probability_is_that_of_the_predicted_class():
    decision = Decision("defer", "b", {"a": 0.7, "b": 0.3}, *[None] * 2, "why", *[None] * 4)
    assert decision.probability == 0.3
