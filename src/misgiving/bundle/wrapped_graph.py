"""An ONNX graph from elsewhere, between nodes that give it the inputs and outputs of a bundle."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from misgiving.bundle.graph_interface import GraphInterface
from misgiving.errors import DataError, UsageError
from misgiving.evaluation.network import INPUT, OUTPUTS
from misgiving.results.prediction_tables import LEAST_PROBABILITY

PREFIX = "model/"
LUMINANCE = ((0.299, 0.587, 0.114),)  # of red, green and blue (ITU-R BT.601), as in Pillow
LAYOUTS = {"nchw": (1, 2, 3), "nhwc": (3, 1, 2)}  # axes of channel, height and width
KINDS = ("FLOAT", "FLOAT16", "DOUBLE", "UINT8")


class ImageInput(NamedTuple):
    """The images that a graph takes.

    Attributes:
        name: Of the input.
        kind: Its type, one of `KINDS`.
        batch: Number of images in one run; None for any.
        channels: 1 or 3.
        size: Side in pixels.
        layout: Order of the axes, one of `LAYOUTS`.
    """

    name: str
    kind: str
    batch: int | None
    channels: int
    size: int
    layout: str


def image_input(path: Path, model: Any, interface: GraphInterface) -> ImageInput:
    """Find out what images a graph takes.

    Raises:
        DataError: It takes something else than square images.
        UsageError: The interface leaves open, or contradicts, what the graph does not say.
    """
    from onnx import TensorProto

    weights = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(one.name for one in inputs) or "none"
        raise DataError(f"{path}: its inputs are {names}; export a model of images alone")
    tensor = inputs[0].type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type)
    shape = [one.dim_value if one.dim_value > 0 else None for one in tensor.shape.dim]
    if len(shape) != 4 or kind not in KINDS:
        raise DataError(
            f"{path}: its input {inputs[0].name} is {kind} with {len(shape)} axes; images are one "
            f"of {', '.join(KINDS)} with four"
        )
    layout = _layout(path, shape, interface)
    channels, height, width = (shape[axis] for axis in LAYOUTS[layout])
    if channels not in (1, 3, None):
        raise DataError(f"{path}: images have {channels} channels; a bundle gives 1 or 3")
    size = _size(path, (height, width), interface)
    return ImageInput(inputs[0].name, kind, shape[0], channels or 3, size, layout)


def _layout(path: Path, shape: Sequence[int | None], interface: GraphInterface) -> str:
    if interface.layout != "auto":
        return interface.layout
    fitting = [name for name, axes in LAYOUTS.items() if shape[axes[0]] in (1, 3)]
    if len(fitting) != 1:
        shown = " x ".join("?" if side is None else str(side) for side in shape)
        raise UsageError(f"{path}: images are {shown}; say which axes these are by `layout`")
    return fitting[0]


def _size(path: Path, sides: tuple[int | None, int | None], interface: GraphInterface) -> int:
    known = {side for side in (*sides, interface.image_size) if side is not None}
    if not known:
        raise UsageError(f"{path}: takes images of any size; give `image_size`")
    if len(known) > 1:
        asked = "" if interface.image_size is None else f"; `image_size` is {interface.image_size}"
        shown = " x ".join("?" if side is None else str(side) for side in sides)
        raise UsageError(f"{path}: images are {shown} pixels{asked}, and must be one square")
    return known.pop()


def wrap_graph(
    path: Path, model: Any, images: ImageInput, interface: GraphInterface, order: Sequence[int]
) -> Any:
    """Make a graph from squares in [0, 1] to the outputs of a bundle, as float32.

    Args:
        path: Of the model, for messages.
        model: As `read_graph` gives it.
        images: Its input.
        interface: What its input and outputs mean.
        order: Position of each class of the bundle among the outputs of the graph.

    Raises:
        UsageError: There is no output of a name, or it is not clear which has the logits.
    """
    from onnx import TensorProto, compose, helper

    wanted = _outputs(path, model, interface)
    model = compose.add_prefix(model, PREFIX)
    nodes = _Nodes(PREFIX.strip("/") + "-io/")
    before = nodes.before(images, interface)
    after = [
        node
        for name, output in wanted.items()
        for node in nodes.after(name, PREFIX + output, interface, order)
    ]
    square = [images.batch or "batch", 3, images.size, images.size]
    graph = helper.make_graph(
        [*before, *model.graph.node, *after],
        "misgiving",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, square)],
        [],
        initializer=[*nodes.constants, *model.graph.initializer],
        sparse_initializer=list(model.graph.sparse_initializer),
    )
    widths = {name: None if name == "predicted_losses" else f"{name} width" for name in wanted}
    declare_outputs(graph, images.batch, widths)
    return helper.make_model(
        graph,
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
        functions=list(model.functions),
    )


def _outputs(path: Path, model: Any, interface: GraphInterface) -> dict[str, str]:
    """Names of the graph's outputs by names of a bundle's, in the order of these."""
    names = [one.name for one in model.graph.output]
    logits = interface.logits_output or (names[0] if len(names) == 1 else OUTPUTS[0])
    asked = {
        "logits": ("logits_output", logits),
        "predicted_losses": ("loss_output", interface.loss_output),
        "features": ("features_output", interface.features_output),
        "taps": ("taps_output", interface.taps_output),
    }
    wanted = {}
    for name in OUTPUTS:
        parameter, output = asked[name]
        if output is not None and output not in names:
            raise UsageError(
                f"{path}: has no output {output!r}; give one of {', '.join(names)} as `{parameter}`"
            )
        if output is not None:
            wanted[name] = output
    return wanted


class _Nodes:
    """Makes nodes of the standard operators, and keeps the constants that they use."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.constants: list[Any] = []

    def constant(self, name: str, values: np.ndarray) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(values, self.prefix + name))
        return self.prefix + name

    def chain(
        self, first: str, last: str, steps: Sequence[tuple[str, Sequence[str], dict[str, Any]]]
    ) -> list[Any]:
        """Nodes one after another; a step is an operator, its other inputs and its attributes."""
        from onnx import helper

        made, value = [], first
        for number, (operator, others, attributes) in enumerate(steps, 1):
            result = last if number == len(steps) else f"{self.prefix}{last}-{number}"
            made.append(helper.make_node(operator, [value, *others], [result], **attributes))
            value = result
        return made

    def before(self, images: ImageInput, interface: GraphInterface) -> list[Any]:
        """From squares to the input of the graph."""
        from onnx import TensorProto

        weight, bias = pixel_map(images, interface)
        inputs = [
            self.constant("weight", weight[:, :, None, None]),
            self.constant("bias", bias),
        ]
        steps: list[tuple[str, Sequence[str], dict[str, Any]]] = [("Conv", inputs, {})]
        if images.layout == "nhwc":
            steps.append(("Transpose", [], {"perm": [0, 2, 3, 1]}))
        steps.append(("Cast", [], {"to": TensorProto.DataType.Value(images.kind)}))
        return self.chain(INPUT, PREFIX + images.name, steps)

    def after(
        self, name: str, output: str, interface: GraphInterface, order: Sequence[int]
    ) -> list[Any]:
        """From an output of the graph to that of a bundle."""
        from onnx import TensorProto

        shape = self.constant("all", np.array([-1])) if name == "predicted_losses" else None
        steps: list[tuple[str, Sequence[str], dict[str, Any]]] = [
            ("Cast", [], {"to": TensorProto.FLOAT}),
            ("Flatten", [], {"axis": 1}) if shape is None else ("Reshape", [shape], {}),
        ]
        if name == "logits":
            if interface.outputs == "probabilities":
                least = self.constant("least", np.array(LEAST_PROBABILITY, dtype=np.float32))
                steps += [("Max", [least], {}), ("Log", [], {})]
            if interface.outputs == "softmax":
                steps.append(("LogSoftmax", [], {"axis": 1}))
            if list(order) != sorted(order):
                positions = self.constant("order", np.array(order))
                steps.append(("Gather", [positions], {"axis": 1}))
        return self.chain(output, name, steps)


def pixel_map(
    images: ImageInput, interface: GraphInterface
) -> tuple[Float[np.ndarray, "channels 3"], Float[np.ndarray, " channels"]]:
    """Weight and bias from a pixel (red, green, blue) in [0, 1] to the values of the graph.

    Raises:
        UsageError: Numbers for three channels are given for a graph with one.
    """
    mean, std = np.array(interface.mean), np.array(interface.std)
    if images.channels == 1 and max(len(mean), len(std)) > 1:
        raise UsageError("the images of the graph have one channel; give one `mean` and one `std`")
    colours = np.array(LUMINANCE) if images.channels == 1 else np.eye(3)
    if interface.channel_order == "bgr":
        colours = colours[::-1]
    weight = interface.scale * colours / np.broadcast_to(std, images.channels)[:, None]
    bias = np.broadcast_to(-mean / std, images.channels)
    if images.kind == "UINT8":
        bias = bias + 0.5  # the conversion to whole numbers cuts off, and Pillow rounds
    return weight.astype(np.float32), bias.astype(np.float32)


def declare_outputs(graph: Any, batch: int | None, widths: Mapping[str, int | str | None]) -> None:
    """Declare the outputs of a wrapped graph, which has none yet or is to have others.

    Args:
        graph: The graph.
        batch: Number of images in one run; None for any.
        widths: Width of each output, or a name for it; None for one value per image.
    """
    from onnx import TensorProto, helper

    outputs = [
        helper.make_tensor_value_info(
            name, TensorProto.FLOAT, [batch or "batch", *([] if width is None else [width])]
        )
        for name, width in widths.items()
    ]
    del graph.output[:]
    graph.output.extend(outputs)
