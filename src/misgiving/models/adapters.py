"""Any `nn.Module` from images to logits as a classifier whose activations can be read.

Forward hooks read the activations while a call runs, and are removed before it returns: no hook
stays in the module, its weights keep their names, and several threads may call it at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from threading import get_ident
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from misgiving.errors import Parameter, UsageError, reason_of
from misgiving.tensors import Logits

DEFAULT_SIZE = 224  # pixels, where a module does not say for which size it is made
DEFAULT_TAPS = 4
NEARLY_ALL = 0.85  # of the submodules; the longest stage of a ResNet or ConvNeXt has up to 0.75

Reading = tuple[Logits, Float[Tensor, "batch width"], list[Float[Tensor, "batch _ ..."]]]
"""Logits of one call of a classifier, the features before them, and its taps."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of the output of each submodule that was called; empty if it is no tensor."""


@dataclass(frozen=True)
class ModuleReader:
    """Reads the activations of a module by the names of its submodules.

    Attributes:
        taps: Names of the submodules whose outputs are read.
        channels: Number of channels of each.
        axes: Axis of the channels in each output: last for tokens and for channels-last images.
        num_classes: Number of logits.
        head_name: The linear layer that gives the logits; None where there is none.

    An output is averaged when the hook receives it, before an operation in place can change it. Of
    a submodule that is called several times, the last call counts.
    """

    taps: tuple[str, ...]
    channels: tuple[int, ...]
    axes: tuple[int, ...]
    num_classes: int
    head_name: str | None

    def __call__(self, module: nn.Module, images: Tensor) -> Reading:
        """Run the module once."""
        read: dict[str, Tensor] = {}
        inputs_of_head: list[Tensor] = []
        axes = dict(zip(self.taps, self.axes, strict=True))

        def keep(name: str, inputs: tuple[Any, ...], output: Any) -> None:
            tensor = tensor_of(output)
            if name in axes and tensor is not None:
                (average,) = averages([tensor.movedim(axes[name], 1)])
                read[name] = average.to(torch.promote_types(average.dtype, torch.float32))
            if name == self.head_name:
                inputs_of_head.append(inputs[0])

        with _watched(module, {*self.taps, *filter(None, [self.head_name])}, keep):
            logits = logits_of(module(images))
        taps = [read[name] for name in self.taps]
        return logits, [taps[-1], *inputs_of_head][-1], taps


def logits_of(output: Any) -> Tensor:
    """The logits in what a module returns: a tensor, the first of a tuple, or its `logits`.

    Raises:
        UsageError: There are none.
    """
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    logits = tensor_of(getattr(output, "logits", output))
    if logits is None or logits.dim() != 2:
        kind = type(output).__name__ if logits is None else f"shape {tuple(logits.shape)}"
        raise UsageError(f"the module returns {kind}; give one that returns logits (N, classes)")
    return logits


def tensor_of(output: Any) -> Tensor | None:
    """The first tensor of what a submodule returns, which may be a tuple or a record."""
    if isinstance(output, Tensor):
        return output
    parts = list(output.values()) if isinstance(output, Mapping) else output
    if not isinstance(parts, list | tuple):
        return None
    return next((tensor for tensor in map(tensor_of, parts) if tensor is not None), None)


class _Average(torch.autograd.Function):
    """Mean over all positions, whose gradient is a view of one number per channel.

    The gradient of `Tensor.mean` is a full tensor with channels first. Added to the backbone's own
    gradient, it changes the memory format of that too, and the backward pass of a VGG-16 takes a
    sixth longer.
    """

    @staticmethod
    def forward(ctx: Any, activation: Tensor) -> Tensor:
        ctx.shape = activation.shape
        return activation.mean(dim=tuple(range(2, activation.dim())))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        positions = ctx.shape[2:]
        shares: Tensor = gradient / positions.numel()
        return shares[(..., *[None] * len(positions))].expand(ctx.shape)


_average: Callable[[Tensor], Tensor] = _Average.apply


def averages(activations: Sequence[Float[Tensor, "batch _ ..."]]) -> list[Tensor]:
    """Mean of each activation over its positions; what has none is an average already."""
    return [
        _average(activation) if activation.dim() > 2 else activation for activation in activations
    ]


def first_weight(module: nn.Module) -> Tensor:
    """The first floating-point parameter, for device and precision; a float32 without any."""
    weights = (weight for weight in module.parameters() if weight.is_floating_point())
    return next(weights, torch.zeros(0))


@contextmanager
def _watched(
    module: nn.Module, names: set[str], keep: Callable[[str, tuple[Any, ...], Any], None]
) -> Iterator[None]:
    """Give `keep` the name, inputs and output of every call of these that this thread makes."""
    thread = None if torch.compiler.is_compiling() else get_ident()  # compiled code has no threads

    def hook_of(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if torch.compiler.is_compiling() or thread in (None, get_ident()):
                keep(name, inputs, output)

        return hook

    handles = [
        module.get_submodule(name).register_forward_hook(hook_of(name)) for name in sorted(names)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def read_module(
    module: nn.Module,
    taps: Sequence[str] | Sequence[int] | None = None,
    image_size: int | None = None,
    *,
    num_classes: int | None = None,
) -> ModuleReader:
    """Find out by one call, in evaluation mode, how a module is to be read.

    Args:
        module: It is left as it was.
        taps: Names of submodules; None for the last four blocks of its body.
        image_size: Side of the images in pixels; None for what the module says, or else 224.
        num_classes: Number of logits that it must have; None for any.

    Raises:
        UsageError: The module does not give logits for such images, or a tap cannot be read.
    """
    shapes, head, found_classes = _tried(module, image_size or _noted_size(module))
    if found_classes < 2 or num_classes not in (None, found_classes):
        expected = "at least two" if num_classes is None else f"{num_classes}, one for each class"
        raise UsageError(f"the module gives {found_classes} logits for an image, not {expected}")
    chosen = tuple(_body(module, shapes) if taps is None else map(str, taps))
    if not chosen or len(set(chosen)) < len(chosen):
        raise UsageError(
            Parameter("taps"), f" must name one submodule or more, each once, got {list(chosen)}"
        )
    for tap in chosen:
        shape = shapes.get(tap, ())
        if len(shape) < 2 or shape[0] != 2:
            similar = get_close_matches(tap, shapes, n=3) or [*shapes][-3:]
            raise UsageError(
                Parameter("taps"),
                f": {tap!r} gives for 2 images no output (2, channels, ...) but "
                f"{shape or 'none'}; try {', '.join(similar)}, or if the module is compiled, "
                "compile the result instead",
            )
    axes = tuple(_channel_axis(shapes[tap]) for tap in chosen)
    return ModuleReader(
        taps=chosen,
        channels=tuple(shapes[tap][axis] for tap, axis in zip(chosen, axes, strict=True)),
        axes=axes,
        num_classes=found_classes,
        head_name=head,
    )


def _tried(module: nn.Module, size: int) -> tuple[Shapes, str | None, int]:
    """Shapes of outputs, the layer that gives the logits, and their number, for 2 noise images."""
    shapes: dict[str, tuple[int, ...]] = {}
    linear: dict[str, tuple[Tensor, Tensor]] = {}
    layers = dict(module.named_modules())

    def keep(name: str, inputs: tuple[Any, ...], output: Any) -> None:
        tensor = tensor_of(output)
        shapes[name] = () if tensor is None else tuple(tensor.shape)
        if isinstance(layers[name], nn.Linear) and inputs and inputs[0].dim() == 2:
            linear[name] = (inputs[0], output)

    noise = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with evaluating(module), _watched(module, layers.keys() - {""}, keep):
        try:
            output = module(noise.to(first_weight(module)))
        except Exception as error:  # whatever the module's operations raise
            raise UsageError(
                f"the module cannot take images of shape (2, 3, {size}, {size}) "
                f"({reason_of(error)}); give the size that it is made for as ",
                Parameter("image_size"),
            ) from error
    logits, head = logits_of(output), None
    for name, (features, output) in linear.items():
        same = output.data_ptr() == logits.data_ptr() and output.shape == logits.shape
        weight, bias = layers[name].weight, layers[name].bias
        if same and torch.allclose(F.linear(features, weight, bias), logits, rtol=1e-3, atol=1e-5):
            head = name
    return shapes, head, logits.shape[1]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every submodule returns to the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def _noted_size(module: nn.Module) -> int:
    """Side of the images in pixels, as transformers, timm and torchvision note it."""
    config = getattr(module, "config", None)
    settings = getattr(module, "pretrained_cfg", None) or {}
    sizes = [getattr(config, "image_size", None), settings.get("input_size")]
    for size in (*sizes, getattr(module, "image_size", None)):
        side = size[-1] if isinstance(size, Sequence) and size else size
        if isinstance(side, int) and side > 0:
            return side
    return DEFAULT_SIZE


def _channel_axis(shape: tuple[int, ...]) -> int:
    """The axis of the channels in the output of a tap.

    Images are square, so that height and width are the two equal axes; where all three are equal,
    channels are taken to be first.
    """
    if len(shape) == 3:  # tokens of a transformer
        return 2
    return 3 if len(shape) == 4 and shape[1] == shape[2] != shape[3] else 1


def _body(module: nn.Module, shapes: Shapes) -> Sequence[str]:
    """The last four blocks of a network.

    Blocks are the parts of one class: the class whose parts contain most of the submodules that are
    called. A part that contains nearly all of these, as an encoder does, is looked into.
    """
    parts = _parts(module, shapes, "")
    blocks: list[str] = []
    while parts:
        called = {part: sum(f"{name}.".startswith(f"{part}.") for name in shapes) for part in parts}
        kinds: dict[type[nn.Module], list[str]] = {}
        for part in parts:
            kinds.setdefault(type(module.get_submodule(part)), []).append(part)
        blocks = max(kinds.values(), key=lambda names: sum(called[name] for name in names))
        largest = max(blocks, key=lambda name: called[name])
        if called[largest] <= NEARLY_ALL * sum(called[name] for name in blocks):
            break
        blocks, parts = parts, _parts(module, shapes, largest)
    return blocks[-DEFAULT_TAPS:]


def _parts(module: nn.Module, shapes: Shapes, parent: str) -> list[str]:
    """Parts with weights whose outputs have positions.

    A part without such an output, as a list of blocks that is not called, stands for its own parts.
    """
    parts = []
    for child, part in module.get_submodule(parent).named_children():
        name = f"{parent}.{child}" if parent else child
        if any(True for _ in part.parameters()):
            readable = len(shapes.get(name, ())) > 2
            parts += [name] if readable else _parts(module, shapes, name)
    return parts
