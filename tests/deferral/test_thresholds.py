from dataclasses import replace

import numpy as np
import pytest

from misgiving.deferral import Cases, Targets, calibrate, one_per_group, rates_by_class
from misgiving.deferral.plan import Plan
from misgiving.errors import DataError, UsageError

TARGETS = Targets(max_error=0.1)


@pytest.fixture
def parts(drawn_cases):
    return drawn_cases(300, 1), drawn_cases(400, 2)


def test_the_facts_are_counts_of_the_calibration_cases(parts, classes):
    targets = Targets(max_error=0.15, class_max_miss={"MEL": 0.2}, max_ood_false_alarms=0.1)
    found, cases = calibrate(*parts, targets, classes=classes), parts[1]
    reached = cases.scores >= found.accept_threshold
    accepted = reached & (cases.ood_scores > found.ood_threshold)
    assert found.accepted == accepted.sum() > 0
    assert found.wrong == (accepted & cases.wrong).sum()
    of_class = cases.labels == 1
    (outcome,) = found.class_outcomes
    assert outcome.missed == (reached & cases.wrong & of_class).sum()
    assert outcome.cases == of_class.sum()
    assert found.coverage.lower < found.accepted / found.cases < found.coverage.upper
    assert sorted(cases.ood_scores)[found.ood_rank - 1] == found.ood_threshold


def test_promises_are_kept_in_all_but_few_draws(drawn_cases, classes):
    population, random = drawn_cases(20_000, 3), np.random.default_rng(0)
    plan = Plan.of(drawn_cases(200, 4), TARGETS, classes=classes, cases=200)
    drawn = population[random.integers(len(population), size=(2000, 200))]
    position = plan.position(plan.count(drawn))
    thresholds = plan.thresholds[position[position >= 0]]
    errors = np.array([population.wrong[population.scores >= t].mean() for t in thresholds])
    assert (position >= 0).mean() > 0.3
    assert (errors > 0.1).sum() / 2000 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize("change", [np.exp, lambda s: s**3 - 7, np.sqrt], ids=["exp", "^3", "sqrt"])
def test_only_the_order_of_scores_matters(change, parts, classes):
    tune, cases = parts
    targets = replace(TARGETS, class_max_miss={"MEL": 0.2})
    plain = calibrate(tune, cases, targets, classes=classes)
    changed = calibrate(
        replace(tune, scores=change(tune.scores)),
        replace(cases, scores=change(cases.scores)),
        targets,
        classes=classes,
    )
    assert changed.accept_threshold == pytest.approx(change(plain.accept_threshold))
    kept = ("accept_threshold", "evidence")
    assert replace(changed, **{name: getattr(plain, name) for name in kept}) == plain


def test_the_level_is_shared_among_all_promises_unless_each_is_by_itself():
    targets = Targets(
        max_error=0.1,
        confidence=0.88,
        class_max_miss={"A": 0.1, "B": 0.1},
        max_ood_false_alarms=0.1,
    )
    assert targets.level == pytest.approx(0.03)
    assert replace(targets, simultaneous=False).level == pytest.approx(0.12)


def test_what_is_best_attainable_is_certified_and_a_thousandth_less_is_not(parts, classes):
    best = calibrate(*parts, Targets(max_error=0.001), classes=classes).best
    attained = calibrate(*parts, Targets(max_error=best.max_error), classes=classes)
    assert attained.accepted == best.accepted > 0
    below = calibrate(*parts, Targets(max_error=best.max_error - 0.001), classes=classes)
    assert below.accept_threshold is None


def test_where_all_are_right_all_are_accepted(parts, classes):
    tune, cases = (replace(part, wrong=np.zeros(len(part), dtype=bool)) for part in parts)
    found = calibrate(tune, cases, TARGETS, classes=classes)
    assert (found.accept_threshold, found.accepted, found.wrong) == (-np.inf, 400, 0)


def test_where_all_are_wrong_nothing_is_attainable(parts, classes):
    tune, cases = (replace(part, wrong=np.ones(len(part), dtype=bool)) for part in parts)
    found = calibrate(tune, cases, TARGETS, classes=classes)
    assert (found.accept_threshold, found.accepted, found.best) == (None, 0, None)
    assert found.coverage == (0.0, 0.0)


def test_one_class_alone_can_certify_the_error(parts, classes):
    tune, cases = (replace(part, labels=np.zeros(len(part), dtype=int)) for part in parts)
    assert calibrate(tune, cases, TARGETS, classes=classes).accepted > 0
    with pytest.raises(DataError, match="class_max_miss of MEL: it has no calibration cases"):
        calibrate(tune, cases, replace(TARGETS, class_max_miss={"MEL": 0.1}), classes=classes)


def test_a_class_promise_can_only_tighten_the_threshold(parts, classes):
    loose = calibrate(*parts, replace(TARGETS, simultaneous=False), classes=classes)
    strict = calibrate(
        *parts,
        replace(TARGETS, simultaneous=False, class_max_miss={"MEL": 0.05}),
        classes=classes,
    )
    assert strict.accept_threshold > loose.accept_threshold


def test_a_rate_that_a_class_cannot_show_is_refused_with_the_smallest_that_it_could(classes):
    labels = np.where(np.arange(400) < 12, 2, 0)
    cases = Cases(scores=np.arange(400) / 400, wrong=np.arange(400) < 5, labels=labels)
    asked = replace(TARGETS, class_max_miss={"BCC": 0.2}, simultaneous=False)
    with pytest.raises(DataError, match=r"12 calibration cases of BCC: .* promised is 0\.221; ask"):
        calibrate(cases, cases, asked, classes=classes)
    asked = replace(asked, class_max_miss={"BCC": 0.221})
    assert calibrate(cases, cases, asked, classes=classes).class_outcomes[0].cases == 12


def test_too_few_cases_for_a_max_ood_false_alarms_are_refused_with_the_number_needed(
    parts, classes
):
    asked = replace(TARGETS, max_ood_false_alarms=0.05, simultaneous=False)
    with pytest.raises(DataError, match="58 calibration cases: at least 59 are needed"):
        calibrate(parts[0], parts[1][np.arange(58)], asked, classes=classes)
    assert calibrate(parts[0], parts[1][np.arange(59)], asked, classes=classes).ood_rank == 1


def with_ood(part, scores):
    return replace(part, ood_scores=scores)


def test_familiarities_that_cannot_be_told_apart_are_refused(parts, classes):
    tune, cases = parts
    asked = replace(TARGETS, max_ood_false_alarms=0.1)
    with pytest.raises(DataError, match=r"ood_scores of the calibration part are all 0\.5"):
        calibrate(tune, with_ood(cases, np.full(400, 0.5)), asked, classes=classes)
    rounded = np.round(cases.ood_scores)
    with pytest.raises(DataError, match=r"ood_scores is -1, the limit, in \d+ of 400"):
        calibrate(tune, with_ood(cases, rounded), asked, classes=classes)


@pytest.mark.parametrize("without", [0, 1], ids=["tune", "calibration"])
def test_a_max_ood_false_alarms_without_a_detector_is_refused(without, parts, classes):
    changed = list(parts)
    changed[without] = with_ood(parts[without], None)
    with pytest.raises(UsageError, match="max_ood_false_alarms needs ood_scores in both parts"):
        calibrate(*changed, replace(TARGETS, max_ood_false_alarms=0.1), classes=classes)


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("part", ["tune", "calibration"])
def test_fewer_than_a_handful_of_cases_are_refused(part, count, parts, classes):
    changed = dict(zip(["tune", "calibration"], parts, strict=True))
    changed[part] = changed[part][np.arange(count)]
    with pytest.raises(DataError, match=f"the {part} part has {count} cases; at least 5"):
        calibrate(*changed.values(), TARGETS, classes=classes)


@pytest.mark.parametrize("part", ["tune", "calibration"])
@pytest.mark.parametrize("name", ["scores", "ood_scores"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused_with_their_position(
    part, name, value, parts, classes
):
    changed = dict(zip(["tune", "calibration"], parts, strict=True))
    values = getattr(changed[part], name).copy()
    values[[7, 9]] = value
    changed[part] = replace(changed[part], **{name: values})
    with pytest.raises(DataError, match=f"^{name} of the {part} part is {value} at position 7"):
        calibrate(*changed.values(), TARGETS, classes=classes)


@pytest.mark.parametrize("part", ["tune", "calibration"])
def test_a_constant_score_is_refused(part, parts, classes):
    changed = dict(zip(["tune", "calibration"], parts, strict=True))
    changed[part] = replace(changed[part], scores=np.full(len(changed[part]), 0.5))
    with pytest.raises(DataError, match=f"scores of the {part} part are all 0.5: only all or"):
        calibrate(*changed.values(), TARGETS, classes=classes)


def test_a_label_without_a_class_is_refused(parts, classes):
    with pytest.raises(DataError, match="labels of the tune part is 2 at position"):
        calibrate(*parts, TARGETS, classes=classes[:2])


@pytest.mark.usefixtures("as_in_use")
def test_lengths_that_differ_are_refused(parts, classes):
    shorter = replace(parts[0], wrong=parts[0].wrong[1:])
    with pytest.raises(UsageError, match="wrong of the tune part has length 299 but scores has"):
        calibrate(shorter, parts[1], TARGETS, classes=classes)


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
    with pytest.raises(UsageError, match=f"{name} is {value}; it must lie between 0 and 1"):
        Targets(**given, **{name: value})


def test_a_rate_of_a_class_is_refused_with_its_name():
    with pytest.raises(UsageError, match=r"class_max_miss of MEL is 1\.5"):
        Targets(max_error=0.1, class_max_miss={"MEL": 1.5})
    with pytest.raises(UsageError, match=r"prevalence of MEL is -0\.5"):
        Targets(max_error=0.1, prevalence={"MEL": -0.5})


@pytest.mark.parametrize("name", ["class_max_miss", "prevalence"])
def test_an_unknown_class_is_refused(name, parts, classes):
    asked = Targets(max_error=0.1, **{name: {"MELL": 0.1}})
    with pytest.raises(UsageError, match="unknown class 'MELL'; choose from NV, MEL, BCC"):
        calibrate(*parts, asked, classes=classes)


def test_a_class_promise_that_is_given_twice_is_refused():
    with pytest.raises(UsageError, match="class promise for MEL is given twice"):
        rates_by_class(["MEL=0.1", "BCC=0.2", "MEL=0.2"])


@pytest.mark.parametrize("pair", ["MEL", "MEL=", "=0.1", "MEL=many"])
def test_a_class_promise_that_is_no_pair_is_refused(pair):
    with pytest.raises(UsageError, match=f"class promise '{pair}' is not CLASS=RATE"):
        rates_by_class([pair])


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


@pytest.mark.parametrize("seed", range(6))
def test_no_smaller_error_than_the_one_named_would_be_certified(drawn_cases, classes, seed):
    tune, cases = drawn_cases(80, seed), drawn_cases(60, seed + 50)
    targets = Targets(max_error=0.01)
    found = calibrate(tune, cases, targets, classes=classes)
    plan = Plan.of(tune, targets, classes=classes, cases=len(cases))
    counts = plan.count(cases)
    certified = [
        step / 1000
        for step in range(11, 1000)
        if int(plan.position(counts, max_error=step / 1000)) >= 0
    ]
    assert found.accept_threshold is None
    assert found.best.max_error == min(certified)
