import pytest
from relied import bins, calibrations, interval, ood, policies, policy

from misgiving.report.inputs import read_material
from misgiving.report.page.calibration import calibration, scaling_sentence, stated_sentence
from misgiving.report.page.reliance import reliance
from misgiving.report.tables import (
    kept,
    main_promise,
    ood_sentence,
    promise_sentences,
    promises_of,
    select,
)

POLICY = "policy/0.1"
NO_INTERVAL = "(no interval over these trials alone)"


@pytest.fixture(scope="module")
def material(relied):
    return read_material(relied)


def promised(*trials, target=0.1, model="proposed"):
    """The promise of policies that are told trial by trial."""
    rows = [row for k, facts in enumerate(trials) for row in policy(k, model, target, **facts)]
    return promises_of(rows)


def error(*bounds):
    return interval(POLICY, "error_among_accepted", *bounds)


def test_a_promise_given_in_every_trial_is_told_with_its_interval():
    rows = [interval(POLICY, "coverage", 0.28, 0.34)]
    assert promise_sentences(rows, promised({}, {}))[0] == (
        "With an error of at most 10 % promised, the proposed model would answer 31.0 % of new "
        "cases (95 % interval 28.0 to 34.0) in 2 of 2 trials."
    )


def test_a_promise_given_in_some_trials_is_told_for_these_without_an_interval_over_all():
    trials = ({"coverage": 0.29}, {"coverage": 0.33}, {"smallest": 0.123})
    rows = [interval(POLICY, "coverage", 0.1, 0.3)]
    assert promise_sentences(rows, promised(*trials))[0] == (
        "With an error of at most 10 % promised, the proposed model would answer 29.0 to 33.0 % of "
        f"new cases {NO_INTERVAL} in 2 of 3 trials; in 1 no promise could be given (the smallest "
        "that the cases there would have certified: 12.3 %)."
    )


def test_a_promise_that_could_never_be_given_answers_no_case():
    sentences = promise_sentences([], promised({"smallest": 0.12}, {"smallest": 0.14}))
    assert sentences == [
        "An error of at most 10 % could be promised for the proposed model in none of 2 trials "
        "(the smallest that the cases there would have certified: 12.0 to 14.0 %): it would "
        "answer no case."
    ]


@pytest.mark.parametrize(
    ("bounds", "outcome", "words"),
    [
        ((0.02, 0.1), "yes", "the whole interval stays within the promise"),
        ((0.11, 0.2), "no", "the whole interval is above the promise, which was not kept"),
        ((0.02, 0.11), "cannot be told: the interval holds the promise", "cannot be told"),
        ((), "under it in 1 of 2 trials, no interval", "under it in 1 of 2 trials"),
    ],
)
def test_a_promise_is_kept_or_broken_only_where_the_whole_interval_says_so(bounds, outcome, words):
    targets = promised({"error": 0.05}, {"error": 0.12})
    assert kept([error(*bounds)], targets[0]) == outcome
    assert words in promise_sentences([error(*bounds)], targets)[1]


def test_a_promise_with_no_answers_on_unseen_cases_is_not_called_kept():
    targets = promised({"error": None, "coverage": 0.0})
    assert kept([], targets[0]) == "nothing was answered"
    assert "its error cannot be told" in promise_sentences([], targets)[1]


def test_trials_without_an_error_leave_the_others_and_no_interval():
    targets = promised({"error": 0.05}, {"smallest": 0.2})
    assert kept([], targets[0]) == "under it in 1 of 1 trials, no interval"
    assert f"5.0 % were wrong {NO_INTERVAL}" in promise_sentences([], targets)[1]


@pytest.mark.parametrize(
    ("metric", "bounds", "words"),
    [
        ("coverage", (0.02, 0.06), "Cases answered: clearly more than with vanilla, +4.0 points"),
        ("coverage", (-0.06, -0.02), "Cases answered: clearly fewer than with vanilla"),
        ("coverage", (-0.01, 0.05), "Cases answered: not to be told apart from vanilla."),
        ("coverage", (), "Cases answered: not to be told apart from vanilla."),
        ("error_among_accepted", (0.02, 0.06), "clearly higher than with vanilla"),
        ("error_among_accepted", (-0.06, -0.02), "clearly lower than with vanilla"),
    ],
)
def test_a_model_is_named_better_only_where_an_interval_leaves_out_zero(metric, bounds, words):
    rows = [interval(POLICY, metric, *bounds, baseline="vanilla")]
    assert words in " ".join(promise_sentences(rows, promised({})))


def test_without_the_proposed_model_the_plainest_is_spoken_of():
    targets = promised({}, model="vanilla") + promised({}, target=0.2, model="vanilla")
    assert main_promise(targets).model == "vanilla"


def test_of_several_promises_that_of_one_in_ten_is_spoken_of_first():
    targets = promises_of(list(policies()))
    assert (main_promise(targets).model, main_promise(targets).target) == ("proposed", 0.1)


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        (
            {},
            "3.0 ± 0.0 % of ordinary images are called OOD by mistake (at most 5 % in 3 of 3",
        ),
        ({"validation": 0.08}, "at most 5 % in 0 of 3 trials"),
        (dict.fromkeys(("validation", "histology", "photographs", "boxes"), 0.0), "no image"),
    ],
)
def test_false_alarms_are_held_against_what_the_rule_is_calibrated_to(shares, words):
    rows = [row._replace(value=shares.get(row.dataset, row.value)) for row in ood()]
    assert words in ood_sentence(rows, model="proposed", measured="validation")


def test_the_sets_with_the_least_and_most_ood_images_found_are_named():
    said = ood_sentence(list(ood()), model="proposed", measured="validation")
    assert "from 10.0 ± 0.0 % (boxes) to 90.0 ± 0.0 % (histology) are found" in said


def test_a_run_without_the_ood_rule_cannot_tell():
    assert "cannot be told" in ood_sentence([], model="proposed", measured="validation")


@pytest.mark.parametrize(("observed", "trials"), [(0.4, 3), (0.2, 0)])
def test_understated_errors_are_counted_over_trials(observed, trials):
    said = stated_sentence(list(bins(observed=observed)))
    assert f"30.0 % said, {100 * observed:.1f} % found" in said
    assert f"understated in {trials} of 3 trials" in said


def test_bins_of_more_images_weigh_more():
    rows = select(bins(), model="proposed", trial=0, quantity="error_probability")
    heavy = [row._replace(images=980 if row.predicted < 0.15 else 5) for row in rows]
    assert "10.5 % said" in stated_sentence(heavy)


def test_without_bins_it_cannot_be_told_whether_errors_are_understated():
    assert "cannot be told" in stated_sentence([])


@pytest.mark.parametrize(("after", "trials"), [(0.03, 3), (0.2, 0)])
def test_trials_in_which_scaling_helps_are_counted(after, trials):
    rows = [
        row._replace(value=after) if row.detector == "scaled_softmax" else row
        for row in calibrations()
    ]
    said = scaling_sentence(rows)
    assert f"proposed {trials} of 3" in said
    assert f"from 0.100 to {after:.3f}" in said


def test_what_scaling_does_cannot_be_told_of_one_side_alone():
    assert "cannot be told" in scaling_sentence(select(calibrations(), detector="softmax"))


def test_the_answer_comes_first_and_what_it_means_after_the_numbers(material):
    html = reliance(material, {})
    assert html.startswith('<p class="finding">With an error of at most 10 % promised')
    assert "one image of each lesion" in html


def test_each_model_names_the_score_by_which_it_accepts(material):
    assert reliance(material, {}).count("accepts by MSP") == 4


def test_only_a_split_by_image_is_warned_of(material):
    by_image = material._replace(settings={**material.settings, "split": "paper"})
    assert "Paper&#x27;s split" in reliance(by_image, {})
    assert "Paper&#x27;s split" not in reliance(material, {})


def test_trials_whose_parts_were_too_small_are_named(material):
    rows = [
        row
        for row in material.results
        if (row.model, row.trial, row.dataset) != ("mse", 1, "policy_test")
    ]
    said = "Missing: policies of mse, trial 1. The parts were too small to calibrate on."
    assert said in reliance(material._replace(results=rows), {})
    assert "Missing: policies" not in reliance(material, {})


def test_an_older_run_says_what_is_missing(finished):
    html = reliance(read_material(finished), {})
    for what in ("policies (policy_test)", "the rule for OOD images", "calibration"):
        assert f"Missing in results.csv: {what}" in html


def test_values_of_trials_without_an_interval_over_all_are_listed(material):
    rows = [row for row in material.results if not row.detector.startswith("policy/")]
    trials = [*policy(0, "proposed", 0.1, error=0.041), *policy(1, "proposed", 0.1, smallest=0.2)]
    html = reliance(material._replace(results=[*rows, *trials], intervals=[]), {})
    assert '<td class="number">4.1<small>(no interval)</small></td>' in html
    assert '<td class="number">1 of 2</td>' in html


def test_false_alarms_are_told_from_what_is_found(material):
    html = reliance(material, {})
    assert html.count("false alarms \N{DOWNWARDS ARROW}") == 1
    assert html.count("found \N{UPWARDS ARROW}") == 3


def test_calibration_without_a_figure_says_so(material):
    assert "Missing: reliability.csv" in calibration(material, {})
