import json

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import tensorflow_graph
from onnx import TensorProto, helper
from PIL import Image

from misgiving.bundle.graph_interface import GraphInterface, read_interface
from misgiving.bundle.wrapped_graph import image_input, wrap_graph
from misgiving.errors import DataError, UsageError
from misgiving.evaluation.network import Network

SIZE = 4


def identity(shape, kind=TensorProto.FLOAT):
    """A graph that gives its input."""
    return helper.make_model(
        helper.make_graph(
            [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
            "g",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def input_values(tmp_path, model, interface, square):
    """What the graph itself sees of a square."""
    path = tmp_path / "net.onnx"
    wrapped = wrap_graph(path, model, image_input(path, model, interface), interface, range(3))
    onnx.save(wrapped, path)
    network = Network(path, size=SIZE, num_classes=None)
    return network(square[None])[0][0]


def by_loops(square, channels, *, scale, mean, std, order, last):
    """The definition, for one pixel after another."""
    seen = np.zeros((channels, SIZE, SIZE))
    for channel in range(channels):
        for row in range(SIZE):
            for column in range(SIZE):
                red, green, blue = (int(value) / 255 for value in square[row, column])
                colours = [red, green, blue] if order == "rgb" else [blue, green, red]
                value = colours[channel]
                if channels == 1:
                    value = 0.299 * red + 0.587 * green + 0.114 * blue
                one = mean[channel % len(mean)], std[channel % len(std)]
                seen[channel, row, column] = (scale * value - one[0]) / one[1]
    return (np.moveaxis(seen, 0, 2) if last else seen).ravel()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [(3, (0.0,), (1.0,)), (3, (103.9, 116.8, 123.7), (57.0, 58.0, 59.0)), (1, (127.5,), (127.5,))],
)
def test_a_graph_sees_scaled_and_normalised_pixels(tmp_path, channels, mean, std, order, last):
    square = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    shape = ["n", SIZE, SIZE, channels] if last else ["n", channels, SIZE, SIZE]
    interface = GraphInterface(scale=255.0, mean=mean, std=std, channel_order=order)
    found = input_values(tmp_path, identity(shape), interface, square)
    wanted = by_loops(square, channels, scale=255, mean=mean, std=std, order=order, last=last)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


def test_a_graph_of_bytes_sees_the_bytes_of_the_image(tmp_path):
    square = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    colour = identity(["n", SIZE, SIZE, 3], TensorProto.UINT8)
    found = input_values(tmp_path, colour, GraphInterface(scale=255.0), square)
    np.testing.assert_array_equal(found, square.ravel())
    grey = identity(["n", SIZE, SIZE, 1], TensorProto.UINT8)
    found = input_values(tmp_path, grey, GraphInterface(scale=255.0), square)
    expected = np.asarray(Image.fromarray(square).convert("L"))
    np.testing.assert_array_equal(found, expected.ravel())


@pytest.mark.parametrize(
    ("shape", "settings", "says"),
    [
        (["n", 3, 4, 5], {}, "images are 4 x 5 pixels, and must be one square"),
        (["n", 3, 4, 4], {"image_size": 5}, "4 x 4 pixels; `image_size` is 5"),
        (["n", 3, None, None], {}, "any size; give `image_size`"),
        (["n", 3, 3, 3], {}, "say which axes these are by `layout`"),
        (["n", None, None, None], {}, "say which axes these are by `layout`"),
        (["n", 5, 4, 4], {"layout": "nchw"}, "images have 5 channels"),
        (["n", 3, 4], {}, "FLOAT with 3 axes"),
        (["n", 1, 4, 4], {"mean": (0.1, 0.2, 0.3)}, "one channel; give one `mean`"),
    ],
)
def test_an_input_that_is_no_square_image_or_not_known_is_refused(tmp_path, shape, settings, says):
    with pytest.raises((DataError, UsageError), match=says):
        input_values(tmp_path, identity(shape), GraphInterface(**settings), None)


def test_a_graph_with_two_inputs_is_refused(tmp_path):
    model = identity(["n", 3, 4, 4])
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n"]))
    with pytest.raises(DataError, match="its inputs are x, mask"):
        image_input(tmp_path / "net.onnx", model, GraphInterface())


def test_names_of_the_graph_do_not_clash_with_those_of_a_bundle(tmp_path):
    model = tensorflow_graph()
    for part in (*model.graph.node, model.graph):
        for names in (part.input, part.output):
            for position, name in enumerate(names):
                old = name if isinstance(name, str) else name.name
                new = {"input_1": "images", "float": "logits", "probabilities": "features"}
                if isinstance(name, str):
                    names[position] = new.get(old, old)
                else:
                    name.name = new.get(old, old)
    interface = GraphInterface(scale=255.0)
    path = tmp_path / "net.onnx"
    images = image_input(path, model, interface)
    onnx.save(wrap_graph(path, model, images, interface, range(3)), path)
    session = onnxruntime.InferenceSession(path)
    assert [one.name for one in session.get_inputs()] == ["images"]
    assert [one.name for one in session.get_outputs()] == ["logits"]


def test_settings_of_a_file_are_replaced_by_those_that_are_given(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"scale": 255, "mean": [1, 2, 3], "std": 2, "crop": 0.5}))
    found = read_interface(path, {"crop": 0.875})
    expected = GraphInterface(scale=255.0, mean=(1.0, 2.0, 3.0), std=(2.0,), crop=0.875)
    assert found == expected


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"scales": 255}, "unknown setting 'scales'; choose from image_size, crop"),
        ({"scale": "255"}, "`scale` must be of type float, got '255'"),
        ({"scale": True}, "`scale` must be of type float"),
        ({"mean": [1, 2]}, "`mean` must be one number or three"),
        ({"std": 0}, "`std` must be above 0"),
        ({"layout": "hwc"}, "`layout` must be one of auto, nchw, nhwc"),
        ({"image_size": 2.5}, "`image_size` must be of type int"),
        ([1], "missing or damaged"),
    ],
)
def test_wrong_settings_are_refused_with_the_name_of_the_file(tmp_path, values, says):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=rf"settings\.json: .*{says}"):
        read_interface(path, {})
