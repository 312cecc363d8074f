"""From an encoded image to the square that the model sees; training and serving share this code.

Order as in the paper (4.1, setup): centre crop, colour constancy, resize. Nothing here needs torch.
"""

import io
import math
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from misgiving.errors import DataError, UsageError
from misgiving.registry import Registry

Picture = UInt8[np.ndarray, "height width 3"]
Cropped = UInt8[np.ndarray, "rows columns 3"]
Illuminant = Float[np.ndarray, "3"]
Settings = TypeVar("Settings")

MAX_PIXELS = 1024**3 // 4 // 3  # where Pillow starts to suspect a decompression bomb
SATURATED = 255
LARGEST_SIDE = 4096  # larger squares are a slip of the hand, and fill the memory
VALUES = np.arange(256) / 255.0

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation; 1 is upright already."""


def _crop_both(image: Picture, share: float) -> Cropped:
    """Keep `share` of either side."""
    height, width = image.shape[:2]
    return _centre(image, share * height, share * width)


def _crop_square(image: Picture, share: float) -> Cropped:
    """Keep a square whose side is `share` of the width, or the height where that is less."""
    height, width = image.shape[:2]
    side = min(share * width, float(height))
    return _centre(image, side, side)


def _centre(image: Picture, height: float, width: float) -> Cropped:
    rows, columns = max(1, round(height)), max(1, round(width))
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    return image[top : top + rows, left : left + columns]


CROPS: Registry[Callable[[Picture, float], Picture]] = Registry(
    "crop_shape", both=_crop_both, square=_crop_square
)


def shades_of_gray(image: Picture) -> Picture:
    """Divide by the light that a Minkowski mean with p = 6 finds (Finlayson & Trezzi, 2004)."""
    return _divide_by(_illuminant(image, power=6), image)


def gray_world(image: Picture) -> Picture:
    """Divide by the mean colour, taken to be that of the light (Buchsbaum, 1980)."""
    return _divide_by(_illuminant(image, power=1), image)


def _unchanged(image: Picture) -> Picture:
    return image


def _illuminant(image: Picture, *, power: int) -> Illuminant:
    """Colour of the light as a unit vector, or zeros if no pixel tells it.

    A saturated pixel no longer says what colour it had, so it is left out.
    """
    honest = image[(image < SATURATED).all(axis=2)]
    counts = np.stack([np.bincount(honest[:, channel], minlength=256) for channel in range(3)])
    estimate: Illuminant = (counts @ VALUES**power) ** (1 / power)
    length = float(np.linalg.norm(estimate))
    return estimate / length if length > 0 else estimate


def _divide_by(illuminant: Illuminant, image: Picture) -> Picture:
    """Image as it would look under white light; a channel without light is left as it is.

    Clipped before the cast to 8 bits, which would turn 300 into 44.
    """
    lit = illuminant > 0
    gains = np.where(lit, 1 / (np.where(lit, illuminant, 1.0) * math.sqrt(3)), 1.0)
    table = np.rint(255 * np.clip(gains[:, None] * VALUES, 0, 1)).astype(np.uint8)
    return np.array(Image.fromarray(image).point(table.ravel().tolist()))


COLOR_CONSTANCY: Registry[Callable[[Picture], Picture]] = Registry(
    "color_constancy", shades_of_gray=shades_of_gray, gray_world=gray_world, none=_unchanged
)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Centre crop, colour constancy and resize to a square, in this order (paper, 4.1).

    Attributes:
        image_size: Side of the result in pixels.
        crop: Share of the side that the centre crop keeps, in (0, 1]; the paper's 0.85.
        crop_shape: `both` crops both sides; `square` takes a square of `crop` times the width.
        color_constancy: `shades_of_gray`, `gray_world` or `none`.
    """

    image_size: int = 224
    crop: float = 0.85
    crop_shape: str = "both"
    color_constancy: str = "shades_of_gray"

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= LARGEST_SIDE:
            raise UsageError(
                f"image_size must be from 1 to {LARGEST_SIDE} pixels, got {self.image_size}"
            )
        if not 0 < self.crop <= 1:
            raise UsageError(f"crop must be in (0, 1], got {self.crop}")
        CROPS[self.crop_shape]
        COLOR_CONSTANCY[self.color_constancy]

    def __call__(self, image: Picture) -> UInt8[np.ndarray, "size size 3"]:
        cropped = CROPS[self.crop_shape](image, self.crop)
        balanced = Image.fromarray(COLOR_CONSTANCY[self.color_constancy](cropped))
        size = (self.image_size, self.image_size)
        return np.array(balanced.resize(size, Image.Resampling.BILINEAR))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Inverse of `to_dict`; a field that is not given has its default."""
        return _construct(cls, values)


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """How strongly training images are varied; all zero is not at all. `augment` applies it.

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
            value = getattr(self, name)
            if not 0 <= value <= largest:
                raise UsageError(f"{name} must be in [0, {largest}], got {value}")

    @classmethod
    def none(cls) -> "AugmentationSettings":
        """Leave every image as it is."""
        return cls(flips=False, jitter=0.0, rotation=0.0, translation=0.0)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "AugmentationSettings":
        """Inverse of `to_dict`; a field that is not given has its default."""
        return _construct(cls, values)


def _construct(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Settings from what a file says; the kind of each value is that of the field's default."""
    kinds: dict[str, Any] = {
        field.name: type(field.default)
        for field in fields(kind)  # type: ignore[arg-type]  # only dataclasses come here
    }
    for name, value in values.items():
        if name not in kinds:
            raise UsageError(f"unknown setting {name!r}; choose from {', '.join(kinds)}")
        if type(value) not in ({int, float} if kinds[name] is float else {kinds[name]}):
            raise UsageError(f"{name} must be of type {kinds[name].__name__}, got {value!r}")
    return kind(**{name: kinds[name](value) for name, value in values.items()})


class _PillowSilence:
    """Ignores Pillow's warnings while any thread decodes.

    `warnings.catch_warnings` alone is not safe in threads: the first to leave would restore the
    filters under the others, and the last would leave its own behind.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


_SILENCE = _PillowSilence()


def refuse_file(path: Path, failure: OSError) -> NoReturn:
    """Explain why a file cannot be read."""
    reason = failure.strerror or type(failure).__name__
    raise DataError(
        f"{path}: cannot be read ({reason}); check the path and its permissions"
    ) from failure


def read_bytes(path: Path) -> bytes:
    """Content of a file, or a DataError that names it."""
    if path.exists() and not path.is_file():  # a pipe would wait for ever
        raise DataError(f"{path}: not an ordinary file; remove it or name another")
    try:
        return path.read_bytes()
    except OSError as failure:
        refuse_file(path, failure)


def decode(data: bytes, name: str) -> Picture:
    """Image of any mode as upright 8-bit RGB; transparency lies over white.

    Args:
        data: An encoded image, such as the bytes of a JPEG file.
        name: What to call it in an error.
    """
    if not data:
        raise DataError(f"{name}: the file is empty; replace it or remove it from the set")
    try:
        with _SILENCE:
            return np.array(_flat(_upright(_open(data))))
    except UnidentifiedImageError as failure:
        raise DataError(f"{name}: not an image; save it as JPEG or PNG, or remove it") from failure
    except Image.DecompressionBombError as failure:
        raise DataError(f"{name}: more than {MAX_PIXELS} pixels; scale it down") from failure
    except Exception as failure:  # on damaged files, Pillow's decoders raise almost anything
        reason = " ".join(str(failure).split()) or type(failure).__name__
        raise DataError(
            f"{name}: the image cannot be decoded ({reason}); replace it with an intact copy in"
            " JPEG or PNG, or remove it"
        ) from failure


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    image.load()
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF data says nothing about the pixels, which are fine
        return image
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _flat(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _eight_bit(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit integers and fractions, which Pillow's own conversion would cut off at 255."""
    full_scale = 1.0 if image.mode == "F" else 65535.0
    values = np.asarray(image).astype(np.float64)
    if not (values.min() >= 0 and values.max() <= full_scale):
        raise ValueError(f"mode {image.mode} with values outside 0 to {full_scale:g}")
    return Image.fromarray(np.rint(values * (255 / full_scale)).astype(np.uint8))
