"""Figures of an evaluation: acceptance, reliability, histograms of scores, and confusion."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from misgiving.evaluation.shares import CurvePoint, Share
from misgiving.metrics.calibration import Reliability
from misgiving.report.figures import (
    INK,
    OTHER_COLOUR,
    OTHER_STYLE,
    STYLES,
    Line,
    hover,
    mark_missing,
    shortened,
    styled,
)
from misgiving.report.names import DETECTOR_TITLES, count

PANEL = (4.6, 3.4)  # inches: a figure of one panel, which a phone still shows legibly
# Okabe and Ito's palette; MSP, with which all are compared, is black in every panel
SCORE_STYLES: dict[str, tuple[str, Line]] = {  # colour and stroke
    "msp": (INK, "-"),
    "entropy": ("#e69f00", "--"),
    "max_logit": ("#009e73", "-."),
    "max_logit_norm": ("#cc79a7", ":"),
    "predicted_loss": ("#0072b2", "-"),
    "calibrated": ("#56b4e9", "-"),
    "combination": ("#d55e00", (0, (5.0, 1.0))),
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
DARK = 0.55  # share of a class from which white figures are easier to read than black ones

Points = Float[np.ndarray, "points 4"]  # coverage, risk, and the ends of its interval
Column = Float[np.ndarray, " bins"]
Counts = Int[np.ndarray, "true predicted"]


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
    axes.set_ylim(bottom=0, top=max(1.0, axes.get_ylim()[1]))
    axes.legend()
    return figure


def draw_risk(axes: Axes, detector: str, points: Points) -> str:
    """Draw risk over coverage, with its values for the pointer, and return its colour."""
    colour, line = SCORE_STYLES.get(detector, (OTHER_COLOUR, "-"))
    name = DETECTOR_TITLES.get(detector, detector)
    axes.plot(*100 * points[:, :2].T, color=colour, linestyle=line, label=name)
    for x, y, lower, upper in 100 * points:
        ends = "" if np.isnan(upper) else f" ({lower:.1f} to {upper:.1f})"
        hover(axes, x, y, f"{name}: {x:.0f} % accepted, {y:.1f} % wrong{ends}")
    return colour


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
    axes: Axes, predicted: Column, observed: Column, images: Column, model: str = ""
) -> None:
    """Draw a mark for each bin, larger for more images."""
    if not len(images):
        # without touching the ticks, which the panels of a row share
        axes.text(0.6, 0.2, "not measured", transform=axes.transAxes, ha="center", color="#8c8c8c")
        return
    for x, y, size in zip(predicted, observed, images, strict=True):
        words = f"predicted {x:.3g}, observed {y:.3g} ({count(int(size), 'images')})"
        hover(axes, x, y, words)
    colour, _, marker = STYLES.get(model, OTHER_STYLE)
    sizes = np.interp(images, [0, images.max()], AREAS)
    shape: dict[str, Any] = {"s": sizes, "color": colour, "marker": marker}
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
def matrix_figure(counts: Counts, names: Sequence[str]) -> Figure:
    """One matrix: counts in the cells, shades by the share of the true class."""
    side = max(3.8, 0.42 * len(names) + 1.0)
    figure = Figure(figsize=(side + 2.0, side))
    axes = figure.subplots()
    draw_matrix(axes, counts, [*map(shortened, names)], unit="images")
    axes.tick_params(axis="x", rotation=0 if max(map(len, names)) < 5 else 90)
    figure.draw_without_rendering()  # the layout of long labels needs two passes
    return figure


def draw_matrix(axes: Axes, counts: Counts, names: Sequence[str], *, unit: str) -> None:
    """Draw counts of each true class (row) by predicted class."""
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    axes.imshow(shares, cmap=SHADES, vmin=0, vmax=1, aspect="auto")
    for (row, column), images in np.ndenumerate(counts):
        colour = "#767676" if images == 0 else "white" if shares[row, column] > DARK else INK
        axes.text(column, row, f"{images}", ha="center", va="center", color=colour, fontsize=7)
        words = f"true {names[row]}, predicted {names[column]}: {images} of {totals[row]}"
        hover(axes, float(column), float(row), words)
    with_totals = [f"{name} ({total})" for name, total in zip(names, totals, strict=True)]
    axes.set_xticks(range(len(names)), names, fontsize=7.5)
    axes.set_yticks(range(len(names)), with_totals, fontsize=7.5)
    axes.set(xlabel="predicted class", ylabel=f"true class ({unit})")
    axes.grid(visible=False)
