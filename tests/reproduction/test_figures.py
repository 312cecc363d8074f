import html
import re
from itertools import product

import numpy as np
import pytest
from fabricated import MODELS, Confusion, bins, risk_points, where
from matplotlib.colors import same_color
from pandas import DataFrame

from misgiving.report.figures import SCORE_STYLES
from misgiving.reproduction.report.figures import (
    STYLES,
    calibration_figure,
    confusion_figure,
    learning_figure,
    new_classes_figure,
    ood_figure,
    risk_figure,
    sensitivity_figure,
)
from misgiving.reproduction.report.page import inline
from misgiving.reproduction.tables import table_of

CLASSES = ["DF", "MEL", "NV", "BCC", "AK"]


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


def words_of(axes):
    return [text.get_text() for text in axes.texts]


def ticks_of(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


def test_a_curve_is_the_mean_over_trials_with_whiskers_of_their_range_and_their_last(histories):
    frame = table_of(histories[::-1], "histories.csv")  # in any order
    mse, ranking, accuracy = learning_figure(frame, monitored="validation").axes
    rows = where(histories, model="mse", set="validation")
    values = np.array([[r.auxiliary_loss for r in where(rows, epoch=e)] for e in range(1, 13)])
    line, whiskers = lines_of(mse)["validation"], mse.collections[1]
    assert line.get_xdata().tolist() == list(range(1, 13))
    np.testing.assert_allclose(line.get_ydata(), values.mean(axis=1))
    expected = [[[e + 1, values[e].min()], [e + 1, values[e].max()]] for e in (0, 2, 4, 7, 9, 11)]
    np.testing.assert_allclose(whiskers.get_segments(), expected)
    train, validation = [line for line in mse.lines if line.get_marker() == "o"]
    assert (train.get_fillstyle(), validation.get_fillstyle()) == ("none", "full")
    np.testing.assert_allclose(sorted(validation.get_ydata()), sorted(values[-1]))
    last = [r.auxiliary_loss for r in where(histories, model="proposed", set="train", epoch=12)]
    assert lines_of(ranking)["train"].get_ydata()[-1] == pytest.approx(np.mean(last))
    for model in MODELS:
        last = [r.accuracy for r in where(histories, model=model, set="validation", epoch=12)]
        line = lines_of(accuracy)[model]
        assert line.get_ydata()[-1] == pytest.approx(100 * np.mean(last))
        assert same_color(line.get_color(), STYLES[model][0])


def test_a_loss_of_ones_own_has_its_curve_and_a_model_that_was_not_trained_no_panel(histories):
    frame = table_of(where(histories, set="validation"), "histories.csv")
    own = frame[frame["model"] != "detached"].replace({"model": {"mse": "mine:loss"}})
    *panels, _ = learning_figure(own, monitored="validation").axes
    titles = {axes.get_title("left").split(", ")[1].split()[0] for axes in panels}
    assert titles == {"mine:loss", "proposed"}
    assert all(lines_of(axes)["validation"].get_xdata().tolist() for axes in panels)


def test_sensitivities_stand_by_class_with_mean_deviation_and_trials(results):
    def drawn(rows, classes=CLASSES):
        rows = where(rows, experiment="generalization", dataset="validation", detector="")
        return sensitivity_figure(table_of(rows, "results.csv"), classes=classes).axes[0]

    axes = drawn(results)
    assert ticks_of(axes) == [*CLASSES, "balanced\naccuracy"]
    rows = where(results, metric="sensitivity/DF", model="vanilla")
    values = np.array([100 * row.value for row in rows])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [values.mean()])
    np.testing.assert_allclose(axes.lines[1].get_ydata(), values)
    assert not drawn(where(results, trial=0)).collections
    wide = [row._replace(value=1.0 if row.trial else 0.1) for row in rows]
    (whisker,) = drawn(wide, ["DF"]).collections
    (_, low), (_, high) = whisker.get_segments()[0]  # within 0 to 100 %
    assert (low, high) == (pytest.approx(100 * (0.7 - np.std([0.1, 1, 1], ddof=1))), 100)


def test_ood_sets_are_drawn_with_the_tuned_one_marked_and_names_are_no_markup(results):
    table = table_of(results[::-1], "results.csv")
    left, _ = new_classes_figure(table).axes
    assert ticks_of(left)[0] == "all"
    assert sorted(ticks_of(left)[1:]) == ["BKL", "VASC"]
    place = {"dataset": "unseen_classes", "detector": "odin", "metric": "auroc", "model": "vanilla"}
    mean = np.mean([100 * row.value for row in where(results, **place)])
    assert left.lines[0].get_ydata() == pytest.approx([mean])
    figure = ood_figure(table_of(results, "results.csv"), tuning_set="histology")
    names = ["histology\n(tuned here)", "photographs", "boxes", "clinical skin"]
    assert ticks_of(figure.axes[0]) == names
    hostile = "</title><script>alert(1)</script>"
    table["dataset"] = table["dataset"].str.replace("BKL", hostile)
    drawing = inline(new_classes_figure(table), "figure-5", hostile)
    assert "<script" not in drawing
    words = re.findall(r"<title>(.*?)</title>", drawing)
    assert any(html.unescape(text).startswith(f"{hostile}, vanilla: ") for text in words)


def test_a_matrix_for_each_model_counts_over_the_trials_of_one_experiment():
    cells = (("MEL", "MEL", 3), ("MEL", "NV", 1), ("NV", "NV", 20))
    units = product(("generalization", "ood_detection"), range(2), ("vanilla", "proposed"))
    rows = [Confusion(*unit, *cell) for unit, cell in product(units, cells)]
    drawn = confusion_figure(table_of(rows, "confusions.csv"), classes=["MEL", "NV"]).axes
    assert [axes.get_title(loc="left") for axes in drawn] == ["vanilla", "proposed"]
    assert words_of(drawn[0]) == ["6", "2", "0", "40"]
    shades = np.asarray(drawn[0].images[0].get_array())
    assert shades.tolist() == [[0.75, 0.25], [0.0, 1.0]]  # shares of the true class
    labels = [label.get_text() for label in drawn[0].get_yticklabels()]
    assert labels == ["MEL (8)", "NV (40)"]


def test_risks_and_probabilities_are_drawn_in_percent():
    points = table_of([*risk_points()][::-1], "risk_coverage.csv")
    figure = risk_figure(points, table_of((), "results.csv"))
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == 4
    for axes in panels:
        line = lines_of(axes)["MSP"]
        assert same_color(line.get_color(), SCORE_STYLES["msp"][0])
        assert (line.get_xdata()[0], line.get_ydata()[-1]) == pytest.approx((5, 20))
    bands = [band.get_segments() for band in panels[1].collections]
    across = [round(segment[0][0], 6) for segments in bands for segment in segments]
    assert len(across) == len(set(across)) == 4 * 3  # side by side
    axes = calibration_figure(table_of(bins(), "reliability.csv")).axes
    assert [words_of(panel) for panel in axes] == [[], [], [], [], ["not measured"], [], [], []]
    assert axes[0].collections[0].get_offsets()[0].tolist() == pytest.approx([10, 25])


def test_names_of_classes_are_no_formulas():
    rows = {"experiment": "generalization", "model": "mse", "true": "$a$", "predicted": "$a$"}
    axes = confusion_figure(DataFrame([rows | {"images": 1}]), classes=["$a$"]).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [r"\$a\$"]
    rows |= {"metric": "sensitivity/$a$", "trial": 0, "value": 0.5}
    axes = sensitivity_figure(DataFrame([rows]), classes=["$a$"]).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [r"\$a\$"]
