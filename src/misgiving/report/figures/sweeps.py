"""Figure of the learning rates."""

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from misgiving.report.figures import (
    COLOURS,
    MARKERS,
    hover,
    styled,
)
from misgiving.report.findings import POINTS
from misgiving.report.findings.sweep import (
    SWEPT,
    Sweep,
    SweptRun,
)

APART = 0.17  # of the two models at one rate
ABOVE = 1.12  # height of "never", as a multiple of the longest time that was needed
LOG_RANGE = 4.0  # values that differ at least so much stand on a logarithmic axis
BESIDE = 6.0  # points between two models at one value
FOOT = 0.03  # height of the mark of diverged runs, as a share of the panel


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
    for model, position, runs in _columns(sweep):
        heights = [never if run.epochs is None else float(run.epochs) for run in runs]
        _dots(axes, model, position, heights, label=model if position < 0.5 else None)
    axes.set_ylim(0, 1.06 * never)
    ticks = [tick for tick in axes.get_yticks() if 0 <= tick < 0.97 * never]
    axes.set_yticks([*ticks, never], [*(f"{tick:g}" for tick in ticks), "never"])


def _draw_finals(axes: Axes, sweep: Sweep) -> None:
    finals = [100 * run.final for run in sweep.runs if run.final is not None]
    floor = min(finals, default=0.0) - 4
    for model, position, runs in _columns(sweep):
        ended = [100 * run.final for run in runs if run.final is not None]
        _dots(axes, model, position, ended)
        lost = [floor] * sum(run.diverged for run in runs)
        _dots(axes, model, position, lost, marker="x")
    axes.set_ylim(floor - 2, max(finals, default=100.0) + 3)


def _columns(sweep: Sweep) -> Iterable[tuple[str, float, list[SweptRun]]]:
    for index, rate in enumerate(sweep.rates):
        for model, side in zip(SWEPT, (-APART, APART), strict=True):
            yield model, index + side, sweep.at(rate, model)


def _dots(
    axes: Axes,
    model: str,
    position: float,
    heights: list[float],
    *,
    label: str | None = None,
    marker: str | None = None,
) -> None:
    """The trials beside each other."""
    across = position + 0.08 * (np.arange(len(heights)) - (len(heights) - 1) / 2)
    shape = marker or MARKERS[model]
    axes.plot(across, heights, shape, color=COLOURS[model], markersize=5.5, alpha=0.8, label=label)
    for x, height in zip(across, heights, strict=True):
        hover(axes, x, height, f"{model}: {'diverged' if marker else f'{height:.4g}'}")
