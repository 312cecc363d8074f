"""Classifiers that other programs trained, with their classes and their preprocessing.

Nothing is downloaded, no code that comes with a model is run, and no pickle of one is read.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from timm.data import resolve_data_config
from torch import nn

from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import DataError, Parameter, UsageError, reason_of
from misgiving.models.backbones import ModuleSource, create_backbone, load_weights
from misgiving.registry import Registry

CROPS_OF_TIMM = Registry("crop mode of timm", center="resized", squash="squashed_round")
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box")  # by Pillow's numbers
UNCROPPED_SIDE = 384  # pixels from which on ConvNeXt's image processor does not crop
MAX_PIXEL_DIFFERENCE = 1e-5  # of a normalised pixel from that of the model's own image processor


class TrainedModel(NamedTuple):
    """A trained classifier with all that belongs to it.

    Attributes:
        module: From normalised images to logits, in evaluation mode.
        name: Of its architecture.
        source: What builds it again, with the normalisation.
        classes: Names in the order of the logits.
        preprocessing: From an image to the square that it sees.
    """

    module: nn.Module
    name: str
    source: ModuleSource
    classes: tuple[str, ...]
    preprocessing: Preprocessing


def load_named(
    model: str, weights: Path | None, classes: Sequence[str], image_size: int | None = None
) -> TrainedModel:
    """Build a model by its name in timm or `torchvision:NAME`, and fill it with local weights.

    Images are resized, cropped and normalised as its library does it.

    Args:
        model: Its name.
        weights: A safetensors file or torch state dict.
        classes: Names of its classes in the order of its logits.
        image_size: Side of its images in pixels; None for the usual one.

    Raises:
        UsageError: There is no such model, or no file is named.
        DataError: The file does not fill the model.
    """
    library, _, name = model.rpartition(":")
    if weights is None:
        raise UsageError(
            f"{model}: neither a folder of Hugging Face's format, nor are there ",
            Parameter("weights"),
            "; give the file of the trained weights of a timm or torchvision model",
        )
    library = library or "timm"
    preprocessing, mean, std = USUAL_PREPARATIONS[library](name, len(classes), image_size)
    config = {"name": name, "num_classes": len(classes), "image_size": preprocessing.image_size}
    source = ModuleSource(library=library, config=config, mean=mean, std=std)
    module = source.build()
    unfilled, _ = load_weights(module, weights)
    if unfilled:
        raise DataError(
            f"{weights}: does not fill {name} with {len(classes)} classes ({unfilled[0]} is "
            "missing or has another shape); give the model's own weights, and all its ",
            *(Parameter("classes"), " in order"),
        )
    return TrainedModel(module.eval(), name, source, tuple(classes), preprocessing)


Preparation = tuple[Preprocessing, tuple[float, ...], tuple[float, ...]]
"""Preparation of an image, and the mean and standard deviation that normalise it."""


def _cropped(side: int, resized: int, shape: str, interpolation: str) -> Preprocessing:
    """A square cut out of the resized image, without any other change."""
    return Preprocessing(
        image_size=side,
        crop=side / resized,
        crop_shape=shape,
        color_constancy="none",
        interpolation=interpolation,
        reduce_jpeg=False,
    )


def _settings_of_timm(name: str, num_classes: int, image_size: int | None) -> Preparation:
    module = create_backbone(name, num_classes=num_classes, image_size=image_size)
    usual = resolve_data_config({}, model=module)
    side = image_size or int(usual["input_size"][-1])
    resized, shape = math.floor(side / usual["crop_pct"]), CROPS_OF_TIMM[usual["crop_mode"]]
    mean, std = (tuple(map(float, usual[name])) for name in ("mean", "std"))
    return _cropped(side, resized, shape, usual["interpolation"]), mean, std


def _settings_of_torchvision(name: str, _: int, image_size: int | None) -> Preparation:
    from torchvision.models import get_model_weights

    try:
        usual = get_model_weights(name).DEFAULT.transforms()
        cropped, resized = int(usual.crop_size[0]), int(usual.resize_size[0])
    except (ValueError, AttributeError) as error:
        raise UsageError(
            f"torchvision has no image classifier {name!r} ({reason_of(error)}); see "
            "torchvision.models.list_models()"
        ) from error
    side = image_size or cropped
    resized = math.floor(side * resized / cropped)
    preprocessing = _cropped(side, resized, "resized", usual.interpolation.value)
    return preprocessing, tuple(usual.mean), tuple(usual.std)


USUAL_PREPARATIONS: Registry[Callable[[str, int, int | None], Preparation]] = Registry(
    "library", timm=_settings_of_timm, torchvision=_settings_of_torchvision
)


def load_hugging_face(folder: Path) -> TrainedModel:
    """Load an image classifier and its image processor from a folder of Hugging Face's format.

    The image processor itself is run on images of noise, with Pillow, and its results must be ours:
    so its settings need no checks of their own.

    Raises:
        DataError: The folder has no such model, or something of it cannot be reproduced here.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        module, loaded = transformers.AutoModelForImageClassification.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **local
        )
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", **local)
        unfilled = [*loaded["missing_keys"], *loaded["mismatched_keys"]]
        if unfilled or module.config.problem_type == "multi_label_classification":
            raise ValueError(f"no weights for {unfilled[0]}" if unfilled else "not of one class")
        preprocessing, mean, std = _settings_of_processor(processor.to_dict())
        if (difference := _difference(processor, preprocessing, mean, std)) > MAX_PIXEL_DIFFERENCE:
            raise ValueError(f"pixels of {type(processor).__name__} differ by {difference:.2g}")
    except Exception as error:  # transformers raises almost anything on a folder of another kind
        raise DataError(
            f"{folder}: not an image classifier with config.json, *.safetensors and a "
            f"preprocessor_config.json that can be reproduced here ({reason_of(error)}); save the "
            "model again by its `save_pretrained`, or attach it in Python by `misgiving.attach`"
        ) from error
    settings = module.config.to_dict()
    settings = {k: v for k, v in settings.items() if k not in ("dtype", "torch_dtype")}
    return TrainedModel(
        module=module.float().eval(),
        name=type(module).__name__,
        source=ModuleSource(library="transformers", config=settings, mean=mean, std=std),
        classes=tuple(str(module.config.id2label[at]) for at in range(module.config.num_labels)),
        preprocessing=preprocessing,
    )


def _settings_of_processor(settings: Mapping[str, Any]) -> Preparation:
    """Resizing, centre crop, scale and normalisation of an image processor."""
    size = settings["size"]
    keeps_shape = "shortest_edge" in size
    side = resized = int(size["shortest_edge" if keeps_shape else "height"])
    if settings.get("crop_pct") and keeps_shape:  # as ConvNeXt's does
        keeps_shape = resized < UNCROPPED_SIDE
        resized = int(resized / settings["crop_pct"]) if keeps_shape else resized
    elif settings.get("do_center_crop"):
        side = int(settings["crop_size"]["height"])
    shape = "resized_floor" if keeps_shape else "squashed"
    preprocessing = _cropped(side, resized, shape, FILTERS[settings["resample"]])
    scale = 255.0 * (settings["rescale_factor"] if settings.get("do_rescale") else 1.0)
    normalised = settings.get("do_normalize")
    mean, std = (
        tuple(float(value) / scale for value in np.broadcast_to(values, 3))
        for values in (
            (settings["image_mean"], settings["image_std"]) if normalised else (0.0, 1.0)
        )
    )
    return preprocessing, mean, std


def _difference(
    processor: Any, preprocessing: Preprocessing, mean: Sequence[float], std: Sequence[float]
) -> float:
    """The largest difference of a normalised pixel of noise; infinite if the shapes differ."""
    random, side = np.random.default_rng(0), preprocessing.image_size
    largest = 0.0
    for height, width in ((side + 13, 2 * side + 6), (2 * side + 1, side + 8), (side // 2 + 1, 50)):
        picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = np.asarray(
            processor(Image.fromarray(picture), return_tensors="np")["pixel_values"]
        )
        computed = (preprocessing(picture) / 255 - np.array(mean)) / np.array(std)
        if expected.shape != (1, 3, *computed.shape[:2]):
            return math.inf
        largest = max(largest, float(np.abs(expected[0] - computed.transpose(2, 0, 1)).max()))
    return largest
