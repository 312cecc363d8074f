"""Positions of boxes and crops in an image, given the pixels of the lesion."""

from bisect import bisect_left
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Mask = Bool[np.ndarray, "height width"]

COVERED = 0.7  # of the lesion or of the image: the paper's "~70 %"
TOLERANCE = 0.1
LARGEST_CROP = 0.35  # of the shorter side
SMALLEST_CROP = 0.2
FINEST = 48  # lines per axis where all boxes are tried


class Box(NamedTuple):
    """A rectangle in pixels; `bottom` and `right` are the first outside."""

    top: int
    left: int
    bottom: int
    right: int

    def scaled(self, old: tuple[int, ...], new: tuple[int, ...]) -> "Box":
        """The box on another grid: the pixels whose nearest pixel of the old grid is inside.

        >>> Box(1, 0, 2, 3).scaled((3, 3), (6, 6))
        Box(top=2, left=0, bottom=4, right=6)
        """
        sizes = [(old[axis % 2], new[axis % 2]) for axis in range(4)]
        # pixel i is nearest to i + 1/2: the first at or after an edge is ceil(edge * scale - 1/2)
        edges = (
            -((before - 2 * edge * after) // (2 * before))
            for edge, (before, after) in zip(self, sizes, strict=True)
        )
        return Box(*edges)


Edges = Int[np.ndarray, "4 n"]
"""Tops, lefts, bottoms and rights of many rectangles."""


def bounding_box(lesion: Mask) -> Box | None:
    """The smallest box around the lesion; None where there is none."""
    rows, columns = (np.flatnonzero(lesion.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def box_over_share(lesion: Mask) -> Box | None:
    """A box that covers about 70 % of the lesion's pixels.

    The box has the shape of the bounding box, lies inside it around the lesion's centre of mass,
    and has the size whose share is nearest to 70 %. Where this misses 60 to 80 %, as in lesions of
    a few pixels, it may have any shape and place inside.
    """
    around = bounding_box(lesion)
    if around is None:
        return None
    top, left, bottom, right = around
    inside = lesion[top:bottom, left:right]
    box, error = _nearest(inside, _concentric(inside))
    if error > TOLERANCE:
        box, error = min((box, error), _nearest(inside, _all_boxes(inside)), key=itemgetter(1))
    return Box(top + box.top, left + box.left, top + box.bottom, left + box.right)


def _nearest(lesion: Mask, tried: Edges) -> tuple[Box, float]:
    """The box whose share of the lesion is nearest to 70 %, and the difference."""
    integral = _integral(lesion)
    tops, lefts, bottoms, rights = tried
    counts = integral[bottoms, rights] + integral[tops, lefts]
    counts = counts - integral[tops, rights] - integral[bottoms, lefts]
    errors = np.abs(counts / lesion.sum() - COVERED)
    best = int(errors.argmin())
    return Box(*(int(edges[best]) for edges in tried)), float(errors[best])


def _concentric(lesion: Mask) -> Edges:
    """Boxes of the whole's shape, rounded up and down, around the lesion's centre of mass."""
    scales = np.linspace(0, 1, 2 * sum(lesion.shape) + 1)
    (heights, tops), (widths, lefts) = (
        _spans(scales, size, float(np.mean(places)) + 0.5)
        for size, places in zip(lesion.shape, np.nonzero(lesion), strict=True)
    )
    rows = np.array([0, 1, 0, 1])  # height down or up, with width down or up
    columns = np.array([0, 0, 1, 1])
    ends = (tops + heights)[rows], (lefts + widths)[columns]
    return np.stack([tops[rows], lefts[columns], *ends]).reshape(4, -1)


def _spans(
    scales: Float[np.ndarray, " n"], size: int, centre: float
) -> tuple[Int[np.ndarray, "2 n"], Int[np.ndarray, "2 n"]]:
    """Lengths, rounded down and up but at least 1, and starts that keep them inside."""
    exact = scales * size
    lengths = np.clip(np.stack([np.floor(exact), np.ceil(exact)]).astype(np.int64), 1, size)
    starts = np.clip(np.round(centre - lengths / 2).astype(np.int64), 0, size - lengths)
    return lengths, starts


def _all_boxes(lesion: Mask) -> Edges:
    """All boxes along pixel edges, or on a coarser grid where there are too many."""
    rows, columns = (
        np.unique(np.linspace(0, size, min(size, FINEST) + 1).astype(np.int64))
        for size in lesion.shape
    )
    tops, bottoms = (rows[ends] for ends in np.triu_indices(len(rows), 1))
    lefts, rights = (columns[ends] for ends in np.triu_indices(len(columns), 1))
    vertical = (np.repeat(edges, len(lefts)) for edges in (tops, bottoms))
    horizontal = (np.tile(edges, len(tops)) for edges in (lefts, rights))
    (top, bottom), (left, right) = vertical, horizontal
    return np.stack([top, left, bottom, right])


def box_over_image(lesion: Mask) -> Box | None:
    """A box of the image's shape over 70 % of it, centred on the lesion as far as possible."""
    around = bounding_box(lesion)
    if around is None:
        return None
    rows, columns = lesion.shape
    height = max(round(rows * COVERED**0.5), 1)
    width = min(max(round(COVERED * rows * columns / height), 1), columns)
    top = min(max(round((around.top + around.bottom - height) / 2), 0), rows - height)
    left = min(max(round((around.left + around.right - width) / 2), 0), columns - width)
    return Box(top, left, top + height, left + width)


def clean_square(soiled: Mask, random: np.random.Generator) -> Box | None:
    """A random square without a soiled pixel, of the largest possible side.

    Its side is 20 to 35 % of the image's shorter side. All its positions are equally likely.

    Returns:
        None where not even the smallest square is clean.
    """
    shorter = min(soiled.shape)
    smallest, largest = (max(round(part * shorter), 1) for part in (SMALLEST_CROP, LARGEST_CROP))
    integral = _integral(soiled)
    sides = range(largest, smallest - 1, -1)
    best = bisect_left(sides, True, key=lambda side: bool(_clean_corners(integral, side).any()))
    if best == len(sides):
        return None
    clean = _clean_corners(integral, sides[best])
    corner = int(random.choice(np.flatnonzero(clean)))
    top, left = divmod(corner, clean.shape[1])
    return Box(top, left, top + sides[best], left + sides[best])


def _clean_corners(
    integral: Int[np.ndarray, "rows columns"], side: int
) -> Bool[np.ndarray, "tops lefts"]:
    """Possible upper left corners of a clean square of this side."""
    counts = (
        integral[side:, side:]
        - integral[:-side, side:]
        - integral[side:, :-side]
        + integral[:-side, :-side]
    )
    return np.asarray(counts == 0)


def _integral(mask: Mask) -> Int[np.ndarray, "rows columns"]:
    """Number of set pixels above and to the left of each pixel corner."""
    return np.pad(mask.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
