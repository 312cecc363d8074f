"""Settings of an image processor of Hugging Face as those of a preprocessing.

Only Pillow's numbers of its filters are needed, so neither Pillow nor transformers is imported.
"""

import math
from collections.abc import Mapping
from typing import Any

from misgiving.errors import UsageError

WITHOUT_CROP = 384  # pixels from which on ConvNeXt's image processor does not crop
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box")  # by Pillow's numbers
STEPS = (
    "do_resize",
    "do_rescale",
    "do_normalize",
    "do_center_crop",
    "do_flip_channel_order",
    "do_convert_rgb",
    "do_reduce_labels",  # of segmentation
)
OTHERS = ("size_divisor", "pad_size", "rescale_offset", "include_top")  # change the image if given


def settings_of_processor(values: Mapping[str, Any]) -> dict[str, Any]:
    """The steps of an image processor: resize, centre crop, scale and normalisation.

    Raises:
        UsageError: One cannot be represented; names its key.
    """
    others = [name for name in values if name.startswith("do_") and name not in STEPS]
    if given := [name for name in (*others, *OTHERS) if values.get(name)]:
        raise UsageError(f"{given[0]} is {values[given[0]]}, which is not supported")
    if not values.get("do_resize"):
        raise UsageError("do_resize is off, so images are not of one size")
    side, resized, keeps_shape = _sides(values)
    if side > resized:
        raise UsageError(f"crop_size is {side}, and size only {resized}")
    number = values.get("resample", FILTERS.index("bilinear"))
    if number not in range(len(FILTERS)):
        raise UsageError(f"resample is {number}; choose from 0 to {len(FILTERS) - 1}")
    return {
        "image_size": side,
        "crop": side / resized,
        "crop_shape": "resized_floor" if keeps_shape else "squashed",
        "interpolation": FILTERS[number],
        **_values(values),
    }


def _sides(values: Mapping[str, Any]) -> tuple[int, int, bool]:
    """Sides of the square and of the image before the crop; True: only its shorter one."""
    resized, keeps_shape = _resized(values)
    if values.get("crop_pct") and keeps_shape:  # as ConvNeXt's does
        if resized >= WITHOUT_CROP:
            return resized, resized, False
        return resized, int(resized / _positive("crop_pct", values["crop_pct"])), True
    if values.get("do_center_crop"):
        return _square("crop_size", values.get("crop_size")), resized, keeps_shape
    if keeps_shape:
        raise UsageError("size is a shortest_edge without do_center_crop, so images are no squares")
    return resized, resized, False


def _resized(values: Mapping[str, Any]) -> tuple[int, bool]:
    """The side in pixels to which images are resized; True: only the shorter one."""
    size = values.get("size")
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return int(_positive("shortest_edge", size["shortest_edge"])), True
    return _square("size", size), False


def _square(key: str, size: Any) -> int:
    if key == "crop_size" and isinstance(size, int):  # as older versions write it
        return int(_positive(key, size))
    sides = {*size.values()} if isinstance(size, Mapping) else set()
    if not isinstance(size, Mapping) or set(size) != {"height", "width"} or len(sides) != 1:
        raise UsageError(f"{key} is {size}; a bundle takes squares, by equal height and width")
    return int(_positive(key, sides.pop()))


def _values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Scale, mean and std of pixel values."""
    scale = 255.0
    if values.get("do_rescale"):
        scale *= _positive("rescale_factor", values.get("rescale_factor"))
    if not values.get("do_normalize"):
        return {"scale": scale, "mean": (0.0,), "std": (1.0,)}
    found = {"scale": scale}
    return found | {name: _channels(f"image_{name}", values) for name in ("mean", "std")}


def _positive(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(f"{key} is {value}; give a number above zero")
    return float(value)


def _channels(key: str, values: Mapping[str, Any]) -> tuple[float, ...]:
    given = values.get(key)
    numbers: list[Any] | tuple[Any, ...] = given if isinstance(given, list | tuple) else [given]
    if len(numbers) not in (1, 3) or not all(isinstance(one, int | float) for one in numbers):
        raise UsageError(f"{key} is {given}; give one number, or one for each channel")
    return tuple(float(one) for one in numbers)
