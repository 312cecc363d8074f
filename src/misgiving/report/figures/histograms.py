"""Histograms of a score over sets of images."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from misgiving.report.figures import INK, mark_missing, styled
from misgiving.report.figures.curves import PANEL

BARS = 30
TAILS = 0.005  # share at either end of all scores that the outermost bars take in
FILLED = "#0072b2"  # the first set; the others are outlines
OUTLINES = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@styled
def histogram_figure(
    sets: Mapping[str, Float[np.ndarray, " _"]],
    *,
    xlabel: str,
    limit: float | None = None,
    limit_label: str = "",
) -> Figure:
    """The share of each set in each bar; sets differ in size, and scores that are not finite lack.

    Args:
        sets: Scores of each set by name.
        xlabel: Name of the score.
        limit: A threshold, drawn as a line.
        limit_label: Name of the threshold.
    """
    figure = Figure(figsize=PANEL)
    axes = figure.subplots()
    finite = {name: scores[np.isfinite(scores)] for name, scores in sets.items()}
    finite = {name: scores for name, scores in finite.items() if len(scores)}
    if not finite:
        mark_missing(axes)
        return figure
    edges = _edges(np.concatenate([*finite.values()]), limit)
    for number, (name, scores) in enumerate(finite.items()):
        counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)
        heights, label = 100 * counts / len(scores), f"{name} ({len(scores)})"
        if number == 0:
            axes.stairs(heights, edges, fill=True, color=FILLED, alpha=0.45, label=label)
        else:
            colour = OUTLINES[(number - 1) % len(OUTLINES)]
            axes.stairs(heights, edges, color=colour, linewidth=1.6, label=label)
    if limit is not None and np.isfinite(limit):
        axes.axvline(limit, color=INK, linewidth=1.0, linestyle="--", label=limit_label)
    axes.set(xlabel=xlabel, ylabel="share of the set (%)")
    axes.legend()
    return figure


def _edges(scores: Float[np.ndarray, " n"], limit: float | None) -> Float[np.ndarray, " edges"]:
    """Edges of bars of equal width over all but the tails, and over the limit."""
    ends = np.quantile(scores, [TAILS, 1 - TAILS]).tolist()
    if limit is not None and np.isfinite(limit):
        ends.append(limit)
    low, high = min(ends), max(ends)
    margin = 0.5 if low == high else 0.0
    return np.linspace(low - margin, high + margin, BARS + 1)
