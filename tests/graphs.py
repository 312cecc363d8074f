"""Classifiers that were made elsewhere: ONNX graphs, images for them, and their predictions."""

import numpy as np
import onnx
from coloured import coloured_set
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from misgiving import Deferral, Predictions
from misgiving.csv_tables import write_csv
from misgiving.data.preprocessing import Preprocessing

CLASSES = ("a", "b", "c")
COLOURS = Preprocessing(image_size=16, crop=1.0, color_constancy="none", reduce_jpeg=False)


def write_images(folder, count, seed):
    """Coloured PNG files of several shapes under a veil; gives their paths and labels."""
    images, random = coloured_set(count, side=48, seed=seed), np.random.default_rng(seed)
    veil = random.integers(0, 256, (count, 1, 1, 3))
    share = random.uniform(0.2, 1, (count, 1, 1, 1))
    veiled = (share * images.images + (1 - share) * veil).astype(np.uint8)
    folder.mkdir(parents=True)
    paths = [folder / f"{row:03d}.png" for row in range(count)]
    for row, path in enumerate(paths):
        Image.fromarray(veiled[row][: 40 + row % 9]).save(path)
    return paths, images.labels


WEIGHT = np.array([[4.0, -2, -2], [-2, 4, -2], [-2, -2, 4]], dtype=np.float32) * 4


def colour_means(paths):
    """By hand in float64: the mean colour of each resized image."""
    squares = [Image.open(path).resize((16, 16), Image.Resampling.BILINEAR) for path in paths]
    means = [np.asarray(square, dtype=np.float64).mean(axis=(0, 1)) / 255 for square in squares]
    return np.array(means)


def colour_logits(paths):
    """The same through a linear layer."""
    return colour_means(paths) @ WEIGHT.T.astype(np.float64)


def colour_graph(*more, shape=("n", 3, 16, 16), gives="logits", outputs=("logits",), width=3):
    """The same as a graph, whose linear layer `gives` a value to `more` nodes."""
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["means", "weight"], [gives], transB=1),
        *more,
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(it, TensorProto.FLOAT, ["n", width]) for it in outputs],
        initializer=[numpy_helper.from_array(WEIGHT, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_colour_graph(path):
    onnx.save(colour_graph(), path)
    return path


def write_predictions(path, paths, labels, outputs, *, prefix="logit", classes=CLASSES):
    """A table of predictions with the images' paths relative to it."""
    columns = [f"{prefix}_{name}" for name in classes]
    rows = [
        [image.relative_to(path.parent), CLASSES[label], *map(repr, map(float, row))]
        for image, label, row in zip(paths, labels, outputs, strict=True)
    ]
    write_csv(path, ["path", "label", *columns], rows)
    return path


def write_policy(folder, predictions):
    """A policy that is fitted to a file of predictions; which is given back."""
    fitted = Deferral(max_error=0.2, max_ood_false_alarms=0.1)
    fitted.fit(Predictions.read(predictions)).save(folder)
    return fitted
