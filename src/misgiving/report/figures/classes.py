"""Figures of classes and sets: sensitivities, confusions, unseen classes, and example images."""

import textwrap
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame
from PIL import Image

from misgiving.report.figures import (
    COLOURS,
    INK,
    MARKERS,
    OTHER_COLOUR,
    PLOTTED,
    hover,
    mark_missing,
    styled,
)
from misgiving.report.frames import Picture, Spread, distinct, models_of, select, spread_of
from misgiving.report.names import DETECTOR_TITLES, UNSEEN_SET

Counts = Int[np.ndarray, "true predicted"]
# transparent where none are, so that they suit a dark page too
SHADES = LinearSegmentedColormap.from_list("shades", ["#08519c00", "#08519cff"])
DARK = 0.55  # share of a class from which white figures are easier to read than black ones
CHANCE, NEAR = 50.0, 10.0  # of an AUROC in percent
MIN_COLUMNS, MAX_EXAMPLES = 6, 8  # of example images
CAPTION_WIDTH = 3.3  # of an example image
THUMBNAIL = 112  # pixels: what a printed inch shows, so that the page stays small
Groups = Mapping[str, Mapping[str, Spread]]  # from the label on the axis and the model


def grouped(results: DataFrame, column: str, labels: Mapping[str, str]) -> Groups:
    """Spreads over trials by label and model; `labels` names the shown values of a column."""
    groups: dict[str, dict[str, Spread]] = {}
    for value, label in labels.items():
        rows = select(results, **{column: value})
        spreads = {name: spread_of(select(rows, model=name)["value"]) for name in models_of(rows)}
        groups[label] = {model: spread for model, spread in spreads.items() if spread}
    return {label: spreads for label, spreads in groups.items() if spreads}


@styled
def sensitivity_figure(results: DataFrame, *, classes: Sequence[str] = ()) -> Figure:
    """Figure 3: sensitivity per class, and balanced accuracy; `results` of the models in 4.1."""
    metrics = [name for name in distinct(results["metric"]) if name.startswith("sensitivity/")]
    ordered = dict.fromkeys([f"sensitivity/{name}" for name in classes] + metrics)
    labels = {metric: metric.removeprefix("sensitivity/") for metric in ordered}
    figure = Figure(figsize=(10, 3.4))
    axes = figure.subplots()
    axes.set_title("Sensitivity per class, and balanced accuracy (%)")
    labels["balanced_accuracy"] = "balanced\naccuracy"
    _draw_groups(axes, grouped(results, "metric", labels))
    if len(labels) > 1 and axes.has_data():  # separates the mean from the classes
        axes.axvline(len(axes.get_xticks()) - 1.5, color="#b5b5b5", linewidth=0.8)
    return figure


@styled
def new_classes_figure(results: DataFrame) -> Figure:
    """Figure 5: AUROC for unseen classes, by ODIN for each, and by the main detectors for all."""
    rows = select(results, experiment="new_classes", metric="auroc")
    odin, pooled = select(rows, detector="odin"), select(rows, dataset=UNSEEN_SET)
    datasets = sorted(distinct(odin["dataset"]), key=lambda name: name != UNSEEN_SET)
    names = {name: name.removeprefix("unseen/").replace(UNSEEN_SET, "all") for name in datasets}
    detectors = distinct(pooled["detector"])
    detectors = [name for name in detectors if name in PLOTTED or name not in DETECTOR_TITLES]
    wrapped = {name: textwrap.fill(DETECTOR_TITLES.get(name, name), 10) for name in detectors}
    figure = Figure(figsize=(10, 3.4))
    left, right = figure.subplots(1, 2, sharey=True)
    left.set_title("AUROC by ODIN, for all unseen classes and each (%)")
    _draw_groups(left, grouped(odin, "dataset", names))
    right.set_title("AUROC by detector, for all unseen classes (%)")
    _draw_groups(right, grouped(pooled, "detector", wrapped), legend=False)
    _mark_chance(left, right)
    return figure


@styled
def ood_figure(results: DataFrame, *, titles: Mapping[str, str], tuned: Container[str]) -> Figure:
    """The AUROC of Table 1: of ODIN, on each set.

    Args:
        results: Of all experiments.
        titles: The names of the sets in words.
        tuned: The sets that ODIN was tuned on.
    """
    rows = select(results, experiment="ood_detection", metric="auroc", detector="odin")
    labels = {
        name: textwrap.fill(titles.get(name, name), 14)
        + ("\n(tuned here)" if name in tuned else "")
        for name in distinct(rows["dataset"])
    }
    figure = Figure(figsize=(10, 3.0))
    axes = figure.subplots()
    axes.set_title("AUROC by ODIN on each set (%)")
    _draw_groups(axes, grouped(rows, "dataset", labels))
    _mark_chance(axes)
    return figure


def _mark_chance(*panels: Axes) -> None:
    """A line at chance, where it is near: elsewhere it would press the values together."""
    if panels[0].get_ylim()[0] < CHANCE + NEAR:
        for axes in panels:
            axes.axhline(CHANCE, color="#6b6b6b", linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)


def _draw_groups(axes: Axes, groups: Groups, *, legend: bool = True) -> None:
    present = {model for spreads in groups.values() for model in spreads}
    models = [name for name in COLOURS if name in present] + sorted(present - COLOURS.keys())
    if not models:
        return mark_missing(axes)
    width = 0.8 / len(models)
    for middle, (label, spreads) in enumerate(groups.items()):
        for index, model in enumerate(models):
            if model in spreads:
                position = middle + (index - (len(models) - 1) / 2) * width
                _draw_spread(axes, spreads[model], model, position, width)
                words = f"{' '.join(label.split())}, {model}: {_words(spreads[model])}"
                hover(axes, position, 100 * spreads[model].mean, words)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_xlim(-0.6, len(groups) - 0.4)
    if legend:
        handles = [Line2D([], [], label=model, ls="none", **_mark(model)) for model in models]
        spacing: dict[str, Any] = {"handletextpad": 0.2, "columnspacing": 1.2}
        axes.figure.legend(handles=handles, loc="outside upper right", ncols=len(models), **spacing)
    return None


def _mark(model: str) -> dict[str, Any]:
    return {"color": COLOURS.get(model, OTHER_COLOUR), "marker": MARKERS.get(model, "o")}


def _words(values: Spread) -> str:
    """The mean, the standard deviation and the trials in percent."""
    trials = ", ".join(f"{100 * value:.1f}" for value in values.values)
    deviation = "" if values.deviation is None else f" ± {100 * values.deviation:.1f}"
    return f"{100 * values.mean:.1f}{deviation} % (trials: {trials})"


def _draw_spread(axes: Axes, values: Spread, model: str, position: float, width: float) -> None:
    """The mean, whiskers of one standard deviation, and a dot for every trial."""
    axes.plot(position, 100 * values.mean, markersize=6.5, **_mark(model))
    if values.deviation is not None:
        ends = values.mean + values.deviation * np.array([-1.0, 1.0])
        bounds = 100 * ends.clip(0, 1)
        axes.vlines(position, *bounds, color=COLOURS.get(model, OTHER_COLOUR), linewidth=1.0)
    across = position + 0.22 * width * np.linspace(-1, 1, max(len(values.values), 2))
    heights = [100 * value for value in values.values]
    dots: dict[str, Any] = {"color": INK, "markersize": 2.2, "markeredgewidth": 0, "alpha": 0.7}
    axes.plot(across[: len(heights)], heights, "o", **dots)


def matrices(confusions: DataFrame, classes: Sequence[str]) -> Mapping[str, Counts]:
    """Images of each true class (row) by predicted class, summed over the trials of 4.1."""
    rows = select(confusions, experiment="generalization")
    return {
        model: select(rows, model=model)
        .pivot_table("images", "true", "predicted", aggfunc="sum", fill_value=0)
        .reindex(index=classes, columns=classes, fill_value=0)
        .to_numpy()
        .astype(int)
        for model in models_of(rows)
    }


@styled
def confusion_figure(confusions: DataFrame, *, classes: Sequence[str] = ()) -> Figure:
    """A matrix for each model: counts in the cells, shades by the share of the true class."""
    occurring = distinct([*confusions["true"], *confusions["predicted"]])
    names = distinct([*(name for name in classes if name in occurring), *occurring])
    per_model = matrices(confusions, names)
    columns = min(len(per_model), 2)
    rows = -(-len(per_model) // columns)
    figure = Figure(figsize=(10, 4.4 * rows * 10 / (5 * columns) / 2 + 0.2))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(per_model) :]:
        axes.set_visible(False)
    for axes, (model, counts) in zip(grid.flat, per_model.items(), strict=False):
        axes.set_title(model)
        _draw_matrix(axes, counts, names, unit="images over trials")
    return figure


@styled
def matrix_figure(counts: Counts, names: Sequence[str]) -> Figure:
    """One matrix: counts in the cells, shades by the share of the true class."""
    side = max(3.8, 0.42 * len(names) + 1.0)
    figure = Figure(figsize=(side + 2.0, side))
    axes = figure.subplots()
    _draw_matrix(axes, counts, names, unit="images")
    axes.tick_params(axis="x", rotation=0 if max(map(len, names)) < 5 else 90)
    figure.draw_without_rendering()  # the layout of long labels needs two passes
    return figure


def _draw_matrix(axes: Axes, counts: Counts, names: Sequence[str], *, unit: str) -> None:
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    axes.imshow(shares, cmap=SHADES, vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > DARK else INK
        faint = "#767676" if count == 0 else colour
        axes.text(column, row, f"{count}", ha="center", va="center", color=faint, fontsize=7)
        words = f"true {names[row]}, predicted {names[column]}: {count} of {totals[row]}"
        hover(axes, float(column), float(row), words)
    axes.set_xticks(range(len(names)), names, fontsize=7.5)
    axes.set_yticks(
        range(len(names)),
        [f"{name} ({total})" for name, total in zip(names, totals, strict=True)],
        fontsize=7.5,
    )
    axes.set(xlabel="predicted class", ylabel=f"true class ({unit})")
    axes.grid(visible=False)


@styled
def examples_figure(sets: Sequence[tuple[str, str, Sequence[Picture]]]) -> Figure:
    """Figure 4: a row of example images for each set, as the model is shown them.

    Args:
        sets: Name, caption and pictures of each.
    """
    shown = [(name, caption, pictures[:MAX_EXAMPLES]) for name, caption, pictures in sets]
    columns = max([MIN_COLUMNS, *(len(pictures) for *_, pictures in shown)])
    inches = 10 / (CAPTION_WIDTH + columns)
    figure = Figure(figsize=(10, inches * max(len(shown), 1)))
    axes, left = figure.subplots(), -0.5 - CAPTION_WIDTH
    for row, (name, caption, pictures) in enumerate(shown):
        axes.text(left, row - 0.12, name, fontweight="bold", va="bottom", fontsize=9)
        wrapped = textwrap.fill(caption, 48, max_lines=3)
        axes.text(left, row - 0.06, wrapped, va="top", fontsize=7.5, color="#555555")
        for column, picture in enumerate(pictures):
            small = thumbnail(picture)
            height, width = 0.47 * np.array(small.shape[:2]) / max(small.shape[:2])
            extent = (column - width, column + width, row + height, row - height)
            axes.imshow(small, extent=extent, interpolation="none")
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set(xlim=(left, columns - 0.5), ylim=(max(len(shown), 1) - 0.5, -0.5))
    return figure


def thumbnail(picture: Picture) -> UInt8[np.ndarray, "small_height small_width 3"]:
    """The picture, made smaller where its longer side exceeds what print can show; never larger."""
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return np.asarray(image)
