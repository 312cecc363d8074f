"""Any `nn.Module` from images to logits as a classifier whose activations can be read.

Forward hooks read the activations while a call runs, and are removed before it returns: no hook
stays in the module, its weights keep their names, and several threads may call it at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from threading import get_ident
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from misgiving.errors import UsageError, reason_of
from misgiving.models.loss_estimator import averages

DEFAULT_SIZE = 224  # pixels, where a module does not say for which size it is made
DEFAULT_TAPS = 4
NEARLY_ALL = 0.85  # of the submodules; the longest stage of a ResNet or ConvNeXt has up to 0.75
INPUT_OF_HEAD = "input of the last linear layer"  # no name of a submodule has spaces

Keep = Callable[[str, tuple[Any, ...], Any], None]
"""Receives the name, the inputs and the output of a submodule that was called."""


class Reading(NamedTuple):
    """What one call of a classifier gives: its logits, the features before them, and its taps."""

    logits: Float[Tensor, "batch classes"]
    features: Float[Tensor, "batch width"]
    taps: list[Float[Tensor, "batch _ ..."]]


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
        axes = dict(zip(self.taps, self.axes, strict=True))

        def keep(name: str, inputs: tuple[Any, ...], output: Any) -> None:
            tensor = tensor_of(output)
            if name in axes and tensor is not None:
                read[name] = _average(tensor, axes[name])
            if name == self.head_name:
                read[INPUT_OF_HEAD] = inputs[0]

        with _watched(module, {*self.taps, *filter(None, [self.head_name])}, keep):
            logits = self.classify(module, images)
        if missing := [name for name in self.taps if name not in read]:
            raise UsageError(
                f"`taps`: {missing[0]!r} was not called; if the module is compiled, compile this "
                "classifier instead"
            )
        taps = [read[name] for name in self.taps]
        return Reading(logits, read.get(INPUT_OF_HEAD, taps[-1]), taps)

    def classify(self, module: nn.Module, images: Tensor) -> Float[Tensor, "batch classes"]:
        """Compute the logits alone."""
        return logits_of(module(images))

    def head(self, module: nn.Module) -> nn.Module | None:
        """The linear layer that gives the logits."""
        return module.get_submodule(self.head_name) if self.head_name else None


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


def first_weight(module: nn.Module) -> Tensor:
    """The first floating-point parameter, for device and precision; a float32 without any."""
    weights = (weight for weight in module.parameters() if weight.is_floating_point())
    return next(weights, torch.zeros(0))


def _average(output: Tensor, axis: int) -> Tensor:
    """The average over all positions, in single precision or better."""
    (average,) = averages([output.movedim(axis, 1)])
    return average.to(torch.promote_types(average.dtype, torch.float32))


@contextmanager
def _watched(module: nn.Module, names: set[str], keep: Keep) -> Iterator[None]:
    """Call `keep` after every call of these submodules that this thread makes."""
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
    names = [name for name, _ in module.named_modules() if name]
    for tap in map(str, taps or ()):
        if tap not in names:
            similar = get_close_matches(tap, names, n=3) or names[-3:]
            raise UsageError(f"`taps`: the module has no {tap!r}; try {', '.join(similar)}")
    size = image_size or _noted_size(module)
    trial = _Trial.run(module, size)
    if trial.num_classes < 2 or num_classes not in (None, trial.num_classes):
        expected = "at least two" if num_classes is None else f"{num_classes}, one for each class"
        raise UsageError(
            f"the module gives {trial.num_classes} logits for an image, not {expected}"
        )
    chosen = tuple(_body(module, trial) if taps is None else map(str, taps))
    if not chosen or len(set(chosen)) < len(chosen):
        raise UsageError(f"`taps` must name one submodule or more, each once, got {list(chosen)}")
    for tap in chosen:
        _check_readable(tap, trial.shapes.get(tap, ()))
    axes = tuple(_channel_axis(module, trial, tap, size) for tap in chosen)
    return ModuleReader(
        taps=chosen,
        channels=tuple(trial.shapes[tap][axis] for tap, axis in zip(chosen, axes, strict=True)),
        axes=axes,
        num_classes=trial.num_classes,
        head_name=trial.head,
    )


@dataclass
class _Trial:
    """What one call of a module showed.

    Attributes:
        shapes: Shape of the output of each submodule that was called; empty if it is no tensor.
        num_classes: Number of logits.
        head: The linear layer that gives the logits.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    num_classes: int = 0
    head: str | None = None

    @classmethod
    def run(cls, module: nn.Module, size: int) -> "_Trial":
        trial, linear = cls(), dict[str, tuple[Tensor, Tensor]]()
        layers = dict(module.named_modules())

        def keep(name: str, inputs: tuple[Any, ...], output: Any) -> None:
            tensor = tensor_of(output)
            trial.shapes[name] = () if tensor is None else tuple(tensor.shape)
            if isinstance(layers[name], nn.Linear) and inputs and inputs[0].dim() == 2:
                linear[name] = (inputs[0], output)

        with _evaluating(module), _watched(module, layers.keys() - {""}, keep):
            logits = logits_of(_call(module, size))
        trial.num_classes = logits.shape[1]
        for name, (features, output) in linear.items():
            layer = layers[name]
            same = output.data_ptr() == logits.data_ptr() and output.shape == logits.shape
            if same and torch.allclose(
                F.linear(features, layer.weight, layer.bias), logits, rtol=1e-3, atol=1e-5
            ):
                trial.head = name
        return trial


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every submodule returns to the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def _call(module: nn.Module, size: int) -> Any:
    """Run a module on two images of noise."""
    noise = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    try:
        return module(noise.to(first_weight(module)))
    except Exception as error:  # whatever the module's operations raise
        raise UsageError(
            f"the module cannot take images of shape (2, 3, {size}, {size}) ({reason_of(error)}); "
            "give the size that it is made for as `image_size`"
        ) from error


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


def _check_readable(tap: str, shape: tuple[int, ...]) -> None:
    """Check that a tap is called, with an output that has channels."""
    if len(shape) < 2 or shape[0] != 2:
        raise UsageError(
            f"`taps`: {tap!r} gives for 2 images no output (2, channels, ...) but {shape}; "
            "name another, or if the module is compiled, compile the result instead"
        )


def _channel_axis(module: nn.Module, trial: _Trial, tap: str, size: int) -> int:
    """The axis of the channels in the output of a tap.

    Images are square, so that height and width are the two equal axes. Where all three are equal,
    images of twice the size tell them apart; a module that refuses these has its channels first.
    """
    shape = trial.shapes[tap]
    if len(shape) == 3:  # tokens of a transformer
        return 2
    if len(shape) != 4 or shape[1] != shape[2]:
        return 1
    if shape[2] != shape[3]:
        return 3
    try:
        larger = _Trial.run(module, 2 * size).shapes.get(tap, shape)
    except UsageError:
        return 1
    return 3 if larger[3] == shape[3] and larger[1] != shape[1] else 1


def _body(module: nn.Module, trial: _Trial) -> Sequence[str]:
    """The last four blocks of a network.

    Blocks are the parts of one class: the class whose parts contain most of the submodules that are
    called. A part that contains nearly all of these, as an encoder does, is looked into.
    """
    parts = _parts(module, trial, "")
    while parts:
        called = {name: _count_called(trial, name) for name in parts}
        kinds: dict[type[nn.Module], list[str]] = {}
        for name in parts:
            kinds.setdefault(type(module.get_submodule(name)), []).append(name)
        blocks = max(kinds.values(), key=lambda names: sum(called[name] for name in names))
        largest = max(blocks, key=lambda name: called[name])
        single = called[largest] > NEARLY_ALL * sum(called[name] for name in blocks)
        if not single:
            return blocks[-DEFAULT_TAPS:]
        inside = _parts(module, trial, largest)
        if not inside:
            return parts[-DEFAULT_TAPS:]
        parts = inside
    return ()


def _parts(module: nn.Module, trial: _Trial, parent: str) -> list[str]:
    """Parts with weights whose outputs have positions.

    A part without such an output, as a list of blocks that is not called, stands for its own parts.
    """
    parts = []
    for child, part in module.get_submodule(parent).named_children():
        name = f"{parent}.{child}" if parent else child
        if not any(True for _ in part.parameters()):
            continue
        readable = len(trial.shapes.get(name, ())) > 2
        parts += [name] if readable else _parts(module, trial, name)
    return parts


def _count_called(trial: _Trial, part: str) -> int:
    """Number of submodules of a part, itself included, that were called."""
    return sum(f"{name}.".startswith(f"{part}.") for name in trial.shapes)
