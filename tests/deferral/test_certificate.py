from dataclasses import replace

import numpy as np
import pytest
from policies import CLASSES, WORST, certificate_of, certify, drawn_cases
from scipy import stats

from misgiving.deferral.certificate import ranks_to_test
from misgiving.deferral.drift import acceptance_interval
from misgiving.deferral.expected_performance import (
    bound_at_threshold,
    error_bound_at,
)
from misgiving.deferral.fit_policy import with_prices
from misgiving.deferral.targets import Targets

OOD = Targets(max_error=0.1, confidence=0.9, max_ood_false_alarms=0.1)


@pytest.fixture(scope="module")
def certificate():
    return certificate_of(OOD)


def test_every_operating_point_is_counted_and_bounded_as_by_scalar_loops(certificate):
    cases, points = drawn_cases(400, 2), certificate.operating_points
    for point in points:
        rows = [
            wrong
            for score, ood_score, wrong in zip(
                cases.scores, cases.ood_scores, cases.wrong, strict=True
            )
            if score >= point.threshold and ood_score > certificate.ood_threshold
        ]
        assert (point.accepted, point.wrong) == (len(rows), sum(rows))
        assert point.coverage == len(rows) / 400
        assert point.error == sum(rows) / len(rows)
        level = stats.binom.cdf(sum(rows), len(rows), point.bound)
        assert level == pytest.approx(0.1 / len(points), rel=1e-6)


def test_the_bound_at_any_threshold_is_that_of_the_cases_that_can_be_accepted(certificate):
    cases = drawn_cases(400, 2)
    familiar = cases[cases.ood_scores > certificate.ood_threshold]
    at = certificate.accept_threshold + 1e-6
    ranks = ranks_to_test(len(familiar))
    bound = bound_at_threshold(at, familiar.scores, familiar.wrong, ranks, level=0.1)
    assert error_bound_at(certificate, at) == bound
    assert certificate.error_bound < bound < 1.3 * certificate.error_bound


def test_an_operating_point_that_accepts_nothing_has_the_bound_1(certificate):
    strict, _ = replace(
        certificate,
        thresholds=(0.9, -np.inf),
        scores=(0.5, 0.4),
        errors=(False, True),
        kept=(True, True),
    ).operating_points
    assert (strict.accepted, strict.error, strict.bound) == (0, None, 1.0)


@pytest.mark.parametrize(
    ("draws", "size", "confidence"),
    [
        (400, 20, 0.9),
        *(pytest.param(2000, size, 0.95, marks=pytest.mark.soak) for size in (20, 60, 300)),
    ],
)
@pytest.mark.usefixtures("as_in_use")
def test_no_bound_is_exceeded_in_more_draws_than_the_confidence_allows(draws, size, confidence):
    tuning, missed = drawn_cases(100, 10**6), 0
    for draw in range(draws):
        targets = Targets(max_error=0.2, confidence=confidence)
        points = certify(tuning, drawn_cases(size, draw), targets).operating_points
        # Scores are uniform and the risk at s is WORST (1 - s)^2: this is the error from t on.
        missed += any(WORST * (1 - max(at.threshold, 0)) ** 2 / 3 > at.bound for at in points)
    assert missed <= (1 - confidence) * draws


@pytest.mark.usefixtures("as_in_use")
def test_the_acceptance_interval_covers_the_true_rate_whichever_threshold_was_chosen():
    targets, tuning = replace(OOD, confidence=0.95), drawn_cases(300, 10**6)
    missed, accepting = 0, 0
    for draw in range(100):
        certificate = certify(tuning, drawn_cases(150, draw), targets)
        low, high = acceptance_interval(certificate, level=0.1)
        at = min(1.0, max(certificate.accept_threshold, 0.0))
        missed += not low <= (1 - at) * stats.norm.sf(certificate.ood_threshold) <= high
        accepting += at < 1
    assert missed <= 0.1 * 100
    assert accepting > 50


def test_the_acceptance_interval_excludes_the_limit_case_and_shares_the_level(certificate):
    alone = acceptance_interval(replace(certificate, ood_threshold=None), level=0.1)
    ruled, accepted = acceptance_interval(certificate, level=0.1), certificate.accepted
    each = 0.1 / (len(certificate.thresholds) * 400)
    assert stats.binom.cdf(accepted, 399, ruled.upper) == pytest.approx(each / 2, rel=1e-6)
    assert ruled.lower < alone.lower < accepted / 400 < alone.upper < ruled.upper


@pytest.mark.parametrize("guarantee", ["confident", "average"])
def test_errors_of_each_class_are_counted_by_hand_and_bounded_together(guarantee):
    targets = Targets(max_error=0.2, max_ood_false_alarms=0.1)
    certificate, cases = certificate_of(targets, guarantee=guarantee), drawn_cases(400, 2)
    rows = [
        (CLASSES[label], CLASSES[predicted])
        for score, ood_score, label, predicted in zip(
            cases.scores, cases.ood_scores, cases.labels, cases.predicted, strict=True
        )
        if score >= certificate.accept_threshold and ood_score > certificate.ood_threshold
    ]
    bounds = [each.missed_bound for each in certificate.class_errors]
    assert bounds == sorted(bounds, reverse=True)
    assert {each.name for each in certificate.class_errors} == {*CLASSES}
    for each in certificate.class_errors:
        assert each.cases == sum(CLASSES[label] == each.name for label in cases.labels)
        assert each.predicted == sum(predicted == each.name for _, predicted in rows)
        missed = sum(label == each.name != predicted for label, predicted in rows)
        wrong = sum(predicted == each.name != label for label, predicted in rows)
        assert (each.missed, each.wrong) == (missed, wrong)
        assert missed
        assert wrong
        for count, among, bound in (
            (missed, each.cases, each.missed_bound),
            (wrong, each.predicted, each.wrong_bound),
        ):
            assert stats.binom.cdf(count, among, bound) == pytest.approx(0.05 / 100, rel=1e-6)


def test_a_class_without_cases_is_the_last_of_all():
    cases = drawn_cases(400, 2)
    merged = replace(cases, labels=np.where(cases.labels == 2, 0, cases.labels))
    targets = Targets(max_error=0.5)
    errors = certify(drawn_cases(100, 1), merged, targets).class_errors
    assert [each.cases > 0 for each in errors] == [True, True, False]
    assert errors[-1].predicted


@pytest.mark.parametrize(
    ("cases", "missed", "predicted", "wrong", "fails"),
    [
        (5, 2, 9, 4, True),
        (6, 2, 0, 0, True),
        (7, 2, 0, 0, False),
        (4, 4, 4, 4, False),
        (9, 0, 6, 3, True),
        (9, 0, 7, 3, False),
        (0, 0, 5, 5, True),
    ],
)
def test_a_class_fails_with_a_third_of_five_cases_missed_or_half_of_five_answers_wrong(
    certificate, cases, missed, predicted, wrong, fails
):
    numbers = {"cases": cases, "missed": missed, "predicted": predicted, "wrong": wrong}
    errors = tuple(replace(each, **numbers) for each in certificate.class_errors[:1])
    assert bool(replace(certificate, class_errors=errors).failing_classes) == fails


def with_missed_melanomas(guarantee="confident", **targets):
    """Two thirds of few melanomas are taken for BCC; what a limit costs is added."""
    cases, random = drawn_cases(900, 2), np.random.default_rng(0)
    labels = random.choice(3, 900, p=(0.93, 0.05, 0.02))
    missed = (labels == 1) & (random.random(900) < 0.7)
    scores, predicted = cases.scores * np.where(missed, 0.8, 1), np.where(missed, 2, labels)
    cases = replace(cases, labels=labels, predicted=predicted, scores=scores)

    def again(**changes):
        limited = Targets(**targets | changes)
        return certify(drawn_cases(100, 1), cases, limited, guarantee)

    return with_prices(again(), again), again


@pytest.mark.parametrize("guarantee", ["confident", "average"])
def test_the_cost_of_a_limit_is_that_of_a_policy_with_this_target(guarantee):
    certificate, again = with_missed_melanomas(guarantee, max_error=0.1)
    missed, wrong = certificate.failing_classes
    assert (missed.name, missed.is_often_missed, missed.confused_with) == ("MEL", True, None)
    assert (wrong.name, wrong.is_often_wrong, wrong.confused_with) == ("BCC", True, "MEL")
    limited = again(class_max_miss={"MEL": 0.1})
    assert 0 < limited.accepted < certificate.accepted
    for each in certificate.class_errors:
        fails = each in (missed, wrong)
        assert each.limit == (limited.class_outcomes[0] if fails else None)
        assert each.accepted_with_limit == (limited.accepted if fails else 0)


def test_a_limit_is_at_most_half_of_what_is_missed():
    certificate, again = with_missed_melanomas(max_error=0.1)
    rarely = [
        replace(each, missed=1, cases=40) if each.name == "MEL" else each
        for each in certificate.class_errors
    ]
    limited = with_prices(replace(certificate, class_errors=tuple(rarely)), again)
    (wrong,) = limited.failing_classes
    assert (wrong.name, wrong.limit.name, wrong.limit.rate) == ("BCC", "MEL", 0.013)


def test_no_further_limit_is_sought_for_a_class_with_a_target():
    certificate, _ = with_missed_melanomas(max_error=0.1, class_max_miss={"MEL": 0.9})
    assert [each.limit for each in certificate.failing_classes] == [None, None]


def test_the_error_to_expect_and_its_bound_are_those_of_the_threshold(certificate):
    points = {point.threshold: point for point in certificate.operating_points}
    chosen = points[certificate.accept_threshold]
    assert certificate.error_bound == chosen.bound
    assert certificate.highest_error == min(0.1, chosen.bound)
    assert certificate.expected_error == (chosen.wrong + 2) / (chosen.accepted + 2)
    average = certificate_of(OOD, guarantee="average")
    assert average.highest_error == average.error_bound > 0.1
    nothing = replace(certificate, accept_threshold=np.inf, accepted=0)
    assert nothing.error_bound is nothing.expected_error is None
    assert nothing.highest_error == 1


@pytest.mark.usefixtures("as_in_use")
def test_the_error_to_expect_is_not_too_low_although_few_cases_chose_the_threshold():
    tuning, targets, errors = drawn_cases(100, 10**6), Targets(max_error=0.1), []
    for draw in range(100):
        certificate = certify(tuning, drawn_cases(150, draw), targets)
        if certificate.accepted:
            # scores are uniform and the risk at s is WORST (1 - s)^2
            true = WORST * (1 - max(certificate.accept_threshold, 0)) ** 2 / 3
            errors.append((certificate.expected_error, true))
    expected, true = np.mean(errors, axis=0)
    assert len(errors) > 50
    assert 0.9 * true < expected < 1.1 * true
