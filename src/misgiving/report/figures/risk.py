"""Figures of scores: risk over coverage, and reliability."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from misgiving.report.figures import (
    COLOURS,
    DETECTORS,
    INK,
    MARKERS,
    OTHER_COLOUR,
    Line,
    styled,
)
from misgiving.report.rows import distinct, models_of, select
from misgiving.results.schema import ReliabilityRow, RiskPoint

# Okabe and Ito's palette; MSP, against which all are held, is black in every panel
SCORE_COLOURS = {
    "msp": INK,
    "entropy": "#e69f00",
    "max_logit": "#009e73",
    "max_logit_norm": "#cc79a7",
    "predicted_loss": "#0072b2",
    "calibrated": "#56b4e9",
    "combination": "#d55e00",
}
SCORE_LINES: dict[str, Line] = {
    "entropy": "--",
    "max_logit": "-.",
    "max_logit_norm": ":",
    "combination": (0, (5.0, 1.0)),
}
COLUMNS = 3
QUANTITIES = {
    "error_probability": ("error probability (%)", 100.0),
    "expected_loss": ("expected loss (nats)", 1.0),
}
AREAS = 10.0, 60.0  # of the marks with fewest and most images; equal predictions share a bin


@styled
def risk_figure(points: Sequence[RiskPoint]) -> Figure:
    """A panel for each model, a line with its band for each failure score."""
    models = models_of(points)
    columns = min(len(models), COLUMNS)
    rows = -(-len(models) // columns)
    figure = Figure(figsize=(10, 2.7 * rows + 0.3))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(models) :]:
        axes.set_visible(False)
    for axes, model in zip(panels.flat, models, strict=False):
        axes.set_title(model)
        _draw_scores(axes, select(points, model=model))
    for axes in panels[:, 0]:
        axes.set_ylabel("error among accepted (%)")
    for index, axes in enumerate(panels.flat[: len(models)]):
        is_last = index + columns >= len(models)  # of its column, even if the last row is not full
        axes.tick_params(labelbottom=is_last)
        axes.set_xlabel("accepted (%)" if is_last else "")
    lines = {str(line.get_label()): line for axes in panels.flat for line in axes.lines}
    figure.legend(handles=list(lines.values()), loc="outside upper right", ncols=len(lines))
    return figure


def _draw_scores(axes: Axes, points: Sequence[RiskPoint]) -> None:
    present = distinct(points, "detector")
    known = [name for name in SCORE_COLOURS if name in present]
    for detector in [*known, *(name for name in present if name not in known)]:
        rows = sorted(select(points, detector=detector), key=lambda point: point.coverage)
        _draw_line(axes, detector, rows)
    axes.set_ylim(bottom=0)


def _draw_line(axes: Axes, detector: str, rows: Sequence[RiskPoint]) -> None:
    colour = SCORE_COLOURS.get(detector, OTHER_COLOUR)
    axes.plot(
        [100 * row.coverage for row in rows],
        [100 * row.risk for row in rows],
        color=colour,
        linestyle=SCORE_LINES.get(detector, "-"),
        label=DETECTORS.get(detector, detector),
    )
    ends = [
        (100 * row.coverage, 100 * row.lower, 100 * row.upper)
        for row in rows
        if row.lower is not None and row.upper is not None
    ]
    across, lower, upper = np.array(ends).reshape(-1, 3).T
    axes.fill_between(across, lower, upper, color=colour, alpha=0.1, linewidth=0)


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
        ends = [0.0, max(end for axes in row for end in (axes.get_xlim()[1], axes.get_ylim()[1]))]
        for axes in row:
            axes.plot(ends, ends, color="#b5b5b5", linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
            axes.set(xlim=ends, ylim=ends)
    return figure


def _draw_bins(axes: Axes, bins: Sequence[ReliabilityRow], factor: float) -> None:
    if not bins:
        # without touching the ticks, which the panels of a row share
        axes.text(0.6, 0.2, "not measured", transform=axes.transAxes, ha="center", color="#8c8c8c")
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
