import html
import re
from dataclasses import replace
from functools import partial

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import same_color

from misgiving.report.figures import COLOURS, inline, render
from misgiving.report.figures.classes import (
    MAX_EXAMPLES,
    THUMBNAIL,
    Examples,
    confusion_figure,
    examples_figure,
    new_classes_figure,
    thumbnail,
)
from misgiving.report.figures.classes import sensitivity_figure as sensitivities_of
from misgiving.report.figures.curves import curve
from misgiving.report.figures.curves import learning_figure as learning_of
from misgiving.report.inputs import select
from misgiving.results.schema import Confusion

sensitivity_figure = partial(sensitivities_of, measured="validation")
learning_figure = partial(learning_of, monitored="validation")
CLASSES = ["DF", "MEL", "NV", "BCC", "AK"]


def mean_of(rows):
    return sum(row.value for row in rows) / len(rows)


def words_of(axes):
    return [text.get_text() for text in axes.texts]


def panels(figure):
    return dict(zip(("mse", "ranking", "accuracy"), figure.axes, strict=True))


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


def picture(height, width):
    return np.zeros((height, width, 3), dtype=np.uint8)


def test_a_curve_is_mean_and_range_over_trials_in_order_of_epochs(histories):
    rows = select(histories, model="mse", set="validation")
    found = curve(rows[::-1], "auxiliary_loss")
    for index, epoch in enumerate(range(1, 13)):
        values = [row.auxiliary_loss for row in rows if row.epoch == epoch]
        expected = (epoch, sum(values) / len(values), min(values), max(values))
        assert [column[index] for column in found[:4]] == pytest.approx(expected)


def test_every_trial_has_its_dot_at_the_last_epoch(histories):
    axes = panels(learning_figure(histories))["accuracy"]
    dots = {line.get_color(): line for line in axes.lines if line.get_marker() == "o"}
    for model, colour in COLOURS.items():
        last = select(histories, model=model, set="validation", epoch=12)
        if last:
            expected = [100 * row.accuracy for row in last]
            assert dots[colour].get_ydata() == pytest.approx(expected)
            assert set(dots[colour].get_xdata()) == {12}


def test_an_axis_holds_the_whiskers_of_every_model(histories):
    rows = [
        replace(row, accuracy=0.0) if (row.trial, row.epoch) == (0, 1) else row for row in histories
    ]
    assert panels(learning_figure(rows))["accuracy"].get_ylim()[0] <= 0


@pytest.mark.parametrize(("level", "drawn"), [(0.95, False), (0.52, True)])
def test_chance_is_drawn_only_where_it_is_near(results, level, drawn):
    rows = [row._replace(value=level + row.value / 100) for row in results]
    axes = new_classes_figure(rows).axes[0]
    assert any(set(line.get_ydata()) == {50} for line in axes.lines) == drawn
    assert (axes.get_ylim()[0] < 60) == drawn


def test_a_quantity_that_was_never_measured_has_no_curve(histories):
    assert curve(select(histories, model="vanilla"), "auxiliary_loss") is None


@pytest.mark.parametrize(("panel", "model"), [("mse", "mse"), ("ranking", "proposed")])
@pytest.mark.parametrize("name", ["train", "validation"])
def test_auxiliary_losses_of_both_sets_are_drawn_in_the_panel_of_their_model(
    histories, panel, model, name
):
    line = lines_of(panels(learning_figure(histories))[panel])[name]
    last = [row.auxiliary_loss for row in select(histories, model=model, set=name, epoch=12)]
    assert line.get_ydata()[-1] == pytest.approx(sum(last) / len(last))


def test_the_third_panel_shows_validation_accuracy_of_every_model_in_percent(histories):
    lines = lines_of(panels(learning_figure(histories))["accuracy"])
    for model in ("vanilla", "mse", "detached", "proposed"):
        last = [r.accuracy for r in select(histories, model=model, set="validation", epoch=12)]
        assert lines[model].get_ydata()[-1] == pytest.approx(100 * sum(last) / len(last))


@pytest.mark.parametrize(("factor", "scale"), [(1.0, "linear"), (1e4, "log")])
def test_losses_of_very_different_size_are_drawn_on_a_logarithmic_axis(histories, factor, scale):
    rows = [
        replace(row, auxiliary_loss=factor if row.epoch == 1 else 1.0)
        for row in select(histories, model="mse")
    ]
    assert panels(learning_figure(rows))["mse"].get_yscale() == scale


def test_a_panel_without_measurements_says_so(histories):
    figure = learning_figure(select(histories, model="mse"))
    assert words_of(panels(figure)["ranking"]) == ["not measured"]


def test_large_marks_are_mean_sensitivities_in_percent(results):
    axes = sensitivity_figure(results, classes=CLASSES).axes[0]
    rows = select(results, experiment="generalization", model="vanilla", metric="sensitivity/DF")
    assert axes.lines[0].get_ydata() == pytest.approx([100 * mean_of(rows)])


def test_classes_stand_in_the_order_of_the_data_and_balanced_accuracy_last(results):
    axes = sensitivity_figure(results, classes=CLASSES).axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == [*CLASSES, "balanced\naccuracy"]


@pytest.mark.parametrize(
    "elsewhere", [{"experiment": "ood_detection"}, {"dataset": "test"}, {"detector": "msp"}]
)
def test_only_the_validation_set_of_the_first_experiment_is_shown(results, elsewhere):
    rows = [row._replace(**elsewhere) for row in results]
    assert words_of(sensitivity_figure(rows).axes[0]) == ["not measured"]


def test_every_trial_has_its_dot(results):
    axes = sensitivity_figure(results, classes=CLASSES).axes[0]
    rows = select(
        results, experiment="generalization", model="vanilla", metric="sensitivity/DF", detector=""
    )
    assert axes.lines[1].get_ydata() == pytest.approx([100 * row.value for row in rows])


def test_whiskers_end_where_a_share_does(results):
    wide = [
        row._replace(value=1.0 if row.trial else 0.1)
        for row in select(results, metric="sensitivity/DF", model="vanilla")
    ]
    axes = sensitivity_figure(wide, classes=["DF"]).axes[0]
    (whisker,) = axes.collections
    ((_, low), (_, high)) = whisker.get_segments()[0]
    assert low == pytest.approx(100 * (0.7 - np.std([0.1, 1, 1], ddof=1)))
    assert high == 100


def test_the_trials_of_the_training_set_are_open_dots(histories):
    dots = [
        line.get_fillstyle()
        for line in panels(learning_figure(histories))["mse"].lines
        if line.get_marker() == "o"
    ]
    assert dots == ["none", "full"]


def test_a_single_trial_is_drawn_without_whiskers(results):
    axes = sensitivity_figure(select(results, trial=0), classes=CLASSES).axes[0]
    assert not axes.collections


def test_unseen_classes_are_drawn_all_together_first_and_then_each(results):
    axes = new_classes_figure(results[::-1]).axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names[0] == "all"
    assert sorted(names[1:]) == ["BKL", "VASC"]


def test_points_are_mean_areas_in_percent(results):
    axes = new_classes_figure(results).axes[0]
    rows = select(
        results, dataset="unseen_classes", detector="odin", metric="auroc", model="vanilla"
    )
    assert axes.lines[0].get_ydata() == pytest.approx([100 * mean_of(rows)])


def test_figures_of_models_without_a_known_colour_can_be_drawn(results):
    rows = [row._replace(model="another") for row in results]
    assert new_classes_figure(rows).axes[0].has_data()


@pytest.mark.parametrize("model", ["vanilla", "mse", "detached", "proposed"])
def test_a_model_keeps_its_colour_through_the_figures(results, histories, model):
    line = lines_of(panels(learning_figure(histories))["accuracy"])[model]
    legends = [figure(results).legends[0] for figure in (sensitivity_figure, new_classes_figure)]
    drawn = [
        handle.get_color()
        for legend in legends
        for handle, text in zip(legend.legend_handles, legend.texts, strict=True)
        if text.get_text() == model
    ]
    assert all(same_color(colour, COLOURS[model]) for colour in [line.get_color(), *drawn])


@pytest.mark.parametrize("kind", ["png", "svg", "jpg"])
def test_the_same_numbers_give_the_same_bytes(results, kind):
    first, second = (render(new_classes_figure(results), kind) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_rendering_does_not_move_the_axes(results, kind):
    figure = sensitivity_figure(results)
    before = figure.axes[0].get_position().bounds
    render(figure, kind)
    assert figure.axes[0].get_position().bounds == before


def test_names_in_an_inline_figure_are_no_markup(results):
    hostile = "</title><script>alert(1)</script>"
    rows = [row._replace(dataset=row.dataset.replace("BKL", hostile)) for row in results]
    drawing = inline(new_classes_figure(rows), "figure-5", hostile)
    assert "<script" not in drawing
    words = re.findall(r"<title>(.*?)</title>", drawing)
    assert any(html.unescape(text).startswith(f"{hostile}, vanilla: ") for text in words)


def test_a_vector_figure_carries_no_date(results):
    assert b"dc:date" not in render(sensitivity_figure(results), "svg")


def test_drawing_leaves_the_settings_of_matplotlib_alone(results):
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        before = dict(matplotlib.rcParams)
        render(sensitivity_figure(results), "svg")
        assert dict(matplotlib.rcParams) == before


def test_examples_are_drawn_up_to_the_number_that_fits():
    sets = [Examples("few", "", [picture(8, 8)] * 2), Examples("many", "", [picture(8, 8)] * 20)]
    assert len(examples_figure(sets).axes[0].images) == 2 + MAX_EXAMPLES


def test_examples_are_not_distorted():
    image = examples_figure([Examples("wide", "", [picture(10, 40)])]).axes[0].images[0]
    left, right, bottom, top = image.get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(4)


def test_a_figure_without_examples_can_be_drawn():
    assert render(examples_figure([]), "png")


@pytest.mark.parametrize(("shape", "expected"), [((400, 200), (THUMBNAIL, 56)), ((8, 8), (8, 8))])
def test_a_thumbnail_shrinks_but_never_enlarges(shape, expected):
    assert thumbnail(picture(*shape)).shape[:2] == expected


CONFUSIONS = [
    Confusion("generalization", trial, model, true, predicted, images)
    for trial in range(2)
    for model in ("vanilla", "proposed")
    for true, predicted, images in (("MEL", "MEL", 3), ("MEL", "NV", 1), ("NV", "NV", 20))
]


def test_confusions_are_summed_over_trials_and_counted_in_the_cells():
    axes = confusion_figure(CONFUSIONS, classes=["MEL", "NV"]).axes[0]
    assert words_of(axes) == ["6", "2", "0", "40"]


def test_shades_of_confusions_are_shares_of_the_true_class():
    axes = confusion_figure(CONFUSIONS, classes=["MEL", "NV"]).axes[0]
    shades = np.asarray(axes.images[0].get_array())
    assert shades.tolist() == [[0.75, 0.25], [0.0, 1.0]]


def test_true_classes_stand_with_their_counts_in_the_order_of_the_data():
    axes = confusion_figure(CONFUSIONS, classes=["NV", "MEL"]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["NV (40)", "MEL (8)"]


def test_every_model_has_a_matrix_of_its_own():
    drawn = confusion_figure(CONFUSIONS).axes
    assert [axes.get_title(loc="left") for axes in drawn] == ["vanilla", "proposed"]


def test_confusions_of_other_experiments_are_not_added():
    other = [row._replace(experiment="ood_detection") for row in CONFUSIONS]
    axes = confusion_figure([*CONFUSIONS, *other], classes=["MEL", "NV"]).axes[0]
    assert words_of(axes) == ["6", "2", "0", "40"]


@pytest.mark.parametrize("name", ["validation", "test"])
def test_sensitivities_of_the_measured_set_alone_are_drawn(results, name):
    rows = [row._replace(dataset="test") for row in results]
    assert bool(sensitivity_figure(rows, measured=name).axes[0].lines) == (name == "test")
