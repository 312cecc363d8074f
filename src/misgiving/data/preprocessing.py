"""Preprocessing of a decoded image to the square that the model sees, in training and serving.

The order is the paper's (4.1, setup): centre crop, colour constancy, resize. No torch is needed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageChops

from misgiving.arrays import Picture, Square
from misgiving.data.decoding import decode_reduced
from misgiving.errors import Parameter, require
from misgiving.registry import Registry

SATURATED = 255
LARGEST_SIDE = 4096  # a larger square is a typing error, and would fill the memory
MAX_ASPECT = 10  # times the shorter side; of a longer image, the middle is resized
QUARTER_TURN = 90  # degrees
LEAST_CROP = 0.01  # with less, an image that is resized first would fill the memory
VALUES = np.arange(256) / 255.0
UNSATURATED = [1] * SATURATED + [0]
SPARE = 1.25  # decoded pixels per pixel of the result, along a side; with fewer, edges get harder

OF_DICOM = ("frame", "group_tag", "tags")  # fields
CROP_SHAPES = ("both", "resized", "resized_floor", "squashed", "squashed_round")
SQUASHED = ("squashed", "squashed_round")
ROUNDED = ("resized", "squashed_round")  # edges of the crop, which the others round down


def divide_by_light(image: Image.Image, *, power: int) -> Image.Image:
    """The image under white light; the light's colour is taken as a Minkowski mean of the image.

    A power of 6 is shades of gray (Finlayson & Trezzi, 2004), of 1 gray world (Buchsbaum, 1980).
    Saturated pixels no longer show their colour, and are left out of the mean. A channel without
    light is left as it is. Values are clipped before the cast to 8 bits, which would turn 300 into
    44.
    """
    red, green, blue = image.split()
    brightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    counts = np.reshape(image.histogram(brightest.point(UNSATURATED)), (3, 256))
    light = (counts @ VALUES**power) ** (1 / power)
    lit = light > 0
    colour = np.where(lit, light, 1.0) / (np.linalg.norm(light) or 1.0)  # a unit vector
    gains = np.where(lit, 1 / (colour * math.sqrt(3)), 1.0)
    table = np.rint(255 * np.clip(gains[:, None] * VALUES, 0, 1)).astype(np.uint8)
    return image.point(table.ravel().tolist())


COLOR_CONSTANCY: Registry[Callable[[Image.Image], Image.Image]] = Registry(
    Parameter("color_constancy"),
    shades_of_gray=partial(divide_by_light, power=6),
    gray_world=partial(divide_by_light, power=1),
    none=lambda image: image,
)

INTERPOLATIONS: Registry[Image.Resampling] = Registry(
    Parameter("interpolation"),
    **{
        name: Image.Resampling[name.upper()]
        for name in ("bilinear", "bicubic", "lanczos", "box", "nearest")
    },
)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Centre crop, colour constancy and resize to a square, in this order (paper, 4.1).

    Attributes:
        image_size: Side of the result in pixels.
        crop: Share of the side that the centre crop keeps, in [0.01, 1]; the paper's 0.85.
        crop_shape: `both` crops both sides; `resized` is torchvision's: the shorter side is resized
            to `image_size / crop` pixels, and then the centre is cropped. `resized_floor` rounds
            the crop's edges down, as transformers does; `squashed` resizes both sides to
            `image_size / crop` pixels before it crops; `squashed_round` rounds the crop's edges,
            as timm does. In these four, colour constancy comes first.
        color_constancy: `shades_of_gray`, `gray_world` or `none`.
        interpolation: `bilinear`, `bicubic`, `lanczos`, `box` or `nearest`, as in Pillow.
        reduce_jpeg: Let the decoder of a large JPEG reduce it first, which is faster; without it,
            pixels are exactly those of Pillow's decoder.
        frame: Frame of a file that has several, from 1.
        group_tag: Tag of DICOM files by whose hash images are grouped.
        tags: Further tags of DICOM files, which become metadata.
    """

    image_size: int = 224
    crop: float = 0.85
    crop_shape: str = "both"
    color_constancy: str = "shades_of_gray"
    interpolation: str = "bilinear"
    reduce_jpeg: bool = True
    frame: int = 1
    group_tag: str = "PatientID"
    tags: tuple[str, ...] = ()

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  # of values in a file

    def __post_init__(self) -> None:
        possible = 1 <= self.image_size <= LARGEST_SIDE
        require(self, "image_size", possible, f"be from 1 to {LARGEST_SIDE} pixels")
        shapes = f"be one of {', '.join(CROP_SHAPES)}"
        require(self, "crop_shape", self.crop_shape in CROP_SHAPES, shapes)
        require(self, "crop", LEAST_CROP <= self.crop <= 1, f"be in [{LEAST_CROP}, 1]")
        COLOR_CONSTANCY[self.color_constancy]
        INTERPOLATIONS[self.interpolation]
        require(self, "frame", self.frame >= 1, "be at least 1")
        if keywords := {self.group_tag, *self.tags} - {"PatientID"}:
            from misgiving.data.dicom import check_keywords  # needs the extra dicom

            check_keywords(sorted(keywords))

    def __call__(self, image: Picture) -> Square:
        """Square of an upright image."""
        return self._square(Image.fromarray(image), *image.shape[:2])

    def from_file(self, data: bytes, name: str, **limits: Any) -> Square:
        """Square of an encoded image, which is decoded no larger than necessary.

        Equal to the square of `decode`, except for rounding where a JPEG is reduced: less than one
        of 255 grey levels on average over ordinary photographs. Errors name the image by `name`;
        `limits` are `formats`, `max_pixels` and `loaded` of `decode_reduced`.
        """

        def largest_reduction(height: int, width: int) -> float:
            crop = self.crop * min(height, width)
            return crop / (SPARE * self.image_size) if self.reduce_jpeg else 1.0

        decoded = decode_reduced(data, name, largest_reduction, frame=self.frame, **limits)
        return self._square(*decoded)

    def _square(self, image: Image.Image, height: int, width: int, reduction: int = 1) -> Square:
        if self.crop_shape != "both":
            return self._resized_square(image, np.array([width, height]), reduction)
        edges = [edge / reduction for edge in self._edges(height, width)]
        left, top = math.floor(edges[0]), math.floor(edges[1])
        cropped = image.crop((left, top, math.ceil(edges[2]), math.ceil(edges[3])))
        balanced = COLOR_CONSTANCY[self.color_constancy](cropped)
        # The crop begins within a reduced pixel; half a pixel of error changes fine textures.
        within = (edges[0] - left, edges[1] - top, edges[2] - left, edges[3] - top)
        size = (self.image_size, self.image_size)
        return np.array(balanced.resize(size, INTERPOLATIONS[self.interpolation], box=within))

    def _edges(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom edge of the crop in an image of this size."""
        rows, columns = (max(1, round(self.crop * side)) for side in (height, width))
        top, left = (height - rows) // 2, (width - columns) // 2
        return left, top, left + columns, top + rows

    def _resized_square(
        self, image: Image.Image, sides: Int[np.ndarray, "2"], reduction: int
    ) -> Square:
        """Resize, and then crop, with the roundings of torchvision or of transformers."""
        squashed = self.crop_shape in SQUASHED
        middle = sides if squashed else np.minimum(sides, MAX_ASPECT * sides.min())
        box = tuple((np.concatenate([sides - middle, sides + middle]) / 2 / reduction).tolist())
        balanced = COLOR_CONSTANCY[self.color_constancy](image)
        shorter = round(self.image_size / self.crop)
        size = (shorter * middle / (middle if squashed else middle.min())).astype(int).tolist()
        resized = balanced.resize(size, INTERPOLATIONS[self.interpolation], box=box)
        rounded = round if self.crop_shape in ROUNDED else math.floor
        left, top = (rounded((side - self.image_size) / 2) for side in size)
        return np.array(resized.crop((left, top, left + self.image_size, top + self.image_size)))


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """Strength of the random variation of training images, for `augment`.

    The paper names the kinds (4.1) but no strengths. The defaults suit dermoscopy, where no
    direction is up and light and skin tone vary. Hue is never turned: colour is diagnostic.

    Attributes:
        flips: Mirror left-right and up-down, each for half of the images.
        jitter: Brightness, contrast and saturation are each multiplied by a factor within
            1 - jitter and 1 + jitter; in [0, 1].
        rotation: Largest angle either way, in degrees; in [0, 180].
        translation: Largest shift either way, as a share of the side; in [0, 1].
    """

    flips: bool = True
    jitter: float = 0.2
    rotation: float = 180.0
    translation: float = 0.1

    def __post_init__(self) -> None:
        for name, largest in (("jitter", 1), ("rotation", 180), ("translation", 1)):
            require(self, name, 0 <= getattr(self, name) <= largest, f"be in [0, {largest}]")

    @property
    def views(self) -> int:
        """Views of an image among its variations: with its mirror image, with quarter turns."""
        if not self.flips:
            return 1
        return 8 if self.rotation >= QUARTER_TURN else 2


AUGMENTATIONS: Registry[AugmentationSettings] = Registry(
    Parameter("augment"),
    none=AugmentationSettings(flips=False, jitter=0.0, rotation=0.0, translation=0.0),
    light=AugmentationSettings(flips=False, rotation=10.0),  # a turned 6 is a 9
    dermoscopy=AugmentationSettings(),
)
"""Presets; `light` suits images whose mirror image may be of another class, or of none."""
