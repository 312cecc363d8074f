"""Backbones: any timm model, and the feature levels that the loss estimator can read."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors.torch import load_file
from timm.layers.classifier import ClassifierHead
from timm.models.vgg import VGG, ConvMlp
from torch import Tensor, nn

from misgiving.errors import DataError, UsageError, reason_of
from misgiving.models.adapters import Reading


class MiniVgg(VGG):
    """The 13 convolutions of VGG-16 with few channels, batch normalisation and a small head.

    For small images (16 pixels or more: there is no pooling after the last convolution) and quick
    runs; there are no published ImageNet weights.
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
        UsageError: The name is unknown, the weights are not available, or the model does not end
            in one linear layer (distilled transformers end in two).
    """
    if name == "vgg16_mini":
        if pretrained:
            raise UsageError("'vgg16_mini' has no ImageNet weights; use `pretrained=False`")
        return MiniVgg(num_classes=num_classes, drop_rate=dropout)
    model = _create_timm(name, pretrained, num_classes=num_classes, drop_rate=dropout)
    if not isinstance(model.get_classifier(), nn.Linear):
        raise UsageError(f"backbone {name!r} does not end in one linear layer; choose another")
    if image_size is not None and hasattr(model, "set_input_size"):  # built for one size
        try:
            model.set_input_size(img_size=image_size)
        except (AssertionError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"backbone {name!r} cannot take images of {image_size} pixels "
                f"({reason_of(error)}); choose another `image_size`"
            ) from error
    return cast(nn.Module, model)


def _create_timm(name: str, pretrained: bool, **options: Any) -> Any:
    if not timm.is_model(name):
        similar = get_close_matches(name, [*timm.list_models(), "vgg16_mini"], n=3)
        hint = f"did you mean {' or '.join(similar)}?" if similar else "see timm.list_models()"
        raise UsageError(f"unknown backbone {name!r}; choose vgg16_mini or a timm model; {hint}")
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # by the download of weights, or for an unknown tag after the dot
        raise UsageError(
            f"backbone {name!r} is not available ({reason_of(error)}); "
            "give a local file as `weights`, or use `pretrained=False`"
        ) from error


def default_taps(model: nn.Module) -> tuple[int, ...]:
    """Feature levels for the loss estimator: the paper's four in a VGG, elsewhere the last four.

    timm counts the output of a VGG's last pooling as a separate level; the paper's convolutions
    4, 7, 10 and 13 of VGG-16 are the four levels before it.
    """
    levels = len(_feature_info(model))
    ends_in_pooling = isinstance(model, VGG) and not isinstance(model, MiniVgg)
    last = levels - 1 if ends_in_pooling else levels
    return tuple(range(max(0, last - 4), last))


def tap_channels(model: nn.Module, taps: Sequence[int]) -> tuple[int, ...]:
    """Number of channels at each tapped level.

    Raises:
        UsageError: They are not ascending levels of the model.
    """
    info = _feature_info(model)
    if list(taps) != [level for level in range(len(info)) if level in taps]:
        raise UsageError(
            f"`taps` must be ascending levels from 0 to {len(info) - 1} of this backbone, each "
            f"once, got {', '.join(map(str, taps))}"
        )
    return tuple(int(info[tap]["num_chs"]) for tap in taps)


def _feature_info(model: nn.Module) -> Sequence[Mapping[str, Any]]:
    info = cast(Any, model.feature_info)
    return cast("Sequence[Mapping[str, Any]]", getattr(info, "info", info))


@dataclass(frozen=True)
class TimmReader:
    """Reads the activations of a timm model by its feature levels."""

    taps: tuple[int, ...]
    channels: tuple[int, ...]
    num_classes: int

    def __call__(self, model: Any, images: Tensor) -> Reading:
        """Run the model once."""
        activations: list[Tensor] = []
        if self.taps:
            final, activations = model.forward_intermediates(images, indices=list(self.taps))
        else:
            final = model.forward_features(images)
        features = model.forward_head(final, pre_logits=True)
        return Reading(model.get_classifier()(features), features, activations)

    def classify(self, model: Any, images: Tensor) -> Tensor:
        """Compute the logits alone."""
        logits: Tensor = model.forward_head(model.forward_features(images))
        return logits

    def head(self, model: Any) -> nn.Module | None:
        """The linear layer that gives the logits."""
        return cast(nn.Module, model.get_classifier())


def read_timm(model: nn.Module, taps: Sequence[int] | Sequence[str] | None = None) -> TimmReader:
    """Read a timm model at these feature levels, by default those of `default_taps`.

    Raises:
        UsageError: A level does not exist.
    """
    levels = default_taps(model) if taps is None else cast("tuple[int, ...]", tuple(taps))
    return TimmReader(levels, tap_channels(model, levels), int(cast(Any, model).num_classes))


def normalisation(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel that the backbone's pretrained weights expect."""
    settings = getattr(model, "pretrained_cfg", None) or {}
    half = (0.5, 0.5, 0.5)
    return tuple(settings.get("mean", half)), tuple(settings.get("std", half))


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """Parameters that a weights file filled, and those that did not match."""

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
    weights = _read_weights(path)
    own = model.state_dict()
    matched = sorted(
        name for name in own if name in weights and weights[name].shape == own[name].shape
    )
    if not set(matched) & {name for name, _ in model.named_parameters()}:
        in_file, expected = (", ".join(list(state)[:2]) or "no tensors" for state in (weights, own))
        raise DataError(
            f"{path}: none of its {len(weights)} tensors matches the backbone (the file has "
            f"{in_file}; the backbone {expected}); give a file with timm's names for this "
            "`backbone`"
        )
    for name in matched:
        tensor = weights[name]
        plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
        if not plain or not tensor.isfinite().all():
            raise DataError(f"{path}: {name} has values that are not finite; give another file")
    model.load_state_dict({name: weights[name] for name in matched}, strict=False)
    return WeightsReport(
        matched=tuple(matched),
        missing=tuple(sorted(own.keys() - weights.keys())),
        other_shape=tuple(sorted((own.keys() & weights.keys()) - set(matched))),
        unknown=tuple(sorted(weights.keys() - own.keys())),
    )


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path) if path.suffix == ".safetensors" else _read_torch(path)
    except MemoryError:
        raise
    except Exception as error:  # each damage is reported by another class, of three libraries
        raise DataError(
            f"{path}: not a readable state dict of tensors ({reason_of(error)}); give a "
            "safetensors file, or what `torch.save(model.state_dict(), path)` wrote"
        ) from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old pickle protocols
        content = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model"):  # as common training scripts nest it
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    return {
        name.removeprefix("module."): value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
