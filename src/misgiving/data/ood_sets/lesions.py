"""Where the lesion lies in a dermoscopic image that comes without a mask."""

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy import ndimage

Picture = UInt8[np.ndarray, "height width 3"]
Mask = Bool[np.ndarray, "height width"]
Plane = Float[np.ndarray, "height width"]

# All of these were chosen by benchmarks/lesion_location.py on one half of the images it measures.
WIDTH = 200  # pixels: enough to locate a lesion, and too few for most hairs to be seen
BLUR = 2.0  # pixels
RIM = 0.4  # of the brightness of the skin: darker corners are the dermoscope's rim
RIM_EDGE = 2.0  # pixels
FRAME = 0.75  # of the way from the centre to the border: beyond is mostly skin
SKIN = 80  # per cent of the frame's pixels, the brightest, that are taken for skin
LOWERED = 0.3  # of the way from the threshold to the skin: experts draw lesions generously
WIDENED = 2.0  # pixels, for the same reason
CENTRED = 4.0  # how much a component's distance from the centre counts
LEVELS = 256


def locate_lesion(image: Picture) -> Mask | None:
    """The lesion's pixels: what is darker than the skin, large and near the centre; holes filled.

    Darkness is that in green or blue, whichever is darker against the skin, whose uneven light is
    told from the image's outer frame. The dermoscope's dark rim does not count. Large images are
    scaled down for the search.

    Returns:
        None where no pixel is darker than the rest.
    """
    found = _located(_shrunk(image))
    return None if found is None else resized(found, image.shape[:2])


def dark_rim(image: Picture) -> Mask:
    """Dark pixels connected with a corner: what the dermoscope's round view leaves out."""
    value = image.max(axis=2)
    dark = value < RIM * np.percentile(value, 75)
    components, _ = ndimage.label(dark)
    corners = components[[0, 0, -1, -1], [0, -1, 0, -1]]
    return np.asarray(np.isin(components, corners[corners > 0]))


def resized(mask: Mask, shape: tuple[int, ...]) -> Bool[np.ndarray, "rows columns"]:
    """The mask on a larger or smaller grid, each pixel from the nearest."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for old, new in zip(mask.shape, shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def widened(mask: Mask, margin: float) -> Mask:
    """Also the pixels at most this far from the mask."""
    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) <= margin)


def _shrunk(image: Picture) -> UInt8[np.ndarray, "rows columns 3"]:
    height, width = image.shape[:2]
    if width <= WIDTH:
        return image
    size = (WIDTH, max(round(height * WIDTH / width), 1))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _located(image: Picture) -> Mask | None:
    seen = ~widened(dark_rim(image), RIM_EDGE)
    if not seen.any():
        return None
    green, blue = (_against_skin(image[..., channel], seen) for channel in (1, 2))
    darkness = np.maximum(green, blue)
    if np.ptp(darkness[seen]) < 1:  # of 255 levels: nothing stands out
        return None
    dark = seen & (darkness > _threshold(darkness[seen]))
    lesion = _most_central(dark)
    return None if lesion is None else widened(lesion, WIDENED)


def _against_skin(channel: UInt8[np.ndarray, "height width"], seen: Mask) -> Plane:
    """How much darker than the skin there would be."""
    darkness = 255 - ndimage.gaussian_filter(channel.astype(np.float64), BLUR)
    return np.asarray(darkness - _skin(darkness, seen))


def _skin(darkness: Plane, seen: Mask) -> Plane:
    """Darkness of the skin all over the image: a paraboloid through the outer frame's brightest."""
    rows, columns = _coordinates(darkness.shape)
    frame = seen & ((np.abs(rows) > FRAME) | (np.abs(columns) > FRAME))
    terms = np.stack(np.broadcast_arrays(1.0, rows, columns, rows**2 + columns**2), axis=-1)
    if np.count_nonzero(frame) < terms.shape[-1]:
        return np.zeros_like(darkness)
    skin = frame & (darkness <= np.percentile(darkness[frame], SKIN))
    coefficients = np.linalg.lstsq(terms[skin], darkness[skin], rcond=None)[0]
    return np.asarray(terms @ coefficients)


def _threshold(values: Float[np.ndarray, " n"]) -> float:
    """Otsu's, moved somewhat towards the skin."""
    otsu = _otsu(values)
    skin = values[values <= otsu].mean()
    return float(otsu - LOWERED * (otsu - skin))


def _most_central(dark: Mask) -> Mask | None:
    """The component of the largest area, in which pixels near the centre weigh more."""
    components, count = ndimage.label(dark)
    if not count:
        return None
    rows, columns = _coordinates(dark.shape)
    centrality = np.exp(-CENTRED * (rows**2 + columns**2))
    weights = ndimage.sum_labels(centrality, components, np.arange(1, count + 1))
    return np.asarray(ndimage.binary_fill_holes(components == int(np.argmax(weights)) + 1))


def _coordinates(
    shape: tuple[int, ...],
) -> tuple[Float[np.ndarray, "height 1"], Float[np.ndarray, "1 width"]]:
    """Rows and columns from -1 at one border to 1 at the other, ready to broadcast."""
    rows, columns = ((2 * np.arange(size) + 1) / size - 1 for size in shape)
    return rows[:, None], columns[None, :]


def _otsu(values: Float[np.ndarray, " n"]) -> float:
    """The threshold that parts values into two classes of the least inner variance (Otsu, 1979)."""
    counts, edges = np.histogram(values, LEVELS)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = counts.cumsum()[:-1], (counts * middles).cumsum()
    above = counts.sum() - below
    gaps = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1:-1][np.argmax(below * above * gaps**2)])
