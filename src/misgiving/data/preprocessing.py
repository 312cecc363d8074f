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
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from misgiving.errors import DataError, UsageError
from misgiving.registry import Registry

Picture = UInt8[np.ndarray, "height width 3"]
Square = UInt8[np.ndarray, "size size 3"]
Illuminant = Float[np.ndarray, "3"]
Settings = TypeVar("Settings")

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")
"""What is read, as Pillow calls it. It knows more: some run other programs (EPS: Ghostscript)."""

MAX_PIXELS = 1024**3 // 4 // 3  # where Pillow starts to suspect a decompression bomb
SATURATED = 255
LARGEST_SIDE = 4096  # larger squares are a slip of the hand, and fill the memory
VALUES = np.arange(256) / 255.0
HONEST = [1] * SATURATED + [0]
REDUCTIONS = (8, 4, 2)  # what a JPEG decoder can divide both sides by while it decodes
SPARE = 1.25  # decoded pixels for each of the result, along a side; with fewer, edges are harder

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

SIDEWAYS = (5, 6, 7, 8)  # orientations whose height is the upright image's width


def _both(height: int, width: int, share: float) -> tuple[float, float]:
    """Height and width of a crop that keeps `share` of either side."""
    return share * height, share * width


def _square(height: int, width: int, share: float) -> tuple[float, float]:
    """A square whose side is `share` of the width, or the height where that is less."""
    side = min(share * width, float(height))
    return side, side


CROPS: Registry[Callable[[int, int, float], tuple[float, float]]] = Registry(
    "crop_shape", both=_both, square=_square
)


class Decoded(NamedTuple):
    """An upright RGB image that may be smaller than its file's.

    Attributes:
        image: The pixels.
        height: Of the image in the file, once upright.
        width: Likewise.
        reduction: Pixels of the file along a side for each pixel here.
    """

    image: Image.Image
    height: int
    width: int
    reduction: int = 1


def shades_of_gray(image: Image.Image) -> Image.Image:
    """Divide by the light that a Minkowski mean with p = 6 finds (Finlayson & Trezzi, 2004)."""
    return _divide_by(_illuminant(image, power=6), image)


def gray_world(image: Image.Image) -> Image.Image:
    """Divide by the mean colour, taken to be that of the light (Buchsbaum, 1980)."""
    return _divide_by(_illuminant(image, power=1), image)


def _unchanged(image: Image.Image) -> Image.Image:
    return image


def _illuminant(image: Image.Image, *, power: int) -> Illuminant:
    """Colour of the light as a unit vector, or zeros if no pixel tells it.

    A saturated pixel no longer says what colour it had, so it is left out.
    """
    red, green, blue = image.split()
    brightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    counts = np.reshape(image.histogram(brightest.point(HONEST)), (3, 256))
    estimate: Illuminant = (counts @ VALUES**power) ** (1 / power)
    length = float(np.linalg.norm(estimate))
    return estimate / length if length > 0 else estimate


def _divide_by(illuminant: Illuminant, image: Image.Image) -> Image.Image:
    """Image as it would look under white light; a channel without light is left as it is.

    Clipped before the cast to 8 bits, which would turn 300 into 44.
    """
    lit = illuminant > 0
    gains = np.where(lit, 1 / (np.where(lit, illuminant, 1.0) * math.sqrt(3)), 1.0)
    table = np.rint(255 * np.clip(gains[:, None] * VALUES, 0, 1)).astype(np.uint8)
    return image.point(table.ravel().tolist())


COLOR_CONSTANCY: Registry[Callable[[Image.Image], Image.Image]] = Registry(
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
                f"`image_size` must be from 1 to {LARGEST_SIDE} pixels, got {self.image_size}"
            )
        if not 0 < self.crop <= 1:
            raise UsageError(f"`crop` must be in (0, 1], got {self.crop}")
        CROPS[self.crop_shape]
        COLOR_CONSTANCY[self.color_constancy]

    def __call__(self, image: Picture) -> Square:
        """Square of an upright image."""
        return self._square(Decoded(Image.fromarray(image), *image.shape[:2]))

    def from_file(self, data: bytes, name: str) -> Square:
        """Square of an encoded image, which is decoded no larger than that takes.

        The square of `decode`, but for the rounding where a JPEG is reduced: by less than one grey
        level of 255 on the average of ordinary photographs.

        Args:
            data: An encoded image, such as the bytes of a JPEG file.
            name: What to call it in an error.
        """
        return self._square(_decode(data, name, self._spare))

    def _spare(self, height: int, width: int) -> float:
        """By what the sides of an image of this size may be divided before it is cropped."""
        kept = CROPS[self.crop_shape](height, width, self.crop)
        return min(kept) / (SPARE * self.image_size)

    def _square(self, decoded: Decoded) -> Square:
        kept = [edge / decoded.reduction for edge in self._kept(decoded.height, decoded.width)]
        left, top = math.floor(kept[0]), math.floor(kept[1])
        cropped = decoded.image.crop((left, top, math.ceil(kept[2]), math.ceil(kept[3])))
        balanced = COLOR_CONSTANCY[self.color_constancy](cropped)
        # Where the crop begins within a reduced pixel: off by half a one, textures come out anew.
        within = (kept[0] - left, kept[1] - top, kept[2] - left, kept[3] - top)
        size = (self.image_size, self.image_size)
        return np.array(balanced.resize(size, Image.Resampling.BILINEAR, box=within))

    def _kept(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom edge of the crop in an image of this size."""
        rows, columns = (
            max(1, round(side)) for side in CROPS[self.crop_shape](height, width, self.crop)
        )
        top, left = (height - rows) // 2, (width - columns) // 2
        return left, top, left + columns, top + rows

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
    return np.array(_decode(data, name, _not_at_all).image)


def _not_at_all(_height: int, _width: int) -> float:
    return 1.0


def _decode(data: bytes, name: str, spare: Callable[[int, int], float]) -> Decoded:
    """Image and its size; `spare` of the size says by what its sides may be divided."""
    if not data:
        raise DataError(f"{name}: the file is empty; replace it or remove it from the set")
    try:
        with _SILENCE:
            return _load(_open(data), spare)
    except UnidentifiedImageError as failure:
        raise DataError(
            f"{name}: not an image of a format that is read ({', '.join(FORMATS)}); save it as JPEG"
            " or PNG, or remove it"
        ) from failure
    except Image.DecompressionBombError as failure:
        raise DataError(f"{name}: more than {MAX_PIXELS} pixels; scale it down") from failure
    except Exception as failure:  # on damaged files, Pillow's decoders raise almost anything
        reason = " ".join(str(failure).split()) or type(failure).__name__
        raise DataError(
            f"{name}: the image cannot be decoded ({reason}); replace it with an intact copy in"
            " JPEG or PNG, or remove it"
        ) from failure


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    return image


def _load(image: Image.Image, spare: Callable[[int, int], float]) -> Decoded:
    if isinstance(image, JpegImageFile):
        return _load_jpeg(image, spare)
    image.load()
    upright = _flat(_upright(image))
    return Decoded(upright, upright.height, upright.width)


def _load_jpeg(image: JpegImageFile, spare: Callable[[int, int], float]) -> Decoded:
    """Let the decoder divide the sides, which leaves out most of its work.

    Where a side does not divide, its last pixels are beyond the image. They stay in their place
    only in an image that need not be turned; another is then read whole.
    """
    orientation = _orientation(image)
    width, height = image.size[::-1] if orientation in SIDEWAYS else image.size
    divide = [
        divisor
        for divisor in REDUCTIONS
        if divisor <= spare(height, width)
        and (orientation not in UPRIGHT or height % divisor == width % divisor == 0)
    ]
    reduction = max(divide, default=1)
    image.draft(None, (image.width // reduction, image.height // reduction))
    image.load()
    return Decoded(_flat(_upright(image)), height, width, reduction)


def _upright(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _orientation(image: Image.Image) -> int:
    """EXIF's number; 1, upright, where there is none."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data says nothing about the pixels, which are fine
        return 1


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
