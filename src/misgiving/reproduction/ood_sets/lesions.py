"""Lesions in dermoscopic images: mask files, and a search for lesions without one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy import ndimage

from misgiving.arrays import Picture, PixelMask, Plane
from misgiving.data.datasets.dataset import Dataset
from misgiving.errors import DataError

AUTOMATIC = "automatic"
MASK_SUFFIX = "_segmentation.png"

# Chosen by the overlap with masks, on one half of the images of ISIC 2019.
SEARCH_WIDTH = 200  # pixels: enough to locate a lesion, and too few for most hairs
BLUR = 2.0  # pixels
RIM = 0.4  # of the skin's brightness: darker corners belong to the dermoscope's rim
RIM_EDGE = 2.0  # pixels
FRAME = 0.75  # of the way from the centre to the border: beyond is mostly skin
SKIN = 80  # per cent of the frame's pixels, the brightest, are taken as skin
LOWERED = 0.3  # of the way from the threshold to the skin: experts draw lesions generously
WIDENED = 2.0  # pixels, for the same reason
CENTRED = 4.0  # how much a component's distance from the centre counts
LEVELS = 256


def mask_of(folder: Path, identity: str) -> Path | None:
    """The mask file of an image by its id, or by its file name without folders and suffix."""
    for name in (identity, Path(identity).stem):
        path = folder / f"{name}{MASK_SUFFIX}"
        if path.is_file():
            return path
    return None


def with_masks(dataset: Dataset, masks: str | None) -> Dataset:
    """A dermoscopic set with the lesion masks of a folder of `ID_segmentation.png` files.

    With `automatic`, lesions are located instead; None is for the masks that belong to the data.
    """
    if masks is None:
        return dataset
    if masks == AUTOMATIC:
        return replace(dataset, masks=None)
    folder = Path(masks).expanduser()
    if not any(mask_of(folder, identity) for identity in dataset.ids):
        example = f"{Path(dataset.ids[0]).stem}{MASK_SUFFIX}"
        raise DataError(f"{folder}: contains no masks of these images; name them as in {example}")
    return replace(dataset, masks=folder)


def locate_lesion(image: Picture) -> PixelMask:
    """Pixels of the lesion: a large, central region darker than the skin, with holes filled.

    Darkness is measured in green or blue, whichever is darker relative to the skin; the uneven
    light on the skin is estimated from the image's outer frame. The dermoscope's dark rim is
    ignored. Large images are scaled down for the search. Where no pixel is darker than the rest,
    no pixel is of a lesion.
    """
    height, width = image.shape[:2]
    small = image
    if width > SEARCH_WIDTH:
        size = (SEARCH_WIDTH, max(round(height * SEARCH_WIDTH / width), 1))
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    return resized(_located(small), image.shape[:2])


def dark_rim(image: Picture) -> PixelMask:
    """Dark pixels connected with a corner, outside the dermoscope's round view."""
    value = image.max(axis=2)
    dark = value < RIM * np.percentile(value, 75)
    components, _ = ndimage.label(dark)
    corners = components[[0, 0, -1, -1], [0, -1, 0, -1]]
    return np.asarray(np.isin(components, corners[corners > 0]))


def resized(mask: PixelMask, shape: tuple[int, ...]) -> Bool[np.ndarray, "rows columns"]:
    """The mask on a larger or smaller grid, each pixel from the nearest."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for old, new in zip(mask.shape, shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def widened(mask: PixelMask, margin: float) -> PixelMask:
    """The mask and all pixels within this distance of it."""
    if margin == 0 or not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) <= margin)


def _located(image: Picture) -> PixelMask:
    seen = ~widened(dark_rim(image), RIM_EDGE)
    darkness = np.maximum(*(_against_skin(image[..., channel], seen) for channel in (1, 2)))
    if not seen.any() or np.ptp(darkness[seen]) < 1:  # of 255 levels: nothing stands out
        return np.zeros(image.shape[:2], dtype=bool)
    otsu = _otsu(darkness[seen])
    skin = darkness[seen][darkness[seen] <= otsu].mean()
    components, count = ndimage.label(seen & (darkness > otsu - LOWERED * (otsu - skin)))
    rows, columns = _coordinates(darkness.shape)
    centrality = np.exp(-CENTRED * (rows**2 + columns**2))
    weights = ndimage.sum_labels(centrality, components, np.arange(1, count + 1))
    largest = components == int(np.argmax(weights)) + 1
    return widened(np.asarray(ndimage.binary_fill_holes(largest)), WIDENED)


def _against_skin(channel: UInt8[np.ndarray, "height width"], seen: PixelMask) -> Plane:
    """Darkness relative to that of skin at the same position.

    The skin's is a paraboloid fitted to the brightest pixels of the frame.
    """
    darkness = 255 - ndimage.gaussian_filter(channel.astype(np.float64), BLUR)
    rows, columns = _coordinates(darkness.shape)
    frame = seen & ((np.abs(rows) > FRAME) | (np.abs(columns) > FRAME))
    terms = np.stack(np.broadcast_arrays(1.0, rows, columns, rows**2 + columns**2), axis=-1)
    if np.count_nonzero(frame) < terms.shape[-1]:
        return np.asarray(darkness)
    skin = frame & (darkness <= np.percentile(darkness[frame], SKIN))
    coefficients = np.linalg.lstsq(terms[skin], darkness[skin], rcond=None)[0]
    return np.asarray(darkness - terms @ coefficients)


def _coordinates(
    shape: tuple[int, ...],
) -> tuple[Float[np.ndarray, "height 1"], Float[np.ndarray, "1 width"]]:
    """Rows and columns from -1 at one border to 1 at the other, ready to broadcast."""
    rows, columns = ((2 * np.arange(size) + 1) / size - 1 for size in shape)
    return rows[:, None], columns[None, :]


def _otsu(values: Float[np.ndarray, " n"]) -> float:
    """The threshold between two classes of the least inner variance (Otsu, 1979)."""
    counts, edges = np.histogram(values, LEVELS)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = counts.cumsum()[:-1], (counts * middles).cumsum()
    above = counts.sum() - below
    gaps = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1:-1][np.argmax(below * above * gaps**2)])
