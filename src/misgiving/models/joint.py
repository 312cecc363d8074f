"""The predictor F and its loss estimator G as one module (paper, section 3; Figure 1)."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from misgiving.errors import UsageError
from misgiving.models.backbones import create_backbone, default_taps, normalisation, tap_channels
from misgiving.models.loss_estimator import LossEstimator

Images = Float[Tensor, "batch 3 height width"]


class Output(NamedTuple):
    """What the joint model says about a batch.

    `predicted_losses` order samples by how wrong the classifier may be (higher = rather wrong);
    trained by ranking they have no unit. `features` are the input of the last linear layer.
    """

    logits: Float[Tensor, "batch classes"]
    predicted_losses: Float[Tensor, " batch"]
    features: Float[Tensor, "batch width"]


class Normalise(nn.Module):
    """From [0, 1] to what the backbone's weights expect, so that nobody else has to know it."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Images) -> Images:
        # Convolutions on a processor take half the time on channels that lie last; arithmetic does
        # not, on only three of them, so that their order is turned at the end.
        normalised = (images - self.mean).div_(self.std)
        return normalised.contiguous(memory_format=torch.channels_last)


class JointClassifier(nn.Module):
    """A classifier with a loss estimator that reads its intermediate activations.

    Args:
        backbone: Any timm model by name, or `vgg16_mini`.
        num_classes: Number of classes K.
        pretrained: Start from timm's ImageNet weights.
        dropout: Dropout before the last layer (and where else timm applies the backbone's rate).
        taps: timm feature levels that the estimator reads; by default the paper's four in a VGG,
            the last four elsewhere. Empty: no loss estimator, and all predicted losses are NaN.
        hidden: Units of the estimator's linear layer for each tap.
        reads_logits: Give the estimator one more tap, the classifier's own output (detached).
        image_size: Side of the images in pixels, for backbones that are built for one size.

    Images are float in [0, 1]: the backbone's normalisation is a layer of this module. The
    estimator draws its first weights from a generator of its own, so that the classifier starts
    from, and goes on with, the same random numbers as one without an estimator.

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
        _check(num_classes=num_classes, hidden=hidden, dropout=dropout)
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
        self.loss_estimator = _from_own_generator(channels, hidden, read) if self.taps else None
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves it out of the stub

    def forward(self, images: Images, *, detach_taps: bool = False) -> Output:
        """Classify and estimate losses; `detach_taps` keeps the estimator's gradient out of F."""
        final, activations = self._forward_backbone(self.normalise(images))
        features = self.backbone.forward_head(final, pre_logits=True)
        logits = self.backbone.get_classifier()(features)
        if self.loss_estimator is None:
            return Output(logits, torch.full_like(logits[:, 0], torch.nan), features)
        if detach_taps:
            activations = [activation.detach() for activation in activations]
        return Output(logits, self.loss_estimator(activations, logits), features)

    def _forward_backbone(self, normalised: Tensor) -> tuple[Tensor, list[Tensor]]:
        if not self.taps:
            return self.backbone.forward_features(normalised), []
        final, activations = self.backbone.forward_intermediates(
            normalised, indices=list(self.taps)
        )
        return final, activations

    def classify(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Logits alone, as the detectors want them; the estimator is not run."""
        final = self.backbone.forward_features(self.normalise(images))
        logits: Tensor = self.backbone.forward_head(final)
        return logits


@torch.no_grad()
def outputs_of(
    model: nn.Module, batches: Iterable[Tensor], *, keep_features: bool = True
) -> Output:
    """Run a joint model in evaluation mode over batches; everything in float32 on the CPU.

    The model comes back in the mode it was in, and no random number is drawn. Without
    `keep_features` the features have no columns, so that memory does not grow with their width.
    """
    was_training = model.training
    model.eval()
    parts = []
    for images in batches:
        output = Output(*model(images))
        kept = output if keep_features else output._replace(features=output.features[:, :0])
        parts.append(Output(*(tensor.float().cpu() for tensor in kept)))
    model.train(was_training)
    return Output(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _from_own_generator(
    channels: Sequence[int], hidden: int, num_classes: int | None
) -> LossEstimator:
    with torch.random.fork_rng(devices=[]):
        seed = int(torch.randint(2**62, ()))
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs as well
        return LossEstimator(channels, hidden, num_classes=num_classes)


def _check(*, num_classes: int, hidden: int, dropout: float) -> None:
    if num_classes < 2:
        raise UsageError(f"num_classes must be at least 2, got {num_classes}")
    if hidden < 1:
        raise UsageError(f"hidden must be at least 1, got {hidden}")
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout must be in [0, 1), got {dropout}")
