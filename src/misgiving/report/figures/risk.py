"""Risk over coverage: the error among the accepted images, as more of them are accepted."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from misgiving.report.figures.style import DETECTORS, INK, OTHER_COLOUR, Line, styled
from misgiving.report.tables import RiskPoint, distinct, models_of, select

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
    for index in range(len(models)):
        _label_coverage(panels.flat[index], is_last=index + columns >= len(models))
    _add_legend(figure, list(panels.flat))
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


def _label_coverage(axes: Axes, *, is_last: bool) -> None:
    """The last panel of a column carries the axis, also where the row below is not full."""
    axes.tick_params(labelbottom=is_last)
    if is_last:
        axes.set_xlabel("accepted (%)")


def _add_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Each score once; a model without an estimator lacks one of them."""
    lines = {str(line.get_label()): line for axes in panels for line in axes.lines}
    figure.legend(handles=list(lines.values()), loc="outside upper right", ncols=len(lines))
