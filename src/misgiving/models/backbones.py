"""Backbones: any timm model, with the levels whose activations the loss estimator reads."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers.classifier import ClassifierHead
from timm.models.vgg import VGG, ConvMlp
from torch import Tensor, nn

from misgiving.errors import DataError, UsageError


class MiniVgg(VGG):
    """The 13 convolutions of VGG-16 with few channels, batch normalisation and a small head.

    For small images (16 pixels or more: there is no pooling after the last convolution) and quick
    runs; nobody has published ImageNet weights of it.
    """

    def __init__(self, *, num_classes: int, drop_rate: float) -> None:
        channels = [16, 16, "M", 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M", 64, 64, 64]
        # The ratio keeps timm from first building its head of 4096 x 4096 weights.
        super().__init__(channels, num_classes, mlp_ratio=1 / 4096, norm_layer=nn.BatchNorm2d)
        self.pre_logits = ConvMlp(64, 64, kernel_size=1, drop_rate=drop_rate)
        self.head = ClassifierHead(64, num_classes, drop_rate=drop_rate)
        self.head_hidden_size = 64


def create_backbone(
    name: str,
    *,
    num_classes: int,
    pretrained: bool = False,
    dropout: float = 0.0,
    image_size: int | None = None,
) -> nn.Module:
    """Build a classifier by its timm name, or `vgg16_mini`, for images of `image_size` pixels.

    Raises:
        UsageError: The name is unknown, the weights cannot be had, or the model does not end in
            one linear layer (distilled transformers end in two).
    """
    if name == "vgg16_mini":
        _refuse_pretrained_mini(pretrained)
        if image_size is not None and image_size < 16:
            raise UsageError(f"backbone 'vgg16_mini' needs 16 pixels or more, got {image_size}")
        return MiniVgg(num_classes=num_classes, drop_rate=dropout)
    _check_name(name)
    model: nn.Module = _create(name, pretrained, num_classes=num_classes, drop_rate=dropout)
    if not isinstance(_classifier(model), nn.Linear):
        raise UsageError(f"backbone {name!r} does not end in one linear layer; choose another")
    if image_size is not None and hasattr(
        model, "set_input_size"
    ):  # transformers are built for a size
        _set_input_size(model, name, image_size)
    return model


def _classifier(model: Any) -> object:
    return model.get_classifier()


def _create(name: str, pretrained: bool, **options: Any) -> Any:
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:
        if not pretrained and isinstance(error, RuntimeError):  # an unknown tag after the dot
            raise UsageError(f"unknown backbone {name!r} ({_first_line(error)})") from error
        if not pretrained:
            raise
        raise UsageError(
            f"the ImageNet weights of {name!r} could not be loaded ({_first_line(error)}); "
            "give a local file with --weights, or train from scratch with --no-pretrained"
        ) from error


def _set_input_size(model: Any, name: str, image_size: int) -> None:
    try:
        model.set_input_size(img_size=image_size)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"backbone {name!r} cannot take images of {image_size} pixels "
            f"({_first_line(error)}); choose another --image-size"
        ) from error


def _refuse_pretrained_mini(pretrained: bool) -> None:
    if pretrained:
        raise UsageError(
            "backbone 'vgg16_mini' has no ImageNet weights; train from scratch with --no-pretrained"
        )


def _check_name(name: str) -> None:
    if timm.is_model(name):
        return
    similar = get_close_matches(name, [*timm.list_models(), "vgg16_mini"], n=3)
    hint = f"did you mean {' or '.join(similar)}?" if similar else "see timm.list_models()"
    raise UsageError(f"unknown backbone {name!r}; choose vgg16_mini or any model of timm; {hint}")


def default_taps(model: nn.Module) -> tuple[int, ...]:
    """The levels that the loss estimator reads: the paper's four in a VGG, elsewhere the last four.

    timm counts the output of a VGG's last pooling as a level of its own; the paper's convolutions
    4, 7, 10 and 13 of VGG-16 are the four levels before it.
    """
    levels = len(_feature_info(model))
    ends_in_pooling = isinstance(model, VGG) and not isinstance(model, MiniVgg)
    last = levels - 1 if ends_in_pooling else levels
    return tuple(range(max(0, last - 4), last))


def tap_channels(model: nn.Module, taps: Sequence[int]) -> tuple[int, ...]:
    """The number of channels at each tapped level.

    Raises:
        UsageError: A level does not exist.
    """
    info = _feature_info(model)
    if beyond := [tap for tap in taps if not 0 <= tap < len(info)]:
        raise UsageError(
            f"taps {beyond} do not exist; this backbone has levels 0 to {len(info) - 1}"
        )
    if list(taps) != sorted(set(taps)):
        raise UsageError(f"taps must be ascending and each once, got {', '.join(map(str, taps))}")
    return tuple(int(info[tap]["num_chs"]) for tap in taps)


def _feature_info(model: nn.Module) -> Sequence[Mapping[str, Any]]:
    info = cast(Any, model.feature_info)
    return cast("Sequence[Mapping[str, Any]]", getattr(info, "info", info))


def normalisation(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel that the backbone's pretrained weights expect."""
    settings = getattr(model, "pretrained_cfg", None) or {}
    half = (0.5, 0.5, 0.5)
    return tuple(settings.get("mean", half)), tuple(settings.get("std", half))


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """Which parameters a weights file filled: names that matched, and those that did not."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    other_shape: tuple[str, ...]
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} tensors matched; {len(self.missing)} of the model are not in the "
            f"file, {len(self.other_shape)} have another shape, {len(self.unknown)} are unknown"
        )


def load_weights(model: nn.Module, path: Path) -> WeightsReport:
    """Fill a backbone from a local safetensors or torch state dict; what does not match stays.

    Raises:
        DataError: The file cannot be read as weights, or nothing in it matches the backbone.
    """
    found = _read_weights(path)
    own = model.state_dict()
    matched = {name for name in own if name in found and found[name].shape == own[name].shape}
    report = WeightsReport(
        matched=tuple(sorted(matched)),
        missing=tuple(sorted(own.keys() - found.keys())),
        other_shape=tuple(sorted((own.keys() & found.keys()) - matched)),
        unknown=tuple(sorted(found.keys() - own.keys())),
    )
    if not matched & {name for name, _ in model.named_parameters()}:
        raise DataError(
            f"{path}: none of its {len(found)} tensors matches the backbone "
            f"(the file has {_examples(found)}; the backbone {_examples(own)}); "
            "use a file with timm's parameter names for this --backbone"
        )
    if broken := [n for n in sorted(matched) if not _is_usable(found[n])]:
        raise DataError(f"{path}: {broken[0]} holds no finite numbers; use another file")
    model.load_state_dict({name: found[name] for name in matched}, strict=False)
    return report


def _is_usable(tensor: Tensor) -> bool:
    """Whether a tensor is dense and plain, and all of it finite."""
    plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    return plain and bool(tensor.isfinite().all())


def _examples(state: Mapping[str, Tensor]) -> str:
    return ", ".join(list(state)[:2]) or "no tensors"


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(f"{path}: no such weights file; give a .safetensors or torch state dict")
    try:
        return load_file(path) if path.suffix == ".safetensors" else _read_torch(path)
    except (
        SafetensorError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        OSError,
        EOFError,
    ) as error:
        raise DataError(
            f"{path}: not a readable weights file ({_first_line(error)}); "
            "give a .safetensors file or a torch state dict"
        ) from error
    except Exception as error:
        # torch raises pickle.UnpicklingError for anything beyond tensors; pickle stays unimported.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise DataError(
            f"{path}: not a plain state dict of tensors; save the model's state_dict() instead"
        ) from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old pickle protocols; the file is refused or it is not
        content = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model"):  # as common training scripts nest it
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise TypeError(f"holds a {type(content).__name__}, not a state dict")
    items = [(name, value) for name, value in content.items() if isinstance(name, str)]
    tensors = {name: value for name, value in items if isinstance(value, Tensor)}
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
