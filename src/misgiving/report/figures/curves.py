"""Curves over epochs: records in, a figure out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from misgiving.report.figures.style import (
    COLOURS,
    LINES,
    OTHER_COLOUR,
    Line,
    say_missing,
    styled,
)
from misgiving.report.tables import HistoryRow, models_of, select

LOG_RANGE = 50.0  # losses that differ more than this are unreadable on a linear axis
PART_LINES: tuple[Line, Line] = ((0, (3.0, 1.5)), "-")  # of the trained and of the watched part


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
def learning_figure(histories: Sequence[HistoryRow], *, part: str = "validation") -> Figure:
    """Figure 2: the auxiliary loss with mse, with ranking, and the accuracy of the predictors.

    `part` was watched while training.
    """
    lines = dict(zip(("train", part), PART_LINES, strict=True))
    rows = select(histories, experiment="generalization")
    figure = Figure(figsize=(10, 3.3))
    left, middle, right = figure.subplots(1, 3)
    _draw_auxiliary(left, select(rows, model="mse"), lines, name="mse")
    _draw_auxiliary(middle, select(rows, model="proposed"), lines, name="ranking")
    right.set_title(f"Accuracy on {part} (%)")
    for model in models_of(rows):
        found = curve(select(rows, model=model, set=part), "accuracy")
        if found:
            _draw_curve(right, _in_percent(found), model, label=model)
    _finish_epochs(right)
    return figure


def _in_percent(fractions: Curve) -> Curve:
    return Curve(fractions.epochs, *(100 * column for column in fractions[1:]))


def _draw_auxiliary(
    axes: Axes, rows: Sequence[HistoryRow], lines: Mapping[str, Line], *, name: str
) -> None:
    axes.set_title(f"Auxiliary loss, {name}")
    curves = {part: curve(select(rows, set=part), "auxiliary_loss") for part in lines}
    drawn = [found for found in curves.values() if found]
    for part, found in curves.items():
        if found:
            _draw_curve(axes, found, rows[0].model, label=part, line=lines[part])
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
        say_missing(axes)
