"""What the input and the outputs of an ONNX graph that was made elsewhere mean.

The command line reads its options from here, so Pillow is imported only where it is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from misgiving.bundle.image_processors import is_image_processor, settings_of_file
from misgiving.configuration import option, require, require_choices, without_none
from misgiving.errors import DataError, UsageError
from misgiving.files import read_json

if TYPE_CHECKING:
    from misgiving.data.preprocessing import Preprocessing

IMAGES, VALUES, OUTPUTS = "ONNX graph: images", "ONNX graph: input", "ONNX graph: outputs"


@dataclass(frozen=True, kw_only=True)
class GraphInterface:
    """From an image file to the graph's input, and from its outputs to logits.

    A pixel, scaled to [0, `scale`], has `mean` subtracted and is divided by `std`, which are one
    number, or one for each channel in the graph's order. A graph with one channel gets the
    luminance.
    """

    image_size: int | None = option(
        None, "Side of the images in pixels, if the graph does not say.", panel=IMAGES
    )
    crop: float = option(1.0, "Share that the centre crop keeps.", panel=IMAGES)
    crop_shape: Literal[
        "both", "square", "resized", "resized_floor", "squashed", "squashed_round"
    ] = option(
        "resized",
        "`resized`: resize the shorter side, then crop, as torchvision does; `resized_floor`: as "
        "transformers does; `squashed`: resize to a square, then crop; `squashed_round`: as timm "
        "does; `both`: crop both sides, then resize them to a square; `square`: crop a square.",
        panel=IMAGES,
    )
    interpolation: Literal["bilinear", "bicubic", "lanczos", "box", "nearest"] = option(
        "bilinear", "How images are resized.", panel=IMAGES
    )
    color_constancy: Literal["shades_of_gray", "gray_world", "none"] = option(
        "none", "How the colour of the light is removed.", panel=IMAGES
    )
    scale: float = option(1.0, "Pixel values are from 0 to this, such as 255.", panel=VALUES)
    mean: tuple[float, ...] = option(
        (0.0,), "Subtracted from pixel values; one number, or one per channel.", panel=VALUES
    )
    std: tuple[float, ...] = option((1.0,), "Pixel values are divided by this.", panel=VALUES)
    channel_order: Literal["rgb", "bgr"] = option("rgb", "Order of the channels.", panel=VALUES)
    layout: Literal["auto", "nchw", "nhwc"] = option(
        "auto", "Order of the axes; `auto`: as the shape says.", panel=VALUES
    )
    outputs: Literal["logits", "probabilities", "softmax"] = option(
        "logits",
        "What the graph gives: `logits`, `probabilities`, or `softmax` for logits where the "
        "predictions have probabilities.",
        panel=OUTPUTS,
    )
    logits_output: str | None = option(
        None, "Name of that output, if it is not the only one or `logits`.", panel=OUTPUTS
    )
    features_output: str | None = option(
        None, "Name of the output with the features that the predictions have.", panel=OUTPUTS
    )
    taps_output: str | None = option(
        None, "Name of the output with the averages of intermediate activations.", panel=OUTPUTS
    )
    loss_output: str | None = option(
        None, "Name of the output with the predicted loss.", panel=OUTPUTS
    )

    def __post_init__(self) -> None:
        require_choices(self)
        require(self, "scale", self.scale > 0, "be above 0")
        require(self, "std", all(value > 0 for value in self.std), "be above 0")
        for name in ("mean", "std"):
            require(self, name, len(getattr(self, name)) in (1, 3), "be one number or three")

    def preprocessing(self, image_size: int) -> "Preprocessing":
        """Preprocessing of a file to a square of this side."""
        from misgiving.data.preprocessing import Preprocessing

        return Preprocessing(
            image_size=image_size,
            crop=self.crop,
            crop_shape=self.crop_shape,
            color_constancy=self.color_constancy,
            interpolation=self.interpolation,
            reduce_jpeg=False,  # the pixels that another program sees
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GraphInterface":
        """Make an interface from JSON values by the names of its fields.

        Raises:
            UsageError: A name or a value is none of the choices.
        """
        kinds = {field.name: without_none(field.type) for field in fields(cls)}
        made = {}
        for name, value in values.items():
            if name not in kinds:
                raise UsageError(f"unknown setting {name!r}; choose from {', '.join(kinds)}")
            made[name] = _value(name, value, kinds[name])
        return cls(**made)


def _value(name: str, value: Any, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        numbers = value if isinstance(value, list | tuple) else [value]
        return tuple(_value(name, number, float) for number in numbers)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UsageError(f"`{name}` must be one of {', '.join(get_args(kind))}, got {value!r}")
        return value
    if type(value) not in ({int, float} if kind is float else {kind}):
        raise UsageError(f"`{name}` must be of type {kind.__name__}, got {value!r}")
    return kind(value)


def read_interface(path: Path | None, given: Mapping[str, Any]) -> GraphInterface:
    """An interface from a JSON file, in which `given` values take precedence.

    The file has fields of the interface, or is the `preprocessor_config.json` of an image
    processor of Hugging Face.

    Raises:
        DataError: The file is missing or damaged, or has a wrong value.
    """
    if path is None:
        return GraphInterface.from_dict(given)
    values = read_json(path, remedy='write settings such as {"scale": 255, "mean": [0, 0, 0]}')
    try:
        if is_image_processor(values):
            values = settings_of_file(values)
        GraphInterface.from_dict(values)
    except UsageError as error:
        raise DataError(f"{path}: {error}") from error
    return GraphInterface.from_dict({**values, **given})
