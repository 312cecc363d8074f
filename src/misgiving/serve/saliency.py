"""Where in an image the predicted class comes from: by covering one part after another."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, UInt8

Square = UInt8[np.ndarray, "size size 3"]
Squares = UInt8[np.ndarray, "n size size 3"]
Shares = Sequence[float]

CELLS = 8  # along each side: 64 answers for an image
GREY = 128


def occlusion(
    square: Square,
    probabilities_of: Callable[[Squares], Shares],
    *,
    cells: int = CELLS,
    batch: int = 16,
) -> Float[np.ndarray, "cells cells"]:
    """By how much the probability of a class drops where a grey patch covers each cell.

    The patch is twice as wide as a cell, so that neighbours overlap and no border is left out
    (Zeiler and Fergus, 2014). Negative where the class becomes more probable.

    Args:
        square: An image as the model sees it.
        probabilities_of: The class's probability in each of some squares.
        cells: Along each side.
        batch: Squares at once, at most.
    """
    whole = probabilities_of(square[None])[0]
    covered: list[float] = []
    for some in _batches(square, cells, batch):
        covered.extend(probabilities_of(some))
    return whole - np.array(covered, dtype=float).reshape(cells, cells)


def _batches(square: Square, cells: int, batch: int) -> Iterator[Squares]:
    """The image with a patch over each cell, row by row."""
    for first in range(0, cells**2, batch):
        places = range(first, min(first + batch, cells**2))
        yield np.stack([_covered(square, *divmod(place, cells), cells) for place in places])


def _covered(square: Square, row: int, column: int, cells: int) -> Square:
    covered = square.copy()
    covered[_span(row, cells, len(square)), _span(column, cells, len(square))] = GREY
    return covered


def _span(cell: int, cells: int, size: int) -> slice:
    """Pixels of a cell and half a cell on both sides.

    >>> _span(0, 8, 64), _span(3, 8, 64)
    (slice(0, 12, None), slice(20, 36, None))
    """
    start, end = (cell - 0.5) * size / cells, (cell + 1.5) * size / cells
    return slice(max(0, round(start)), round(end))
