"""Example images of the sets."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image

from misgiving.report.figures import styled

MIN_COLUMNS, MAX_EXAMPLES = 6, 8
CAPTION_WIDTH = 3.3  # of an example image
THUMBNAIL = 112  # pixels: what a printed inch shows, so that the page stays small

Picture = UInt8[np.ndarray, "height width 3"]


class Examples(NamedTuple):
    """Pictures of one data set, and the lines that stand beside them."""

    name: str
    caption: str
    pictures: Sequence[Picture]


@styled
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
            small = thumbnail(picture)
            height, width = 0.47 * np.array(small.shape[:2]) / max(small.shape[:2])
            extent = (column - width, column + width, row + height, row - height)
            axes.imshow(small, extent=extent, interpolation="none")
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set(xlim=(left, columns - 0.5), ylim=(max(len(sets), 1) - 0.5, -0.5))
    return figure


def thumbnail(picture: Picture) -> UInt8[np.ndarray, "small_height small_width 3"]:
    """The picture, made smaller where its longer side exceeds what print can show; never larger."""
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return np.asarray(image)
