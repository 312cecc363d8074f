"""The sweep of learning rates: how soon a level is reached, and where each run ends."""

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from misgiving.report.figures.style import COLOURS, MARKERS, styled
from misgiving.report.tables import POINTS, Sweep, SweptRun
from misgiving.report.tables.sweep import SWEPT

APART = 0.17  # of the two models at one rate
ABOVE = 1.12  # where "never" stands, over the longest time that was needed


@styled
def rates_figure(sweep: Sweep) -> Figure:
    """Epochs to the sweep's level, and final balanced accuracy, of every run at every rate."""
    figure = Figure(figsize=(10, 3.2))
    left, right = figure.subplots(1, 2)
    left.set_title(f"Epochs until {POINTS.number(sweep.level)} % balanced accuracy on {sweep.part}")
    right.set_title("Final balanced accuracy (%); crosses diverged")
    _draw_epochs(left, sweep)
    _draw_finals(right, sweep)
    for axes in (left, right):
        axes.set_xticks(range(len(sweep.rates)), [_rate_label(sweep, r) for r in sweep.rates])
        axes.set_xlim(-0.6, len(sweep.rates) - 0.4)
        axes.set_xlabel("learning rate")
    handles = [line for line in left.lines if not str(line.get_label()).startswith("_")]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(SWEPT))
    return figure


def _rate_label(sweep: Sweep, rate: float) -> str:
    return f"{rate:g}\n(the protocol's)" if rate == sweep.own_rate else f"{rate:g}\n"


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
