"""Make a bundle of an ONNX graph, serve it, and ask it for a decision."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from socket import create_server
from tempfile import TemporaryDirectory
from time import sleep
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from misgiving.data.preprocessing import Preprocessing

MISGIVING = [sys.executable, "-m", "misgiving"]
with create_server(("127.0.0.1", 0)) as free:
    PORT = free.getsockname()[1]


def write_graph(classifier, path):
    """Write a linear classifier of images of 8 x 8 pixels in [0, 1], by their mean colour."""
    arrays = {"weight": classifier.coef_.T, "bias": classifier.intercept_}
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["grey"], axes=[1]),
        helper.make_node("Flatten", ["grey"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
    ]
    parts = [numpy_helper.from_array(one.astype(np.float32), key) for key, one in arrays.items()]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "linear", [images], [logits], parts)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def ask(path):
    """Send an image as soon as the service answers."""
    address = f"http://127.0.0.1:{PORT}/decisions"
    request = Request(address, path.read_bytes(), {"Content-Type": "image/png"})
    for _ in range(300):
        try:
            return json.load(urlopen(request))
        except URLError:
            sleep(0.3)
    raise TimeoutError("the service does not answer")


digits = load_digits()
pixels = np.round(digits.data / 16 * 255)
classifier = LogisticRegression(max_iter=1000).fit(pixels[:600] / 255, digits.target[:600])
logits = classifier.decision_function(pixels / 255)

with TemporaryDirectory() as name:
    folder = Path(name)
    lines = ["path,label," + ",".join(f"logit_{digit}" for digit in range(10))]
    for row in range(600, len(pixels)):
        image = Image.fromarray(pixels[row].reshape(8, 8).astype(np.uint8))
        image.save(folder / f"{row}.png")
        lines.append(f"{row}.png,{digits.target[row]}," + ",".join(map(str, logits[row])))
    (folder / "predictions.csv").write_text("\n".join(lines))
    write_graph(classifier, folder / "net.onnx")
    settings = Preprocessing(image_size=8, crop=1.0, color_constancy="none")
    (folder / "settings.json").write_text(json.dumps(asdict(settings)))
    for words in (
        "calibrate predictions.csv --max-error 0.1 --out policy",
        "export net.onnx --preprocessing settings.json --predictions predictions.csv "
        "--policy policy --out bundle",
    ):
        subprocess.run([*MISGIVING, *words.split()], cwd=folder, check=True)
    command = [*MISGIVING, "serve", "bundle", "--port", str(PORT)]
    service = subprocess.Popen(command, cwd=folder)
    try:
        answer = ask(folder / "700.png")
    finally:
        service.terminate()
        service.wait()
case = answer["results"][0]["case"]
for key in ("decision", "predicted_class", "error_probability", "reason"):
    print(f"{key}: {case[key]}")
