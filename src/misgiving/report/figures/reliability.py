"""Reliability: what was predicted against what was observed."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from misgiving.report.figures.style import COLOURS, MARKERS, OTHER_COLOUR, styled
from misgiving.report.tables import ReliabilityRow, models_of, select

QUANTITIES = {
    "error_probability": ("error probability (%)", 100.0),
    "expected_loss": ("expected loss (nats)", 1.0),
}
AREAS = 10.0, 60.0  # of the marks with fewest and most images; equal predictions share a bin


@styled
def reliability_figure(bins: Sequence[ReliabilityRow]) -> Figure:
    """A column for each model: the error probability above, and the expected loss below."""
    models = models_of(bins)
    shown = [name for name in QUANTITIES if select(bins, quantity=name)]
    width = min(10.0, 2.6 * len(models))
    figure = Figure(figsize=(width, 2.5 * len(shown)))
    panels = figure.subplots(len(shown), len(models), sharex="row", sharey="row", squeeze=False)
    for row, quantity in zip(panels, shown, strict=True):
        words, factor = QUANTITIES[quantity]
        row[0].set_ylabel(f"observed\n{words}")
        for axes, model in zip(row, models, strict=True):
            axes.set_title(model)
            axes.set_xlabel("predicted")
            _draw_bins(axes, select(bins, quantity=quantity, model=model), factor)
        _draw_diagonals(list(row))
    return figure


def _draw_bins(axes: Axes, bins: Sequence[ReliabilityRow], factor: float) -> None:
    if not bins:
        _say_missing_beside(axes)
        return
    largest = max(row.images for row in bins)
    axes.scatter(
        [factor * row.predicted for row in bins],
        [factor * row.observed for row in bins],
        s=np.interp([row.images for row in bins], [0, largest], AREAS),
        marker=MARKERS.get(bins[0].model, "o"),
        color=COLOURS.get(bins[0].model, OTHER_COLOUR),
        alpha=0.7,
        linewidth=0,
    )


def _say_missing_beside(axes: Axes) -> None:
    """Say so without touching the ticks, which the panels of a row share."""
    axes.text(0.6, 0.2, "not measured", transform=axes.transAxes, ha="center", color="#8c8c8c")


def _draw_diagonals(row: Sequence[Axes]) -> None:
    ends = [0.0, max(end for axes in row for end in (axes.get_xlim()[1], axes.get_ylim()[1]))]
    for axes in row:
        axes.plot(ends, ends, color="#b5b5b5", linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
        axes.set(xlim=ends, ylim=ends)
