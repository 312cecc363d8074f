"""Figures 2 to 5 and the AUROC of Table 1, and those beside the paper's, over trials."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from pandas import DataFrame, Series
from PIL import Image

from misgiving.arrays import Picture
from misgiving.report.figures import (
    INK,
    OTHER_COLOUR,
    SCORE_STYLES,
    Line,
    draw_bins,
    draw_diagonal,
    draw_matrix,
    draw_risk,
    hover,
    mark_missing,
    styled,
)
from misgiving.reproduction.config import CHOSEN, UNSEEN_SET
from misgiving.reproduction.published import title
from misgiving.reproduction.report.names import DETECTOR_NAMES, detector_name
from misgiving.reproduction.report.run import in_order, models_of, select

# Okabe and Ito's palette, distinct with the common colour blindnesses; grey for no estimator, and
# a yellow that can be seen on white
STYLES: dict[str, tuple[str, Line, str]] = {  # colour, stroke and marker of each model
    "vanilla": ("#7a7a7a", "--", "s"),
    "mse": ("#e69f00", ":", "^"),
    "detached": ("#009e73", "-.", "D"),
    "proposed": ("#0072b2", "-", "o"),
    "proposed_halves": ("#d55e00", (0, (5.0, 1.0)), "v"),
    "proposed_sum": ("#b59b00", (0, (3.0, 1.0, 1.0, 1.0, 1.0, 1.0)), "P"),
    "proposed+logits": ("#cc79a7", (0, (8.0, 2.0)), "<"),
}
OTHER_STYLE: tuple[str, Line, str] = (OTHER_COLOUR, "-", "o")
FIGURE_WIDTH = 10  # inches of every figure
LOG_RANGE = 50.0  # losses that differ more than this are unreadable on a linear axis
TRAIN_LINE, MONITORED_LINE = (0, (3.0, 1.5)), "-"
WHISKERS = 6  # of a learning curve
CURVES_APART = 4.0  # points between the whiskers of two curves
DOT = 3.0  # size of the mark of a trial
CHANCE, NEAR_CHANCE = 50.0, 10.0  # of an AUROC in percent
MAIN_DETECTORS = ("odin", "odin_default", "odin_id_only", CHOSEN, "msp", "energy", "predicted_loss")
"""The detectors that Figure 5 has room for; the table below it has all."""
MIN_COLUMNS, MAX_EXAMPLES = 6, 8  # of example images
CAPTION_WIDTH = 3.3  # of an example image
EXAMPLE_PIXELS = 112  # what a printed inch shows, so that the page stays small
MAX_IN_A_ROW, PANEL_COLUMNS = 4, 3  # models beside each other; columns where there are more
DOTTED = 0.8  # the coverage at which every trial has its dot
INTERVALS = 0.4, 0.6, DOTTED  # coverages with whiskers, as bands would hide each other
SCORES_APART = 2.2  # between the dots of two scores, in percent of coverage
QUANTITIES = {
    "error_probability": ("error probability (%)", 100.0),
    "expected_loss": ("expected loss (nats)", 1.0),
}


@styled
def learning_figure(histories: DataFrame, *, monitored: str) -> Figure:
    """Figure 2: the auxiliary losses of the paper and one's own; accuracy of the classifiers."""
    rows = select(histories, experiment="generalization")
    auxiliary = [x for x in models_of(rows) if x in ("mse", "proposed") or ":" in x] or ["mse"]
    figure = Figure(figsize=(FIGURE_WIDTH, 3.3))
    *panels, right = figure.subplots(1, len(auxiliary) + 1)
    for axes, model in zip(panels, auxiliary, strict=True):
        losses = select(rows, model=model).dropna(subset="auxiliary_loss")
        for index, set_name in enumerate(("train", monitored)):
            line = MONITORED_LINE if index else TRAIN_LINE
            curve = select(losses, set=set_name).set_index("epoch")["auxiliary_loss"]
            _draw_curve(axes, curve, model, label=set_name, side=index - 0.5, line=line)
        drawn = losses[losses["set"].isin(["train", monitored])]["auxiliary_loss"]
        is_wide = drawn.min() > 0 and drawn.max() > LOG_RANGE * drawn.min()
        axes.set_yscale("log" if is_wide else "linear")
        axes.set_title(f"Auxiliary loss, {model}{' (logarithmic)' if is_wide else ''}")
    right.set_title(f"Accuracy on the {monitored} set (%)")
    rows = select(rows, set=monitored).dropna(subset="accuracy")
    models = models_of(rows)
    for index, model in enumerate(models):
        curve = 100 * select(rows, model=model).set_index("epoch")["accuracy"]
        side = index - (len(models) - 1) / 2
        _draw_curve(right, curve, model, label=model, side=side, line=_style(model)[1])
    for axes in figure.axes:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.has_data():
            axes.legend(handlelength=2.4)
        else:
            mark_missing(axes)
    return figure


def _style(model: str) -> tuple[str, Line, str]:
    return STYLES.get(model, OTHER_STYLE)


def _draw_curve(
    axes: Axes, values: Series, model: str, *, label: str, side: float, line: Line
) -> None:
    """The mean by epoch, whiskers of the range over trials, and the trials at the last epoch."""
    if values.empty:
        return
    colour = _style(model)[0]
    curve = values.groupby(level="epoch").agg(["mean", "min", "max"])
    curve.index = curve.index.astype(float)
    axes.plot(curve["mean"], color=colour, linestyle=line, label=label)
    shown = curve.iloc[np.linspace(0, len(curve) - 1, WHISKERS).round().astype(int)]
    aside = ScaledTranslation(side * CURVES_APART / 72, 0, axes.figure.dpi_scale_trans)
    place: dict[str, Any] = {"color": colour, "transform": axes.transData + aside}
    axes.vlines(shown.index, shown["min"], shown["max"], linewidth=1.0, **place)
    for name in ("min", "max"):  # not done for lines that are shifted
        axes.update_datalim(np.column_stack([shown.index, shown[name]]))
    last = values.loc[[values.index.max()]]
    fill = "none" if line == TRAIN_LINE else "full"
    axes.plot(last, "o", markersize=DOT, fillstyle=fill, label="_trials", **place)
    for epoch, mean, lowest, highest in curve.itertuples():
        words = f"{label}, epoch {epoch:g}: {mean:.3g} ({lowest:.3g} to {highest:.3g})"
        hover(axes, epoch, mean, words)


@styled
def sensitivity_figure(results: DataFrame, *, classes: Sequence[str]) -> Figure:
    """Figure 3: sensitivity per class, and balanced accuracy; `results` of the models in 4.1."""
    labels = {f"sensitivity/{name}": name for name in classes}
    labels["balanced_accuracy"] = "balanced\naccuracy"
    figure = Figure(figsize=(FIGURE_WIDTH, 3.4))
    axes = figure.subplots()
    axes.set_title("Sensitivity per class, and balanced accuracy (%)")
    _draw_groups(axes, results, "metric", labels)
    if axes.has_data():  # separates the mean from the classes
        axes.axvline(len(axes.get_xticks()) - 1.5, color="#b5b5b5", linewidth=0.8)
    return figure


@styled
def examples_figure(sets: Sequence[tuple[str, str, Sequence[Picture]]]) -> Figure:
    """Figure 4: name, caption and example images of each set, as the model is shown them."""
    columns = min(max([MIN_COLUMNS, *(len(pictures) for *_, pictures in sets)]), MAX_EXAMPLES)
    rows, inches = max(len(sets), 1), FIGURE_WIDTH / (CAPTION_WIDTH + columns)
    figure = Figure(figsize=(FIGURE_WIDTH, inches * rows))
    axes, left = figure.subplots(), -0.5 - CAPTION_WIDTH
    for row, (name, caption, pictures) in enumerate(sets):
        axes.text(left, row - 0.12, name, fontweight="bold", va="bottom", fontsize=9)
        wrapped = textwrap.fill(caption, 48, max_lines=3)
        axes.text(left, row - 0.06, wrapped, va="top", fontsize=7.5, color="#555555")
        for column, picture in enumerate(pictures[:MAX_EXAMPLES]):
            image = Image.fromarray(picture)
            image.thumbnail((EXAMPLE_PIXELS, EXAMPLE_PIXELS), Image.Resampling.LANCZOS)
            width, height = 0.47 * np.array(image.size) / max(image.size)
            extent = (column - width, column + width, row + height, row - height)
            axes.imshow(image, extent=extent, interpolation="none")
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set(xlim=(left, columns - 0.5), ylim=(rows - 0.5, -0.5))
    return figure


@styled
def new_classes_figure(results: DataFrame) -> Figure:
    """Figure 5: AUROC for unseen classes, by ODIN for each, and by the main detectors for all."""
    rows = select(results, experiment="new_classes", metric="auroc")
    odin, pooled = select(rows, detector="odin"), select(rows, dataset=UNSEEN_SET)
    datasets = sorted(odin["dataset"].unique(), key=lambda name: name != UNSEEN_SET)
    names = {name: name.removeprefix("unseen/").replace(UNSEEN_SET, "all") for name in datasets}
    detectors = pooled["detector"].unique()
    detectors = [name for name in detectors if name in MAIN_DETECTORS or name not in DETECTOR_NAMES]
    wrapped = {name: textwrap.fill(detector_name(name), 10) for name in detectors}
    figure = Figure(figsize=(FIGURE_WIDTH, 3.4))
    left, right = figure.subplots(1, 2, sharey=True)
    left.set_title("AUROC by ODIN, for all unseen classes and each (%)")
    _draw_groups(left, odin, "dataset", names)
    right.set_title("AUROC by detector, for all unseen classes (%)")
    _draw_groups(right, pooled, "detector", wrapped, legend=False)
    _mark_chance(left, right)
    return figure


@styled
def ood_figure(results: DataFrame, *, tuning_set: str) -> Figure:
    """The AUROC of Table 1: of ODIN, on each set; `results` of all experiments."""
    rows = select(results, experiment="ood_detection", metric="auroc", detector="odin")
    labels = {
        name: textwrap.fill(title(name), 14) + "\n(tuned here)" * (name == tuning_set)
        for name in rows["dataset"].unique()
    }
    figure = Figure(figsize=(FIGURE_WIDTH, 3.0))
    axes = figure.subplots()
    axes.set_title("AUROC by ODIN on each set (%)")
    _draw_groups(axes, rows, "dataset", labels)
    _mark_chance(axes)
    return figure


def _mark_chance(*panels: Axes) -> None:
    """A line at chance, where it is near: elsewhere it would press the values together."""
    if panels[0].get_ylim()[0] < CHANCE + NEAR_CHANCE:
        for axes in panels:
            axes.axhline(CHANCE, color="#6b6b6b", linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)


def _draw_groups(
    axes: Axes, rows: DataFrame, column: str, labels: Mapping[str, str], *, legend: bool = True
) -> None:
    """For each labelled value of a column, each model's mean, standard deviation and trials."""
    rows = rows[rows[column].isin([*labels])]
    models, occurring = models_of(rows), {*rows[column]}
    if not models:
        return mark_missing(axes)
    groups = [(value, label) for value, label in labels.items() if value in occurring]
    width = 0.8 / len(models)
    for (middle, (value, label)), (index, model) in product(enumerate(groups), enumerate(models)):
        values = 100 * select(rows, **{column: value}, model=model)["value"].to_numpy()
        if len(values):
            position = middle + (index - (len(models) - 1) / 2) * width
            words = _draw_trials(axes, values, model, position, width)
            hover(axes, position, values.mean(), f"{' '.join(label.split())}, {model}: {words}")
    axes.set_xticks(range(len(groups)), [label.replace("$", r"\$") for _, label in groups])
    axes.set_xlim(-0.6, len(groups) - 0.4)
    if legend:
        handles = [Line2D([], [], label=model, ls="none", **_mark(model)) for model in models]
        spacing: dict[str, Any] = {"handletextpad": 0.2, "columnspacing": 1.2}
        axes.figure.legend(handles=handles, loc="outside upper right", ncols=len(models), **spacing)
    return None


def _mark(model: str) -> dict[str, Any]:
    colour, _, marker = _style(model)
    return {"color": colour, "marker": marker}


def _draw_trials(axes: Axes, values: np.ndarray, model: str, position: float, width: float) -> str:
    """Draw mean, standard deviation and trials in percent, and return them in words."""
    mean, deviation = values.mean(), ""
    axes.plot(position, mean, markersize=6.5, **_mark(model))
    if len(values) > 1:
        spread = values.std(ddof=1)
        ends = np.clip([mean - spread, mean + spread], 0, 100)
        axes.vlines(position, *ends, color=_style(model)[0], linewidth=1.0)
        deviation = f" ± {spread:.1f}"
    across = position + 0.22 * width * np.linspace(-1, 1, max(len(values), 2))[: len(values)]
    dots: dict[str, Any] = {"color": INK, "markersize": 2.2, "markeredgewidth": 0, "alpha": 0.7}
    axes.plot(across, values, "o", **dots)
    return f"{mean:.1f}{deviation} % (trials: {', '.join(f'{value:.1f}' for value in values)})"


@styled
def confusion_figure(confusions: DataFrame, *, classes: Sequence[str]) -> Figure:
    """A matrix for each model in 4.1: counts over trials, shades by the share of the true class."""
    occurring = {*confusions["true"], *confusions["predicted"]}
    names = [name for name in classes if name in occurring]
    rows = select(confusions, experiment="generalization")
    models = models_of(rows)
    columns = min(len(models), 2)
    height = 4.4 * -(-len(models) // columns) / columns + 0.2
    figure = Figure(figsize=(FIGURE_WIDTH, height))
    for axes, model in zip(_panels(figure, len(models), columns), models, strict=True):
        counts = select(rows, model=model).pivot_table(
            "images", "true", "predicted", aggfunc="sum", fill_value=0
        )
        counts = counts.reindex(index=names, columns=names, fill_value=0).astype(int)
        axes.set_title(model)
        draw_matrix(axes, counts.to_numpy(), names, unit="images over trials")
    return figure


def _panels(figure: Figure, number: int, columns: int, **options: Any) -> Sequence[Axes]:
    """Panels in rows of some columns; the rest of the last row stays empty."""
    rows = -(-number // columns)
    panels = figure.subplots(rows, columns, squeeze=False, **options).flat
    for axes in panels[number:]:
        axes.set_visible(False)
    return list(panels[:number])


@styled
def risk_figure(points: DataFrame, trials: DataFrame) -> Figure:
    """A panel for each model; for each failure score a line, with whiskers at some coverages.

    `trials` are the results of 4.1; those at `DOTTED` are drawn as a dot for each trial.
    """
    dotted = select(trials, metric=f"risk_at_coverage/{DOTTED:g}")
    models = models_of(points)
    columns = len(models) if len(models) <= MAX_IN_A_ROW else PANEL_COLUMNS
    figure = Figure(figsize=(FIGURE_WIDTH, 2.7 * -(-len(models) // columns) + 0.3))
    panels = _panels(figure, len(models), columns, sharex=True, sharey=True)
    for axes, model in zip(panels, models, strict=True):
        axes.set_title(model)
        _draw_scores(axes, select(points, model=model), select(dotted, model=model))
    panels[0].set_ylim(bottom=0)  # of all panels, once all are drawn
    for index, axes in enumerate(panels):
        if index % columns == 0:
            axes.set_ylabel("error among accepted (%)")
        is_last = index + columns >= len(models)  # of its column, even if the last row is not full
        axes.tick_params(labelbottom=is_last)
        axes.set_xlabel("accepted (%)" if is_last else "")
    drawn = (line for axes in panels for line in axes.lines)
    lines = {str(line.get_label()): line for line in drawn if line.get_marker() == "None"}
    figure.legend(handles=list(lines.values()), loc="outside upper right", ncols=len(lines))
    return figure


def _draw_scores(axes: Axes, points: DataFrame, trials: DataFrame) -> None:
    detectors = in_order(points["detector"], SCORE_STYLES)
    for index, detector in enumerate(detectors):
        curve = select(points, detector=detector).sort_values("coverage")
        curve = curve[["coverage", "risk", "lower", "upper"]].astype(float)
        colour = draw_risk(axes, detector, curve.to_numpy())
        side = SCORES_APART * (index - (len(detectors) - 1) / 2)
        for coverage, _, lower, upper in curve.dropna().itertuples(index=False):
            if np.isclose(coverage, INTERVALS).any():
                across = 100 * coverage + side
                axes.vlines(across, 100 * lower, 100 * upper, color=colour, linewidth=1.0)
        risks = 100 * select(trials, detector=detector)["value"]
        axes.plot([100 * DOTTED + side] * len(risks), risks, "o", color=colour, markersize=DOT)


@styled
def calibration_figure(bins: DataFrame) -> Figure:
    """A column for each model, a row for each quantity."""
    models = models_of(bins)
    shown = [name for name in QUANTITIES if name in set(bins["quantity"])]
    figure = Figure(figsize=(min(FIGURE_WIDTH, 2.6 * len(models)), 2.5 * len(shown)))
    panels = figure.subplots(len(shown), len(models), sharex="row", sharey="row", squeeze=False)
    for row, quantity in zip(panels, shown, strict=True):
        words, factor = QUANTITIES[quantity]
        row[0].set_ylabel(f"observed\n{words}")
        for axes, model in zip(row, models, strict=True):
            axes.set(title=model, xlabel="predicted")
            rows = select(bins, quantity=quantity, model=model)
            predicted, observed = factor * rows[["predicted", "observed"]].to_numpy(dtype=float).T
            images = rows["images"].to_numpy(dtype=float)
            draw_bins(axes, predicted, observed, images, **_mark(model))
        draw_diagonal(list(row))
    return figure
