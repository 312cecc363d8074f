"""Classifiers that were made elsewhere: ONNX graphs, images for them, and their predictions."""

import warnings

import numpy as np
import onnx
import torch
import torchvision
from coloured import coloured_set
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torchvision import transforms

from misgiving import Deferral, Predictions
from misgiving.data.preprocessing import Preprocessing
from misgiving.files import write_csv

CLASSES = ("a", "b", "c")
NORMALISATION = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIDE, RESIZED = 32, 36  # of images in the torch model
STEPS = transforms.Compose(
    [transforms.Resize(RESIZED), transforms.CenterCrop(SIDE), transforms.ToTensor()]
)
TORCH = Preprocessing(  # the same
    image_size=SIDE,
    crop=SIDE / RESIZED,
    crop_shape="resized",
    color_constancy="none",
    reduce_jpeg=False,
)
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


def torch_model(paths, labels):
    """A torchvision network whose last layer is fitted to these images by ridge regression."""
    torch.manual_seed(0)
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=len(CLASSES))
    pixels = NORMALISATION(torch.stack([STEPS(Image.open(path)) for path in paths]))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
    head, model.fc = model.fc, torch.nn.Identity()
    with torch.no_grad():
        model.train()(pixels)
        features = model.eval()(pixels)
        about = torch.cat([features, torch.ones(len(features), 1)], dim=1)
        targets = 6.0 * torch.nn.functional.one_hot(torch.from_numpy(labels), len(CLASSES))
        ridge = about.T @ about + len(about) * torch.eye(about.shape[1])
        weights = torch.linalg.solve(ridge, about.T @ targets)
        head.weight.copy_(weights[:-1].T)
        head.bias.copy_(weights[-1])
    model.fc = head
    return model


class Normalised(torch.nn.Module):
    """From images in [0, 1] to logits and features."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        features = []
        handle = self.model.fc.register_forward_hook(lambda _, inputs, __: features.append(inputs))
        logits = self.model(NORMALISATION(images))
        handle.remove()
        return logits, features[0][0]


def write_torch_graph(model, path):
    """Export with torch's own exporter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, SIDE, SIDE),),
            path,
            dynamo=False,  # the newer exporter takes half a minute
            input_names=["pixels"],
            output_names=["logits", "features"],
            dynamic_axes={"pixels": {0: "n"}},
        )
    return path


def torch_outputs(model, paths):
    with torch.no_grad():
        return model.eval()(torch.stack([STEPS(Image.open(path)) for path in paths]))


WEIGHT = np.array([[4.0, -2, -2], [-2, 4, -2], [-2, -2, 4]], dtype=np.float32) * 4


def colour_logits(paths):
    """By hand in float64: the mean colour of the resized image, and a linear layer."""
    squares = [Image.open(path).resize((16, 16), Image.Resampling.BILINEAR) for path in paths]
    means = [np.asarray(square, dtype=np.float64).mean(axis=(0, 1)) / 255 for square in squares]
    return np.array(means) @ WEIGHT.T.astype(np.float64)


def colour_graph(*more, shape=("n", 3, 16, 16), gives="logits", output="logits", width=3):
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
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", width])],
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
