"""Classifiers that were trained elsewhere, with their classes and their preprocessing.

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
from misgiving.errors import DataError, UsageError, reason_of
from misgiving.files import read_json
from misgiving.models.backbones import create_backbone, load_weights
from misgiving.models.sources import ModuleSource
from misgiving.registry import Registry
from misgiving.workflows.image_processors import settings_of_processor

CROPS_OF_TIMM = {"center": "resized", "squash": "squashed_round"}
CLOSE = 1e-5  # how far a normalised pixel may be from the image processor's
AGAIN = "save the model again by its `save_pretrained`"


class TrainedModel(NamedTuple):
    """A trained classifier with all that belongs to it.

    Attributes:
        module: From normalised images to logits, in evaluation mode.
        name: Of its architecture.
        source: What builds it again.
        classes: Names in the order of the logits.
        preprocessing: From an image to the square that it sees.
        remarks: Sentences for its user.
    """

    module: nn.Module
    name: str
    source: ModuleSource
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    remarks: tuple[str, ...] = ()


class _Normalised(NamedTuple):
    """A preprocessing, and the normalisation that follows it."""

    preprocessing: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]


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
            f"{model}: neither a folder of Hugging Face's format, nor are there `weights`; give "
            "the file of the trained weights of a timm or torchvision model"
        )
    source, preprocessing = SETTINGS[library or "timm"](name, len(classes), image_size)
    module = source.build()
    report = load_weights(module, weights)
    if left := (*report.missing, *report.other_shape):
        raise DataError(
            f"{weights}: does not fill {name} with {len(classes)} classes ({left[0]} is missing or "
            "has another shape); give the model's own weights, and all its `classes` in order"
        )
    return TrainedModel(module.eval(), name, source, tuple(classes), preprocessing)


class _Settings(NamedTuple):
    """Source of a named model, and the preprocessing of its images."""

    source: ModuleSource
    preprocessing: Preprocessing


def _settings_of_timm(name: str, num_classes: int, image_size: int | None) -> _Settings:
    module = create_backbone(name, num_classes=num_classes, image_size=image_size)
    wanted = resolve_data_config({}, model=module)
    side = image_size or int(wanted["input_size"][-1])
    if (mode := wanted["crop_mode"]) not in CROPS_OF_TIMM:
        raise UsageError(
            f"{name}: timm prepares its images with the crop mode {mode!r}, which cannot be "
            "reproduced here; attach it in Python by `misgiving.attach`"
        )
    wanted["crop_shape"] = CROPS_OF_TIMM[mode]
    return _settings("timm", name, num_classes, side, side / wanted["crop_pct"], wanted)


def _settings_of_torchvision(name: str, num_classes: int, image_size: int | None) -> _Settings:
    from torchvision.models import get_model_weights

    try:
        usual = get_model_weights(name).DEFAULT.transforms()
        cut, resized = int(usual.crop_size[0]), int(usual.resize_size[0])
        wanted = {
            "crop_shape": "resized",
            "interpolation": usual.interpolation.value,
            "mean": usual.mean,
            "std": usual.std,
        }
    except (ValueError, AttributeError, KeyError) as error:
        raise UsageError(
            f"torchvision has no image classifier {name!r} ({reason_of(error)}); see "
            "torchvision.models.list_models()"
        ) from error
    side = image_size or cut
    return _settings("torchvision", name, num_classes, side, side * resized / cut, wanted)


SETTINGS: Registry[Callable[[str, int, int | None], _Settings]] = Registry(
    "library", timm=_settings_of_timm, torchvision=_settings_of_torchvision
)


def _settings(
    library: str, name: str, num_classes: int, side: int, resized: float, wanted: Mapping[str, Any]
) -> _Settings:
    """The settings of a model whose images are resized, and then cropped to `side` pixels."""
    source = ModuleSource(
        library=library,
        config={"name": name, "num_classes": num_classes, "image_size": side},
        mean=tuple(map(float, wanted["mean"])),
        std=tuple(map(float, wanted["std"])),
    )
    preprocessing = Preprocessing(
        image_size=side,
        crop=side / math.floor(resized),
        crop_shape=wanted["crop_shape"],
        color_constancy="none",
        interpolation=wanted["interpolation"],
        reduce_jpeg=False,
    )
    return _Settings(source, preprocessing)


def load_hugging_face(folder: Path) -> TrainedModel:
    """Load an image classifier and its image processor from a folder of Hugging Face's format.

    Raises:
        DataError: The folder has no such model, or something of it cannot be reproduced here.
    """
    config = read_json(folder / "config.json", remedy=AGAIN)
    _refuse_unsafe(folder, config)
    import transformers

    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        module, found = transformers.AutoModelForImageClassification.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises almost anything on a folder of another kind
        raise DataError(
            f"{folder}: not a readable image classifier ({reason_of(error)}); {AGAIN}"
        ) from error
    if left := [*found["missing_keys"], *found["mismatched_keys"]]:
        raise DataError(
            f"{folder}: its weights have no {left[0]}: it is not a trained classifier; give the "
            "folder of one"
        )
    module = module.float().eval()
    normalised, remarks = _image_processing(folder)
    settings = module.config.to_dict()
    settings = {name: of for name, of in settings.items() if name not in ("dtype", "torch_dtype")}
    return TrainedModel(
        module=module,
        name=type(module).__name__,
        source=ModuleSource(
            library="transformers", config=settings, mean=normalised.mean, std=normalised.std
        ),
        classes=tuple(str(module.config.id2label[at]) for at in range(module.config.num_labels)),
        preprocessing=normalised.preprocessing,
        remarks=remarks,
    )


def _refuse_unsafe(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse pickled weights, code of the model's own, and classes that do not exclude others."""
    if "auto_map" in config:
        raise DataError(
            f"{folder}: needs code of its own (`auto_map` in config.json), which is not run; "
            "attach it in Python by `misgiving.attach`"
        )
    if config.get("problem_type") == "multi_label_classification":
        raise DataError(
            f"{folder}: gives several classes for an image (`problem_type` in config.json); give a "
            "model of classes that exclude each other"
        )
    if not list(folder.glob("*.safetensors")):
        pickled = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "no weights"
        raise DataError(f"{folder}: has {pickled}, and only safetensors are read; {AGAIN}")
    if not (folder / "preprocessor_config.json").is_file():
        raise DataError(
            f"{folder}: has no preprocessor_config.json, which says how images are prepared; save "
            "the model's image processor there, too"
        )


def _image_processing(folder: Path) -> tuple[_Normalised, tuple[str, ...]]:
    """The image processor of a model as a preprocessing with the same result.

    The processor itself is run on images of noise. Its own results, computed by Pillow, must be
    ours; the other way that it may have to compute them, by torchvision, may round differently.
    """
    from transformers import AutoImageProcessor

    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **local)
        usual = AutoImageProcessor.from_pretrained(folder, **local)
    except Exception as error:  # transformers raises almost anything
        raise DataError(
            f"{folder}: its image processor cannot be loaded ({reason_of(error)}); save it again"
        ) from error
    normalised = _preprocessing_of(folder, processor.to_dict())
    if (difference := _difference(normalised, processor)) > CLOSE:
        raise DataError(
            f"{folder}: its {type(processor).__name__} does something that cannot be reproduced "
            f"here (pixels differ by {difference:.2g}); attach it in Python by `misgiving.attach`"
        )
    if (difference := _difference(normalised, usual)) <= CLOSE:
        return normalised, ()
    levels = difference * 255 * max(normalised.std)
    return normalised, (
        "images are prepared as the model's image processor does it with Pillow; with torchvision, "
        f"its default, pixels of noise differ by up to {levels:.0f} of 255 grey levels",
    )


def _preprocessing_of(folder: Path, settings: Mapping[str, Any]) -> _Normalised:
    """Convert the settings of an image processor."""
    try:
        found = settings_of_processor(settings)
    except UsageError as error:
        raise DataError(
            f"{folder}: its image processor cannot be reproduced here: {error}; attach it in "
            "Python by `misgiving.attach`"
        ) from error
    names = ("image_size", "crop", "crop_shape", "interpolation")
    preprocessing = Preprocessing(
        **{name: found[name] for name in names}, color_constancy="none", reduce_jpeg=False
    )
    mean, std = (
        tuple(float(value) / found["scale"] for value in np.broadcast_to(found[name], 3))
        for name in ("mean", "std")
    )
    return _Normalised(preprocessing, mean, std)


def _difference(normalised: _Normalised, processor: Any) -> float:
    """The largest difference of a normalised pixel of noise; infinite if the shapes differ."""
    preprocessing, mean, std = normalised
    random, side = np.random.default_rng(0), preprocessing.image_size
    largest = 0.0
    for height, width in ((side + 13, 2 * side + 6), (2 * side + 1, side + 8), (side // 2 + 1, 50)):
        picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        theirs = np.asarray(
            processor(Image.fromarray(picture), return_tensors="np")["pixel_values"]
        )
        ours = (preprocessing(picture) / 255 - np.array(mean)) / np.array(std)
        if theirs.shape != (1, 3, *ours.shape[:2]):
            return float("inf")
        largest = max(largest, float(np.abs(theirs[0] - ours.transpose(2, 0, 1)).max()))
    return largest
