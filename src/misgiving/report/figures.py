"""The figures of the report: records in, a matplotlib figure out; no model and no window needed."""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Literal, NamedTuple, ParamSpec

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from misgiving.report.tables import (
    Epoch,
    Result,
    Spread,
    distinct,
    models_of,
    select,
    spread,
)

# Okabe and Ito's palette, told apart with the common colour blindnesses; grey for no estimator
COLOURS = {
    "vanilla": "#7a7a7a",
    "mse": "#e69f00",
    "detached": "#009e73",
    "proposed": "#0072b2",
    "proposed+logits": "#cc79a7",
}
OTHER_COLOUR = "#56b4e9"
LINES = {"vanilla": "--", "mse": ":", "detached": "-.", "proposed": "-"}
Line = str | tuple[int, tuple[float, ...]]
PARTS: dict[str, Line] = {"train": (0, (3.0, 1.5)), "validation": "-"}
MARKERS = {"vanilla": "s", "mse": "^", "detached": "D", "proposed": "o"}
INK = "#2b2b2b"
STYLE: dict[Any, Any] = {  # newer matplotlib types each key, older takes any text
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": "#8c8c8c",
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "misgiving",  # without one, the ids in an SVG are drawn anew each time
    "svg.fonttype": "path",
}
DETECTORS = {
    "odin": "ODIN",
    "odin_default": "ODIN, untuned",
    "odin_id_only": "ODIN, without OOD data",
    "msp": "MSP",
    "energy": "energy",
    "predicted_loss": "predicted loss",
}
LOG_RANGE = 50.0  # losses that differ more than this are unreadable on a linear axis
Kind = Literal["png", "svg", "jpg"]
KINDS: tuple[Kind, ...] = ("png", "svg")  # those that are written beside the page
MIN_COLUMNS, MAX_EXAMPLES = 6, 8
CAPTION_WIDTH = 3.3  # of an example image
THUMBNAIL = 112  # pixels: what a printed inch shows, so that the page stays small

Parameters = ParamSpec("Parameters")
Picture = UInt8[np.ndarray, "height width 3"]


def _styled(draw: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """Draw in the report's style, and leave the caller's matplotlib settings as they were."""

    @wraps(draw)
    def styled(*args: Parameters.args, **options: Parameters.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **options)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # else each rendering moves the axes a little further
            return figure

    return styled


def render(figure: Figure, kind: Kind) -> bytes:
    """The figure as a file's bytes: the same for the same figure, so without a date."""
    metadata: dict[str, dict[str, None]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "jpg": {},
    }
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):  # ticks are only made when drawn
        figure.savefig(file, format=kind, dpi=160, metadata=metadata[kind] or None)
    return file.getvalue()


class Curve(NamedTuple):
    """A quantity per epoch: mean, lowest and highest over trials."""

    epochs: Float[np.ndarray, " epochs"]
    mean: Float[np.ndarray, " epochs"]
    lowest: Float[np.ndarray, " epochs"]
    highest: Float[np.ndarray, " epochs"]


def curve(rows: Sequence[Epoch], field: str) -> Curve | None:
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


@_styled
def learning_figure(histories: Sequence[Epoch]) -> Figure:
    """Figure 2: the auxiliary loss with mse, with ranking, and the accuracy of the predictors."""
    rows = select(histories, experiment="generalization")
    figure = Figure(figsize=(10, 3.3))
    left, middle, right = figure.subplots(1, 3)
    _draw_auxiliary(left, select(rows, model="mse"), name="mse")
    _draw_auxiliary(middle, select(rows, model="proposed"), name="ranking")
    right.set_title("Accuracy on validation (%)")
    for model in models_of(rows):
        found = curve(select(rows, model=model, part="validation"), "accuracy")
        if found:
            _draw_curve(right, _in_percent(found), model, label=model)
    _finish_epochs(right)
    return figure


def _in_percent(fractions: Curve) -> Curve:
    return Curve(fractions.epochs, *(100 * column for column in fractions[1:]))


def _draw_auxiliary(axes: Axes, rows: Sequence[Epoch], *, name: str) -> None:
    axes.set_title(f"Auxiliary loss, {name}")
    curves = {part: curve(select(rows, part=part), "auxiliary_loss") for part in PARTS}
    drawn = [found for found in curves.values() if found]
    for part, found in curves.items():
        if found:
            _draw_curve(axes, found, rows[0].model, label=part, line=PARTS[part])
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
        _say_missing(axes)


def _say_missing(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color="#8c8c8c")


Groups = Mapping[str, Mapping[str, Spread]]  # from the label on the axis and the model


def grouped(results: Sequence[Result], field: str, labels: Mapping[str, str]) -> Groups:
    """Spreads over trials by label and model; `labels` names the values of `field` to be shown."""
    groups: dict[str, dict[str, Spread]] = {}
    for value, label in labels.items():
        rows = select(results, **{field: value})
        spreads = {model: spread(select(rows, model=model)) for model in models_of(rows)}
        groups[label] = {model: found for model, found in spreads.items() if found}
    return {label: found for label, found in groups.items() if found}


@_styled
def sensitivity_figure(results: Sequence[Result], *, classes: Sequence[str] = ()) -> Figure:
    """Figure 3: sensitivity per class, and balanced accuracy, on the validation set of 4.1."""
    rows = select(results, experiment="generalization", dataset="validation", detector="")
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


@_styled
def new_classes_figure(results: Sequence[Result]) -> Figure:
    """Figure 5: AUROC for unseen classes, by ODIN for each, and by every detector for all."""
    rows = select(results, experiment="new_classes", metric="auroc")
    odin, pooled = select(rows, detector="odin"), select(rows, dataset="unseen_classes")
    datasets = sorted(distinct(odin, "dataset"), key=lambda name: name != "unseen_classes")
    names = {
        name: name.removeprefix("unseen/").replace("unseen_classes", "all") for name in datasets
    }
    detectors = {name: DETECTORS.get(name, name) for name in distinct(pooled, "detector")}
    wrapped = {name: textwrap.fill(label, 11) for name, label in detectors.items()}
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
        return _say_missing(axes)
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


class Examples(NamedTuple):
    """Pictures of one data set, and the lines that stand beside them."""

    name: str
    caption: str
    pictures: Sequence[Picture]


@_styled
def examples_figure(sets: Sequence[Examples]) -> Figure:
    """Figure 4: a row of example images for each set, as the model is shown them."""
    columns = max([MIN_COLUMNS, *(len(examples.pictures[:MAX_EXAMPLES]) for examples in sets)])
    inches = 10 / (CAPTION_WIDTH + columns)
    figure = Figure(figsize=(10, inches * max(len(sets), 1)))
    axes, left = figure.subplots(), -0.5 - CAPTION_WIDTH
    for row, examples in enumerate(sets):
        axes.text(left, row - 0.12, examples.name, fontweight="bold", va="bottom", fontsize=9)
        caption = textwrap.fill(examples.caption, 48, max_lines=3)
        axes.text(left, row - 0.06, caption, va="top", fontsize=7.5, color="#555555")
        for column, picture in enumerate(examples.pictures[:MAX_EXAMPLES]):
            _place_picture(axes, thumbnail(picture), column, row)
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set(xlim=(left, columns - 0.5), ylim=(max(len(sets), 1) - 0.5, -0.5))
    return figure


def thumbnail(picture: Picture) -> UInt8[np.ndarray, "small_height small_width 3"]:
    """The picture, made smaller where its longer side exceeds what print can show; never larger."""
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _place_picture(axes: Axes, picture: Picture, column: int, row: int) -> None:
    height, width = 0.47 * np.array(picture.shape[:2]) / max(picture.shape[:2])
    extent = (column - width, column + width, row + height, row - height)
    axes.imshow(picture, extent=extent, interpolation="none")
