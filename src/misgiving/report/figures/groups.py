"""Groups of bars or points: a value for each model, class, set or detector."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from misgiving.report.figures.style import (
    COLOURS,
    DETECTORS,
    INK,
    MARKERS,
    OTHER_COLOUR,
    PLOTTED,
    say_missing,
    styled,
)
from misgiving.report.tables import Result, Spread, distinct, models_of, select, spread

Groups = Mapping[str, Mapping[str, Spread]]  # from the label on the axis and the model


def grouped(results: Sequence[Result], field: str, labels: Mapping[str, str]) -> Groups:
    """Spreads over trials by label and model; `labels` names the values of `field` to be shown."""
    groups: dict[str, dict[str, Spread]] = {}
    for value, label in labels.items():
        rows = select(results, **{field: value})
        spreads = {model: spread(select(rows, model=model)) for model in models_of(rows)}
        groups[label] = {model: found for model, found in spreads.items() if found}
    return {label: found for label, found in groups.items() if found}


@styled
def sensitivity_figure(
    results: Sequence[Result], *, classes: Sequence[str] = (), part: str = "validation"
) -> Figure:
    """Figure 3: sensitivity per class, and balanced accuracy, on the measured part of 4.1."""
    rows = select(results, experiment="generalization", dataset=part, detector="")
    metrics = [m for m in distinct(rows, "metric") if m.startswith("sensitivity/")]
    ordered = dict.fromkeys([f"sensitivity/{name}" for name in classes] + metrics)
    labels = {metric: metric.removeprefix("sensitivity/") for metric in ordered}
    figure = Figure(figsize=(10, 3.4))
    axes = figure.subplots()
    axes.set_title("Sensitivity per class, and balanced accuracy (%)")
    _draw_groups(
        axes, grouped(rows, "metric", {**labels, "balanced_accuracy": "balanced\naccuracy"}), _bar
    )
    axes.set_ylim(0, 104)
    if labels and axes.has_data():  # the mean of the classes stands apart from them
        axes.axvline(len(axes.get_xticks()) - 1.5, color="#b5b5b5", linewidth=0.8)
    return figure


@styled
def new_classes_figure(results: Sequence[Result]) -> Figure:
    """Figure 5: AUROC for unseen classes, by ODIN for each, and by the main detectors for all."""
    rows = select(results, experiment="new_classes", metric="auroc")
    odin, pooled = select(rows, detector="odin"), select(rows, dataset="unseen_classes")
    datasets = sorted(distinct(odin, "dataset"), key=lambda name: name != "unseen_classes")
    names = {
        name: name.removeprefix("unseen/").replace("unseen_classes", "all") for name in datasets
    }
    shown = [n for n in distinct(pooled, "detector") if n in PLOTTED or n not in DETECTORS]
    detectors = {name: DETECTORS.get(name, name) for name in shown}
    wrapped = {name: textwrap.fill(label, 10) for name, label in detectors.items()}
    figure = Figure(figsize=(10, 3.4))
    left, right = figure.subplots(1, 2, sharey=True)
    left.set_title("AUROC by ODIN, for all unseen classes and each (%)")
    _draw_groups(left, grouped(odin, "dataset", names), _point)
    right.set_title("AUROC by detector, for all unseen classes (%)")
    _draw_groups(right, grouped(pooled, "detector", wrapped), _point, legend=False)
    for axes in (left, right):
        axes.axhline(50, color="#b5b5b5", linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    return figure


class _Place(NamedTuple):
    """Where a model's spread of one group is drawn."""

    position: float
    width: float
    model: str

    @property
    def colour(self) -> str:
        return COLOURS.get(self.model, OTHER_COLOUR)


Mark = Callable[[Axes, Spread, _Place], None]


def _draw_groups(axes: Axes, groups: Groups, mark: Mark, *, legend: bool = True) -> None:
    present = {model for spreads in groups.values() for model in spreads}
    models = [name for name in COLOURS if name in present] + sorted(present - COLOURS.keys())
    if not models:
        return say_missing(axes)
    width = 0.8 / len(models)
    for middle, spreads in enumerate(groups.values()):
        for index, model in enumerate(models):
            if model in spreads:
                position = middle + (index - (len(models) - 1) / 2) * width
                mark(axes, spreads[model], _Place(position, width, model))
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_xlim(-0.6, len(groups) - 0.4)
    if legend:
        _add_legend(axes, models, mark)
    return None


def _bar(axes: Axes, values: Spread, place: _Place) -> None:
    axes.bar(place.position, 100 * values.mean, 0.9 * place.width, color=place.colour, alpha=0.75)
    _add_trials(axes, values, place, line=INK)


def _point(axes: Axes, values: Spread, place: _Place) -> None:
    marker = MARKERS.get(place.model, "o")
    axes.plot(place.position, 100 * values.mean, marker, color=place.colour, markersize=6.5)
    _add_trials(axes, values, place, line=place.colour)


def _add_trials(axes: Axes, values: Spread, place: _Place, *, line: str) -> None:
    """Whiskers of one standard deviation, and a dot for every trial beside the other trials'."""
    if values.deviation is not None:
        bounds = 100 * (values.mean + values.deviation * np.array([-1.0, 1.0]))
        axes.vlines(place.position, *bounds, color=line, linewidth=1.0)
    across = place.position + 0.22 * place.width * np.linspace(-1, 1, max(len(values.values), 2))
    heights = [100 * value for value in values.values]
    axes.plot(
        across[: len(heights)],
        heights,
        "o",
        color=INK,
        markersize=2.2,
        markeredgewidth=0,
        alpha=0.7,
    )


def _add_legend(axes: Axes, models: Sequence[str], mark: Mark) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=COLOURS.get(model, OTHER_COLOUR),
            marker="s" if mark is _bar else MARKERS.get(model, "o"),
            label=model,
            linestyle="none",
        )
        for model in models
    ]
    axes.figure.legend(
        handles=handles,
        loc="outside upper right",
        ncols=len(models),
        handletextpad=0.2,
        columnspacing=1.2,
    )
