from dataclasses import replace

import pytest
from fabricated import COMPLETE_SETTINGS, Interval, Result, facts_of, run_of
from pages import read, table, texts

from misgiving.reproduction.published import (
    METRICS,
    PAPER_IMAGES,
    PAPER_SETS,
    PAPER_SETTINGS,
    table_1,
)
from misgiving.reproduction.report.claims import LOWER_IS_BETTER, agreement, departures
from misgiving.reproduction.tables import table_of

NUMBERS = "Every number that the paper prints, and ours"
OURS = COMPLETE_SETTINGS | {  # a run in which all that is recorded is the paper's
    "data": "isic2019:somewhere",
    **PAPER_SETTINGS[""],
    "split": "paper",
    "measured_set": "validation",
    "odin": COMPLETE_SETTINGS["odin"] | {"tuning_set": "nct"},
    "training": COMPLETE_SETTINGS["training"] | {"epochs": 50},
    "preprocessing": COMPLETE_SETTINGS["preprocessing"] | {"image_size": 224},
}


def like_the_paper(**values):
    """Such a run with changed settings; a mapping among them is changed in part."""
    settings = OURS | {
        name: OURS[name] | value if isinstance(value, dict) else value
        for name, value in values.items()
    }
    results = [
        Result("ood_detection", 0, "vanilla", name, "odin", "auroc", 0.5) for name in PAPER_SETS
    ]
    datasets = {name: facts_of(images=PAPER_IMAGES[name], paper_set=name) for name in PAPER_SETS}
    return run_of(results, settings=settings, datasets=datasets)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"data": "ham10000:there"}, ("data", "ham10000:there")),
        ({"model": {"backbone": "resnet18"}}, ("backbone", "resnet18")),
        ({"model": {"pretrained": False}}, ("weights", None)),
        ({"model": {"weights": "mine.safetensors"}}, ("weights", "mine.safetensors")),
        ({"model": {"dropout": 0.5}}, ("dropout", 0.5, 0.4)),
        ({"preprocessing": {"color_constancy": "none"}}, ("color_constancy",)),
        ({"training": {"epochs": 20}}, ("epochs", 20, 50)),
        ({"training": {"sampling": "sqrt"}}, ("sampling", "sqrt", "inverse")),
        ({"training": {"estimator_rate": 10.0}}, ("estimator_rate", 10.0, 1.0)),
        ({"augmentation": {"flips": False, "jitter": 0.0}}, ("augmentation", ("flips", "jitter"))),
        ({"validation_share": 0.2}, ("validation_share", 0.2, 0.1)),
        ({"split": "grouped", "validation_share": 0.2}, ("split", "grouped", "paper")),
        ({"measured_set": "test"}, ("measured_set", "test", "validation")),
        ({"unseen": ("BKL",)}, ("unseen", ("BKL",), ("BKL", "VASC", "SCC"))),
        ({"odin": {"tuning_set": "b_box"}}, ("tuning_set", "b_box")),
    ],
)
def test_one_change_is_one_difference(values, expected):
    assert departures(like_the_paper()) == []
    assert departures(like_the_paper(**values)) == [(*expected, *[None] * (3 - len(expected)))]


def test_sets_that_are_missing_smaller_or_stood_in_for_are_told(complete):
    assert {
        ("not_measured", "clin_skin", None),
        ("set_size", "b_box", 2025),
        ("made_here", "b_box", None),
        ("stands_in", "photographs", "imagenet"),
    } <= set(departures(complete))
    said = read(complete).texts("li")
    assert "ImageNet: photographs (Photographs of things) stands in for it." in said


def body_of(rows, name):
    """The rows below a heading, without it; the first row of a set has the heading, too."""
    start = [row[0].text for row in rows].index(name)
    count = 5 if rows[start][1].text.startswith("FPR") else 1
    return texts([rows[start][1:], *rows[start + 1 : start + count]])


def test_every_number_of_the_paper_is_in_the_table(complete):
    rows = table(complete, NUMBERS, heads=2)
    for paper_set, title in PAPER_SETS.items():
        name = {"nct": "colon", "imagenet": "photographs"}.get(paper_set, title)
        printed = [row[1:3] for row in body_of(rows, name)]
        assert printed == [[str(cell.vanilla), str(cell.proposed)] for cell in table_1(paper_set)]
    assert body_of(rows, "Figure 3")[0][1:3] == ["73.1", "77.9"]
    assert body_of(rows, "Figure 5")[0][1:3] == ["56.3", "65.26"]
    assert all(row[4:] == ["not measured"] for row in body_of(rows, "Clin-Skin"))
    told = [row[-1].text for row in rows]
    yes, no = told.count("yes"), told.count("no")
    assert agreement(complete) == (yes, yes + no)
    assert yes + no > 0


@pytest.mark.parametrize(
    ("bounds", "over_trials", "answer", "difference"),
    [
        ((0.029, 0.031), (0.01, 0.05), "yes", "+3.0"),
        ((0.029, 0.031), (0.01, 0.04), "no", "+3.0"),
        ((-0.01, 0.07), (None, None), "\N{EN DASH}", "+3.0 ○"),
    ],
)
def test_the_papers_difference_of_48_points_is_looked_for_in_our_interval_over_trials(
    complete, bounds, over_trials, answer, difference
):
    where = ("generalization", "proposed", "vanilla", "test", "", "balanced_accuracy")
    row = Interval(*where, 0.03, *bounds, 99, 3, False, *over_trials, 0.5)
    run = replace(complete, intervals=table_of([row], "intervals.csv"))
    assert body_of(table(run, NUMBERS, heads=2), "Figure 3")[0][-2:] == [difference, answer]


@pytest.mark.parametrize("row", PAPER_SETS)
def test_a_row_of_table_1_agrees_with_itself_and_the_proposed_model_is_never_worse(row):
    cells = list(table_1(row))
    assert tuple(cell.metric for cell in cells) == METRICS
    for cell in cells:
        assert (cell.difference <= 0) if cell.metric in LOWER_IS_BETTER else (cell.difference >= 0)
    rate, error = cells[:2]  # an error is at most that of the threshold at 95 %
    assert error.vanilla <= 0.5 * 5 + 0.5 * rate.vanilla
    assert error.proposed <= 0.5 * 5 + 0.5 * rate.proposed
