"""Batch normalisations that are made part of the convolutions before them.

In evaluation mode a batch normalisation is a factor and a summand for each channel. ODIN runs
forward and backward through the model, and on a processor a quarter of its time goes into reading
and writing memory for them.
"""

from collections import Counter
from contextlib import ExitStack
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from misgiving.models.joint import JointClassifier

MAX_LOGIT_DIFFERENCE = 1e-4  # of a logit, as a share of the largest
AFTER = ("drop", "act")  # what timm's normalisations do after they have normalised


def folded(model: JointClassifier, size: int) -> JointClassifier:
    """A copy without such layers that gives the same logits, or the model itself.

    A model may also use the output of a convolution elsewhere, so logits of noise are compared.

    Args:
        model: In evaluation mode. Only `classify` of the copy is meant to be used.
        size: Side of an image in pixels.
    """
    noise = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    noise = noise.to(next(model.parameters()).device)
    copied = deepcopy(model)
    with torch.no_grad():
        pairs = _foldable(copied, noise)
        if not pairs:
            return model
        names = {module: name for name, module in copied.named_modules()}
        for norm, convolution in pairs.items():
            fused = fuse_conv_bn_eval(convolution, norm)
            convolution.weight, convolution.bias = fused.weight, fused.bias
            rest = [getattr(norm, part) for part in AFTER if hasattr(norm, part)]
            copied.set_submodule(names[norm], nn.Sequential(*rest))
        folded_logits, logits = copied.classify(noise), model.classify(noise)
    same = (folded_logits - logits).abs().max() <= MAX_LOGIT_DIFFERENCE * logits.abs().max()
    return copied if same else model


def _foldable(model: JointClassifier, images: Tensor) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """Normalisations that read what a convolution has written, where both run once."""
    written: dict[int, tuple[nn.Module, Tensor]] = {}  # a kept tensor keeps its id
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}
    runs: Counter[nn.Module] = Counter()

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        runs[module] += 1
        producer, _ = written.get(id(inputs[0]), (None, None))
        if isinstance(module, nn.BatchNorm2d) and isinstance(producer, nn.Conv2d):
            pairs[module] = producer
        written[id(output)] = (module, output)

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
                hooks.callback(module.register_forward_hook(note).remove)
        model.classify(images)
    return {
        norm: convolution
        for norm, convolution in pairs.items()
        if runs[norm] == runs[convolution] == 1 and norm.running_mean is not None
    }
