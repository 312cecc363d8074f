import math

import numpy as np
import pytest

from misgiving.report.findings import PLAIN, POINTS, Effect, effect_of, status_of
from misgiving.report.findings.claims import (
    accuracy_finding,
    collapse_finding,
    minority_finding,
    new_classes_finding,
    ood_finding,
    ranking_finding,
)
from misgiving.report.inputs import models_of, select, spread
from misgiving.results.schema import HistoryRow, ResultInterval


def difference(lower, upper, **changes):
    row = ResultInterval(
        "generalization", "proposed", "mse", "validation", "predicted_loss", "spearman",
        0.1, lower, upper, n=100, trials=3, tuned=False,
    )  # fmt: skip
    return row._replace(**changes)


ABOVE, ACROSS, BELOW, NONE = (0.05, 0.15), (-0.02, 0.22), (-0.3, -0.1), (None, None)


def test_models_stand_from_plain_to_proposed_and_strangers_last(results):
    named = [
        row._replace(model=name) for name in ("other", "proposed", "vanilla") for row in results[:2]
    ]
    assert models_of(named) == ["vanilla", "proposed", "other"]


def test_spread_over_trials_is_the_sample_standard_deviation(results):
    rows = select(results, model="mse", metric="auroc", detector="msp", dataset="boxes")
    values = np.array([row.value for row in rows])
    expected = math.sqrt(sum((value - values.mean()) ** 2 for value in values) / (len(values) - 1))
    assert spread(rows).deviation == pytest.approx(expected)


def test_one_trial_has_no_standard_deviation(results):
    assert spread(results[:1]).deviation is None


@pytest.mark.parametrize(
    ("bounds", "effect"),
    [
        (ABOVE, Effect.BETTER),
        (ACROSS, Effect.UNDECIDED),
        (BELOW, Effect.WORSE),
        (NONE, Effect.UNKNOWN),
        ((0.0, 0.2), Effect.UNDECIDED),
        ((-0.2, 0.0), Effect.UNDECIDED),
    ],
)
def test_only_an_interval_that_excludes_zero_decides(bounds, effect):
    assert effect_of(difference(*bounds)) is effect


@pytest.mark.parametrize("metric", ["fpr_at_tpr95", "detection_error", "aurc", "errors"])
def test_less_is_better_for_errors(metric):
    assert effect_of(difference(*BELOW, metric=metric)) is Effect.BETTER


def test_no_row_decides_nothing():
    assert effect_of(None) is Effect.UNKNOWN


@pytest.mark.parametrize(
    ("bounds", "status", "words"),
    [
        (ABOVE, "supported", "better than the mse estimator"),
        (ACROSS, "inconclusive", "no clear difference from the mse estimator"),
        (BELOW, "contradicted", "worse than the mse estimator"),
        (NONE, "inconclusive", "no interval"),
    ],
)
def test_ranking_is_judged_by_its_paired_interval(bounds, status, words):
    found = ranking_finding([difference(*bounds)])
    assert found.status == status
    assert words in found.sentence.lower()
    assert found.differences == (difference(*bounds),)


def test_an_interval_across_zero_is_said_to_include_it():
    sentence = ranking_finding([difference(*ACROSS)]).sentence
    assert "which includes zero)" in sentence


def test_a_difference_is_given_with_its_interval():
    sentence = ranking_finding([difference(*ABOVE)]).sentence
    assert "+0.100 (95 % interval 0.050 to 0.150)" in sentence


def test_ranking_without_a_row_cannot_be_judged():
    found = ranking_finding([])
    assert found.status == "inconclusive"
    assert "intervals.csv has no difference" in found.sentence.lower()


def test_the_interval_of_another_baseline_does_not_judge_ranking():
    assert ranking_finding([difference(*ABOVE, baseline="vanilla")]).status == "inconclusive"


def test_classification_is_judged_by_balanced_accuracy_and_counts_classes():
    cell = {"baseline": "vanilla", "detector": ""}
    rows = [difference(*ACROSS, metric="balanced_accuracy", **cell)]
    sensitivities = {"MEL": ABOVE, "NV": ABOVE, "BCC": BELOW, "DF": ACROSS}
    rows += [
        difference(*bounds, metric=f"sensitivity/{name}", **cell)
        for name, bounds in sensitivities.items()
    ]
    found = accuracy_finding(rows)
    assert found.status == "inconclusive"
    assert "sensitivity is higher for 2 of 4 classes and lower for 1" in found.sentence


JOINT = [
    (ABOVE, ABOVE, "supported"),
    (ABOVE, ACROSS, "supported in part"),
    (ACROSS, ABOVE, "supported in part"),
    (ABOVE, NONE, "supported in part"),
    (ABOVE, BELOW, "contradicted"),
    (ACROSS, ACROSS, "inconclusive"),
    (ACROSS, BELOW, "contradicted"),
    (BELOW, NONE, "contradicted"),
    (NONE, NONE, "inconclusive"),
]


@pytest.mark.parametrize(("vanilla", "detached", "status"), JOINT)
@pytest.mark.parametrize(
    ("judge", "cell"),
    [
        (accuracy_finding, {"detector": "", "metric": "balanced_accuracy"}),
        (
            new_classes_finding,
            {
                "experiment": "new_classes",
                "dataset": "unseen_classes",
                "detector": "odin",
                "metric": "auroc",
            },
        ),
    ],
)
def test_joint_training_must_gain_over_vanilla_and_over_detached(
    judge, cell, vanilla, detached, status
):
    rows = [
        difference(*vanilla, baseline="vanilla", **cell),
        difference(*detached, baseline="detached", **cell),
    ]
    assert judge(rows).status == status


def test_without_detached_a_gain_over_vanilla_supports_a_claim_in_part():
    cell = {"detector": "", "metric": "balanced_accuracy"}
    found = accuracy_finding([difference(*ABOVE, baseline="vanilla", **cell)])
    assert found.status == "supported in part"
    assert "cannot be attributed to the joint gradient" in found.sentence


def test_unseen_classes_are_judged_by_odin_over_all_of_them():
    cell = {"experiment": "new_classes", "metric": "auroc"}
    odin = {"dataset": "unseen_classes", "detector": "odin", **cell}
    rows = [
        difference(*BELOW, dataset="unseen/BKL", detector="odin", baseline="vanilla", **cell),
        difference(*BELOW, dataset="unseen_classes", detector="msp", baseline="vanilla", **cell),
        difference(*ABOVE, baseline="vanilla", **odin),
        difference(*ABOVE, baseline="detached", **odin),
    ]
    assert new_classes_finding(rows).status == "supported"


def sensitivity(name, bounds, n=100):
    cell = {"detector": "", "baseline": "vanilla", "n": n}
    return difference(*bounds, metric=f"sensitivity/{name}", **cell)


@pytest.mark.parametrize(
    ("bounds", "status"),
    [
        ((ABOVE, ABOVE, ABOVE), "supported"),
        ((ABOVE, ACROSS, ABOVE), "supported in part"),
        ((ACROSS, ACROSS, ACROSS), "inconclusive"),
        ((ACROSS, BELOW, ACROSS), "contradicted"),
        ((NONE, NONE, NONE), "inconclusive"),
    ],
)
def test_minority_classes_are_judged_each_by_its_interval(bounds, status):
    names = ["BCC", "AK", "DF"]
    rows = [sensitivity(name, each) for name, each in zip(names, bounds, strict=True)]
    assert minority_finding(rows, minority=names).status == status


def test_frequent_classes_are_listed_and_do_not_decide():
    rows = [sensitivity("DF", ABOVE), sensitivity("NV", BELOW)]
    found = minority_finding(rows, minority=["DF"], majority=["NV"])
    assert found.status == "supported"
    assert "Frequent classes: NV (100 groups) +10.0 points" in found.sentence


def test_a_class_stands_with_its_groups_and_images():
    rows = [sensitivity("DF", ABOVE, n=17)]
    found = minority_finding(rows, minority=["DF", "AK"], images={"DF": 19})
    assert "DF (17 groups / 19 images) +10.0 points" in found.sentence
    assert "AK not measured" in found.sentence


def odin(dataset, bounds, **changes):
    cell = {"experiment": "ood_detection", "baseline": "vanilla", "detector": "odin"}
    return difference(*bounds, **{**cell, "dataset": dataset, "metric": "auroc", **changes})


def against_each(dataset, bounds):
    return [odin(dataset, bounds), odin(dataset, bounds, baseline="detached")]


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        (ABOVE, ABOVE, "supported"),
        (ABOVE, ACROSS, "supported in part"),
        (ABOVE, BELOW, "contradicted"),
        (ACROSS, ACROSS, "inconclusive"),
        (BELOW, ACROSS, "contradicted"),
        (NONE, NONE, "inconclusive"),
        (ABOVE, NONE, "supported in part"),
    ],
)
def test_ood_images_are_judged_over_all_sets(first, second, status):
    rows = [*against_each("boxes", first), *against_each("photographs", second)]
    assert ood_finding(rows, sets=["boxes", "photographs"]).status == status


@pytest.mark.parametrize(("vanilla", "detached", "status"), JOINT)
def test_ood_images_are_judged_against_vanilla_and_detached(vanilla, detached, status):
    rows = [odin("boxes", vanilla), odin("boxes", detached, baseline="detached")]
    assert ood_finding(rows, sets=["boxes", "black"]).status == status


@pytest.mark.parametrize(("area", "status"), [(1.0, "supported"), (0.99, "supported in part")])
def test_a_set_that_both_models_separate_perfectly_decides_nothing(area, status):
    values = [
        odin("black", NONE, baseline="", model=name, estimate=area)
        for name in ("vanilla", "detached", "proposed")
    ]
    rows = [*against_each("boxes", ABOVE), *against_each("black", (0.0, 0.0)), *values]
    assert ood_finding(rows, sets=["boxes", "black"]).status == status


@pytest.mark.parametrize("tuned", [{"tuned": True}, {"dataset": "histology"}])
def test_the_set_that_tuned_odin_does_not_count(tuned):
    rows = [odin("boxes", ACROSS), odin("other", ABOVE)._replace(**tuned)]
    assert ood_finding(rows, sets=["boxes", "other"]).status == "inconclusive"


def test_one_trial_shows_at_most_a_part_of_a_claim():
    rows = [row._replace(trials=1) for row in against_each("boxes", ABOVE)]
    assert ood_finding(rows, sets=["boxes"]).status == "supported in part"


def test_one_trial_contradicts_no_claim():
    lost = [row._replace(trials=1) for row in against_each("boxes", BELOW)]
    assert ood_finding(lost, sets=["boxes"]).status == "inconclusive"
    assert status_of([difference(*ABOVE), lost[0]]) == "inconclusive"
    assert status_of([lost[0], difference(*BELOW)]) == "contradicted"


def test_the_sentence_on_ood_images_names_the_sets_under_each_outcome():
    rows = [odin("black_boxes", ABOVE), odin("photographs", ACROSS), odin("skin", NONE)]
    said = ood_finding(rows, sets=["black_boxes", "photographs", "skin"]).sentence
    assert "Of the 3 sets" in said
    assert "higher than vanilla's on 1 (black boxes)" in said
    assert "includes zero) on 1 (photographs)" in said
    assert "without an interval on 1 (skin)" in said
    assert "no comparison with detached" in said


def epoch(trial, number, ratio, set="validation", model="mse"):
    return HistoryRow(
        "generalization", trial, model, number, set, 1.0, 1.0, 0.5, 0.5, 0.1, ratio, 0.02
    )


@pytest.mark.parametrize(
    ("ratios", "status"),
    [
        ((0.02, 0.09), "supported"),
        ((0.02, 0.4), "supported in part"),
        ((0.1, 0.4), "contradicted"),
    ],
)
def test_collapse_is_judged_by_the_spread_of_the_estimates(ratios, status):
    rows = [epoch(trial, 5, ratio) for trial, ratio in enumerate(ratios)]
    found = collapse_finding(rows, monitored="validation")
    assert found.status == status
    assert f"{ratios[0]:.2f} to {ratios[1]:.2f}" in found.sentence


def test_collapse_is_judged_on_the_monitored_set_after_the_last_epoch():
    last = epoch(0, 5, 0.5)
    others = [epoch(0, 4, 0.0), epoch(0, 5, 0.0, set="train"), epoch(0, 5, 0.0, model="proposed")]
    assert collapse_finding([*others, last], monitored="validation").status == "contradicted"


def test_collapse_without_histories_cannot_be_judged():
    assert collapse_finding([], monitored="validation").status == "inconclusive"


@pytest.mark.parametrize(
    ("value", "text"), [(0.51414, "51.4"), (-0.1, "\N{MINUS SIGN}10.0"), (-0.0001, "0.0")]
)
def test_points_are_written_with_one_decimal_and_a_true_minus(value, text):
    assert POINTS.number(value) == text


def test_correlations_are_written_with_three_decimals():
    assert PLAIN.number(0.1234, sign="+") == "+0.123"
