"""Figure of the learning rates."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from misgiving.report.figures import COLOURS, MARKERS, hover, styled
from misgiving.report.frames import select
from misgiving.report.names import POINTS

MODELS = ("vanilla", "proposed")
APART = 0.17  # of the two models at one rate
ABOVE = 1.12  # height of "never", as a multiple of the longest time that was needed


@styled
def rates_figure(runs: DataFrame, *, own_rate: float, level: float, monitored: str) -> Figure:
    """Epochs to a level, and final balanced accuracy, of every training at every rate.

    Args:
        runs: Columns `rate, trial, model, epochs, final, diverged`; NaN for none.
        own_rate: The protocol's rate.
        level: Balanced accuracy on the monitored set.
        monitored: Name of that set.
    """
    figure = Figure(figsize=(10, 3.2))
    left, right = figure.subplots(1, 2)
    left.set_title(f"Epochs to {POINTS.number(level)} % balanced accuracy, {monitored}")
    right.set_title("Final balanced accuracy (%); crosses diverged")
    _draw_epochs(left, runs)
    _draw_finals(right, runs)
    rates = sorted(set(runs["rate"]))
    labels = [f"{rate:g}\n" + "(the protocol's)" * (rate == own_rate) for rate in rates]
    for axes in (left, right):
        axes.set_xticks(range(len(rates)), labels)
        axes.set_xlim(-0.6, len(rates) - 0.4)
        axes.set_xlabel("learning rate")
    handles = [line for line in left.lines if not str(line.get_label()).startswith("_")]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(MODELS))
    return figure


def _draw_epochs(axes: Axes, runs: DataFrame) -> None:
    longest = runs["epochs"].max()
    never = ABOVE * (1 if np.isnan(longest) else longest)
    for model, position, own in _columns(runs):
        heights = own["epochs"].fillna(never).astype(float).to_list()
        _dots(axes, model, position, heights, label=model if position < 0.5 else None)
    axes.set_ylim(0, 1.06 * never)
    ticks = [tick for tick in axes.get_yticks() if 0 <= tick < 0.97 * never]
    axes.set_yticks([*ticks, never], [*(f"{tick:g}" for tick in ticks), "never"])


def _draw_finals(axes: Axes, runs: DataFrame) -> None:
    finals = 100 * runs["final"].dropna()
    floor, top = (finals.min() - 4, finals.max() + 3) if len(finals) else (-4.0, 103.0)
    for model, position, own in _columns(runs):
        _dots(axes, model, position, (100 * own["final"].dropna()).to_list())
        _dots(axes, model, position, [floor] * int(own["diverged"].sum()), marker="x")
    axes.set_ylim(floor - 2, top)


def _columns(runs: DataFrame) -> Iterator[tuple[str, float, DataFrame]]:
    """The trainings of each model at each rate, with their position on the axis."""
    for index, rate in enumerate(sorted(set(runs["rate"]))):
        for model, side in zip(MODELS, (-APART, APART), strict=True):
            yield model, index + side, select(runs, rate=rate, model=model)


def _dots(
    axes: Axes,
    model: str,
    position: float,
    heights: Sequence[float],
    *,
    label: str | None = None,
    marker: str | None = None,
) -> None:
    """The trials, side by side."""
    across = position + 0.08 * (np.arange(len(heights)) - (len(heights) - 1) / 2)
    shape = marker or MARKERS[model]
    axes.plot(across, heights, shape, color=COLOURS[model], markersize=5.5, alpha=0.8, label=label)
    for x, height in zip(across, heights, strict=True):
        hover(axes, x, height, f"{model}: {'diverged' if marker else f'{height:.4g}'}")
