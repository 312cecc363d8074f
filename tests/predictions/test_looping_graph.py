"""A graph that never ends is ended by a signal."""

import os
import signal
import subprocess
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from waiting import until

RUN = """
import pathlib, sys
import numpy as np
from misgiving import cli
from misgiving.predictions.network import Network

network = Network(pathlib.Path(sys.argv[1]), size=4, num_classes=3)
bright = np.full((1, 4, 4, 3), 255, "u1")
cli.app.command(lambda: (print("started", flush=True), network(bright)), name="spin")
sys.argv = ["misgiving", "spin"]
cli.run()
"""


def looping_graph(path):
    """Logits of zeros, after as many rounds as the image is bright: none for a blank one."""
    rounds = [
        helper.make_node("ReduceSum", ["images"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "many"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["rounds"], to=TensorProto.INT64),
    ]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["goes_on"]),
            helper.make_node("Sin", ["state"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        *rounds,
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Loop", ["rounds", "true", "means"], ["logits"], body=body),
    ]
    graph = helper.make_graph(
        nodes,
        "loop",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        initializer=[
            numpy_helper.from_array(np.array(1e15, dtype=np.float32), "many"),
            numpy_helper.from_array(np.array(True), "true"),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def test_a_signal_ends_a_command_whose_graph_loops(tmp_path):
    looping_graph(tmp_path / "model.onnx")
    command = [sys.executable, "-c", RUN, str(tmp_path / "model.onnx")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGTERM)
        until(lambda: process.poll() is not None, seconds=120)
        assert (process.returncode, process.stderr.read()) == (130, "error: stopped\n")
