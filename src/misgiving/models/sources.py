"""Classifiers of other libraries, built again from their own configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from misgiving.models.backbones import create_backbone
from misgiving.registry import Registry


@dataclass(frozen=True, kw_only=True)
class ModuleSource:
    """What builds a classifier of another library, without its weights.

    Attributes:
        library: `timm`, `torchvision` or `transformers`.
        config: For transformers the content of `config.json`; for the others name, number of
            classes and image size.
        mean: Mean of each channel by which its images are normalised.
        std: Standard deviation of each channel.
    """

    library: str
    config: Mapping[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def build(self) -> nn.Module:
        """Build the module with random weights."""
        return LIBRARIES[self.library](self.config)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModuleSource":
        """Inverse of `asdict`, for values in a file."""
        mean, std = (tuple(map(float, values[name])) for name in ("mean", "std"))
        return cls(library=values["library"], config=dict(values["config"]), mean=mean, std=std)


def _from_timm(config: Mapping[str, Any]) -> nn.Module:
    return create_backbone(
        config["name"], num_classes=config["num_classes"], image_size=config["image_size"]
    )


def _from_torchvision(config: Mapping[str, Any]) -> nn.Module:
    from torchvision.models import get_model

    return cast(nn.Module, get_model(config["name"], num_classes=config["num_classes"]))


def _from_transformers(config: Mapping[str, Any]) -> nn.Module:
    """No code that comes with a model is run: the class is one of transformers' own."""
    from transformers import AutoConfig, AutoModelForImageClassification

    settings = {name: value for name, value in config.items() if name != "model_type"}
    built = AutoConfig.for_model(config["model_type"], **settings)
    return cast(nn.Module, AutoModelForImageClassification.from_config(built)).float()


LIBRARIES: Registry[Callable[[Mapping[str, Any]], nn.Module]] = Registry(
    "library", timm=_from_timm, torchvision=_from_torchvision, transformers=_from_transformers
)
