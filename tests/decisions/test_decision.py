"""Reasons of decisions, by a policy that is certified on drawn cases."""

import math
from dataclasses import replace

import numpy as np
import pytest

from misgiving.decisions.decision import (
    ALL_ACCEPTED,
    AT_OOD_THRESHOLD,
    NO_THRESHOLD,
    NOT_FINITE,
    SURPASSED,
    Decision,
    reason_for,
)
from misgiving.deferral.policy import DeferralPolicy
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
def policy():
    targets = Targets(max_error=0.15, max_ood_false_alarms=0.1)
    return DeferralPolicy(
        certificate=certify_thresholds(cases(0), cases(1), targets, classes=("a", "b")),
        score="msp",
        ood_detector="knn",
        model_fingerprint="m",
        calibration_fingerprint="c",
        seed=0,
        error_limit=0.12,
    )


def reason(policy, *, score=1.0, ood_score=9.0, error=math.nan, named="a", scaled="a"):
    """The reason for what the policy decides."""
    acceptable = np.array([not error > policy.max_error_probability])
    outcomes = policy.decide(np.array([score]), np.array([ood_score]), acceptable=acceptable)
    numbers = {"acceptance_score": score, "ood_score": ood_score, "error_probability": error}
    numbers["ood_p_value"] = float(outcomes.p_values[0])
    shown = {"a": 1 - error, "b": error}
    return reason_for(policy, outcomes.decisions[0].item(), numbers, named, shown, scaled=scaled)


@pytest.mark.parametrize(
    ("detector", "expected"),
    [
        ("knn", "less like the training images than all calibration cases (p = 0.0025)"),
        ("max_logit", "lower OOD score than all calibration cases (p = 0.0025)"),
        ("predicted_loss", "lower OOD score than all calibration cases (p = 0.0025)"),
    ],
)
def test_only_a_detector_of_training_features_speaks_of_training_images(policy, detector, expected):
    by_detector = replace(policy, ood_detector=detector)
    assert reason(by_detector, ood_score=-9.0) == expected


def test_reasons_name_the_error_and_its_limit_where_they_are_known(policy):
    assert "0.31 is above 0.12" in reason(policy, score=0.0, error=0.31)
    assert "0.02 is within 0.12" in reason(policy, score=1.0, error=0.02)


def test_a_reason_never_contradicts_its_decision(policy):
    assert "score 1.00 is at least" in reason(policy, score=1.0, error=0.5)
    assert "score 0.00 is below" in reason(policy, score=0.0, error=0.01)


def test_without_an_error_limit_the_reason_is_the_score(policy):
    assert "score 0.00 is below" in reason(replace(policy, error_limit=None), score=0.0, error=0.4)


def test_the_reason_for_an_ood_image_says_how_unusual_it_is(policy):
    third = sorted(policy.certificate.ood_scores)[2]
    assert "all but 0.75 % of the" in reason(policy, ood_score=third + 1e-9)
    assert "(p = 0.01)" in reason(policy, ood_score=third + 1e-9)
    assert "than all calibration cases" in reason(policy, ood_score=-99.0)


def test_scores_that_are_missing_or_exactly_at_the_limit_are_named(policy):
    assert reason(policy, score=math.nan) == NOT_FINITE
    assert reason(policy, ood_score=math.nan) == NOT_FINITE
    assert reason(policy, ood_score=policy.ood_threshold) == AT_OOD_THRESHOLD


@pytest.mark.parametrize(
    ("threshold", "expected"), [(None, NO_THRESHOLD), (-math.inf, ALL_ACCEPTED)]
)
def test_a_policy_that_accepts_nothing_or_everything_says_so(policy, threshold, expected):
    certificate = replace(policy.certificate, accept_threshold=threshold)
    assert reason(replace(policy, certificate=certificate)) == expected


def test_an_answer_that_is_more_likely_wrong_than_right_is_deferred_whatever_its_score(policy):
    assert "0.62 is above 0.50" in reason(policy, score=1.0, error=0.62)
    everything = replace(policy.certificate, accept_threshold=-math.inf)
    assert "0.62 is above 0.50" in reason(replace(policy, certificate=everything), error=0.62)
    limit = replace(policy, max_error_probability=0.7)
    assert "score 1.00 is at least" in reason(limit, score=1.0, error=0.62)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("balanced", "relative to its share"),
        ("costs", "because missing it costs 10, and missing b 1"),
        ("logits", "largest logit"),
        ("most_probable", "by the calibrated classifier alone"),
    ],
)
def test_the_reason_says_why_another_class_than_the_most_probable_is_named(policy, rule, words):
    ruled = replace(policy, rule=rule, costs={"a": 10.0} if rule == "costs" else {})
    said = reason(ruled, score=0.0, error=0.8, scaled="b")
    assert words in said
    assert "b is more probable" in said
    assert words not in reason(ruled, score=0.0, error=0.2, scaled="b")


@pytest.mark.parametrize("rule", ["balanced", "costs"])
def test_a_rule_that_did_not_change_the_name_is_not_its_reason(policy, rule):
    """The class named was the most probable one until the error estimator lowered it."""
    ruled = replace(policy, rule=rule, costs={"b": 2.0} if rule == "costs" else {})
    said = reason(ruled, score=0.0, error=0.8, scaled="a")
    assert "a is named by the calibrated classifier alone, though b is more probable" in said


def test_an_image_that_is_never_accepted_is_not_deferred_for_want_of_a_threshold(policy):
    nothing = replace(policy, certificate=replace(policy.certificate, accept_threshold=None))
    assert "0.62 is above 0.50" in reason(nothing, error=0.62)
    assert reason(nothing, error=0.3) == NO_THRESHOLD


def test_an_answer_that_another_class_surpasses_is_deferred_for_that(policy):
    decided = {"acceptance_score": 1.0, "ood_score": 9.0, "ood_p_value": 0.9}
    limit = replace(policy, max_error_probability=0.9)
    numbers = {**decided, "error_probability": 0.6}
    assert SURPASSED in reason_for(limit, "defer", numbers, "a", {"a": 0.4, "b": 0.6}, scaled="a")


def test_the_probability_is_that_of_the_predicted_class():
    decision = Decision("defer", "b", {"a": 0.7, "b": 0.3}, *[None] * 2, "why", *[None] * 4)
    assert decision.probability == 0.3
