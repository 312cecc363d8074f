from dataclasses import replace

import pytest
from elements import parse
from fabricated import BLANK
from policy_rows import bins, calibrations, interval, ood, policies, policy

from misgiving.report.findings import BOOTSTRAP
from misgiving.report.findings.detectors import (
    ood_sentence,
    reliability_sentence,
    scaling_sentence,
)
from misgiving.report.findings.target_errors import (
    TargetStatus,
    main_target,
    target_sentences,
    target_status,
    targets_of,
)
from misgiving.report.inputs import read_inputs, select
from misgiving.report.page import render_page
from misgiving.report.views.models import target_table
from misgiving.results.schema import Result

POLICY = "policy/0.1"
NO_INTERVAL = "(no interval over these trials alone)"


@pytest.fixture(scope="module")
def inputs(with_policies):
    return read_inputs(with_policies)


def targets(*trials, target=0.1, model="proposed"):
    """The target of policies that are given trial by trial."""
    rows = [row for k, facts in enumerate(trials) for row in policy(k, model, target, **facts)]
    return targets_of(rows)


def error(*bounds):
    return interval(POLICY, "error_among_accepted", *bounds)


def test_a_target_certified_in_every_trial_has_its_interval():
    rows = [interval(POLICY, "coverage", 0.28, 0.34)]
    said = target_sentences(rows, targets({}, {}))[0]
    assert "target error rate of 10 %" in said
    assert (
        f"accept 31.0 % of new cases (95 % interval 28.0 to 34.0, {BOOTSTRAP}) in 2 of 2 trials."
        in said
    )


def test_a_target_certified_in_some_trials_has_no_interval_over_all():
    trials = ({"coverage": 0.29}, {"coverage": 0.33}, {"smallest": 0.123})
    rows = [interval(POLICY, "coverage", 0.1, 0.3)]
    said = target_sentences(rows, targets(*trials))[0]
    assert f"29.0 to 33.0 % of new cases {NO_INTERVAL} in 2 of 3 trials; in 1 " in said
    assert "smallest certifiable error there: 12.3 %" in said


def test_a_target_that_was_never_certified_accepts_nothing():
    (said,) = target_sentences([], targets({"smallest": 0.12}, {"smallest": 0.14}))
    assert "10 % could not be certified in any of 2 trials" in said
    assert "smallest certifiable error there: 12.0 to 14.0 %" in said


@pytest.mark.parametrize(
    ("bounds", "status", "words"),
    [
        ((0.02, 0.1), TargetStatus.MET, "the whole interval meets the target"),
        ((0.11, 0.2), TargetStatus.MISSED, "exceeds the target, which was missed"),
        ((0.02, 0.11), TargetStatus.INCONCLUSIVE, "the interval includes the target"),
        ((), TargetStatus.NO_INTERVAL, "meets the target in 1 of 2 trials"),
    ],
)
def test_a_target_is_met_or_missed_only_where_the_whole_interval_says_so(bounds, status, words):
    found = targets({"error": 0.05}, {"error": 0.12})
    assert target_status([error(*bounds)], found[0]) is status
    assert words in target_sentences([error(*bounds)], found)[1]


def test_a_target_is_judged_by_one_image_of_each_group_as_it_is_certified():
    rows = policy(0, "proposed", 0.1, error=0.12)
    drawn = rows[-1]._replace(metric="error_per_group", value=0.07)
    (found,) = targets_of([*rows, drawn])
    intervals = [error(0.11, 0.13), interval(POLICY, "error_per_group", 0.05, 0.09)]
    assert found.errors == [0.07]
    assert target_status(intervals, found) is TargetStatus.MET
    assert "it accepted, 7.0 % were wrong" in target_sentences(intervals, [found])[1]


def test_a_table_shows_both_errors_where_groups_have_several_images(inputs):
    drawn = [
        row._replace(metric="error_per_group", value=row.value / 2)
        for row in inputs.results
        if row.metric == "error_among_accepted"
    ]
    table = target_table(inputs._replace(results=[*inputs.results, *drawn]))
    names = [cell.text for cell in table.heads[0]]
    first, second = (at for at, name in enumerate(names) if name.startswith("Errors among"))
    assert "one image of each group" in names[first]
    assert "all images" in names[second]
    line = table.bodies[0][0]
    shift = len(line) - len(names)  # the model's name is a cell of its first line
    assert line[first + shift].text.split(",")[0] == "2.0"
    assert line[second + shift].text.split(",")[0] == "4.0"


def test_a_target_without_accepted_cases_is_not_called_met():
    found = targets({"error": None, "coverage": 0.0})
    assert target_status([], found[0]) is TargetStatus.NOTHING_ACCEPTED
    assert "its error is unknown" in target_sentences([], found)[1]


def test_trials_without_an_error_leave_the_others_and_no_interval():
    found = targets({"error": 0.05}, {"smallest": 0.2})
    assert target_status([], found[0]) is TargetStatus.NO_INTERVAL
    said = target_sentences([], found)[1]
    assert f"5.0 % were wrong {NO_INTERVAL}" in said
    assert "in 1 of 1 trials" in said


@pytest.mark.parametrize(
    ("metric", "bounds", "words"),
    [
        ("coverage", (0.02, 0.06), "Cases accepted: more than with vanilla, +4.0 points"),
        ("coverage", (-0.06, -0.02), "Cases accepted: fewer than with vanilla"),
        ("coverage", (-0.01, 0.05), "Cases accepted: no clear difference from vanilla ("),
        ("coverage", (), "Cases accepted: no clear difference from vanilla ("),
        ("error_among_accepted", (0.02, 0.06), "higher than with vanilla"),
        ("error_among_accepted", (-0.06, -0.02), "lower than with vanilla"),
    ],
)
def test_a_model_is_named_better_only_where_an_interval_excludes_zero(metric, bounds, words):
    rows = [interval(POLICY, metric, *bounds, baseline="vanilla")]
    assert words in " ".join(target_sentences(rows, targets({})))


def test_without_the_proposed_model_the_plainest_comes_first():
    found = targets({}, model="vanilla") + targets({}, target=0.2, model="vanilla")
    assert main_target(found).model == "vanilla"


def test_of_several_targets_that_of_one_in_ten_comes_first():
    main = main_target(targets_of(list(policies())))
    assert (main.model, main.target) == ("proposed", 0.1)


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        (
            {},
            "3.0 ± 0.0 % of in-distribution images are called OOD by mistake (at most 5 % in 3 of",
        ),
        ({"validation": 0.08}, "at most 5 % in 0 of 3 trials"),
        (dict.fromkeys(("validation", "histology", "photographs", "boxes"), 0.0), "no image"),
    ],
)
def test_false_alarms_are_held_against_what_the_rule_is_calibrated_to(shares, words):
    rows = [row._replace(value=shares.get(row.dataset, row.value)) for row in ood()]
    assert words in ood_sentence(rows, measured="validation")


def test_the_sets_with_the_least_and_most_ood_images_found_are_named():
    said = ood_sentence(list(ood()), measured="validation")
    assert "from 10.0 ± 0.0 % (boxes) to 90.0 ± 0.0 % (histology) are detected" in said


def test_a_run_without_the_ood_rule_says_so():
    assert "not measured" in ood_sentence([], measured="validation")


@pytest.mark.parametrize(("observed", "trials"), [(0.4, 3), (0.2, 0)])
def test_understated_errors_are_counted_over_trials(observed, trials):
    said = reliability_sentence(list(bins(observed=observed)))
    assert f"30.0 % and {100 * observed:.1f} %" in said
    assert f"understated in {trials} of 3 trials" in said


def test_bins_of_more_images_weigh_more():
    rows = select(bins(), model="proposed", trial=0, quantity="error_probability")
    heavy = [replace(row, images=980 if row.predicted < 0.15 else 5) for row in rows]
    assert "10.5 % and" in reliability_sentence(heavy)


def test_without_bins_the_calibration_of_errors_is_unknown():
    assert "unknown" in reliability_sentence([])


@pytest.mark.parametrize(("after", "trials"), [(0.03, 3), (0.2, 0)])
def test_trials_in_which_scaling_helps_are_counted(after, trials):
    rows = [
        row._replace(value=after) if row.detector == "scaled_softmax" else row
        for row in calibrations()
    ]
    said = scaling_sentence(rows)
    assert f"proposed {trials} of 3" in said
    assert f"from 0.100 to {after:.3f}" in said


def test_the_effect_of_scaling_is_unknown_from_one_side_alone():
    assert "unknown" in scaling_sentence(select(calibrations(), detector="softmax"))


def page(inputs):
    return parse(render_page(inputs, BLANK))


@pytest.fixture(scope="module")
def html(inputs):
    return render_page(inputs, BLANK)


@pytest.fixture(scope="module")
def missing(html):
    return " ".join(parse(html).texts("p", "missing"))


def test_the_finding_comes_before_its_meaning(html):
    section = html.partition('id="deferral"')[2]
    assert section.index("target error rate of 10 %") < section.index("one image of each group")


def test_each_model_names_its_acceptance_score(inputs):
    bodies = target_table(inputs).bodies
    assert [body[0][0].small for body in bodies] == [("accepts by MSP",)] * 4


def test_only_a_split_by_image_has_a_warning(inputs, missing):
    by_image = inputs._replace(settings=replace(inputs.settings, split="paper"))
    assert "Paper's split" in " ".join(page(by_image).texts("p", "missing"))
    assert "Paper's split" not in missing


def test_trials_whose_sets_were_too_small_are_named(inputs, missing):
    rows = [
        row
        for row in inputs.results
        if (row.model, row.trial, row.dataset) != ("mse", 1, "policy_test")
    ]
    said = " ".join(page(inputs._replace(results=rows)).texts("p", "missing"))
    assert "policies of mse, trial 1." in said
    assert "policies of" not in missing


def test_a_trial_whose_training_diverged_is_not_named_as_one_of_too_small_sets(inputs, missing):
    rows = [row for row in inputs.results if (row.model, row.trial) != ("mse", 1)]
    rows.append(Result("generalization", 1, "mse", inputs.measured, "", "diverged", 1.0))
    said = " ".join(page(inputs._replace(results=rows)).texts("p", "missing"))
    assert "as the training diverged: mse, trial 1." in said
    assert "policies of" not in said
    assert "diverged" not in missing


def test_a_run_without_policies_says_what_is_missing(finished):
    said = " ".join(page(read_inputs(finished)).texts("p", "missing"))
    for what in ("policies (policy_test)", "the OOD rule", "calibration"):
        assert f"Missing in results.csv: {what}" in said


def test_values_of_trials_without_an_interval_over_all_are_listed(inputs):
    rows = [row for row in inputs.results if not row.detector.startswith("policy/")]
    trials = [*policy(0, "proposed", 0.1, error=0.041), *policy(1, "proposed", 0.1, smallest=0.2)]
    found = inputs._replace(results=[*rows, *trials], intervals=[])
    ((row,),) = target_table(found).bodies
    assert row[2].text == "1 of 2"
    assert (row[4].text, row[4].small) == ("4.1", ("(no interval)",))


def test_false_alarms_and_detected_images_are_named_as_such(html):
    cells = parse(html).texts("td", "")
    assert cells.count("false alarms \N{DOWNWARDS ARROW}") == 1
    assert cells.count("detected \N{UPWARDS ARROW}") == 3


def test_calibration_without_a_figure_says_so(missing):
    assert "Missing in reliability.csv" in missing
