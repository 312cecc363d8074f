"""Export of a joint model to ONNX."""

import logging
import warnings
from pathlib import Path

import torch

from misgiving.errors import DataError, reason_of
from misgiving.models.joint import JointClassifier


def write_graph(
    model: JointClassifier, path: Path, *, size: int, inputs: str, outputs: tuple[str, ...]
) -> None:
    """Write the model in evaluation mode as an ONNX graph for any number of images.

    Args:
        model: On the CPU.
        path: The ONNX file.
        size: Side of the images in pixels.
        inputs: Name of the images.
        outputs: Names of the values of `full_output`.

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
                _AllOutputs(model).eval(),
                (example,),
                path,
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=[inputs],
                output_names=list(outputs),
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            )
        _strip_metadata(path)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # torch raises whatever the backbone's operations raise
        if isinstance(error, OSError) and error.errno:  # as on a full disk
            raise
        raise DataError(
            f"this backbone cannot be exported ({reason_of(error)}); "
            "train another, such as resnet18"
        ) from error


class _AllOutputs(torch.nn.Module):
    """A model whose call gives the averages of the taps as well."""

    def __init__(self, model: JointClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.model.full_output(images)


def _strip_metadata(path: Path) -> None:
    """Remove the source lines and paths of this machine that torch notes for each operation."""
    import onnx

    graph = onnx.load(path)
    for part in (*graph.graph.node, *graph.graph.input, *graph.graph.output, graph.graph, graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.save(graph, path)
