"""The figures of a reproduction, read back from matplotlib, and as files."""

import html
import re
from itertools import product

import matplotlib
import numpy as np
import pytest
from fabricated import MODELS, Confusion, bins, risk_points, where
from matplotlib.colors import same_color

from misgiving.report.figures import SCORE_STYLES, STYLES, inline, render
from misgiving.report.reproduction.figures import (
    calibration_figure,
    confusion_figure,
    learning_figure,
    new_classes_figure,
    ood_figure,
    risk_figure,
    sensitivity_figure,
)
from misgiving.reproduction.tables import table_of

CLASSES = ["DF", "MEL", "NV", "BCC", "AK"]
PANELS = {"mse": "mse", "ranking": "proposed"}  # of one model


def learning(rows):
    figure = learning_figure(table_of(rows, "histories.csv"), monitored="validation")
    return dict(zip(("mse", "ranking", "accuracy"), figure.axes, strict=True))


def sensitivities(rows, classes=CLASSES):
    rows = where(rows, experiment="generalization", dataset="validation", detector="")
    return sensitivity_figure(table_of(rows, "results.csv"), classes=classes)


def new_classes(rows):
    return new_classes_figure(table_of(rows, "results.csv"))


def confusions(rows, **options):
    return confusion_figure(table_of(rows, "confusions.csv"), **options).axes


def risks(points, trials=()):
    return risk_figure(table_of(points, "risk_coverage.csv"), table_of(trials, "results.csv"))


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


def words_of(axes):
    return [text.get_text() for text in axes.texts]


def ticks_of(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


def test_a_curve_is_the_mean_over_trials_with_whiskers_of_their_range_and_their_last(histories):
    axes = learning(histories[::-1])["mse"]  # in any order
    rows = where(histories, model="mse", set="validation")
    values = np.array([[r.auxiliary_loss for r in where(rows, epoch=e)] for e in range(1, 13)])
    line, whiskers = lines_of(axes)["validation"], axes.collections[1]
    assert line.get_xdata().tolist() == list(range(1, 13))
    np.testing.assert_allclose(line.get_ydata(), values.mean(axis=1))
    shown = [0, 2, 4, 7, 9, 11]
    expected = [[[e + 1, values[e].min()], [e + 1, values[e].max()]] for e in shown]
    np.testing.assert_allclose(whiskers.get_segments(), expected)
    train, validation = [line for line in axes.lines if line.get_marker() == "o"]
    assert (train.get_fillstyle(), validation.get_fillstyle()) == ("none", "full")
    assert set(validation.get_xdata()) == {12}
    np.testing.assert_allclose(sorted(validation.get_ydata()), sorted(values[-1]))


def test_each_panel_shows_its_sets_and_models(histories):
    panels = learning(histories)
    for (panel, model), name in product(PANELS.items(), ("train", "validation")):
        last = [row.auxiliary_loss for row in where(histories, model=model, set=name, epoch=12)]
        assert lines_of(panels[panel])[name].get_ydata()[-1] == pytest.approx(np.mean(last))
    for model in MODELS:
        last = [r.accuracy for r in where(histories, model=model, set="validation", epoch=12)]
        line = lines_of(panels["accuracy"])[model]
        assert line.get_ydata()[-1] == pytest.approx(100 * np.mean(last))
        assert same_color(line.get_color(), STYLES[model][0])


def test_sensitivities_stand_by_class_with_mean_deviation_and_trials(results):
    axes = sensitivities(results).axes[0]
    assert ticks_of(axes) == [*CLASSES, "balanced\naccuracy"]
    where_df = {"metric": "sensitivity/DF", "model": "vanilla"}
    values = np.array([100 * row.value for row in where(results, **where_df)])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [values.mean()])
    np.testing.assert_allclose(axes.lines[1].get_ydata(), values)
    assert not sensitivities(where(results, trial=0)).axes[0].collections
    wide = [row._replace(value=1.0 if row.trial else 0.1) for row in where(results, **where_df)]
    (whisker,) = sensitivities(wide, classes=["DF"]).axes[0].collections
    (_, low), (_, high) = whisker.get_segments()[0]  # within 0 to 100 %
    assert (low, high) == (pytest.approx(100 * (0.7 - np.std([0.1, 1, 1], ddof=1))), 100)


def test_unseen_classes_are_drawn_all_together_first_and_then_each(results):
    left, _ = new_classes(results[::-1]).axes
    assert ticks_of(left)[0] == "all"
    assert sorted(ticks_of(left)[1:]) == ["BKL", "VASC"]
    place = {"dataset": "unseen_classes", "detector": "odin", "metric": "auroc", "model": "vanilla"}
    mean = np.mean([100 * row.value for row in where(results, **place)])
    assert left.lines[0].get_ydata() == pytest.approx([mean])


def test_the_set_that_odin_is_tuned_on_is_marked(results):
    figure = ood_figure(table_of(results, "results.csv"), tuning_set="histology")
    names = ticks_of(figure.axes[0])
    assert names == ["histology\n(tuned here)", "photographs", "boxes", "clinical skin"]


def test_a_model_keeps_its_colour_through_the_figures(results):
    for draw in (sensitivities, new_classes):
        legend = draw(results).legends[0]
        handles = zip(legend.texts, legend.legend_handles, strict=True)
        colours = {text.get_text(): handle.get_color() for text, handle in handles}
        assert colours.keys() == set(MODELS)
        assert all(same_color(colours[model], STYLES[model][0]) for model in MODELS)


@pytest.mark.parametrize("kind", ["png", "svg", "jpg"])
def test_the_same_numbers_give_the_same_bytes_and_leave_matplotlib_as_it_was(results, kind):
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        before = dict(matplotlib.rcParams)
        figures = [new_classes(results) for _ in range(2)]
        place = figures[0].axes[0].get_position().bounds
        first, second = (render(figure, kind) for figure in figures)
        assert dict(matplotlib.rcParams) == before
    assert first == second
    assert figures[0].axes[0].get_position().bounds == place
    assert b"dc:date" not in first


def test_names_in_an_inline_figure_are_no_markup(results):
    hostile = "</title><script>alert(1)</script>"
    rows = [row._replace(dataset=row.dataset.replace("BKL", hostile)) for row in results]
    drawing = inline(new_classes(rows), "figure-5", hostile)
    assert "<script" not in drawing
    words = re.findall(r"<title>(.*?)</title>", drawing)
    assert any(html.unescape(text).startswith(f"{hostile}, vanilla: ") for text in words)


def test_a_matrix_for_each_model_counts_over_the_trials_of_one_experiment():
    cells = (("MEL", "MEL", 3), ("MEL", "NV", 1), ("NV", "NV", 20))
    units = product(("generalization", "ood_detection"), range(2), ("vanilla", "proposed"))
    rows = [Confusion(*unit, *cell) for unit, cell in product(units, cells)]
    drawn = confusions(rows, classes=["MEL", "NV"])
    assert [axes.get_title(loc="left") for axes in drawn] == ["vanilla", "proposed"]
    assert words_of(drawn[0]) == ["6", "2", "0", "40"]
    shades = np.asarray(drawn[0].images[0].get_array())
    assert shades.tolist() == [[0.75, 0.25], [0.0, 1.0]]  # shares of the true class
    labels = confusions(rows, classes=["NV", "MEL"])[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["NV (40)", "MEL (8)"]


def test_risks_are_drawn_in_percent_with_intervals_side_by_side():
    figure = risks([*risk_points()][::-1])
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 4
    for axes in panels:
        line = lines_of(axes)["MSP"]
        assert same_color(line.get_color(), SCORE_STYLES["msp"][0])
        assert line.get_xdata()[0] == pytest.approx(5)
        assert line.get_ydata()[-1] == pytest.approx(20)
    across = [
        round(segment[0][0], 6)
        for whiskers in panels[1].collections
        for segment in whiskers.get_segments()
    ]
    assert len(across) == len(set(across)) == 4 * 3
    names = [text.get_text() for text in figure.legends[0].texts]  # one is not of every model
    assert names == ["MSP", "entropy", "combination", "predicted loss"]


def test_marks_of_calibration_stand_at_percents_and_vanilla_has_no_expected_loss():
    axes = calibration_figure(table_of(bins(), "reliability.csv")).axes
    assert [words_of(panel) for panel in axes] == [[], [], [], [], ["not measured"], [], [], []]
    assert axes[0].collections[0].get_offsets()[0].tolist() == pytest.approx([10, 25])
