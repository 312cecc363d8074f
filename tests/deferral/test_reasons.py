import math
from dataclasses import replace

import pytest
from policies import certificate_of, decided, policy_with

from misgiving.deferral.policy import (
    ALL_ACCEPTED,
    AT_OOD_THRESHOLD,
    NO_THRESHOLD,
    NOT_FINITE,
    SURPASSED,
)
from misgiving.deferral.targets import DecisionRule, Targets

CERTIFICATE = replace(
    certificate_of(Targets(max_error=0.15, max_ood_false_alarms=0.1)),
    accept_threshold=math.log(0.88 / 0.12),  # log-odds of an error probability of 0.12
)


def reason(
    *,
    certificate=CERTIFICATE,
    score=None,
    ood_score=9.0,
    error=0.1,
    detector="knn",
    by="calibrated",
    probabilities=None,
    **rule,
):
    """The reason for what a policy with this certificate decides."""
    deferral = policy_with(certificate, score=by, ood_detector=detector, rule=DecisionRule(**rule))
    score = math.log((1 - error) / error) if score is None else score
    return decided(deferral, score, ood_score, error, probabilities=probabilities).reason


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({"error": 0.31}, "0.31 is above 0.12"),
        ({"error": 0.02}, "0.02 is within 0.12"),
        # the error would contradict the decision
        ({"score": 3.0, "error": 0.5}, "score 3.00 is at least"),
        ({"score": 0.0, "error": 0.01}, "score 0.00 is below"),
        # the score is no function of the error
        ({"score": 0.0, "error": 0.4, "by": "msp"}, "score 0.00 is below"),
        # an answer that is more likely wrong than right is deferred whatever its score
        ({"score": 3.0, "error": 0.62}, "0.62 is above 0.50"),
        ({"score": 3.0, "error": 0.62, "max_error_probability": 0.7}, "score 3.00 is at least"),
        ({"score": math.nan}, NOT_FINITE),
        ({"ood_score": math.nan}, NOT_FINITE),
        ({"ood_score": CERTIFICATE.ood_threshold}, AT_OOD_THRESHOLD),
    ],
)
def test_a_reason_is_in_terms_of_the_number_that_decided(numbers, expected):
    assert expected in reason(**numbers)


@pytest.mark.parametrize(("at", "expected"), [(math.inf, NO_THRESHOLD), (-math.inf, ALL_ACCEPTED)])
def test_a_reason_names_a_limit_that_does_not_exist(at, expected):
    certificate = replace(CERTIFICATE, accept_threshold=at)
    assert reason(certificate=certificate) == expected
    assert reason(certificate=certificate, by="msp") == expected
    assert "0.62 is above 0.50" in reason(certificate=certificate, error=0.62)


def test_an_answer_that_another_class_surpasses_is_deferred_for_that():
    loose = {"rule": "logits", "max_error_probability": 0.9}
    assert SURPASSED in reason(score=3.0, error=0.6, probabilities=[0.4, 0.5, 0.1], **loose)
