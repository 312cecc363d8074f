"""DICOM files: the pixels of a frame as a radiologist's viewer shows them, and named tags.

Needs the extra `dicom`. Overlays and colour profiles are ignored.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageFile
from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.pixels.processing import apply_color_lut, apply_windowing
from pydicom.pixels.utils import pixel_array
from pydicom.tag import Tag

from misgiving.errors import UsageError

# Once for all threads, as for Pillow. What cannot be read becomes an error.
warnings.filterwarnings("ignore", module=r"pydicom\b")

BURNED_IN = "BurnedInAnnotation"
FRAME_GROUPS = (  # of an enhanced multi-frame object, whose items say what holds for a frame
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "PixelMeasuresSequence",
)
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
MAX_BITS = 16
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
THIRDS = np.array([1, 0, 2])  # of a grey level, by channel: the darkest colour is raised first


class DicomImage(ImageFile.ImageFile):
    """A DICOM file for Pillow, with square pixels. `seek` chooses the frame, from 0."""

    format = "DICOM"
    format_description = "Digital Imaging and Communications in Medicine"

    def _open(self) -> None:
        assert self.fp is not None
        try:
            self.tags = dcmread(self.fp)
            if "PixelData" not in self.tags:
                raise ValueError("has no tag (7FE0,0010) PixelData, and so no image")
            frames = self.tags.get("NumberOfFrames")
            self.n_frames = _number(self.tags, "NumberOfFrames") if frames else 1
            self._choose(0)
        except Exception as failure:  # pydicom raises almost anything on damaged files
            raise ValueError(str(failure)) from failure

    def _choose(self, frame: int) -> None:
        self._frame, tags = frame, self.tags
        for name, item in (("Shared", 0), ("PerFrame", frame)):
            items = tags.get(f"{name}FunctionalGroupsSequence") or ()
            for group in (items[item].get(each) for each in FRAME_GROUPS if item < len(items)):
                tags.update(group[0] if group else {})
        self._mode, self._size = "RGB", _size(tags)

    def seek(self, frame: int) -> None:
        """Choose a frame."""
        if not 0 <= frame < self.n_frames:
            raise EOFError(f"has {self.n_frames} frames, so none of the number {frame + 1}")
        self._choose(frame)

    def tell(self) -> int:
        """The chosen frame."""
        return self._frame

    def load(self) -> Any:
        """Decode the chosen frame."""
        if self._im is None:
            pixels = Image.fromarray(_pixels(self.tags, self._frame))
            self.im = pixels.resize(self._size, Image.Resampling.BILINEAR).im
        return super().load()


def _size(tags: Dataset) -> tuple[int, int]:
    """Width and height with square pixels; the closer spacing is kept."""
    given = [tags[name].value for name in SPACINGS if tags.get(name)]
    down, across = map(float, given[0] if given else (1, 1))
    if not (down > 0 and across > 0):
        raise ValueError(f"the spacing of pixels is {down:g}, {across:g}")
    width, height = _number(tags, "Columns"), _number(tags, "Rows")
    return max(width, round(width * across / down)), max(height, round(height * down / across))


def _number(tags: Dataset, name: str) -> int:
    """The value of a tag without which there is no image."""
    value = tags.get(name)
    if not str(value).isdecimal():
        raise ValueError(f"the tag {Tag(name)} {name} is {value!r}, not a number")
    return int(value)


def _pixels(tags: Dataset, frame: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """The pixels of a frame: each stored value is looked up in a table of what it looks like."""
    bits, stored = _number(tags, "BitsAllocated"), _number(tags, "BitsStored")
    if bits > MAX_BITS or not 0 < stored <= bits:
        raise ValueError(f"the tag (0028,0100) BitsAllocated is {bits}, BitsStored {stored}")
    try:
        values = pixel_array(tags, index=frame)
    except Exception as failure:
        raise ValueError(f"the tag (7FE0,0010) PixelData: {failure}") from failure
    kind = tags.PhotometricInterpretation
    unsigned = values.view(f"u{values.itemsize}")
    unused = 8 * values.itemsize - stored  # bits, in which old files have overlays
    codes = np.arange(2 ** (8 * values.itemsize)).astype(unsigned.dtype).view(values.dtype)
    codes = codes << unused >> unused  # keeps the sign
    if kind in MONOCHROME:
        grey = _grey(codes.astype(np.float64), tags)
        level = np.rint(765 * (1 - grey if kind == "MONOCHROME1" else grey))
        table = (level[:, None] + THIRDS) // 3
    elif kind == "PALETTE COLOR":
        colours = apply_color_lut(codes, tags)
        table = colours >> 8 * (colours.itemsize - 1)
    else:
        table = np.rint(codes * (255 / (2**stored - 1)))
    return np.asarray(table.astype(np.uint8)[unsigned])


def _grey(values: Float64[np.ndarray, " codes"], tags: Dataset) -> Float64[np.ndarray, " codes"]:
    """Brightness from 0 to 1 of stored values: modality transformation, then the first of VOI.

    Without a VOI, white is the largest value that can be stored: a scale that was guessed from the
    values of one image would differ from those of others. Equations of PS3.3 C.11.1 and C.11.2.
    """
    if tables := tags.get("ModalityLUTSequence"):
        values, ends = _looked_up(values, tables[0])
    else:
        slope = float(tags.get("RescaleSlope", 1))
        values = values * slope + float(tags.get("RescaleIntercept", 0))
        ends = np.array([values.min(), values.max()])
    if tables := tags.get("VOILUTSequence"):
        values, ends = _looked_up(values, tables[0])
    elif "WindowWidth" in tags and "WindowCenter" in tags:
        with np.errstate(over="ignore"):
            ends = apply_windowing(np.array([-1e9, 1e9]), tags)  # pydicom's range of results
            values = apply_windowing(values, tags)
    if not np.isfinite(ends).all() or ends[0] == ends[1]:
        raise ValueError("the tags (0028,1051) WindowWidth and (0028,1053) leave no contrast")
    return np.asarray(np.clip((values - ends[0]) / (ends[1] - ends[0]), 0, 1))


def _looked_up(
    values: Float64[np.ndarray, " codes"], table: Dataset
) -> tuple[Float64[np.ndarray, " codes"], Float64[np.ndarray, "2"]]:
    """Values of a LUT, and the ends of their scale.

    pydicom's own function wraps tables of 8 bits that have more than 256 entries.
    """
    entries, first, bits = map(int, table.LUTDescriptor)
    content, entries = table.LUTData, entries or 2**16
    if isinstance(content, bytes):
        content = np.frombuffer(content, "u1" if len(content) < 2 * entries else "<u2")
    found = np.asarray(content, dtype=np.float64)[:entries]
    places = np.clip(values - first, 0, len(found) - 1).astype(int)
    return found[places], np.array([0, 2.0**bits - 1])


def check_keywords(names: Sequence[str]) -> None:
    """Check that these are keywords of DICOM's dictionary."""
    for name in names:
        if tag_for_keyword(name) is None:
            raise UsageError(f"{name!r} is no keyword of DICOM; give one such as StudyInstanceUID")


def header(file: Path | bytes, names: Sequence[str]) -> dict[str, str]:
    """Values of these tags of a file, and whether annotations are burned in; empty for none."""
    try:
        source = io.BytesIO(file) if isinstance(file, bytes) else file
        tags = dcmread(source, stop_before_pixels=True, specific_tags=[*names, BURNED_IN])
        return {name: str(tags.get(name) or "").strip() for name in (*names, BURNED_IN)}
    except Exception:  # as for its pixels, of which the failure is reported
        return dict.fromkeys([*names, BURNED_IN], "")
