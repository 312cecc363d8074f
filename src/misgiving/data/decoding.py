"""Read and decode image files: any format and mode becomes an upright 8-bit RGB image."""

import errno
import io
import os
import re
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from operator import methodcaller
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from misgiving.arrays import Picture
from misgiving.errors import DataError, Parameter, reason_of, visible
from misgiving.files import check_ordinary

# Once for all threads: `warnings.catch_warnings` in one of them would change the others' filters.
warnings.filterwarnings("ignore", module=r"PIL\b")

Decoded = tuple[Image.Image, int, int, int]
Loaded = dict[tuple[int, int], Decoded]
Result = TypeVar("Result")

HEIF_SUFFIXES = (".heic", ".heif", ".hif")
HEIF_BRANDS = (b"ftyphei", b"ftyphev", b"ftypmif", b"ftypmsf")  # in bytes 4 to 11 of a file
try:
    from pi_heif import register_heif_opener
except ImportError:
    HEIF: tuple[str, ...] = ()
else:
    register_heif_opener()
    HEIF = ("HEIF",)

DICOM_SUFFIXES = (".dcm", ".dicom")
DICOM_START, DICOM_MARK = 128, b"DICM"  # where its preamble ends, and how
DICOM = ("DICOM",) if find_spec("pydicom") else ()


def has_preamble(start: bytes) -> bool:
    """True for the start of a DICOM file."""
    return start.startswith(DICOM_MARK, DICOM_START)


def _open_dicom(file: Any, name: str | bytes) -> ImageFile.ImageFile:
    if not has_preamble(file.read(DICOM_START + len(DICOM_MARK))):
        raise SyntaxError("not a DICOM file")  # as Pillow expects
    from misgiving.data.dicom import DicomImage  # slow to import

    file.seek(0)
    return DicomImage(file, name)


Image.register_open("DICOM", _open_dicom)

IMAGE_FORMATS = (
    *("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "AVIF", "JPEG2000", "PPM"),
    *(*HEIF, *DICOM),
)
"""Formats by Pillow's names. It knows more, but some run other programs (EPS: Ghostscript)."""
READ_ONLY = (*HEIF, *DICOM)

MAX_PIXELS = 1024**3 // 4 // 3  # Pillow suspects a decompression bomb above this
MAX_SCANS = 64  # of a JPEG; each costs as much as the whole image, however few its bytes
JPEG_MARKER = re.compile(rb"\xff+([\x02-\xcf\xd8-\xfe])")  # neither data nor a restart
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xd9"
BAND = 64  # rows that are converted at a time
REDUCTIONS = (8, 4, 2)  # factors by which a JPEG decoder can shrink both sides

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each EXIF orientation; 5 to 8 swap height and width."""

WORKERS = min(8, os.cpu_count() or 1)
LOOK_AHEAD = 4 * WORKERS  # decoded images that may wait, which bounds memory
FAIL, SKIP = "fail", "skip"  # treatments of images that cannot be read
MAX_NAMES = 3  # bad images that are named in one line
MAX_SUFFIXES = 5  # of ignored files that are named in one line
MACHINE_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # no fault of the file


class BadImage(NamedTuple):
    """Id of an image that cannot be read, and the reason in one line that names the file."""

    image: str
    reason: str

    def __str__(self) -> str:
        name = visible(self.image)
        return self.reason if name in self.reason else f"{name}: {self.reason}"


class BadImagesError(DataError):
    """Images that cannot be read; the message names the first.

    Attributes:
        images: All of them.
        whole: True if no image of the set can be read.
    """

    def __init__(
        self, *message: str | Parameter, images: Sequence[BadImage] = (), total: int = 0
    ) -> None:
        super().__init__(*message)
        self.images, self.whole = tuple(images), 0 < total == len(images)


def in_order(
    work: Callable[[int], Result], count: int, *, ahead: int = LOOK_AHEAD, workers: int = WORKERS
) -> Generator[Result]:
    """Results of `work` for 0, 1, ..., computed by threads that run at most `ahead` in advance.

    Stopping early, or a failure, waits for work that has started and cancels the rest.

    >>> list(in_order(lambda index: index**2, 4))
    [0, 1, 4, 9]
    """
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for index in range(count):
            pending.append(pool.submit(work, index))
            if len(pending) == ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def returning_bad_images(
    work: Callable[[int], Result], ids: Sequence[str]
) -> Callable[[int], Result | BadImage]:
    """The same work, which returns a bad image where one cannot be read.

    A machine without memory or file handles is not the image's fault, and stays an error.
    """

    def attempt(index: int) -> Result | BadImage:
        try:
            return work(index)
        except DataError as failure:
            cause = failure.__cause__
            out_of_handles = isinstance(cause, OSError) and cause.errno in MACHINE_ERRORS
            if cause is not None and (out_of_handles or isinstance(cause, MemoryError)):
                raise cause from failure
            return BadImage(ids[index], visible(str(failure)))

    return attempt


def check_bad_images(bad: Sequence[BadImage], total: int, on_bad_image: str) -> None:
    """Check that there are no unreadable images, or with `skip` that others are left.

    Raises:
        BadImagesError: The images cannot be used.
    """
    if not bad or (on_bad_image == SKIP and len(bad) < total):
        return
    message: list[str | Parameter] = [str(bad[0])]
    if len(bad) > 1:
        count = f"{len(bad)} of {total} images cannot be read ({first_names(bad)})"
        message = [f"{count}; repair or remove them"]
    if on_bad_image == FAIL:
        message += [", or leave them out with ", Parameter("on_bad_image", SKIP)]
    raise BadImagesError(*message, images=bad, total=total)


def first_names(bad: Sequence[BadImage]) -> str:
    """The first few names.

    >>> first_names([BadImage(name, "") for name in "abcde"])
    'a, b, c and 2 more'
    """
    names = ", ".join(visible(image.image) for image in bad[:MAX_NAMES])
    return f"{names} and {len(bad) - MAX_NAMES} more" if len(bad) > MAX_NAMES else names


def skipped_sentences(bad: Sequence[BadImage], readable: int, *, name: str = "") -> list[str]:
    """A sentence about the images that were left out, if there are any."""
    if not bad:
        return []
    total = f"{len(bad)} of {len(bad) + readable} images" + (f" of {name}" if name else "")
    return [f"left out: {total} that cannot be read ({first_names(bad)})"]


def ignored_sentences(ignored: Mapping[str, int]) -> list[str]:
    """A sentence about the files of a folder that are no images by their suffix, if there are any.

    >>> ignored_sentences({"": 2, ".txt": 13})
    ['ignored: 13 .txt, 2 without a suffix']
    """
    if not ignored:
        return []
    common = Counter(ignored).most_common(MAX_SUFFIXES)
    counts = [f"{count} {suffix or 'without a suffix'}" for suffix, count in common]
    others = sum(ignored.values()) - sum(count for _, count in common)
    counts += [f"{others} others"] if others else []
    extras = (("heif", "HEIC", HEIF_SUFFIXES), ("dicom", "DICOM", DICOM_SUFFIXES))
    reads = [f"{extra} reads {kind}" for extra, kind, names in extras if {*names} & {*ignored}]
    remedy = f" (the extra {', and '.join(reads)})" if reads else ""
    return [f"ignored: {', '.join(counts)}{remedy}"]


def unreadable(path: Path, failure: OSError) -> DataError:
    """The error for a file that cannot be read."""
    return DataError(
        f"{path}: cannot be read ({reason_of(failure)}); check the path and its permissions"
    )


def read_bytes(path: Path) -> bytes:
    """Content of an ordinary file, or a DataError that names it."""
    try:
        check_ordinary(path)
        return path.read_bytes()
    except ValueError as failure:
        raise DataError(f"{path}: {failure}; remove it or give another path") from failure
    except OSError as failure:
        raise unreadable(path, failure) from failure


def is_dicom(path: Path) -> bool:
    """True for a DICOM file, by its suffix, or by its preamble where it has none but numbers."""
    suffix = path.suffix.lower()
    if suffix in DICOM_SUFFIXES or not DICOM:
        return bool(DICOM)
    if suffix.strip(".0123456789") or path.name == "DICOMDIR":  # the index of a medium
        return False
    try:
        with path.open("rb") as file:
            return has_preamble(file.read(DICOM_START + len(DICOM_MARK)))
    except OSError:
        return False


def picture_of(path: Path) -> Picture | None:
    """The pixels of a file; None where it can no longer be read."""
    try:
        return decode(read_bytes(path), str(path))
    except DataError:
        return None


def decode(data: bytes, name: str) -> Picture:
    """Upright 8-bit RGB pixels of an encoded image; transparency is blended with white.

    Errors name the image by `name`.
    """
    return np.array(decode_reduced(data, name, lambda *_: 1.0)[0])


def decode_reduced(
    data: bytes,
    name: str,
    largest: Callable[[int, int], float],
    *,
    formats: Sequence[str] = IMAGE_FORMATS,
    max_pixels: int = MAX_PIXELS,
    frame: int = 1,
    loaded: Loaded | None = None,
) -> Decoded:
    """Decode an image, and let a JPEG decoder reduce it, which leaves out most of its work.

    `largest` gives the largest acceptable reduction for an upright height and width; `frame` counts
    from 1; `loaded` keeps what was decoded, by frame and reduction, for the next call. Returns the
    upright RGB image, height and width in the file, and pixels of the file per pixel of the image.
    """
    loaded = {} if loaded is None else loaded
    try:
        image = Image.open(io.BytesIO(data), formats=tuple(formats))
        if frame > 1 and getattr(image, "n_frames", 1) > 1:
            image.seek(frame - 1)
        if image.width * image.height > max_pixels:
            raise Image.DecompressionBombError
        is_jpeg = isinstance(image, JpegImageFile)
        if is_jpeg and data.count(START_OF_SCAN) > MAX_SCANS < _scans(data):  # as it is slower
            raise ValueError(f"more than {MAX_SCANS} scans")
        return _load(image, largest, loaded)
    except Image.DecompressionBombError as error:  # Pillow's own above twice as many pixels
        raise DataError(f"{name}: more than {max_pixels} pixels; make the image smaller") from error
    except Exception as failure:  # Pillow's decoders raise almost anything on damaged files
        remedy = "replace it with an intact copy in JPEG or PNG, or remove it"
        raise DataError(f"{name}: {_reason(failure, data, formats)}; {remedy}") from failure


def _reason(failure: Exception, data: bytes, formats: Sequence[str]) -> str:
    if not data:
        return "the file is empty"
    if not HEIF and data[4:11] in HEIF_BRANDS:
        return "HEIC needs the extra heif"
    if isinstance(failure, UnidentifiedImageError):
        return f"not an image in a supported format ({', '.join(formats)})"
    return f"the image cannot be decoded ({reason_of(failure)})"


def _scans(data: bytes) -> int:
    """Number of scans of a JPEG; like its decoder, skips data between segments."""
    count, at = 0, 2
    while (marker := JPEG_MARKER.search(data, at)) and marker[1] != END_OF_IMAGE:
        count += marker[0].endswith(START_OF_SCAN)
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return count


def _load(image: Image.Image, largest: Callable[[int, int], float], loaded: Loaded) -> Decoded:
    """Load the pixels, a JPEG's reduced.

    Where a side is no multiple of the reduction, the reduced image has pixels beyond its edge. They
    are at the right and bottom only while the image is not turned; others are then not reduced.
    """
    if not isinstance(image, JpegImageFile):
        if (image.tell(), 1) in loaded:
            return loaded[image.tell(), 1]
        image.load()  # turns a TIFF upright, and removes its orientation
    try:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data says nothing about the pixels, which are fine
        orientation = 1
    width, height = image.size[::-1] if 5 <= orientation <= 8 else image.size
    reduction = _reduction(image, largest(height, width), orientation)
    key = image.tell(), reduction
    if key not in loaded:
        image.draft(None, (image.width // reduction, image.height // reduction))
        image.load()
        if orientation in UPRIGHT:
            image = image.transpose(UPRIGHT[orientation])
        loaded[key] = _as_rgb(image), height, width, reduction
    return loaded[key]


def _reduction(image: Image.Image, largest: float, orientation: int) -> int:
    """The largest factor up to this one by which a decoder of JPEG can shrink it; else 1."""
    factors = (
        factor
        for factor in REDUCTIONS
        if factor <= largest
        and isinstance(image, JpegImageFile)
        and (orientation not in UPRIGHT or image.height % factor == image.width % factor == 0)
    )
    return max(factors, default=1)


def _as_rgb(image: Image.Image) -> Image.Image:
    """Convert in bands: whole copies on the way would take most of the memory of decoding."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image.copy()  # the image of a file may hold its decoder's memory
    convert = _over_white if image.has_transparency_data else methodcaller("convert", "RGB")
    if image.mode == "F" or image.mode.startswith("I"):
        convert = partial(_eight_bit, full_scale=_full_scale(image))
    rgb = Image.new("RGB", image.size)
    for box in _bands(image):
        rgb.paste(convert(image.crop(box)), box)
    return rgb


def _bands(image: Image.Image) -> list[tuple[int, int, int, int]]:
    width, height = image.size
    return [(0, top, width, min(top + BAND, height)) for top in range(0, height, BAND)]


def _over_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _full_scale(image: Image.Image) -> float:
    """The value of white in a mode of 16-bit integers or of fractions.

    No scale is guessed from the values of one image, as others of its set may have larger ones.
    """
    full_scale = 1.0 if image.mode == "F" else 65535.0
    values = (np.asarray(image.crop(box)) for box in _bands(image))
    extremes = np.array([(band.min(), band.max()) for band in values], dtype=np.float64)
    lowest, highest = extremes.min(), extremes.max()  # NaN if any is
    if not (lowest >= 0 and highest <= full_scale):
        raise ValueError(f"mode {image.mode} with values outside 0 to {full_scale:g}")
    if image.mode == "I" and 0 < highest <= 255:  # an 8-bit image in 32 bits, nearly always
        raise ValueError(f"mode I with no value above 255, where {full_scale:g} is white")
    return full_scale


def _eight_bit(image: Image.Image, full_scale: float) -> Image.Image:
    """Scale to 255, where Pillow's own conversion would clip."""
    values = np.asarray(image).astype(np.float64) * (255 / full_scale)
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")
