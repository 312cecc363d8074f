"""The classifier F and its loss estimator G as one module (paper, section 3; Figure 1)."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from misgiving.errors import UsageError
from misgiving.models.backbones import create_backbone, default_taps, normalisation, tap_channels
from misgiving.models.loss_estimator import LossEstimator, averages

Images = Float[Tensor, "batch 3 height width"]


class Output(NamedTuple):
    """Outputs of the joint model for a batch.

    A higher predicted loss means that the prediction is more likely wrong; trained by ranking, it
    has no unit. `features` are the input of the last linear layer.
    """

    logits: Float[Tensor, "batch classes"]
    predicted_losses: Float[Tensor, " batch"]
    features: Float[Tensor, "batch width"]


class FullOutput(NamedTuple):
    """`Output`, and the averages of the taps over height and width, side by side."""

    logits: Float[Tensor, "batch classes"]
    predicted_losses: Float[Tensor, " batch"]
    features: Float[Tensor, "batch width"]
    taps: Float[Tensor, "batch channels"]


class Normalise(nn.Module):
    """Normalise images in [0, 1] as the backbone's weights expect."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Images) -> Images:
        # Convolutions on a CPU take half the time with channels last. Arithmetic on three channels
        # does not, so that the memory format changes after it.
        normalised = (images - self.mean).div_(self.std)
        return normalised.contiguous(memory_format=torch.channels_last)


class JointClassifier(nn.Module):
    """A classifier with a loss estimator that reads its intermediate activations.

    Args:
        backbone: Any timm model by name, or `vgg16_mini`.
        num_classes: Number of classes K.
        pretrained: Start from timm's ImageNet weights.
        dropout: timm's dropout rate of the backbone, before the last layer.
        taps: timm feature levels that the estimator reads; by default the paper's four in a VGG,
            the last four elsewhere. Empty: no loss estimator, and all predicted losses are NaN.
        hidden: Units of the estimator's linear layer for each tap.
        reads_logits: Give the estimator one more tap, the classifier's own output (detached).
        image_size: Side of the images in pixels, for backbones that are built for one size.

    Images are float in [0, 1]: the backbone's normalisation is a layer of this module. The
    estimator draws its initial weights from a separate generator, so that the classifier gets
    the same random numbers as one without an estimator.

    >>> model = JointClassifier("vgg16_mini", num_classes=3, pretrained=False).eval()
    >>> logits, predicted_losses, features = model(torch.rand(2, 3, 32, 32))
    >>> logits.shape, predicted_losses.shape, features.shape
    (torch.Size([2, 3]), torch.Size([2]), torch.Size([2, 64]))
    """

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        *,
        pretrained: bool = True,
        dropout: float = 0.4,
        taps: Sequence[int] | None = None,
        hidden: int = 128,
        reads_logits: bool = False,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise UsageError(f"`num_classes` must be at least 2, got {num_classes}")
        if hidden < 1:
            raise UsageError(f"`hidden` must be at least 1, got {hidden}")
        if not 0 <= dropout < 1:
            raise UsageError(f"`dropout` must be in [0, 1), got {dropout}")
        self.backbone: Any = create_backbone(
            backbone,
            num_classes=num_classes,
            pretrained=pretrained,
            dropout=dropout,
            image_size=image_size,
        )
        self.taps = default_taps(self.backbone) if taps is None else tuple(taps)
        self.normalise = Normalise(*normalisation(self.backbone))
        channels = tap_channels(self.backbone, self.taps)
        read = num_classes if reads_logits else None
        self.loss_estimator = _create_estimator(channels, hidden, read) if self.taps else None
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves it out of the stub

    def forward(self, images: Images, *, detach_taps: bool = False) -> Output:
        """Classify and estimate losses; `detach_taps` keeps the estimator's gradient out of F."""
        return self._run(images, detach_taps)[0]

    def full_output(self, images: Images) -> FullOutput:
        """The outputs of `forward` with the averages of the taps."""
        output, activations = self._run(images, detach_taps=True)
        taps = averages(activations) or [output.features[:, :0]]
        return FullOutput(*output, torch.cat(taps, dim=1))

    def _run(self, images: Images, detach_taps: bool) -> tuple[Output, list[Tensor]]:
        normalised, activations = self.normalise(images), []
        if self.taps:
            final, activations = self.backbone.forward_intermediates(
                normalised, indices=list(self.taps)
            )
        else:
            final = self.backbone.forward_features(normalised)
        features = self.backbone.forward_head(final, pre_logits=True)
        logits = self.backbone.get_classifier()(features)
        if self.loss_estimator is None:
            return Output(logits, torch.full_like(logits[:, 0], torch.nan), features), []
        if detach_taps:
            activations = [activation.detach() for activation in activations]
        return Output(logits, self.loss_estimator(activations, logits), features), activations

    def classify(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Compute the logits alone, without the loss estimator."""
        final = self.backbone.forward_features(self.normalise(images))
        logits: Tensor = self.backbone.forward_head(final)
        return logits


@torch.no_grad()
def outputs_of(model: nn.Module, batches: Iterable[Tensor]) -> Output:
    """Run a joint model in evaluation mode over batches; all outputs in float32 on the CPU.

    The model returns to the mode it was in, and no random number is drawn. The features have no
    columns, which saves memory.
    """
    outputs = (Output(*model(images)) for images in batches)
    kept = (output._replace(features=output.features[:, :0]) for output in outputs)
    return Output(*_evaluated(model, kept))


@torch.no_grad()
def full_outputs_of(model: JointClassifier, batches: Iterable[Tensor]) -> FullOutput:
    """All outputs as in `outputs_of`, with features and the averages of the taps."""
    return FullOutput(*_evaluated(model, map(model.full_output, batches)))


def _evaluated(model: nn.Module, outputs: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    """Compute outputs in evaluation mode, and put the batches together."""
    was_training = model.training
    model.eval()
    batches = [tuple(tensor.float().cpu() for tensor in output) for output in outputs]
    model.train(was_training)
    return [torch.cat(tensors) for tensors in zip(*batches, strict=True)]


def _create_estimator(
    channels: Sequence[int], hidden: int, num_classes: int | None
) -> LossEstimator:
    """Draw the initial weights from a separate generator."""
    with torch.random.fork_rng(devices=[]):
        seed = int(torch.randint(2**62, ()))
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs as well
        return LossEstimator(channels, hidden, num_classes=num_classes)
