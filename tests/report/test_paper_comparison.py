import re
import shutil
from dataclasses import replace

import pytest
from fabricated import ALWAYS, DERMOSCOPY_SETTINGS, facts_of
from matplotlib.figure import Figure

from misgiving.report import wording
from misgiving.report.inputs import read_inputs
from misgiving.report.page import draw_figures, render_page
from misgiving.report.published import SETS, SETTINGS, table_1
from misgiving.report.views import ABSENT, ZERO
from misgiving.report.views.paper import paper_agreement, paper_differences, paper_table
from misgiving.results.formats import write_table
from misgiving.results.schema import Confusion, Result, ResultInterval, SplitLeakage

BLANK = dict.fromkeys(
    [*ALWAYS, "confusions", "learning-rates"],
    Figure(figsize=(1, 1)),
)
OURS = replace(  # a run in which all that is recorded is the paper's
    DERMOSCOPY_SETTINGS,
    data="isic2019:somewhere",
    **{name: paper.value for name, paper in SETTINGS.items() if not paper.section},
    split="paper",
    measured_set="validation",
    odin=replace(DERMOSCOPY_SETTINGS.odin, tuning_set="nct"),
    training={**DERMOSCOPY_SETTINGS.training, "epochs": 50},
    preprocessing={**DERMOSCOPY_SETTINGS.preprocessing, "image_size": 224},
)


@pytest.fixture(scope="module")
def inputs(dermoscopy):
    return read_inputs(dermoscopy)


@pytest.fixture(scope="module")
def like_the_paper(inputs):
    results = [Result("ood_detection", 0, "vanilla", name, "odin", "auroc", 0.5) for name in SETS]
    datasets = {name: facts_of(images=paper.images, paper_set=name) for name, paper in SETS.items()}
    return inputs._replace(results=results, datasets=datasets, settings=OURS)


def page(folder):
    return render_page(read_inputs(folder), BLANK)


def changed(inputs, **values):
    """Change settings; a mapping among them is changed in part."""
    settings = inputs.settings
    merged = {
        name: {**getattr(settings, name), **value} if isinstance(value, dict) else value
        for name, value in values.items()
    }
    return inputs._replace(settings=replace(settings, **merged))


def test_a_run_like_the_papers_differs_in_nothing(like_the_paper):
    assert paper_differences(like_the_paper) == []
    assert "No recorded setting differs." in render_page(like_the_paper, BLANK)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data": "ham10000:here"}, "Data: ham10000:here instead of ISIC 2019."),
        ({"images": 808}, "Images of 4.1: 808 instead of 25,331."),
        ({"in_distribution_images": 505}, "Images of 4.2: 505 instead of 21,826."),
        ({"model": {"backbone": "resnet18"}}, "Network: resnet18 instead of VGG-16."),
        ({"model": {"pretrained": False}}, "Initial weights: random"),
        ({"model": {"weights": "mine.safetensors"}}, "Initial weights: mine.safetensors"),
        ({"model": {"dropout": 0.5}}, "Dropout: 0.5 instead of 0.4."),
        ({"preprocessing": {"image_size": 112}}, "Image size: 112 px instead of 224 px."),
        (
            {"preprocessing": {"crop": 1.0}},
            "Crop: 1 of the width instead of 0.85 of the width.",
        ),
        ({"preprocessing": {"color_constancy": "none"}}, "Colours: unchanged"),
        ({"training": {"epochs": 20}}, "Epochs: 20 instead of 50."),
        ({"training": {"batch_size": 32}}, "Batch size: 32 instead of 64."),
        ({"training": {"learning_rate": 3e-4}}, "Learning rate: 0.0003 instead of 0.0001."),
        ({"training": {"decay_every": 4}}, "Epochs between decays: 4 instead of 10."),
        ({"training": {"class_weights": "none"}}, "Class weights of the loss: none"),
        ({"training": {"sampling": "sqrt"}}, "Class weights of the sampler: sqrt"),
        ({"training": {"estimator_rate": 10.0}}, "Learning rate of the estimator: 10 times"),
        ({"augmentation": {"flips": False, "jitter": 0.0}}, "Augmentation without flips, jitter."),
        ({"validation_share": 0.2}, "Share of validation images: 0.2 instead of 0.1."),
        ({"trials": 1}, "Trials: 1 instead of 3."),
        ({"split": "grouped"}, "Split: by group instead of by image"),
        ({"measured_set": "test"}, "Measured set: test"),
        ({"unseen": ("BKL",)}, "Unseen classes of 4.3: BKL instead of BKL, VASC, SCC."),
        ({"odin": replace(OURS.odin, tuning_set="b_box")}, "ODIN is tuned on B-Box"),
    ],
)
def test_one_change_is_one_difference_in_words(like_the_paper, values, words):
    (found,) = paper_differences(changed(like_the_paper, **values))
    assert found.startswith(words)


def test_sets_that_are_missing_smaller_or_stood_in_for_are_told(inputs):
    said = paper_differences(inputs)
    assert "Clin-Skin: not measured." in said
    assert "B-Box: 300 images instead of 2,025." in said
    assert "B-Box: made here of held-out images instead of the published set." in said
    assert "ImageNet: photographs (Photographs of things) stands in for it." in said


def body_of(inputs, name):
    """The rows below a heading, as texts."""
    (body,) = [body for body in paper_table(inputs).bodies if body[0][0].text == name]
    return [[cell.text for cell in row] for row in [body[0][1:], *body[1:]]]


def test_every_number_of_the_paper_is_in_the_table(inputs):
    for paper_set, paper in SETS.items():
        name = {"nct": "colon", "imagenet": "photographs"}.get(paper_set, paper.title)
        printed = [row[1:3] for row in body_of(inputs, name)]
        assert printed == [[str(cell.vanilla), str(cell.proposed)] for cell in table_1(paper_set)]
    assert body_of(inputs, "Figure 3")[0][1:3] == ["73.1", "77.9"]
    assert body_of(inputs, "Figure 5")[0][1:3] == ["56.3", "65.26"]


def test_a_set_that_is_missing_has_the_papers_numbers_and_no_others(inputs):
    assert all(row[4:] == ["not measured"] for row in body_of(inputs, "Clin-Skin"))


def test_another_reading_of_a_set_is_beside_the_same_numbers(inputs):
    (heading,) = [
        body[0][0]
        for body in paper_table(inputs).bodies
        if body[0][0].text == "B-Box-70 of the image"
    ]
    assert "another reading of the paper's B-Box-70" in heading.small


def with_difference(inputs, *bounds, over_trials=(None, None, None)):
    where = ("generalization", "proposed", "vanilla", "test", "", "balanced_accuracy")
    row = ResultInterval(*where, 0.03, *bounds, 99, 3, False, *over_trials)
    return inputs._replace(intervals=[row])


@pytest.mark.parametrize(
    ("bounds", "answer"), [((0.01, 0.05), "yes"), ((0.01, 0.04), "no"), ((None, None), ABSENT)]
)
def test_the_papers_difference_of_48_points_is_looked_for_in_our_interval_over_trials(
    inputs, bounds, answer
):
    found = with_difference(inputs, 0.029, 0.031, over_trials=(*bounds, 0.5))
    assert body_of(found, "Figure 3")[0][-1] == answer


def test_a_difference_whose_interval_includes_zero_is_marked(inputs):
    assert body_of(with_difference(inputs, -0.01, 0.07), "Figure 3")[0][-2] == f"+3.0 {ZERO}"


def test_only_a_run_that_compares_has_the_section(dermoscopy, finished):
    assert 'id="paper"' in page(dermoscopy)
    assert 'id="paper"' not in page(finished)


def test_unfinished_units_leakage_and_time_are_on_the_page(dermoscopy):
    html = page(dermoscopy)
    assert re.search(r"1\s+unit is not in these numbers", html)
    assert "generalization, trial 2, mse." in html
    assert (
        "4.1, trial 0: no group and no identical image is in two sets (1682 images in test)" in html
    )
    assert "15.1 hours" in html


def test_trials_whose_sets_share_the_same_are_listed_together():
    found = [
        SplitLeakage(experiment, trial, shared, shared, 90, separate=not shared)
        for experiment, shared in (("generalization", 0), ("ood_detection", 2))
        for trial in range(3)
    ]
    found[-1] = found[-1]._replace(shared_groups=5)
    lines = [line.partition(":")[0] for line in wording.leakage(found, "test")]
    assert lines == ["4.1, trials 0, 1, 2", "4.2 and 4.3, trials 0, 1", "4.2 and 4.3, trial 2"]


def test_examples_stand_in_the_order_of_the_paper(inputs):
    names = [examples.name for examples in inputs.examples]
    assert names[2:8] == [
        "colon",
        "B-Box",
        "B-Box-70",
        "B-Box-70 of the image",
        "photographs",
        "Derm-Skin",
    ]


def test_the_figures_of_dermoscopy_are_drawn_where_there_is_data(inputs):
    assert {"confusions", "learning-rates"} <= draw_figures(inputs).keys()


def test_confusions_that_are_not_there_leave_the_rest(dermoscopy, tmp_path):
    folder = shutil.copytree(dermoscopy, tmp_path / "copy")
    write_table(folder / "confusions.csv", Confusion, [])
    assert "confusions" not in draw_figures(read_inputs(folder))


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["MEL", "NV", "BCC", "AKIEC", "DF"], ["BCC", "AKIEC", "DF"]),
        (["a", "b", "c", "d"], ["d", "b", "a"]),
    ],
)
def test_minority_classes_are_the_papers_or_else_the_rarest(inputs, classes, expected):
    images = dict(zip(classes, (30, 20, 40, 10, 50), strict=False))
    counts = {name: {"train": count} for name, count in images.items()}
    settings = replace(inputs.settings, classes=tuple(classes), class_counts=counts)
    assert inputs._replace(settings=settings).minority == expected


def test_the_papers_differences_that_our_intervals_include_are_counted(inputs):
    told = [row[-1].text for body in paper_table(inputs).bodies for row in body]
    yes, no = told.count("yes"), told.count("no")
    assert yes + no > 0
    assert f" in {yes} of {yes + no} numbers " in paper_agreement(inputs)
