import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from policies import certificate_of, decided, policy_with

from misgiving.deferral.reasons import (
    ALL_ACCEPTED,
    AT_OOD_THRESHOLD,
    NO_THRESHOLD,
    NOT_FINITE,
    SURPASSED,
    TOO_UNCERTAIN,
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
        # an answer that is more likely wrong than right is deferred whatever its score
        ({"error": 0.62}, "0.62 is above 0.50"),
        ({"error": 0.62, "max_error_probability": 0.7}, "0.62 is above 0.12"),
        ({"score": math.nan}, NOT_FINITE),
        ({"ood_score": math.nan}, NOT_FINITE),
        ({"ood_score": CERTIFICATE.ood_threshold}, AT_OOD_THRESHOLD),
    ],
)
def test_a_reason_is_in_terms_of_the_number_that_decided(numbers, expected):
    assert expected in reason(**numbers)


def test_where_both_errors_are_rounded_to_the_same_it_is_in_terms_of_the_score():
    certificate = replace(CERTIFICATE, accept_threshold=800.0)
    assert "score 799.00 is below 800.00" in reason(certificate=certificate, score=799.0)
    assert "score 900.00 is at least 800.00" in reason(certificate=certificate, score=900.0)


def test_without_a_number_for_one_image_it_is_the_share_of_cases_that_are_as_certain():
    scores = [*np.linspace(4, 0.5, 50)]
    cases = {"scores": tuple(scores), "kept": (True,) * 50, "errors": (False,) * 50}
    few = replace(CERTIFICATE, tuning_cases=49, accept_threshold=scores[19], **cases)
    of = partial(reason, certificate=few)
    assert few.share_reaching(scores[19]) == pytest.approx(0.4)
    can = "calibration cases; the most certain 40 % can be accepted"
    assert of(score=scores[4]) == f"among the most certain 10 % of the {can}"
    assert of(score=scores[19]) == f"among the most certain 40 % of the {can}"
    assert of(score=scores[20]) == f"less certain than 40 % of the {can}"
    assert of(score=-1.0) == TOO_UNCERTAIN


@pytest.mark.parametrize(("at", "expected"), [(math.inf, NO_THRESHOLD), (-math.inf, ALL_ACCEPTED)])
def test_a_reason_names_a_limit_that_does_not_exist(at, expected):
    certificate = replace(CERTIFICATE, accept_threshold=at)
    assert reason(certificate=certificate) == expected
    assert reason(certificate=certificate, by="msp") == expected
    assert "0.62 is above 0.50" in reason(certificate=certificate, error=0.62)


def test_an_answer_that_another_class_surpasses_is_deferred_for_that():
    loose = {"rule": "logits", "max_error_probability": 0.9}
    assert SURPASSED in reason(score=3.0, error=0.6, probabilities=[0.4, 0.5, 0.1], **loose)
