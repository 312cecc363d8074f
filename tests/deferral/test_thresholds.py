from dataclasses import replace

import numpy as np
import pytest
from policies import CLASSES, certify, drawn_cases, policy_with, with_errors
from scipy import stats

from misgiving.deferral.sentences import certificate_sentences
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import count_ranks, loosest_certified
from misgiving.errors import DataError

TARGETS = Targets(max_error=0.1, max_ood_false_alarms=None)


SETS = TUNING, CALIBRATION = drawn_cases(300, 1), drawn_cases(400, 2)


def certified(sets=SETS, targets=TARGETS, **changes):
    return certify(*sets, replace(targets, **changes))


def changed(**columns):
    """Both sets with other columns, as functions of the cases."""
    return [
        replace(cases, **{name: values(cases) for name, values in columns.items()})
        for cases in SETS
    ]


def masked(cases, seed):
    """Cases of which every third is never accepted; these are more often wrong."""
    acceptable = np.random.default_rng(seed).random(cases.scores.shape) > 0.3
    return replace(with_errors(cases, cases.wrong | ~acceptable), acceptable=acceptable)


@pytest.mark.parametrize("mask", [False, True], ids=["all acceptable", "some not acceptable"])
def test_a_certificate_counts_the_calibration_cases(mask):
    tuning, cases = map(masked, SETS, (0, 1)) if mask else SETS
    targets = {"class_max_miss": {"MEL": 0.3 if mask else 0.2}, "max_ood_false_alarms": 0.1}
    certificate = certified((tuning, cases), max_error=0.15, **targets)
    reached = cases.scores >= certificate.accept_threshold
    familiar = cases.acceptable & (cases.ood_scores > certificate.ood_threshold)
    accepted = reached & familiar
    assert certificate.cases == 400
    assert certificate.accepted == accepted.sum() > 0
    assert certificate.wrong == (accepted & cases.wrong).sum()
    assert (certificate.wrong < (reached & cases.wrong).sum()) or not mask
    of_class = cases.labels == 1
    (outcome,) = certificate.class_outcomes
    assert outcome.missed == (reached & cases.acceptable & cases.wrong & of_class).sum()
    assert outcome.cases == of_class.sum()
    low, high = certificate.coverage_interval
    assert low < certificate.accepted / certificate.cases < high
    assert sorted(cases.ood_scores)[certificate.ood_rank - 1] == certificate.ood_threshold
    points = certificate.operating_points
    assert list(certificate.scores) == sorted(certificate.scores, reverse=True)
    (point,) = [point for point in points if point.threshold == certificate.accept_threshold]
    assert (point.accepted, point.wrong) == (certificate.accepted, certificate.wrong)
    assert points[-1].accepted == familiar.sum()  # the rank that accepts everything


@pytest.mark.usefixtures("as_in_use")
def test_targets_are_met_in_all_but_few_draws_also_where_some_are_never_acceptable():
    population, random = masked(drawn_cases(20_000, 3), 5), np.random.default_rng(0)
    missed, accepting = 0, 0
    for _ in range(500):
        drawn = population[random.integers(len(population), size=200)]
        counts = count_ranks(drawn, TARGETS, classes=CLASSES)
        position = loosest_certified([counts], TARGETS)[0]
        if position >= 0:
            reached = population.scores >= counts.thresholds[position]
            missed += population.wrong[reached & population.acceptable].mean() > 0.1
            accepting += 1
    assert accepting > 100
    assert missed <= stats.binom.ppf(1 - 1e-4, 500, 0.05)


def test_what_a_class_misses_is_counted_where_the_most_confident_cases_are_tied():
    cases = changed(scores=lambda cases: np.where(cases.scores > 0.5, 1.0, cases.scores))
    targets = {"class_max_miss": {"MEL": 0.01}, "max_ood_false_alarms": None}
    (outcome,) = certified(cases, **targets).class_outcomes
    tied = cases[1].scores == 1
    assert outcome.missed == (tied & cases[1].wrong & (cases[1].labels == 1)).sum() > 0


def test_where_nothing_is_acceptable_nothing_is_accepted():
    certificate = certified(changed(acceptable=lambda cases: cases.scores < 0))
    assert certificate.accept_threshold == np.inf
    sentences = certificate_sentences(policy_with(certificate, unit="image"))
    assert not [sentence for sentence in sentences if "be certified" in sentence]


def test_the_level_is_shared_among_the_targets_of_errors_unless_each_holds_by_itself():
    targets = Targets(max_error=0.1, confidence=0.88, class_max_miss={"A": 0.1, "B": 0.1})
    levels = ("level", "level_of_error", "level_of_misses")
    for changes, expected in (
        ({}, (0.12, 0.018, 0.102)),
        ({"class_max_miss": {}, "max_silent_error": 0.1}, (0.12, 0.018, 0.102)),
        ({"class_max_miss": {}}, (0.12, 0.12, 0.102)),
        ({"max_error": None, "max_silent_error": 0.1}, (0.12, 0.12 * 0.15, 0.12)),
        ({"max_ood_false_alarms": None}, (0.12, 0.018, 0.102)),
        ({"simultaneous": False}, (0.12, 0.12, 0.12)),
    ):
        given = replace(targets, **changes)
        assert [getattr(given, name) for name in levels] == pytest.approx(expected)


@pytest.mark.parametrize(("seed", "class_max_miss"), [(0, {}), (1, {}), (2, {"MEL": 0.4})])
def test_the_smallest_certifiable_error_is_certified_and_the_next_is_not(seed, class_max_miss):
    sets = drawn_cases(80, seed), drawn_cases(60, seed + 50)
    asked = {"max_error": 0.001, "class_max_miss": class_max_miss}
    smallest = certified(sets, **asked).smallest_certifiable
    rate = round(1000 * smallest.max_error)
    certificate = certified(sets, **asked | {"max_error": rate / 1000})
    assert certificate.accepted == smallest.accepted > 0
    stricter = certified(sets, **asked | {"max_error": (rate - 1) / 1000})
    assert stricter.accept_threshold == np.inf


def test_where_all_are_correct_all_are_accepted_and_where_all_are_wrong_nothing_is():
    right = certified(changed(predicted=lambda cases: cases.labels))
    assert (right.accept_threshold, right.accepted, right.wrong) == (-np.inf, 400, 0)
    wrong = certified([with_errors(cases, np.ones(len(cases), dtype=bool)) for cases in SETS])
    assert (wrong.accept_threshold, wrong.accepted, wrong.smallest_certifiable) == (np.inf, 0, None)
    assert wrong.coverage_interval == (0.0, 0.0)


def test_a_class_target_that_its_cases_cannot_certify_defers_everything_and_gives_the_smallest():
    one_class = changed(
        labels=lambda cases: 0 * cases.labels, predicted=lambda cases: 1 * cases.wrong
    )
    assert certified(one_class).accepted > 0
    without = certified(one_class, class_max_miss={"MEL": 0.1})
    assert (without.accept_threshold, without.class_outcomes[0].smallest_certifiable_rate) == (
        np.inf,
        1.0,
    )
    labels = np.where(np.arange(400) < 12, 2, 0)
    few = with_errors(
        replace(drawn_cases(400), scores=np.arange(400) / 400, labels=labels), np.arange(400) < 5
    )
    for rate, accepts in ((0.220, False), (0.221, True)):  # 1 - 0.05 ** (1 / 12) = 0.2209
        certificate = certified((few, few), class_max_miss={"BCC": rate}, simultaneous=False)
        assert (certificate.accept_threshold < np.inf) == accepts
        (outcome,) = certificate.class_outcomes
        assert outcome.cases == 12
        assert accepts or outcome.smallest_certifiable_rate == pytest.approx(1 - 0.05 ** (1 / 12))


def test_without_enough_cases_for_an_ood_limit_there_is_none_and_nothing_else_changes():
    few = CALIBRATION[np.arange(58)]
    without, asked = certified((TUNING, few)), certified((TUNING, few), max_ood_false_alarms=0.05)
    assert replace(asked, targets=without.targets) == without
    more = certified((TUNING, CALIBRATION[np.arange(59)]), max_ood_false_alarms=0.05)
    assert (asked.ood_rank, more.ood_rank) == (None, 1)


def test_cases_at_the_ood_limit_are_not_accepted():
    rounded, constant = (
        certified((TUNING, replace(CALIBRATION, ood_scores=scores)), max_ood_false_alarms=0.1)
        for scores in (np.round(CALIBRATION.ood_scores), np.zeros(400))
    )
    above = np.round(CALIBRATION.ood_scores) > rounded.ood_threshold
    assert 0 < sum(rounded.kept) == above.sum() < 390
    assert (sum(constant.kept), constant.accept_threshold) == (0, np.inf)


def with_value(name, value):
    def change(cases):
        values = getattr(cases, name).copy()
        values[[7, 9]] = value
        return replace(cases, **{name: values})

    return change


UNUSABLE = {
    "few": (lambda cases: cases[np.arange(1)], "1 cases.* 2 "),
    "none": (lambda cases: cases[np.arange(0)], "0 cases"),
    "NaN score": (with_value("scores", np.nan), "scores .*position 7"),
    "infinite score": (with_value("scores", np.inf), "scores .*position 7"),
    "NaN OOD score": (with_value("ood_scores", np.nan), "ood_scores .*position 7"),
    "infinite OOD score": (with_value("ood_scores", -np.inf), "ood_scores .*position 7"),
    "constant": (lambda cases: replace(cases, scores=0.5 + 0 * cases.scores), "scores .* 0.5"),
}


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("set_name", ["tuning", "calibration"])
def test_sets_that_cannot_be_used_are_refused_by_name(set_name, name):
    change, says = UNUSABLE[name]
    by_name = {"tuning": TUNING, "calibration": CALIBRATION}
    by_name[set_name] = change(by_name[set_name])
    with pytest.raises(DataError, match=says) as failure:
        certified(by_name.values())
    assert f"the {set_name} set" in str(failure.value)
