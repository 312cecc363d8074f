"""The classifier F and its loss estimator G as one module (paper, section 3; Figure 1)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float
from timm.models.vgg import VGG
from torch import Tensor, nn

from misgiving.errors import DataError, Parameter, UsageError
from misgiving.models.adapters import (
    ModuleReader,
    Reading,
    averages,
    evaluating,
    first_weight,
    logits_of,
    read_module,
)
from misgiving.models.backbones import MiniVgg, create_backbone
from misgiving.models.views import mean_over_views, views_of
from misgiving.tensors import Images, Logits, Losses


class Output(NamedTuple):
    """Outputs of the joint model for a batch.

    A higher predicted loss means that the prediction is more likely wrong; trained by ranking, it
    has no unit. `features` are the input of the last linear layer, or of a module that does not end
    in one the averages of the last tap.
    """

    logits: Logits
    predicted_losses: Losses
    features: Float[Tensor, "batch width"]


class LossEstimator(nn.Module):
    """Pool, project and concatenate the tapped activations, then predict each sample's loss.

    Each tap, of shape (N, C, ...), goes through global average pooling, a linear layer of `hidden`
    units and ReLU; one linear layer reads them all (paper, section 3; Figure 1). A tap of shape
    (N, C) is taken as an average. The output is unbounded: a ranking needs no scale, and a squared
    error finds its own.

    With `num_classes` there is one more tap, which the paper does not have: the classifier's own
    output (`shape_of_logits`), through as many units.
    """

    def __init__(
        self, channels: Sequence[int], hidden: int = 128, *, num_classes: int | None = None
    ) -> None:
        super().__init__()
        widths = [*channels, *([] if num_classes is None else [num_classes + 2])]
        self.projections = nn.ModuleList(nn.Linear(width, hidden) for width in widths)
        self.head = nn.Linear(len(widths) * hidden, 1)
        self.reads_logits = num_classes is not None

    def forward(
        self,
        activations: Sequence[Float[Tensor, "batch _ ..."]],
        logits: Logits | None = None,
    ) -> Losses:
        taps = averages(activations)
        if self.reads_logits and logits is not None:
            taps.append(shape_of_logits(logits))
        projected = [
            project(vector).relu() for project, vector in zip(self.projections, taps, strict=True)
        ]
        predicted: Tensor = self.head(torch.cat(projected, dim=1))
        return predicted.squeeze(1)


def shape_of_logits(logits: Logits) -> Float[Tensor, "batch width"]:
    """Sorted log-probabilities, entropy and log-sum-exp of each sample, regardless of class order.

    Detached: the estimator learns from the classifier's output without changing it. In single
    precision or better, as the averages of a module in half precision are.

    >>> shape_of_logits(torch.tensor([[0.0, 0.0]])).exp().round(decimals=2)
    tensor([[0.5000, 0.5000, 2.0000, 2.0000]])
    """
    logits = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    log_probabilities = logits.log_softmax(dim=1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=1, keepdim=True)
    ordered = log_probabilities.sort(dim=1, descending=True).values
    return torch.cat([ordered, entropy, logits.logsumexp(dim=1, keepdim=True)], dim=1)


class Normalise(nn.Module):
    """Normalise images in [0, 1] as the backbone's weights expect.

    Args:
        mean: For each channel.
        std: For each channel.
        channels_last: Store the channels last, which changes no value.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        *,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if mean is None or std is None or not (len(mean) == len(std) == 3 and min(std) > 0):
            names = Parameter("mean"), " and ", Parameter("std")
            raise UsageError(*names, f" must be 3 numbers each, got {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.channels_last = channels_last

    def forward(self, images: Images) -> Images:
        normalised = (images - self.mean).div_(self.std)
        if not self.channels_last:
            return normalised
        # Convolutions on a CPU take half the time with channels last. Arithmetic on three channels
        # does not, so that the memory format changes after it.
        return normalised.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class TimmReader:
    """Reads the activations of a timm model by its feature levels."""

    taps: tuple[int, ...]
    channels: tuple[int, ...]
    num_classes: int
    head_name: str

    def __call__(self, model: Any, images: Tensor) -> Reading:
        """Run the model once."""
        activations: list[Tensor] = []
        if self.taps:
            final, activations = model.forward_intermediates(images, indices=list(self.taps))
        else:
            final = model.forward_features(images)
        features = model.forward_head(final, pre_logits=True)
        return model.get_classifier()(features), features, activations


def read_timm(model: nn.Module, taps: Sequence[int] | Sequence[str] | None = None) -> TimmReader:
    """Read a timm model at these feature levels: by default the paper's four of a VGG, or the last.

    timm counts the output of a VGG's last pooling as a separate level; the paper's convolutions
    4, 7, 10 and 13 of VGG-16 are the four levels before it.

    Raises:
        UsageError: They are not ascending levels of the model.
    """
    info = cast(Any, model).feature_info
    levels = cast("Sequence[Mapping[str, Any]]", getattr(info, "info", info))
    ends_in_pooling = isinstance(model, VGG) and not isinstance(model, MiniVgg)
    last = len(levels) - 1 if ends_in_pooling else len(levels)
    usual = tuple(range(max(0, last - 4), last))
    chosen = usual if taps is None else cast("tuple[int, ...]", tuple(taps))
    if chosen != tuple(level for level in range(len(levels)) if level in chosen):
        raise UsageError(
            Parameter("taps"),
            f" must be ascending levels from 0 to {len(levels) - 1} of this backbone, each "
            f"once, got {', '.join(map(str, chosen))}",
        )
    channels = tuple(int(levels[tap]["num_chs"]) for tap in chosen)
    head = cast(Any, model).get_classifier()
    name = next(name for name, module in model.named_modules() if module is head)
    return TimmReader(chosen, channels, head.out_features, name)


class JointClassifier(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="misgiving",
    pipeline_tag="image-classification",
):
    """A classifier with a loss estimator that reads its intermediate activations.

    Args:
        backbone: Any timm model by name, or `vgg16_mini`; or any module from images (N, 3, H, W) to
            logits, which may come in a tuple or in an object with `.logits`. A module is not
            copied: training this model trains it.
        num_classes: Number of classes K; a module has as many as it has logits.
        pretrained: Start a timm model from its ImageNet weights.
        dropout: Dropout rate of a timm model, before the last layer.
        taps: What the estimator reads. Of a timm model feature levels: by default the paper's four
            in a VGG, the last four elsewhere; empty: no loss estimator, and all predicted losses
            are NaN. Of a module names of submodules, as in `named_modules`: by default the last
            four blocks of its body.
        hidden: Units of the estimator's linear layer for each tap.
        reads_logits: Give the estimator one more tap, the classifier's own output (detached).
        image_size: Side of the images in pixels, for models that are built for one size.
        mean: Mean of each channel, by which images are normalised for a module; by default they
            are not. A timm model is given its own.
        std: Standard deviation of each channel.

    Attributes:
        classes: Names of the classes in the order of the logits, where `attach` was given some.
        frozen: True while the classifier is frozen.

    Images are float in [0, 1]: the backbone's normalisation is a layer of this module. The
    estimator draws its initial weights from a separate generator, so that the classifier gets
    the same random numbers as one without an estimator.

    `save_pretrained`, `push_to_hub` and `from_pretrained` are those of Hugging Face's hub. A module
    is not saved but for its weights: pass it again, `from_pretrained(name, backbone=module)`.

    >>> model = JointClassifier("vgg16_mini", num_classes=3, pretrained=False).eval()
    >>> logits, predicted_losses, features = model(torch.rand(2, 3, 32, 32))
    >>> logits.shape, predicted_losses.shape, features.shape
    (torch.Size([2, 3]), torch.Size([2]), torch.Size([2, 64]))
    >>> layers = torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(288, 5)
    >>> model = JointClassifier(torch.nn.Sequential(*layers), taps=["0"], image_size=8)
    >>> model(torch.rand(2, 3, 8, 8)).logits.shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        backbone: str | nn.Module,
        num_classes: int | None = None,
        *,
        pretrained: bool = True,
        dropout: float = 0.4,
        taps: Sequence[int] | Sequence[str] | None = None,
        hidden: int = 128,
        reads_logits: bool = False,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.classes: tuple[str, ...] | None = None
        self.frozen = False
        if hidden < 1 or not 0 <= dropout < 1:
            raise UsageError(
                *(Parameter("hidden"), " must be at least 1 and ", Parameter("dropout")),
                f" in [0, 1), got hidden={hidden}, dropout={dropout}",
            )
        self.reader: ModuleReader | TimmReader
        if isinstance(backbone, nn.Module):
            self.backbone: nn.Module = backbone
            self.reader = read_module(backbone, taps, image_size, num_classes=num_classes)
            self.normalise = nn.Identity() if mean is std is None else Normalise(mean, std)
        else:
            self.backbone = create_backbone(
                backbone,
                num_classes=num_classes,
                pretrained=pretrained,
                dropout=dropout,
                image_size=image_size,
            )
            self.reader = read_timm(self.backbone, taps)
            settings = getattr(self.backbone, "pretrained_cfg", None) or {}
            mean, std = (settings.get(name, (0.5, 0.5, 0.5)) for name in ("mean", "std"))
            self.normalise = Normalise(mean, std, channels_last=True)
        self.loss_estimator = self._new_estimator(hidden, reads_logits) if self.taps else None
        if not isinstance(backbone, nn.Module):  # another layout changes the last bits of a module
            cast(Any, self).to(memory_format=torch.channels_last)  # not in the stub of some torch

    def _new_estimator(self, hidden: int, reads_logits: bool) -> LossEstimator:
        """Draw the initial weights from a separate generator; on the device of the backbone."""
        read = self.reader.num_classes if reads_logits else None
        with torch.random.fork_rng(devices=[]):
            seed = int(torch.randint(2**62, ()))
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs as well
            estimator = LossEstimator(self.reader.channels, hidden, num_classes=read)
        weight = first_weight(self.backbone)
        return estimator.to(weight.device, torch.promote_types(weight.dtype, torch.float32))

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> "JointClassifier":
        """Load a model from a folder or from the hub, in evaluation mode; all weights must fit."""
        settings = {"pretrained": False, "strict": True, **kwargs}
        return super().from_pretrained(*args, **settings)

    @classmethod
    def _load_as_pickle(cls, *_: object) -> NoReturn:
        raise DataError("the model has no model.safetensors, and pickled weights are not loaded")

    @property
    def taps(self) -> tuple[int, ...] | tuple[str, ...]:
        """Feature levels or submodules that the estimator reads."""
        return self.reader.taps

    @property
    def head(self) -> nn.Linear | None:
        """The last linear layer, which gives the logits of the features; None without one."""
        name = self.reader.head_name
        return cast(nn.Linear, self.backbone.get_submodule(name)) if name else None

    def forward(self, images: Images, *, detach_taps: bool = False) -> Output:
        """Classify and estimate losses; `detach_taps` keeps the estimator's gradient out of F."""
        return self._run(images, detach_taps)[0]

    def full_output(self, images: Images, views: int = 1) -> tuple[Tensor, ...]:
        """The three outputs of `forward`, and the averages of the taps, (batch, channels).

        Each is the mean over so many views of an image (`views_of`).
        """
        output, activations = self._run(views_of(images, views), detach_taps=True)
        means = mean_over_views((*output, *averages(activations)), views)
        logits, losses, features, *taps = means
        return logits, losses, features, torch.cat(taps or [features[:, :0]], dim=1)

    def _run(self, images: Images, detach_taps: bool) -> tuple[Output, list[Tensor]]:
        logits, features, activations = self.reader(self.backbone, self._normalised(images))
        if self.loss_estimator is None:
            return Output(logits, torch.full_like(logits[:, 0], torch.nan), features), []
        if detach_taps:
            activations = [activation.detach() for activation in activations]
        return Output(logits, self.loss_estimator(activations, logits), features), activations

    def classify(self, images: Images) -> Logits:
        """Compute the logits alone, without the loss estimator."""
        return logits_of(self.backbone(self._normalised(images)))

    def _normalised(self, images: Images) -> Images:
        """Normalised images in the precision of the classifier, which may be a half."""
        normalised: Images = self.normalise(images)
        return normalised.to(first_weight(self.backbone).dtype)

    def freeze_classifier(self) -> "JointClassifier":
        """Keep the classifier in evaluation mode and without gradients.

        Batch normalisation and dropout stay off in `train`. The loss estimator can be trained.
        """
        self.frozen = True
        self.backbone.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> "JointClassifier":
        """Set the mode, except of a frozen classifier."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self


def evaluated(model: nn.Module, outputs: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    """Compute the outputs of batches in evaluation mode; joined, in float32 on the CPU.

    The model returns to the mode it was in, and no random number is drawn.
    """
    with evaluating(model):
        batches = [tuple(tensor.float().cpu() for tensor in output) for output in outputs]
    return [torch.cat(tensors) for tensors in zip(*batches, strict=True)]
