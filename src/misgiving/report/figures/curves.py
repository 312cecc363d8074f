"""Figures of curves: learning, risk over coverage, and reliability."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from misgiving.report.figures import (
    COLOURS,
    INK,
    LINES,
    MARKERS,
    OTHER_COLOUR,
    Line,
    beside,
    hover,
    mark_missing,
    styled,
)
from misgiving.report.frames import distinct, models_of, select
from misgiving.report.names import DETECTOR_TITLES, count

LOG_RANGE = 50.0  # losses that differ more than this are unreadable on a linear axis
SET_LINES: tuple[Line, Line] = ((0, (3.0, 1.5)), "-")  # of the training and the monitored set
# Okabe and Ito's palette; MSP, with which all are compared, is black in every panel
SCORE_COLOURS = {
    "msp": INK,
    "entropy": "#e69f00",
    "max_logit": "#009e73",
    "max_logit_norm": "#cc79a7",
    "predicted_loss": "#0072b2",
    "calibrated": "#56b4e9",
    "combination": "#d55e00",
    "error_estimator": "#7a3b9c",
}
SCORE_LINES: dict[str, Line] = {
    "entropy": "--",
    "max_logit": "-.",
    "max_logit_norm": ":",
    "combination": (0, (5.0, 1.0)),
}
ONE_ROW, COLUMNS = 4, 3  # models beside each other; columns where there are more
WHISKERS = 6  # of a curve: its range over trials, or its interval
APART = 4.0  # points between the whiskers of two curves
DOT = 3.0  # size of the mark of a trial
DOTTED = 0.8  # the coverage at which every trial has its dot
INTERVALS = 0.4, 0.6, DOTTED  # coverages with whiskers, as bands would hide each other
SIDE = 2.2  # between the dots of two scores, in percent of coverage
QUANTITIES = {
    "error_probability": ("error probability (%)", 100.0),
    "expected_loss": ("expected loss (nats)", 1.0),
}
PANEL = (4.6, 3.4)  # inches: a figure of one panel, which a phone still shows legibly
CHOSEN = "#d55e00"
Points = Float[np.ndarray, "points 4"]  # coverage, risk, and the ends of its interval
Column = Float[np.ndarray, " bins"]
AREAS = 10.0, 60.0  # of the marks with fewest and most images; equal predictions share a bin


class Curve(NamedTuple):
    """A quantity per epoch: mean, lowest and highest over trials; and of each at the last epoch."""

    epochs: Float[np.ndarray, " epochs"]
    mean: Float[np.ndarray, " epochs"]
    lowest: Float[np.ndarray, " epochs"]
    highest: Float[np.ndarray, " epochs"]
    last: Float[np.ndarray, " trials"]


def curve(rows: DataFrame, column: str) -> Curve | None:
    """Gather a column of `histories.csv` over trials; None where nothing was measured."""
    measured = rows[rows[column].notna()].sort_values("epoch", kind="stable")
    if measured.empty:
        return None
    epochs = [values.to_numpy() for _, values in measured.groupby("epoch")[column]]
    mean, lowest, highest = (
        np.array([summary(values) for values in epochs]) for summary in (np.mean, min, max)
    )
    return Curve(np.unique(measured["epoch"]).astype(float), mean, lowest, highest, epochs[-1])


@styled
def learning_figure(histories: DataFrame, *, monitored: str) -> Figure:
    """Figure 2: the auxiliary loss with mse, with ranking, and the accuracy of the classifiers."""
    lines = dict(zip(("train", monitored), SET_LINES, strict=True))
    rows = select(histories, experiment="generalization")
    figure = Figure(figsize=(10, 3.3))
    left, middle, right = figure.subplots(1, 3)
    _draw_auxiliary(left, select(rows, model="mse"), lines, name="mse")
    _draw_auxiliary(middle, select(rows, model="proposed"), lines, name="ranking")
    right.set_title(f"Accuracy on the {monitored} set (%)")
    accuracies = {
        model: values
        for model in models_of(rows)
        if (values := curve(select(rows, model=model, set=monitored), "accuracy"))
    }
    for index, (model, values) in enumerate(accuracies.items()):
        percent = Curve(values.epochs, *(100 * column for column in values[1:]))
        side = APART * (index - (len(accuracies) - 1) / 2)
        _draw_curve(right, percent, model, label=model, points=side)
    _finish_epochs(right)
    return figure


def _draw_auxiliary(axes: Axes, rows: DataFrame, lines: Mapping[str, Line], *, name: str) -> None:
    axes.set_title(f"Auxiliary loss, {name}")
    drawn = []
    for (set_name, line), side in zip(lines.items(), (-APART / 2, APART / 2), strict=True):
        if values := curve(select(rows, set=set_name), "auxiliary_loss"):
            _draw_curve(axes, values, rows["model"].iloc[0], label=set_name, points=side, line=line)
            drawn.append(values)
    lows, highs = [line.lowest.min() for line in drawn], [line.highest.max() for line in drawn]
    if drawn and min(lows) > 0 and max(highs) > LOG_RANGE * min(lows):
        axes.set_yscale("log")
        axes.set_title(f"Auxiliary loss, {name} (logarithmic)")
    _finish_epochs(axes)


def _draw_curve(
    axes: Axes, values: Curve, model: str, *, label: str, points: float, line: Line | None = None
) -> None:
    """The mean, whiskers of the range over trials at some epochs, and the trials at the last."""
    colour = COLOURS.get(model, OTHER_COLOUR)
    style = line or LINES.get(model, "-")
    axes.plot(values.epochs, values.mean, color=colour, linestyle=style, label=label)
    shown = np.linspace(0, len(values.epochs) - 1, WHISKERS).round().astype(int)
    place = axes.transData + beside(axes, points)
    ranges = [column[shown] for column in (values.epochs, values.lowest, values.highest)]
    axes.vlines(*ranges, color=colour, linewidth=1.0, transform=place)
    for ends in ranges[1:]:  # not done for lines that are shifted
        axes.update_datalim(np.column_stack([ranges[0], ends]))
    fill = "none" if line == SET_LINES[0] else "full"
    ends = np.full(len(values.last), values.epochs[-1])
    dots: dict[str, Any] = {
        "color": colour,
        "markersize": DOT,
        "fillstyle": fill,
        "label": "_trials",
    }
    axes.plot(ends, values.last, "o", transform=place, **dots)
    for epoch, mean, lowest, highest in zip(*values[:4], strict=True):
        words = f"{label}, epoch {epoch:g}: {mean:.3g} ({lowest:.3g} to {highest:.3g})"
        hover(axes, epoch, mean, words)


def _finish_epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.has_data():
        axes.legend(handlelength=2.4)
    else:
        mark_missing(axes)


@styled
def risk_figure(points: DataFrame, trials: DataFrame) -> Figure:
    """A panel for each model; for each failure score a line, with whiskers at some coverages.

    `trials` are the results of 4.1; those at `DOTTED` are drawn as a dot for each trial.
    """
    dotted = select(trials, metric=f"risk_at_coverage/{DOTTED:g}")
    models = models_of(points)
    columns = len(models) if len(models) <= ONE_ROW else COLUMNS
    rows = -(-len(models) // columns)
    figure = Figure(figsize=(10, 2.7 * rows + 0.3))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(models) :]:
        axes.set_visible(False)
    for axes, model in zip(panels.flat, models, strict=False):
        axes.set_title(model)
        _draw_scores(axes, select(points, model=model), select(dotted, model=model))
    panels[0, 0].set_ylim(bottom=0)  # of all panels, once all are drawn
    for axes in panels[:, 0]:
        axes.set_ylabel("error among accepted (%)")
    for index, axes in enumerate(panels.flat[: len(models)]):
        is_last = index + columns >= len(models)  # of its column, even if the last row is not full
        axes.tick_params(labelbottom=is_last)
        axes.set_xlabel("accepted (%)" if is_last else "")
    drawn = (line for axes in panels.flat for line in axes.lines)
    lines = {str(line.get_label()): line for line in drawn if line.get_marker() == "None"}
    figure.legend(handles=list(lines.values()), loc="outside upper right", ncols=len(lines))
    return figure


def _draw_scores(axes: Axes, points: DataFrame, trials: DataFrame) -> None:
    present = distinct(points["detector"])
    ordered = [name for name in SCORE_COLOURS if name in present]
    shown = [*ordered, *(name for name in present if name not in ordered)]
    for index, detector in enumerate(shown):
        of_score = select(points, detector=detector).sort_values("coverage")
        rows = of_score[["coverage", "risk", "lower", "upper"]].to_numpy(dtype=float)
        colour = _draw_line(axes, detector, rows)
        side = SIDE * (index - (len(shown) - 1) / 2)
        for across, lower, upper in _ends(rows):
            if any(abs(across - 100 * coverage) < 1e-6 for coverage in INTERVALS):
                axes.vlines(across + side, lower, upper, color=colour, linewidth=1.0)
        risks = 100 * select(trials, detector=detector)["value"]
        axes.plot([100 * DOTTED + side] * len(risks), risks, "o", color=colour, markersize=DOT)


def _draw_line(axes: Axes, detector: str, points: Points) -> str:
    """The line, whose colour is returned, with its values for the pointer."""
    colour = SCORE_COLOURS.get(detector, OTHER_COLOUR)
    name = DETECTOR_TITLES.get(detector, detector)
    across, up = 100 * points[:, 0], 100 * points[:, 1]
    axes.plot(across, up, color=colour, linestyle=SCORE_LINES.get(detector, "-"), label=name)
    for x, y, lower, upper in 100 * points:
        ends = "" if np.isnan(upper) else f" ({lower:.1f} to {upper:.1f})"
        hover(axes, x, y, f"{name}: {x:.0f} % accepted, {y:.1f} % wrong{ends}")
    return colour


def _ends(points: Points) -> Float[np.ndarray, "some 3"]:
    """Coverage and interval, in percent, of the points that have one."""
    complete = np.isfinite(points[:, 2:]).all(axis=1)
    return np.asarray(100 * points[complete][:, [0, 2, 3]])


@styled
def acceptance_figure(
    points: Points, *, score: str, chosen: tuple[float, float] | None, limit: float | None
) -> Figure:
    """Risk over coverage of one score, with the share accepted and the error of a policy.

    Args:
        points: Coverage, error among the accepted and the ends of its interval, NaN for none.
        score: Name of the score in the results.
        chosen: Share that a policy accepts, and the error among it; None: there is no such point.
        limit: The target error rate of the policy.
    """
    figure = Figure(figsize=PANEL)
    axes = figure.subplots()
    colour = _draw_line(axes, score, points)
    axes.fill_between(*_ends(points).T, color=colour, alpha=0.1, linewidth=0)
    if limit is not None:
        axes.axhline(100 * limit, color=INK, linewidth=1.0, linestyle="--", label="target")
    if chosen is not None:
        at = [100 * share for share in chosen]
        axes.plot(*at, "o", color=CHOSEN, markersize=8, zorder=3, label="the policy")
    axes.set(xlabel="accepted (%)", ylabel="error among accepted (%)", xlim=(0, 101))
    axes.set_ylim(bottom=0, top=max(1.0, axes.get_ylim()[1]))
    axes.legend()
    return figure


@styled
def reliability_figure(
    predicted: Column, observed: Column, images: Column, *, ends: Float[np.ndarray, "bins 2"]
) -> Figure:
    """Share that is right over the predicted probability, by bin, with intervals.

    Args:
        predicted: Mean probability of each bin.
        observed: Share of the bin that is right.
        images: Number of images of the bin.
        ends: Interval of the observed share.
    """
    figure = Figure(figsize=PANEL)
    axes = figure.subplots()
    axes.set(xlabel="predicted", ylabel="observed\nshare that is right (%)")
    _draw_bins(axes, 100 * predicted, 100 * observed, images)
    axes.vlines(100 * predicted, *(100 * ends.T), color=INK, linewidth=1.0)
    _draw_diagonal([axes])
    return figure


@styled
def calibration_figure(bins: DataFrame) -> Figure:
    """A column for each model, a row for each quantity."""
    models = models_of(bins)
    shown = [name for name in QUANTITIES if name in set(bins["quantity"])]
    figure = Figure(figsize=(min(10.0, 2.6 * len(models)), 2.5 * len(shown)))
    panels = figure.subplots(len(shown), len(models), sharex="row", sharey="row", squeeze=False)
    for row, quantity in zip(panels, shown, strict=True):
        words, factor = QUANTITIES[quantity]
        row[0].set_ylabel(f"observed\n{words}")
        for axes, model in zip(row, models, strict=True):
            axes.set(title=model, xlabel="predicted")
            of_panel = select(bins, quantity=quantity, model=model)
            columns = of_panel[["predicted", "observed", "images"]].to_numpy(dtype=float).T
            predicted, observed, images = columns
            _draw_bins(axes, factor * predicted, factor * observed, images, model)
        _draw_diagonal(list(row))
    return figure


def _draw_bins(
    axes: Axes, predicted: Column, observed: Column, images: Column, model: str = ""
) -> None:
    if not len(images):
        # without touching the ticks, which the panels of a row share
        axes.text(0.6, 0.2, "not measured", transform=axes.transAxes, ha="center", color="#8c8c8c")
        return
    for x, y, size in zip(predicted, observed, images, strict=True):
        words = f"predicted {x:.3g}, observed {y:.3g} ({count(int(size), 'images')})"
        hover(axes, x, y, words)
    axes.scatter(
        predicted,
        observed,
        s=np.interp(images, [0, images.max()], AREAS),
        marker=MARKERS.get(model, "o"),
        color=COLOURS.get(model, OTHER_COLOUR),
        alpha=0.7,
        linewidth=0,
    )


def _draw_diagonal(panels: Sequence[Axes]) -> None:
    """The line on which a prediction is right, over the range that the panels share."""
    ends = [0.0, max(end for axes in panels for end in (axes.get_xlim()[1], axes.get_ylim()[1]))]
    for axes in panels:
        axes.plot(ends, ends, color="#b5b5b5", linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
        axes.set(xlim=ends, ylim=ends)
