"""Backbones: any timm model by its name, classifiers of other libraries, and files of weights."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import timm
import torch
from huggingface_hub import constants, get_session
from safetensors.torch import load_file
from timm.layers.classifier import ClassifierHead
from timm.models.vgg import VGG, ConvMlp
from torch import Tensor, nn

from misgiving.errors import DataError, Parameter, UsageError, explain_damage, reason_of
from misgiving.registry import Registry


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
    num_classes: int | None,
    pretrained: bool = False,
    dropout: float = 0.0,
    image_size: int | None = None,
) -> nn.Module:
    """Build a classifier by its timm name, or `vgg16_mini`, for images of `image_size` pixels.

    Raises:
        UsageError: The name is unknown, the weights are not available, or the model does not end
            in one linear layer (distilled transformers end in two).
    """
    if num_classes is None or num_classes < 2:
        raise UsageError(Parameter("num_classes"), f" must be at least 2, got {num_classes}")
    if name == "vgg16_mini" and not pretrained:
        return MiniVgg(num_classes=num_classes, drop_rate=dropout)
    options = {"num_classes": num_classes, "drop_rate": dropout, "pretrained": pretrained}
    model: Any = _create_timm(name, image_size, **options)
    if not isinstance(model.get_classifier(), nn.Linear):
        raise UsageError(f"backbone {name!r} does not end in one linear layer; choose another")
    return cast(nn.Module, model)


def _create_timm(name: str, image_size: int | None, **options: Any) -> Any:
    if not timm.is_model(name):
        similar = get_close_matches(name, timm.list_models(), n=3)
        raise UsageError(
            f"timm has no backbone {name!r}; choose {' or '.join(similar) or 'another'}, or "
            "vgg16_mini with ",
            Parameter("pretrained", False),
        )
    try:
        with _without_retries() if options["pretrained"] else nullcontext():
            model: Any = timm.create_model(name, **options)
        if image_size is not None and hasattr(model, "set_input_size"):  # built for one size
            model.set_input_size(img_size=image_size)
    except Exception as error:  # for weights that are not there, an unknown tag, another size
        raise UsageError(
            f"backbone {name!r} is not available for images of {image_size or 'any'} pixels "
            f"({reason_of(error)}); give a local file as ",
            *(Parameter("weights"), ", use ", Parameter("pretrained", False)),
            *(", or if it takes one size alone, choose another ", Parameter("image_size")),
        ) from error
    return model


@contextmanager
def _without_retries() -> Iterator[None]:
    """Use only cached weights where the model hub does not answer; its client retries a minute."""
    offline = constants.HF_HUB_OFFLINE
    try:
        status = get_session().head(constants.ENDPOINT, timeout=5.0).status_code
    except Exception:  # the client's kind of error depends on its version
        status = HTTPStatus.SERVICE_UNAVAILABLE
    constants.HF_HUB_OFFLINE = offline or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


@dataclass(frozen=True, kw_only=True)
class ModuleSource:
    """Source of a classifier of another library: builds it again, without its weights.

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
    "library",
    timm=lambda config: create_backbone(**config),
    torchvision=_from_torchvision,
    transformers=_from_transformers,
)


def load_weights(model: nn.Module, path: Path) -> tuple[list[str], list[str]]:
    """Fill a backbone from a local safetensors or torch state dict; what does not match stays.

    Returns the names of the backbone's tensors that it did not fill, and of its unknown ones.

    Raises:
        DataError: The file cannot be read as weights, or nothing in it matches the backbone.
    """
    remedy = "give a safetensors file, or what `torch.save(model.state_dict(), path)` wrote"
    with explain_damage(path, remedy=remedy):
        weights = load_file(path) if path.suffix == ".safetensors" else _read_torch(path)
    own = model.state_dict()
    matched = {
        name: weights[name]
        for name in sorted(own.keys() & weights.keys())
        if weights[name].shape == own[name].shape
    }
    if not matched.keys() & {name for name, _ in model.named_parameters()}:
        in_file, expected = (", ".join(list(state)[:2]) or "no tensors" for state in (weights, own))
        raise DataError(
            f"{path}: none of its {len(weights)} tensors matches the backbone (the file has "
            f"{in_file}; the backbone {expected}); give a file with timm's names for this ",
            Parameter("backbone"),
        )
    with explain_damage(path, remedy=remedy):
        model.load_state_dict(matched, strict=False)
    return sorted(own.keys() - matched.keys()), sorted(weights.keys() - own.keys())


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
