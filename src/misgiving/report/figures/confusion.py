"""Confusion matrices: which class is taken for which."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from misgiving.report.figures.style import styled
from misgiving.report.tables import Confusion, distinct, models_of, select

Counts = Int[np.ndarray, "true predicted"]
DARK = 0.55  # share of a class from which white figures are easier to read than black ones


def matrices(confusions: Sequence[Confusion], classes: Sequence[str]) -> Mapping[str, Counts]:
    """Images of each true class (row) by predicted class, summed over the trials of 4.1."""
    rows = select(confusions, experiment="generalization")
    place = {name: index for index, name in enumerate(classes)}
    found = {model: np.zeros((len(classes), len(classes)), dtype=int) for model in models_of(rows)}
    for row in rows:
        found[row.model][place[row.true], place[row.predicted]] += row.images
    return found


def classes_of(confusions: Sequence[Confusion], known: Sequence[str]) -> list[str]:
    """The known classes in their order, and then any other that occurs."""
    occurring = [*distinct(confusions, "true"), *distinct(confusions, "predicted")]
    return list(dict.fromkeys([*(name for name in known if name in occurring), *occurring]))


@styled
def confusion_figure(confusions: Sequence[Confusion], *, classes: Sequence[str] = ()) -> Figure:
    """A matrix for each model: counts in the cells, shades by the share of the true class."""
    names = classes_of(confusions, classes)
    found = matrices(confusions, names)
    columns = min(len(found), 2)
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(10, 4.4 * rows * 10 / (5 * columns) / 2 + 0.2))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(found) :]:
        axes.set_visible(False)
    for axes, (model, counts) in zip(grid.flat, found.items(), strict=False):
        axes.set_title(model)
        _draw_matrix(axes, counts, names)
    return figure


def _draw_matrix(axes: Axes, counts: Counts, names: Sequence[str]) -> None:
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > DARK else "#2b2b2b"
        faint = "#9a9a9a" if count == 0 else colour
        axes.text(column, row, f"{count}", ha="center", va="center", color=faint, fontsize=7)
    axes.set_xticks(range(len(names)), names, fontsize=7.5)
    axes.set_yticks(
        range(len(names)),
        [f"{name} ({total})" for name, total in zip(names, totals, strict=True)],
        fontsize=7.5,
    )
    axes.set(xlabel="predicted class", ylabel="true class (images over trials)")
    axes.grid(visible=False)
