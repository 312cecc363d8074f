"""Forms of a joint model that run faster on a processor: its ONNX graph, and a folded copy.

In evaluation mode a batch normalisation is a factor and a summand for each channel, which can be
made part of the convolution before it. ODIN runs forward and backward through the model, and a
quarter of its time would go into reading and writing memory for these layers.
"""

import logging
import warnings
from collections import Counter
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from misgiving.errors import DataError, reason_of
from misgiving.models.joint import JointClassifier

MAX_LOGIT_DIFFERENCE = 1e-4  # of a logit, as a share of the largest
AFTER = ("drop", "act")  # what timm's normalisations do after they have normalised


def write_graph(
    model: JointClassifier,
    path: Path,
    *,
    size: int,
    inputs: str,
    outputs: tuple[str, ...],
    views: int = 1,
) -> None:
    """Write the model in evaluation mode as an ONNX graph for any number of images.

    Args:
        model: On the CPU.
        path: The ONNX file.
        size: Side of the images in pixels.
        inputs: Name of the images.
        outputs: Names of the values of `full_output`.
        views: Number of views of an image, whose mean the graph gives.

    Raises:
        DataError: The backbone has an operation that ONNX does not support.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it is talkative
    kind = next(model.parameters()).dtype
    example = torch.zeros(2, 3, size, size, dtype=kind)  # of one image, torch would fix the number
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _AllOutputs(model, views).eval(),
                (example,),
                path,
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=[inputs],
                output_names=list(outputs),
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            )
        _set_metadata(path, {"views": str(views)} if views > 1 else {})
    except ModuleNotFoundError:
        raise
    except Exception as error:  # torch raises whatever the backbone's operations raise
        if isinstance(error, OSError) and error.errno:  # as on a full disk
            raise
        raise DataError(
            f"this backbone cannot be exported ({reason_of(error)}); "
            "train another, such as resnet18"
        ) from error


class _AllOutputs(nn.Module):
    """A model whose call gives the averages of the taps as well."""

    def __init__(self, model: JointClassifier, views: int) -> None:
        super().__init__()
        self.model, self.views = model, views

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.model.full_output(images, self.views)


def _set_metadata(path: Path, metadata: dict[str, str]) -> None:
    """Replace what torch notes of each operation: source lines, and paths of this machine."""
    import onnx

    graph = onnx.load(path)
    for part in (*graph.graph.node, *graph.graph.input, *graph.graph.output, graph.graph, graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.helper.set_model_props(graph, metadata)
    onnx.save(graph, path)


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
