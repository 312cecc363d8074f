"""Figures of sweeps: learning rates, and margins and weights of the auxiliary loss."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory

from misgiving.report.figures import (
    COLOURS,
    LINES,
    MARKERS,
    OTHER_COLOUR,
    beside,
    hover,
    mark_missing,
    styled,
)
from misgiving.report.findings import POINTS
from misgiving.report.findings.sweep import (
    SWEPT,
    SWEPT_QUANTITIES,
    Sweep,
    SweptRun,
    SweptSetting,
)
from misgiving.report.inputs import Spread, select
from misgiving.results.schema import Result

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


@styled
def values_figure(setting: SweptSetting, results: Sequence[Result]) -> Figure:
    """A panel for each quantity over the values of a setting: means and trials of each model.

    `results` are those of the measured set.
    """
    figure = Figure(figsize=(10, 3.1))
    panels = figure.subplots(1, len(SWEPT_QUANTITIES))
    quantities = SWEPT_QUANTITIES.items()
    for axes, ((detector, metric), (words, scale)) in zip(panels, quantities, strict=True):
        axes.set_title(words)
        _scale_values(axes, setting)
        for index, model in enumerate(setting.models):
            points = BESIDE * (index - (len(setting.models) - 1) / 2)
            of_model = select(results, model=model)
            found = setting.spreads(of_model, detector=detector, metric=metric)
            if found:
                _draw_values(axes, found, model, points, factor=scale.factor)
            _cross_diverged(axes, setting, of_model, points)
        if not any(len(line.get_xdata()) for line in axes.lines):
            mark_missing(axes)
    figure.supxlabel(setting.words, fontsize="medium")
    handles = [Line2D([], [], **_style(model), label=model) for model in setting.models]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), handlelength=3.2)
    return figure


def _scale_values(axes: Axes, setting: SweptSetting) -> None:
    """Ticks at the values; a logarithmic axis, linear next to zero, where they differ much."""
    values = list(setting.experiments)
    positive = [value for value in values if value > 0]
    if positive and positive[-1] >= LOG_RANGE * positive[0]:
        if values[0] > 0:
            axes.set_xscale("log")
        else:
            axes.set_xscale("symlog", linthresh=positive[0])
    scale = axes.xaxis.get_transform()
    first, last = scale.transform(np.array([values[0], values[-1]]))
    margin = 0.18 * (last - first) or 1.0
    axes.set_xlim(*scale.inverted().transform(np.array([first - margin, last + margin])))
    labels = [
        f"{value:g}\n(the protocol's)" if value == setting.own else f"{value:g}\n"
        for value in values
    ]
    axes.set_xticks(values, labels)
    axes.set_xticks([], minor=True)


def _draw_values(
    axes: Axes, found: Mapping[float, Spread], model: str, points: float, *, factor: float
) -> None:
    """A large mark at each mean, joined by a line, and a small one for each trial."""
    place = axes.transData + beside(axes, points)
    means = [factor * over_trials.mean for over_trials in found.values()]
    axes.plot(list(found), means, transform=place, **_style(model))
    across = [value for value, over_trials in found.items() for _ in over_trials.values]
    trials = [factor * value for over_trials in found.values() for value in over_trials.values]
    small: dict[str, Any] = {"linestyle": "none", "markersize": 3.2, "markeredgewidth": 0}
    axes.plot(across, trials, transform=place, alpha=0.7, **_style(model) | small)
    axes.update_datalim([*zip(across, trials, strict=True)])  # not done for lines that are shifted
    axes.autoscale_view(scalex=False)
    for value, height in zip(found, means, strict=True):
        hover(axes, value, height, f"{model}, {value:g}: {height:.3g}", points=points)


def _cross_diverged(
    axes: Axes, setting: SweptSetting, of_model: Sequence[Result], points: float
) -> None:
    diverged = setting.spreads(of_model, metric="diverged")
    lost = [value for value, over_trials in diverged.items() if over_trials.mean > 0]
    place = blended_transform_factory(axes.transData, axes.transAxes) + beside(axes, points)
    colour = COLOURS.get(of_model[0].model, OTHER_COLOUR)
    axes.plot(lost, [FOOT] * len(lost), "x", color=colour, markersize=5.5, transform=place)


def _style(model: str) -> dict[str, Any]:
    return {
        "color": COLOURS.get(model, OTHER_COLOUR),
        "marker": MARKERS.get(model, "o"),
        "linestyle": LINES.get(model, "-"),
        "markersize": 7.5,
    }
