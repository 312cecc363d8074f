import html
import re

import matplotlib
import numpy as np
import pandas as pd
import pytest
from fabricated import Confusion, Result, RiskPoint, bins, frame, risk_points, where
from matplotlib.colors import same_color

from misgiving.report.figures import COLOURS, inline, render
from misgiving.report.figures.classes import (
    MAX_EXAMPLES,
    THUMBNAIL,
    confusion_figure,
    examples_figure,
    thumbnail,
)
from misgiving.report.figures.classes import new_classes_figure as new_classes_of
from misgiving.report.figures.classes import sensitivity_figure as sensitivities_of
from misgiving.report.figures.curves import (
    SCORE_COLOURS,
    calibration_figure,
    curve,
    risk_figure,
)
from misgiving.report.figures.curves import learning_figure as learning_of
from misgiving.report.figures.rates import rates_figure


def sensitivity_figure(rows, **options):
    rows = where(rows, experiment="generalization", dataset="validation", detector="")
    return sensitivities_of(frame("results.csv", rows), **options)


def new_classes_figure(rows):
    return new_classes_of(frame("results.csv", rows))


def learning_figure(rows):
    return learning_of(frame("histories.csv", rows), monitored="validation")


def curve_of(rows, column):
    return curve(frame("histories.csv", rows), column)


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
    rows = where(histories, model="mse", set="validation")
    found = curve_of(rows[::-1], "auxiliary_loss")
    for index, epoch in enumerate(range(1, 13)):
        values = [row.auxiliary_loss for row in rows if row.epoch == epoch]
        expected = (epoch, sum(values) / len(values), min(values), max(values))
        assert [column[index] for column in found[:4]] == pytest.approx(expected)


def test_every_trial_has_its_dot_at_the_last_epoch(histories):
    axes = panels(learning_figure(histories))["accuracy"]
    dots = {line.get_color(): line for line in axes.lines if line.get_marker() == "o"}
    for model, colour in COLOURS.items():
        last = where(histories, model=model, set="validation", epoch=12)
        if last:
            expected = [100 * row.accuracy for row in last]
            assert dots[colour].get_ydata() == pytest.approx(expected)
            assert set(dots[colour].get_xdata()) == {12}


def test_an_axis_holds_the_whiskers_of_every_model(histories):
    rows = [
        row._replace(accuracy=0.0) if (row.trial, row.epoch) == (0, 1) else row for row in histories
    ]
    assert panels(learning_figure(rows))["accuracy"].get_ylim()[0] <= 0


@pytest.mark.parametrize(("level", "drawn"), [(0.95, False), (0.52, True)])
def test_chance_is_drawn_only_where_it_is_near(results, level, drawn):
    rows = [row._replace(value=level + row.value / 100) for row in results]
    axes = new_classes_figure(rows).axes[0]
    assert any(set(line.get_ydata()) == {50} for line in axes.lines) == drawn
    assert (axes.get_ylim()[0] < 60) == drawn


def test_a_quantity_that_was_never_measured_has_no_curve(histories):
    assert curve_of(where(histories, model="vanilla"), "auxiliary_loss") is None


@pytest.mark.parametrize(("panel", "model"), [("mse", "mse"), ("ranking", "proposed")])
@pytest.mark.parametrize("name", ["train", "validation"])
def test_auxiliary_losses_of_both_sets_are_drawn_in_the_panel_of_their_model(
    histories, panel, model, name
):
    line = lines_of(panels(learning_figure(histories))[panel])[name]
    last = [row.auxiliary_loss for row in where(histories, model=model, set=name, epoch=12)]
    assert line.get_ydata()[-1] == pytest.approx(sum(last) / len(last))


def test_the_third_panel_shows_validation_accuracy_of_every_model_in_percent(histories):
    lines = lines_of(panels(learning_figure(histories))["accuracy"])
    for model in ("vanilla", "mse", "detached", "proposed"):
        last = [r.accuracy for r in where(histories, model=model, set="validation", epoch=12)]
        assert lines[model].get_ydata()[-1] == pytest.approx(100 * sum(last) / len(last))


@pytest.mark.parametrize(("factor", "scale"), [(1.0, "linear"), (1e4, "log")])
def test_losses_of_very_different_size_are_drawn_on_a_logarithmic_axis(histories, factor, scale):
    rows = [
        row._replace(auxiliary_loss=factor if row.epoch == 1 else 1.0)
        for row in where(histories, model="mse")
    ]
    assert panels(learning_figure(rows))["mse"].get_yscale() == scale


def test_a_panel_without_measurements_says_so(histories):
    figure = learning_figure(where(histories, model="mse"))
    assert words_of(panels(figure)["ranking"]) == ["not measured"]


def test_large_marks_are_mean_sensitivities_in_percent(results):
    axes = sensitivity_figure(results, classes=CLASSES).axes[0]
    rows = where(results, experiment="generalization", model="vanilla", metric="sensitivity/DF")
    assert axes.lines[0].get_ydata() == pytest.approx([100 * mean_of(rows)])


def test_classes_stand_in_the_order_of_the_data_and_balanced_accuracy_last(results):
    axes = sensitivity_figure(results, classes=CLASSES).axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == [*CLASSES, "balanced\naccuracy"]


def test_every_trial_has_its_dot(results):
    axes = sensitivity_figure(results, classes=CLASSES).axes[0]
    rows = where(
        results, experiment="generalization", model="vanilla", metric="sensitivity/DF", detector=""
    )
    assert axes.lines[1].get_ydata() == pytest.approx([100 * row.value for row in rows])


def test_whiskers_end_where_a_share_does(results):
    wide = [
        row._replace(value=1.0 if row.trial else 0.1)
        for row in where(results, metric="sensitivity/DF", model="vanilla")
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
    axes = sensitivity_figure(where(results, trial=0), classes=CLASSES).axes[0]
    assert not axes.collections


def test_unseen_classes_are_drawn_all_together_first_and_then_each(results):
    axes = new_classes_figure(results[::-1]).axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names[0] == "all"
    assert sorted(names[1:]) == ["BKL", "VASC"]


def test_points_are_mean_areas_in_percent(results):
    axes = new_classes_figure(results).axes[0]
    rows = where(
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
    sets = [("few", "", [picture(8, 8)] * 2), ("many", "", [picture(8, 8)] * 20)]
    assert len(examples_figure(sets).axes[0].images) == 2 + MAX_EXAMPLES


def test_examples_are_not_distorted():
    image = examples_figure([("wide", "", [picture(10, 40)])]).axes[0].images[0]
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
    axes = confusion_figure(frame("confusions.csv", CONFUSIONS), classes=["MEL", "NV"]).axes[0]
    assert words_of(axes) == ["6", "2", "0", "40"]


def test_shades_of_confusions_are_shares_of_the_true_class():
    axes = confusion_figure(frame("confusions.csv", CONFUSIONS), classes=["MEL", "NV"]).axes[0]
    shades = np.asarray(axes.images[0].get_array())
    assert shades.tolist() == [[0.75, 0.25], [0.0, 1.0]]


def test_true_classes_stand_with_their_counts_in_the_order_of_the_data():
    axes = confusion_figure(frame("confusions.csv", CONFUSIONS), classes=["NV", "MEL"]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["NV (40)", "MEL (8)"]


def test_every_model_has_a_matrix_of_its_own():
    drawn = confusion_figure(frame("confusions.csv", CONFUSIONS)).axes
    assert [axes.get_title(loc="left") for axes in drawn] == ["vanilla", "proposed"]


def test_confusions_of_other_experiments_are_not_added():
    other = [row._replace(experiment="ood_detection") for row in CONFUSIONS]
    axes = confusion_figure(
        frame("confusions.csv", [*CONFUSIONS, *other]), classes=["MEL", "NV"]
    ).axes[0]
    assert words_of(axes) == ["6", "2", "0", "40"]


def risk_of(points, trials=()):
    return risk_figure(frame("risk_coverage.csv", points), frame("results.csv", trials))


def test_msp_has_the_same_colour_in_every_panel():
    panels = [axes for axes in risk_of(risk_points()).axes if axes.get_visible()]
    assert len(panels) == 4
    for axes in panels:
        assert same_color(lines_of(axes)["MSP"].get_color(), SCORE_COLOURS["msp"])


def test_risks_are_drawn_in_percent_in_the_order_of_coverage():
    rows = where(risk_points(), model="mse", detector="msp")[::-1]
    line = lines_of(risk_of(rows).axes[0])["MSP"]
    assert line.get_xdata()[0] == pytest.approx(5)
    assert line.get_ydata()[-1] == pytest.approx(20)


def test_every_panel_of_risks_shows_the_whole_of_the_worst_model():
    rows = [RiskPoint(model, "msp", 1.0, risk, None, None)
            for model, risk in (("vanilla", 0.05), ("proposed", 0.3))]  # fmt: skip
    for axes in risk_of(rows).axes[:2]:
        assert axes.get_ylim()[0] == 0
        assert axes.get_ylim()[1] >= 30


def test_every_trial_has_its_dot_at_80_percent_accepted():
    rows = where(risk_points(), model="mse", detector="msp")
    place = ("mse", "validation", "msp", "risk_at_coverage/0.8")
    values = (0.11, 0.12, 0.13)
    trials = [Result("generalization", trial, *place, v) for trial, v in enumerate(values)]
    trials += [row._replace(metric="risk_at_coverage/0.5") for row in trials]
    (dots,) = [line for line in risk_of(rows, trials).axes[0].lines if line.get_marker() == "o"]
    assert list(dots.get_xdata()) == [80, 80, 80]
    assert dots.get_ydata() == pytest.approx([11, 12, 13])


def test_intervals_of_the_scores_stand_side_by_side():
    axes = risk_of(risk_points()).axes[1]
    across = [round(segment[0][0], 6) for group in axes.collections
              for segment in group.get_segments()]  # fmt: skip
    assert len(across) == len(set(across)) == 4 * 3


def test_a_curve_without_an_interval_is_drawn_without_a_band():
    rows = [RiskPoint("another", "another", share, 0.1, None, None) for share in (0.5, 1.0)]
    assert lines_of(risk_of(rows).axes[0])["another"].get_ydata()[0] == pytest.approx(10)


def test_scores_that_one_model_lacks_are_in_the_legend():
    legend = risk_of(risk_points()).legends[0]
    names = [text.get_text() for text in legend.texts]
    assert names == ["MSP", "entropy", "combination", "predicted loss"]


def test_a_model_without_an_estimator_has_no_expected_loss():
    axes = calibration_figure(frame("reliability.csv", bins())).axes
    words = [[text.get_text() for text in panel.texts] for panel in axes]
    assert words == [[], [], [], [], ["not measured"], [], [], []]


def test_marks_of_reliability_stand_at_percents_of_errors():
    marks = (
        calibration_figure(frame("reliability.csv", bins())).axes[0].collections[0].get_offsets()
    )
    assert marks[0].tolist() == pytest.approx([10, 25])


def test_figure_5_leaves_out_detectors_that_it_has_no_room_for(results):
    extra = [row._replace(detector="vim") for row in where(results, detector="msp")]
    axes = new_classes_figure([*results, *extra]).axes[1]
    assert "ViM" not in [label.get_text() for label in axes.get_xticklabels()]


def test_every_training_has_a_mark_in_the_figure_and_a_cross_where_it_diverged():
    columns = ("rate", "trial", "model", "epochs", "last", "final", "diverged")
    nan = float("nan")
    runs = pd.DataFrame(
        [
            (1e-4, 0, "vanilla", 4, 0.8, 0.7, False),
            (1e-4, 0, "proposed", 2, 0.8, 0.7, False),
            (1e-3, 0, "vanilla", nan, nan, nan, True),
            (1e-3, 0, "proposed", 2, 0.8, nan, False),
        ],
        columns=columns,
    )
    left, right = rates_figure(runs, own_rate=1e-4, level=0.76, monitored="test").axes
    assert sum(len(line.get_ydata()) for line in left.lines) == 4
    crosses = [line for line in right.lines if line.get_marker() == "x"]
    assert sum(len(line.get_ydata()) for line in crosses) == 1
