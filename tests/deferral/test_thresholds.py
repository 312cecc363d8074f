from dataclasses import replace

import numpy as np
import pytest
from policies import policy_with

from misgiving.deferral.scored_cases import ScoredCases, one_per_group
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import CertificationPlan, certify_thresholds
from misgiving.errors import DataError, UsageError
from misgiving.report.certificate import certificate_sentences

TARGETS = Targets(max_error=0.1)


@pytest.fixture
def sets(drawn_cases):
    return drawn_cases(300, 1), drawn_cases(400, 2)


def test_a_certificate_counts_the_calibration_cases(sets, classes):
    targets = Targets(max_error=0.15, class_max_miss={"MEL": 0.2}, max_ood_false_alarms=0.1)
    found, cases = certify_thresholds(*sets, targets, classes=classes), sets[1]
    reached = cases.scores >= found.accept_threshold
    accepted = reached & (cases.ood_scores > found.ood_threshold)
    assert found.accepted == accepted.sum() > 0
    assert found.wrong == (accepted & cases.wrong).sum()
    of_class = cases.labels == 1
    (outcome,) = found.class_outcomes
    assert outcome.missed == (reached & cases.wrong & of_class).sum()
    assert outcome.cases == of_class.sum()
    low, high = found.coverage_interval
    assert low < found.accepted / found.cases < high
    assert sorted(cases.ood_scores)[found.ood_rank - 1] == found.ood_threshold


def test_targets_are_met_in_all_but_few_draws(drawn_cases, classes):
    population, random = drawn_cases(20_000, 3), np.random.default_rng(0)
    plan = CertificationPlan.from_tuning(drawn_cases(200, 4), TARGETS, classes=classes, cases=200)
    drawn = population[random.integers(len(population), size=(2000, 200))]
    position = plan.loosest_certified(plan.count(drawn))
    thresholds = plan.thresholds[position[position >= 0]]
    errors = np.array([population.wrong[population.scores >= t].mean() for t in thresholds])
    assert (position >= 0).mean() > 0.3
    assert (errors > 0.1).sum() / 2000 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


def masked(cases, seed):
    """Cases of which every third is never accepted; these are more often wrong."""
    acceptable = np.random.default_rng(seed).random(cases.scores.shape) > 0.3
    return replace(cases, acceptable=acceptable, wrong=cases.wrong | ~acceptable)


def test_what_is_not_acceptable_counts_as_a_case_but_never_as_accepted(sets, classes):
    targets = Targets(max_error=0.15, class_max_miss={"MEL": 0.3}, max_ood_false_alarms=0.1)
    tuning, cases = (masked(one, seed) for seed, one in enumerate(sets))
    found = certify_thresholds(tuning, cases, targets, classes=classes)
    reached = cases.scores >= found.accept_threshold
    accepted = reached & cases.acceptable & (cases.ood_scores > found.ood_threshold)
    assert (found.accepted, found.cases) == (accepted.sum(), 400)
    assert found.wrong == (accepted & cases.wrong).sum() < (reached & cases.wrong).sum()
    (outcome,) = found.class_outcomes
    of_class = cases.labels == 1
    assert outcome.cases == of_class.sum()
    assert outcome.missed == (reached & cases.acceptable & cases.wrong & of_class).sum()
    points = found.calibration_scores.operating_points(confidence=0.95)
    (point,) = [one for one in points if one.threshold == found.accept_threshold]
    assert (point.accepted, point.wrong) == (found.accepted, found.wrong)
    last = points[-1]  # the candidate that accepts everything
    assert last.accepted == (cases.acceptable & (cases.ood_scores > found.ood_threshold)).sum()


def test_targets_are_met_in_all_but_few_draws_where_some_are_never_accepted(drawn_cases, classes):
    population, random = masked(drawn_cases(20_000, 3), 5), np.random.default_rng(0)
    tuning = masked(drawn_cases(200, 4), 6)
    plan = CertificationPlan.from_tuning(tuning, TARGETS, classes=classes, cases=200)
    drawn = population[random.integers(len(population), size=(2000, 200))]
    position = plan.loosest_certified(plan.count(drawn))
    thresholds = plan.thresholds[position[position >= 0]]
    errors = np.array(
        [
            population.wrong[(population.scores >= t) & population.acceptable].mean()
            for t in thresholds
        ]
    )
    assert (position >= 0).mean() > 0.2
    assert (errors > 0.1).sum() / 2000 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_where_nothing_is_acceptable_nothing_is_accepted(sets, classes):
    tuning, cases = (replace(one, acceptable=np.zeros(len(one), dtype=bool)) for one in sets)
    found = certify_thresholds(tuning, cases, TARGETS, classes=classes)
    assert found.accept_threshold is None
    first, *others = certificate_sentences(policy_with(found, unit="image"))
    assert "none of the 400 calibration cases can be accepted at any threshold" in first
    assert not [sentence for sentence in (first, *others) if "certif" in sentence]


@pytest.mark.parametrize("change", [np.exp, lambda s: s**3 - 7, np.sqrt], ids=["exp", "^3", "sqrt"])
def test_only_the_order_of_scores_matters(change, sets, classes):
    tuning, cases = sets
    targets = replace(TARGETS, class_max_miss={"MEL": 0.2})
    plain = certify_thresholds(tuning, cases, targets, classes=classes)
    changed = certify_thresholds(
        replace(tuning, scores=change(tuning.scores)),
        replace(cases, scores=change(cases.scores)),
        targets,
        classes=classes,
    )
    assert changed.accept_threshold == pytest.approx(change(plain.accept_threshold))
    kept = ("accept_threshold", "calibration_scores")
    assert replace(changed, **{name: getattr(plain, name) for name in kept}) == plain


def test_the_level_is_shared_among_all_targets_unless_each_holds_by_itself():
    targets = Targets(
        max_error=0.1,
        confidence=0.88,
        class_max_miss={"A": 0.1, "B": 0.1},
        max_ood_false_alarms=0.1,
    )
    assert targets.level == pytest.approx(0.03)
    assert replace(targets, simultaneous=False).level == pytest.approx(0.12)


def test_the_smallest_certifiable_error_is_certified_and_a_thousandth_less_is_not(sets, classes):
    smallest = certify_thresholds(
        *sets, Targets(max_error=0.001), classes=classes
    ).smallest_certifiable
    attained = certify_thresholds(*sets, Targets(max_error=smallest.max_error), classes=classes)
    assert attained.accepted == smallest.accepted > 0
    below = certify_thresholds(
        *sets, Targets(max_error=smallest.max_error - 0.001), classes=classes
    )
    assert below.accept_threshold is None


def test_where_all_are_correct_all_are_accepted(sets, classes):
    tuning, cases = (replace(one, wrong=np.zeros(len(one), dtype=bool)) for one in sets)
    found = certify_thresholds(tuning, cases, TARGETS, classes=classes)
    assert (found.accept_threshold, found.accepted, found.wrong) == (-np.inf, 400, 0)


def test_where_all_are_wrong_no_error_is_certifiable(sets, classes):
    tuning, cases = (replace(one, wrong=np.ones(len(one), dtype=bool)) for one in sets)
    found = certify_thresholds(tuning, cases, TARGETS, classes=classes)
    assert (found.accept_threshold, found.accepted, found.smallest_certifiable) == (None, 0, None)
    assert found.coverage_interval == (0.0, 0.0)


def test_one_class_alone_can_certify_the_error(sets, classes):
    tuning, cases = (replace(one, labels=np.zeros(len(one), dtype=int)) for one in sets)
    assert certify_thresholds(tuning, cases, TARGETS, classes=classes).accepted > 0
    with pytest.raises(DataError, match=r"class_max_miss` of MEL: .*no calibration cases"):
        certify_thresholds(
            tuning, cases, replace(TARGETS, class_max_miss={"MEL": 0.1}), classes=classes
        )


def test_a_class_target_can_only_tighten_the_threshold(sets, classes):
    loose = certify_thresholds(*sets, replace(TARGETS, simultaneous=False), classes=classes)
    strict = certify_thresholds(
        *sets,
        replace(TARGETS, simultaneous=False, class_max_miss={"MEL": 0.05}),
        classes=classes,
    )
    assert strict.accept_threshold > loose.accept_threshold


def test_a_class_target_that_its_cases_cannot_certify_is_refused_with_the_smallest(
    classes,
):
    labels = np.where(np.arange(400) < 12, 2, 0)
    cases = ScoredCases(scores=np.arange(400) / 400, wrong=np.arange(400) < 5, labels=labels)
    asked = replace(TARGETS, class_max_miss={"BCC": 0.2}, simultaneous=False)
    with pytest.raises(DataError, match=r"BCC .*12 calibration cases .*0\.221"):
        certify_thresholds(cases, cases, asked, classes=classes)
    asked = replace(asked, class_max_miss={"BCC": 0.221})
    assert certify_thresholds(cases, cases, asked, classes=classes).class_outcomes[0].cases == 12


def test_too_few_cases_for_a_max_ood_false_alarms_are_refused_with_the_number_needed(sets, classes):
    asked = replace(TARGETS, max_ood_false_alarms=0.05, simultaneous=False)
    with pytest.raises(DataError, match=r"max_ood_false_alarms.* 59 calibration cases.*58"):
        certify_thresholds(sets[0], sets[1][np.arange(58)], asked, classes=classes)
    assert certify_thresholds(sets[0], sets[1][np.arange(59)], asked, classes=classes).ood_rank == 1


def with_ood(cases, scores):
    return replace(cases, ood_scores=scores)


def test_ood_scores_with_many_ties_at_the_limit_are_refused(sets, classes):
    tuning, cases = sets
    asked = replace(TARGETS, max_ood_false_alarms=0.1)
    with pytest.raises(DataError, match=r"ood_scores of the calibration set .* 0\.5"):
        certify_thresholds(tuning, with_ood(cases, np.full(400, 0.5)), asked, classes=classes)
    rounded = np.round(cases.ood_scores)
    with pytest.raises(DataError, match=r"ood_scores .* -1 in \d+ of 400"):
        certify_thresholds(tuning, with_ood(cases, rounded), asked, classes=classes)


@pytest.mark.parametrize("without", [0, 1], ids=["tuning", "calibration"])
def test_a_max_ood_false_alarms_without_a_detector_is_refused(without, sets, classes):
    changed = list(sets)
    changed[without] = with_ood(sets[without], None)
    with pytest.raises(UsageError, match="max_ood_false_alarms` needs ood_scores"):
        certify_thresholds(*changed, replace(TARGETS, max_ood_false_alarms=0.1), classes=classes)


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("set_name", ["tuning", "calibration"])
def test_fewer_than_a_handful_of_cases_are_refused(set_name, count, sets, classes):
    changed = dict(zip(["tuning", "calibration"], sets, strict=True))
    changed[set_name] = changed[set_name][np.arange(count)]
    with pytest.raises(DataError, match=f"{set_name} set has {count} cases.* 5 "):
        certify_thresholds(*changed.values(), TARGETS, classes=classes)


@pytest.mark.parametrize("set_name", ["tuning", "calibration"])
@pytest.mark.parametrize("name", ["scores", "ood_scores"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused_with_their_position(
    set_name, name, value, sets, classes
):
    changed = dict(zip(["tuning", "calibration"], sets, strict=True))
    values = getattr(changed[set_name], name).copy()
    values[[7, 9]] = value
    changed[set_name] = replace(changed[set_name], **{name: values})
    with pytest.raises(DataError, match=f"^{name} of the {set_name} set is {value} at position 7"):
        certify_thresholds(*changed.values(), TARGETS, classes=classes)


@pytest.mark.parametrize("set_name", ["tuning", "calibration"])
def test_a_constant_score_is_refused(set_name, sets, classes):
    changed = dict(zip(["tuning", "calibration"], sets, strict=True))
    changed[set_name] = replace(changed[set_name], scores=np.full(len(changed[set_name]), 0.5))
    with pytest.raises(DataError, match=f"scores of the {set_name} set .*0.5"):
        certify_thresholds(*changed.values(), TARGETS, classes=classes)


def test_a_label_without_a_class_is_refused(sets, classes):
    with pytest.raises(DataError, match="labels of the tuning set is 2 at position"):
        certify_thresholds(*sets, TARGETS, classes=classes[:2])


@pytest.mark.usefixtures("as_in_use")
def test_lengths_that_differ_are_refused(sets, classes):
    shorter = replace(sets[0], wrong=sets[0].wrong[1:])
    with pytest.raises(UsageError, match="wrong of the tuning set has length 299"):
        certify_thresholds(shorter, sets[1], TARGETS, classes=classes)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, np.nan])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("max_error", {}),
        ("confidence", {"max_error": 0.1}),
        ("max_ood_false_alarms", {"max_error": 0.1}),
    ],
)
def test_rates_outside_zero_to_one_are_refused(name, given, value):
    with pytest.raises(UsageError, match=f"{name}.* {value}"):
        Targets(**given, **{name: value})


def test_a_rate_of_a_class_is_refused_with_its_name():
    with pytest.raises(UsageError, match=r"class_max_miss.* MEL .*1\.5"):
        Targets(max_error=0.1, class_max_miss={"MEL": 1.5})


def test_an_unknown_class_is_refused(sets, classes):
    asked = Targets(max_error=0.1, class_max_miss={"MELL": 0.1})
    with pytest.raises(UsageError, match=r"'MELL'.* NV, MEL, BCC"):
        certify_thresholds(*sets, asked, classes=classes)


def test_every_group_gives_one_image_each_equally_often():
    groups = ["b", "a", "b", "c", "b"]
    drawn = [one_per_group(groups, seed=seed) for seed in range(900)]
    assert all([groups[at] for at in sorted(of)] in (["b", "a", "c"], ["a", "b", "c"],
               ["a", "c", "b"]) for of in drawn)  # fmt: skip
    of_b = [np.mean([at in of for of in drawn]) for at in (0, 2, 4)]
    np.testing.assert_allclose(of_b, 1 / 3, atol=0.06)


def test_an_image_without_a_group_is_refused():
    with pytest.raises(DataError, match="groups has no name at position 1"):
        one_per_group(["a", ""], seed=0)


@pytest.mark.parametrize(("seed", "class_max_miss"), [(0, {}), (1, {}), (2, {"MEL": 0.4})])
def test_no_smaller_error_than_the_smallest_certifiable_is_certified(
    seed, class_max_miss, drawn_cases, classes
):
    tuning, cases = drawn_cases(80, seed), drawn_cases(60, seed + 50)
    targets = Targets(max_error=0.01, class_max_miss=class_max_miss)
    found = certify_thresholds(tuning, cases, targets, classes=classes)
    assert found.accept_threshold is None
    plan = CertificationPlan.from_tuning(tuning, targets, classes=classes, cases=len(cases))
    counts, step = plan.count(cases), 11
    while plan.loosest_certified(counts, max_error=step / 1000) < 0:
        step += 1
    assert found.smallest_certifiable.max_error == step / 1000
