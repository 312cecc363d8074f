"""Figures of learning: losses and accuracy over epochs, and the sweep of learning rates."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from misgiving.report.figures import (
    COLOURS,
    LINES,
    MARKERS,
    OTHER_COLOUR,
    Line,
    mark_missing,
    styled,
)
from misgiving.report.findings import POINTS
from misgiving.report.findings.sweep import SWEPT, Sweep, SweptRun
from misgiving.report.rows import models_of, select
from misgiving.results.schema import HistoryRow

LOG_RANGE = 50.0  # losses that differ more than this are unreadable on a linear axis
SET_LINES: tuple[Line, Line] = ((0, (3.0, 1.5)), "-")  # of the training and the monitored set
APART = 0.17  # of the two models at one rate
ABOVE = 1.12  # where "never" stands, over the longest time that was needed


class Curve(NamedTuple):
    """A quantity per epoch: mean, lowest and highest over trials."""

    epochs: Float[np.ndarray, " epochs"]
    mean: Float[np.ndarray, " epochs"]
    lowest: Float[np.ndarray, " epochs"]
    highest: Float[np.ndarray, " epochs"]


def curve(rows: Sequence[HistoryRow], field: str) -> Curve | None:
    """Gather one field over trials; None where nothing was measured."""
    by_epoch: dict[int, list[float]] = {}
    for row in rows:
        if (value := getattr(row, field)) is not None:
            by_epoch.setdefault(row.epoch, []).append(value)
    if not by_epoch:
        return None
    epochs = sorted(by_epoch)
    summaries = [[summary(by_epoch[e]) for e in epochs] for summary in (np.mean, min, max)]
    return Curve(np.array(epochs, dtype=float), *(np.array(values) for values in summaries))


@styled
def learning_figure(histories: Sequence[HistoryRow], *, monitored: str) -> Figure:
    """Figure 2: the auxiliary loss with mse, with ranking, and the accuracy of the classifiers."""
    lines = dict(zip(("train", monitored), SET_LINES, strict=True))
    rows = select(histories, experiment="generalization")
    figure = Figure(figsize=(10, 3.3))
    left, middle, right = figure.subplots(1, 3)
    _draw_auxiliary(left, select(rows, model="mse"), lines, name="mse")
    _draw_auxiliary(middle, select(rows, model="proposed"), lines, name="ranking")
    right.set_title(f"Accuracy on the {monitored} set (%)")
    for model in models_of(rows):
        found = curve(select(rows, model=model, set=monitored), "accuracy")
        if found:
            percent = Curve(found.epochs, *(100 * column for column in found[1:]))
            _draw_curve(right, percent, model, label=model)
    _finish_epochs(right)
    return figure


def _draw_auxiliary(
    axes: Axes, rows: Sequence[HistoryRow], lines: Mapping[str, Line], *, name: str
) -> None:
    axes.set_title(f"Auxiliary loss, {name}")
    curves = {name: curve(select(rows, set=name), "auxiliary_loss") for name in lines}
    drawn = [found for found in curves.values() if found]
    for set_name, found in curves.items():
        if found:
            _draw_curve(axes, found, rows[0].model, label=set_name, line=lines[set_name])
    lows, highs = [found.lowest.min() for found in drawn], [found.highest.max() for found in drawn]
    if drawn and min(lows) > 0 and max(highs) > LOG_RANGE * min(lows):
        axes.set_yscale("log")
        axes.set_title(f"Auxiliary loss, {name} (logarithmic)")
    _finish_epochs(axes)


def _draw_curve(
    axes: Axes,
    values: Curve,
    model: str,
    *,
    label: str,
    line: Line | None = None,
) -> None:
    colour = COLOURS.get(model, OTHER_COLOUR)
    style = line or LINES.get(model, "-")
    axes.plot(values.epochs, values.mean, color=colour, linestyle=style, label=label)
    axes.fill_between(
        values.epochs, values.lowest, values.highest, color=colour, alpha=0.15, linewidth=0
    )


def _finish_epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.has_data():
        axes.legend(handlelength=2.4)
    else:
        mark_missing(axes)


@styled
def rates_figure(sweep: Sweep) -> Figure:
    """Epochs to the sweep's level, and final balanced accuracy, of every run at every rate."""
    figure = Figure(figsize=(10, 3.2))
    left, right = figure.subplots(1, 2)
    left.set_title(f"Epochs to {POINTS.number(sweep.level)} % balanced accuracy, {sweep.monitored}")
    right.set_title("Final balanced accuracy (%); crosses diverged")
    _draw_epochs(left, sweep)
    _draw_finals(right, sweep)
    labels = [
        f"{rate:g}\n(the protocol's)" if rate == sweep.own_rate else f"{rate:g}\n"
        for rate in sweep.rates
    ]
    for axes in (left, right):
        axes.set_xticks(range(len(sweep.rates)), labels)
        axes.set_xlim(-0.6, len(sweep.rates) - 0.4)
        axes.set_xlabel("learning rate")
    handles = [line for line in left.lines if not str(line.get_label()).startswith("_")]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(SWEPT))
    return figure


def _draw_epochs(axes: Axes, sweep: Sweep) -> None:
    longest = max([run.epochs for run in sweep.runs if run.epochs] or [1])
    never = ABOVE * longest
    for model, place, runs in _columns(sweep):
        heights = [never if run.epochs is None else float(run.epochs) for run in runs]
        _dots(axes, model, place, heights, label=model if place < 0.5 else None)
    axes.set_ylim(0, 1.06 * never)
    ticks = [tick for tick in axes.get_yticks() if 0 <= tick < 0.97 * never]
    axes.set_yticks([*ticks, never], [*(f"{tick:g}" for tick in ticks), "never"])


def _draw_finals(axes: Axes, sweep: Sweep) -> None:
    finals = [100 * run.final for run in sweep.runs if run.final is not None]
    floor = min(finals, default=0.0) - 4
    for model, place, runs in _columns(sweep):
        ended = [100 * run.final for run in runs if run.final is not None]
        _dots(axes, model, place, ended)
        lost = [floor] * sum(run.diverged for run in runs)
        _dots(axes, model, place, lost, marker="x")
    axes.set_ylim(floor - 2, max(finals, default=100.0) + 3)


def _columns(sweep: Sweep) -> Iterable[tuple[str, float, list[SweptRun]]]:
    for index, rate in enumerate(sweep.rates):
        for model, side in zip(SWEPT, (-APART, APART), strict=True):
            yield model, index + side, sweep.at(rate, model)


def _dots(
    axes: Axes,
    model: str,
    place: float,
    heights: list[float],
    *,
    label: str | None = None,
    marker: str | None = None,
) -> None:
    """The trials beside each other."""
    across = place + 0.08 * (np.arange(len(heights)) - (len(heights) - 1) / 2)
    shape = marker or MARKERS[model]
    axes.plot(across, heights, shape, color=COLOURS[model], markersize=5.5, alpha=0.8, label=label)
