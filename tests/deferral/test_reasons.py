"""Reasons of decisions, by a policy that is certified on drawn cases."""

import math
from dataclasses import replace

import numpy as np
import pytest
from policies import certificate_of, decided, policy_with

from misgiving.deferral.decisions import (
    ALL_ACCEPTED,
    AT_OOD_THRESHOLD,
    NO_THRESHOLD,
    NOT_FINITE,
    SURPASSED,
    Decision,
)
from misgiving.deferral.settings import DecisionRule, Targets

CERTIFICATE = certificate_of(Targets(max_error=0.15, max_ood_false_alarms=0.1))


def reason(
    *,
    certificate=CERTIFICATE,
    score=1.0,
    ood_score=9.0,
    error=math.nan,
    detector="knn",
    limit=0.12,
    scaled=0,
    **rule,
):
    """The reason for what a policy with this certificate decides."""
    deferral = policy_with(certificate, ood_detector=detector, rule=DecisionRule(**rule))
    return decided(deferral, score, ood_score, error, scaled=scaled, error_limit=limit).reason


@pytest.mark.parametrize(
    ("detector", "compared"),
    [
        ("knn", "less like the training images than"),
        ("max_logit", "lower OOD score than"),
        ("predicted_loss", "lower OOD score than"),
    ],
)
def test_the_reason_for_an_ood_image_says_how_unusual_it_is(detector, compared):
    expected = f"{compared} all calibration cases (p = 0.0025)"
    assert reason(ood_score=-9.0, detector=detector) == expected
    third = reason(ood_score=CERTIFICATE.ood_scores[2] + 1e-9, detector=detector)
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
        ({"ood_score": CERTIFICATE.ood_threshold}, AT_OOD_THRESHOLD),
    ],
)
def test_a_reason_is_in_terms_of_the_number_that_decided(numbers, expected):
    assert expected in reason(**numbers)


@pytest.mark.parametrize(("at", "expected"), [(None, NO_THRESHOLD), (-math.inf, ALL_ACCEPTED)])
def test_a_reason_names_a_limit_that_does_not_exist(at, expected):
    certificate = replace(CERTIFICATE, accept_threshold=at)
    assert reason(certificate=certificate) == reason(certificate=certificate, error=0.1) == expected
    assert "0.62 is above 0.50" in reason(certificate=certificate, error=0.62)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("balanced", "relative to its share"),
        ("costs", "because missing it costs 10, and missing MEL 1"),
        ("logits", "largest logit"),
        ("most_probable", "by the calibrated classifier alone"),
    ],
)
def test_the_reason_says_why_another_class_than_the_most_probable_is_named(rule, words):
    ruled = {"score": 0.0, "rule": rule, "costs": {"NV": 10.0} if rule == "costs" else {}}
    other_named = reason(error=0.8, scaled=1, **ruled)
    assert words in other_named
    assert "MEL is more probable" in other_named
    assert words not in reason(error=0.2, scaled=1, **ruled)
    if rule != "logits":  # NV was the most probable class until the error estimator lowered it
        unchanged = reason(error=0.8, **ruled)
        assert "NV is named by the calibrated classifier alone, though MEL is more" in unchanged


def test_an_answer_that_another_class_surpasses_is_deferred_for_that():
    deferral = policy_with(CERTIFICATE, rule=DecisionRule(max_error_probability=0.9))
    decision = decided(deferral, 1.0, 9.0, 0.6, decisions=np.array(["defer"]))
    assert SURPASSED in decision.reason


def test_the_probability_is_that_of_the_predicted_class():
    decision = Decision("defer", "b", {"a": 0.7, "b": 0.3}, *[None] * 2, "why", *[None] * 4)
    assert decision.probability == 0.3
