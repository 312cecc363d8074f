"""Figures of an evaluation; style of all figures, and a figure as bytes."""

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib.resources import files
from typing import Any, Literal, ParamSpec

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from misgiving.deferral.sentences import count, percent
from misgiving.evaluation.readers import DEFERRED_SHARES, Team
from misgiving.evaluation.shares import CurvePoint, Share
from misgiving.metrics.calibration import Reliability
from misgiving.report.rendering import DETECTOR_TITLES

Line = str | tuple[int, tuple[float, ...]]
OTHER_COLOUR = "#56b4e9"
INK = "#2b2b2b"
STYLE = matplotlib.rc_params_from_file(
    str(files(__package__) / "figures.mplstyle"), use_default_template=False
)
Kind = Literal["png", "svg", "jpg"]
MEDIA = {"svg": "image/svg+xml", "jpg": "image/jpeg"}
MAX_LETTERS = 20  # of a name
HOVER = "hover:"  # before the words of a mark, in its id
MARK = re.compile(
    rf'<g id="{HOVER}([^"]*)">.*?<use [^>]*? x="([-\d.e]+)" y="([-\d.e]+)"[^>]*>\s*</g>\s*</g>',
    re.DOTALL,
)
VALUE = (
    r'<circle class="value" cx="\2" cy="\3" r="6" fill="none" pointer-events="all">'
    r"<title>\1</title></circle>"
)

PANEL = (4.6, 3.4)  # inches: a figure of one panel, which a phone still shows legibly
# Okabe and Ito's palette; MSP, with which all are compared, is black in every panel
SCORE_STYLES: dict[str, tuple[str, Line]] = {  # colour and stroke
    "msp": (INK, "-"),
    "entropy": ("#e69f00", "--"),
    "max_logit": ("#009e73", "-."),
    "max_logit_norm": ("#cc79a7", ":"),
    "predicted_loss": ("#0072b2", "-"),
    "calibrated": ("#56b4e9", "-"),
    "error_estimator": ("#7a3b9c", "-"),
}
POLICY_COLOUR = "#d55e00"
AREAS = 10.0, 60.0  # of the marks with fewest and most images; equal predictions share a bin
BARS = 30  # of a histogram
TAILS = 0.005  # share at either end of all scores that the outermost bars take in
FILLED = "#0072b2"  # the first set; the others are outlines
OUTLINES = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# transparent where none are, so that they suit a dark page too
SHADES = LinearSegmentedColormap.from_list("shades", ["#08519c00", "#08519cff"])
DARK_SHARE = 0.55  # share of a class from which white figures are easier to read than black ones

TEAM_STYLES = {"deferral": ("#0072b2", "-", "o"), "combination": ("#d55e00", "--", "s")}
ALONE = {"model": (INK, "--"), "reader": ("#009e73", ":")}

Points = Float[np.ndarray, "points 4"]  # coverage, risk, and the ends of its interval
Column = Float[np.ndarray, " bins"]
Counts = Int[np.ndarray, "true predicted"]

Parameters = ParamSpec("Parameters")


def styled(draw: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """Draw in the report's style, and leave the caller's matplotlib settings as they were."""

    @wraps(draw)
    def drawn(*args: Parameters.args, **options: Parameters.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **options)
            if engine := figure.get_layout_engine():
                engine.execute(figure)
            figure.set_layout_engine("none")  # else each rendering moves the axes a little further
            return figure

    return drawn


def render(figure: Figure, kind: Kind, *, transparent: bool = False) -> bytes:
    """The figure as a file's bytes: the same for the same figure, so without a date."""
    fields = {"png": ["Software"], "svg": ["Date", "Creator"], "jpg": []}[kind]
    metadata: Any = dict.fromkeys(fields) or None
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):  # ticks are only made when drawn
        figure.savefig(file, format=kind, dpi=160, metadata=metadata, transparent=transparent)
    drawn = file.getvalue()
    return MARK.sub(VALUE, drawn.decode("utf-8")).encode("utf-8") if kind == "svg" else drawn


def figure_link(figure: Figure, kind: Kind) -> str:
    """A figure as a data URL."""
    return f"data:{MEDIA[kind]};base64,{base64.b64encode(render(figure, kind)).decode('ascii')}"


def hover(axes: Axes, x: float, y: float, words: str) -> None:
    """Show words where the pointer is near a place of the axes."""
    place: dict[str, Any] = {"transform": axes.transData, "gid": f"{HOVER}{words}"}
    mark = Line2D([x], [y], marker=".", linestyle="none", alpha=0, **place)
    axes.figure.add_artist(mark)  # to the figure: it is no line of a legend, and bounds no axis


def shortened(name: str) -> str:
    """A name as a figure can show it; matplotlib would read formulas between dollar signs."""
    short = (
        name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
    )
    return short.replace("$", r"\$")


def mark_missing(axes: Axes) -> None:
    """Mark a panel without data."""
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color="#8c8c8c")


@styled
def acceptance_figure(
    curve: Sequence[CurvePoint],
    *,
    score: str,
    chosen: tuple[float, float] | None,
    limit: float | None,
) -> Figure:
    """Risk over coverage of one score, with the share accepted and the error of a policy.

    Args:
        curve: Of the score.
        score: Name of the score in the results.
        chosen: Share that a policy accepts, and the error among it; None: there is no such point.
        limit: The target error rate of the policy.
    """
    figure = Figure(figsize=PANEL)
    axes = figure.subplots()
    points = np.array([(point.coverage, point.error.value, *point.error[2:]) for point in curve])
    colour = draw_risk(axes, score, points)
    coverage, _, lower, upper = 100 * points[np.isfinite(points).all(axis=1)].T
    axes.fill_between(coverage, lower, upper, color=colour, alpha=0.1, linewidth=0)
    if limit is not None:
        axes.axhline(100 * limit, color=INK, linewidth=1.0, linestyle="--", label="target")
    if chosen is not None:
        at = [100 * share for share in chosen]
        axes.plot(*at, "o", color=POLICY_COLOUR, markersize=8, zorder=3, label="the policy")
    axes.set(xlabel="accepted (%)", ylabel="error among accepted (%)", xlim=(0, 101))
    # the interval of the first few images, which may reach 100 %, would flatten the curve
    highest = [*upper[coverage >= 10], *100 * points[:, 1], 100 * (limit or 0)]
    axes.set_ylim(0, max(1.0, 1.05 * np.nanmax(highest)))
    axes.legend()
    return figure


def draw_risk(axes: Axes, detector: str, points: Points) -> str:
    """Draw risk over coverage, with its values for the pointer, and return its colour."""
    colour, line = SCORE_STYLES.get(detector, (OTHER_COLOUR, "-"))
    name = DETECTOR_TITLES.get(detector, detector)
    axes.plot(*100 * points[:, :2].T, color=colour, linestyle=line, label=name)
    for accepted, wrong, lower, upper in points:
        ends = "" if np.isnan(upper) else f" ({percent(lower)} to {percent(upper)})"
        words = f"{name}: {percent(accepted, 0)} accepted, {percent(wrong)} wrong{ends}"
        hover(axes, 100 * accepted, 100 * wrong, words)
    return colour


@styled
def team_figure(team: Team) -> Figure:
    """Right answers of a team over the share that its reader answers, with the best shares."""
    figure = Figure(figsize=PANEL)
    axes = figure.subplots()
    right = {way: 100 * share.value for way, share in team.accuracy.items()}
    for way, curve in team.curves.items():
        colour, line, marker = TEAM_STYLES[way]
        values, lower, upper = 100 * np.array([(x.value, x.lower, x.upper) for x in curve]).T
        axes.plot(100 * DEFERRED_SHARES, values, color=colour, linestyle=line, label=way)
        axes.fill_between(100 * DEFERRED_SHARES, lower, upper, color=colour, alpha=0.1, linewidth=0)
        axes.plot(100 * team.best[way], right[way], marker, color=colour, markersize=7)
    for way, (colour, line) in ALONE.items():
        axes.axhline(right[way], color=colour, linestyle=line, linewidth=1.0, label=f"{way} alone")
    axes.plot(100 * team.deferred, right["policy"], "D", color=INK, label="the policy")
    axes.set(xlabel="answered by the reader (%)", ylabel="right answers (%)", xlim=(0, 101))
    axes.legend(loc="lower right", frameon=True, edgecolor="none")
    return figure


@styled
def reliability_figure(bins: Reliability, shares: Sequence[Share]) -> Figure:
    """Share that is right over the predicted probability, by bin, with the intervals of shares."""
    figure = Figure(figsize=PANEL)
    axes = figure.subplots()
    axes.set(xlabel="predicted", ylabel="observed\nshare that is right (%)")
    draw_bins(axes, 100 * bins.predicted, 100 * bins.observed, bins.counts.astype(float))
    ends = 100 * np.array([(share.lower, share.upper) for share in shares])
    axes.vlines(100 * bins.predicted, *ends.T, color=INK, linewidth=1.0)
    draw_diagonal([axes])
    return figure


def draw_bins(
    axes: Axes,
    predicted: Column,
    observed: Column,
    images: Column,
    *,
    color: str = OTHER_COLOUR,
    marker: str = "o",
) -> None:
    """Draw a mark for each bin, larger for more images."""
    if not len(images):
        # without touching the ticks, which the panels of a row share
        axes.text(0.6, 0.2, "not measured", transform=axes.transAxes, ha="center", color="#8c8c8c")
        return
    for x, y, size in zip(predicted, observed, images, strict=True):
        words = f"predicted {x:.3g}, observed {y:.3g} ({count(int(size), 'images')})"
        hover(axes, x, y, words)
    sizes = np.interp(images, [0, images.max()], AREAS)
    shape: dict[str, Any] = {"s": sizes, "color": color, "marker": marker}
    axes.scatter(predicted, observed, **shape, alpha=0.7, linewidth=0)


def draw_diagonal(panels: Sequence[Axes]) -> None:
    """Draw the line on which a prediction is right, over the range that the panels share."""
    ends = [0.0, max(end for axes in panels for end in (axes.get_xlim()[1], axes.get_ylim()[1]))]
    for axes in panels:
        axes.plot(ends, ends, color="#b5b5b5", linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
        axes.set(xlim=ends, ylim=ends)


@styled
def histogram_figure(
    sets: Mapping[str, Float[np.ndarray, " _"]],
    *,
    xlabel: str,
    limit: float | None,
    limit_label: str,
) -> Figure:
    """The share of each set in each bar; sets differ in size.

    Args:
        sets: Finite scores of each set by name, at least one.
        xlabel: Name of the score.
        limit: A threshold, drawn as a line where it is finite.
        limit_label: Name of the threshold.
    """
    figure = Figure(figsize=PANEL)
    axes = figure.subplots()
    if not sets:
        mark_missing(axes)
        return figure
    limits = [limit] if limit is not None and np.isfinite(limit) else []
    ends = [*np.quantile(np.concatenate([*sets.values()]), [TAILS, 1 - TAILS]), *limits]
    margin = 0.0 if min(ends) < max(ends) else 0.5
    edges = np.linspace(min(ends) - margin, max(ends) + margin, BARS + 1)
    for number, (name, scores) in enumerate(sets.items()):
        counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)
        style: dict[str, Any] = {"color": OUTLINES[(number - 1) % len(OUTLINES)], "linewidth": 1.6}
        if not number:
            style = {"fill": True, "color": FILLED, "alpha": 0.45}
        axes.stairs(
            100 * counts / len(scores), edges, label=f"{shortened(name)} ({len(scores)})", **style
        )
    for value in limits:
        axes.axvline(value, color=INK, linewidth=1.0, linestyle="--", label=limit_label)
    axes.set(xlabel=xlabel, ylabel="share of the set (%)")
    axes.legend()
    return figure


@styled
def matrix_figure(
    counts: Counts, names: Sequence[str], *, xlabel: str = "predicted class"
) -> Figure:
    """One matrix: counts in the cells, shades by the share of the true class."""
    side = max(3.8, 0.42 * len(names) + 1.0)
    figure = Figure(figsize=(side + 2.0, side))
    axes = figure.subplots()
    draw_matrix(axes, counts, names, unit="images")
    axes.set_xlabel(xlabel)
    axes.tick_params(axis="x", rotation=0 if max(map(len, names)) < 5 else 90)
    figure.draw_without_rendering()  # the layout of long labels needs two passes
    return figure


def draw_matrix(axes: Axes, counts: Counts, names: Sequence[str], *, unit: str) -> None:
    """Draw counts of each true class (row) by predicted class."""
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    axes.imshow(shares, cmap=SHADES, vmin=0, vmax=1, aspect="auto")
    for (row, column), images in np.ndenumerate(counts):
        colour = "#767676" if images == 0 else "white" if shares[row, column] > DARK_SHARE else INK
        axes.text(column, row, f"{images}", ha="center", va="center", color=colour, fontsize=7)
        words = f"true {names[row]}, predicted {names[column]}: {images} of {totals[row]}"
        hover(axes, float(column), float(row), words)
    labels = [*map(shortened, names)]
    with_totals = [f"{name} ({total})" for name, total in zip(labels, totals, strict=True)]
    axes.set_xticks(range(len(names)), labels, fontsize=7.5)
    axes.set_yticks(range(len(names)), with_totals, fontsize=7.5)
    axes.set(xlabel="predicted class", ylabel=f"true class ({unit})")
    axes.grid(visible=False)
