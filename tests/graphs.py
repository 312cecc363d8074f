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

from misgiving.files import write_csv
from misgiving.results.prediction_tables import PredictionTable
from misgiving.workflows.deferral import Deferral

CLASSES = ("a", "b", "c")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE, RESIZED = 32, 36  # of images in the torch model
STEPS = transforms.Compose(
    [
        transforms.Resize(RESIZED),
        transforms.CenterCrop(SIDE),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
)
TORCH = {"crop": SIDE / RESIZED, "mean": MEAN, "std": STD}  # the same, as an interface


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
    pixels = torch.stack([STEPS(Image.open(path)) for path in paths])
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


class WithFeatures(torch.nn.Module):
    """Gives the features beside the logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        features = []
        handle = self.model.fc.register_forward_hook(lambda _, inputs, __: features.append(inputs))
        logits = self.model(images)
        handle.remove()
        return logits, features[0][0]


def write_torch_graph(model, path, *, batch=None, side=SIDE):
    """Export with torch's own exporter, for any number of images or for a fixed one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(batch or 2, 3, side, side),),
            path,
            dynamo=False,  # the newer exporter takes half a minute
            input_names=["pixels"],
            output_names=["scores", "embedding"][: 1 + isinstance(model, WithFeatures)],
            dynamic_axes=None if batch else {"pixels": {0: "n"}},
        )
    return path


def torch_outputs(model, paths):
    with torch.no_grad():
        return model.eval()(torch.stack([STEPS(Image.open(path)) for path in paths]))


WEIGHT = np.array([[4.0, -2, -2], [-2, 4, -2], [-2, -2, 4]], dtype=np.float32) / 64


def tensorflow_probabilities(paths):
    """By hand in float64: mean colour of the resized image, a linear layer, a softmax."""
    rows = []
    for path in paths:
        square = Image.open(path).resize((16, 16), Image.Resampling.BILINEAR)
        means = np.asarray(square, dtype=np.float64).mean(axis=(0, 1))
        exponentials = np.exp(means @ WEIGHT.T)
        rows.append(exponentials / exponentials.sum())
    return np.array(rows)


def tensorflow_graph(*, kind=TensorProto.FLOAT, opset=17, batch="unk__1", softmax=True):
    """A graph as TensorFlow's converter makes them: N x H x W x C, from 0 to 255."""
    constants = {"axes": np.array([1, 2]), "weight": WEIGHT}
    nodes = [
        helper.make_node("Cast", ["input_1"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Gemm", ["means", "weight"], ["dense"], transB=1),
        helper.make_node("Softmax", ["dense"], ["probabilities"], axis=1),
    ]
    output = "probabilities" if softmax else "dense"
    graph = helper.make_graph(
        nodes if softmax else nodes[:-1],
        "tf2onnx",
        [helper.make_tensor_value_info("input_1", kind, [batch, 16, 16, 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, 3])],
        initializer=[numpy_helper.from_array(constants["weight"], "weight")],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="tf2onnx")


def write_tensorflow_graph(path, **options):
    onnx.save(tensorflow_graph(**options), path)
    return path


def write_predictions(path, paths, labels, outputs, *, prefix="logit", classes=CLASSES, more=None):
    """A table of predictions with the images' paths relative to it."""
    columns = [f"{prefix}_{name}" for name in classes]
    more = {} if more is None else more
    rows = [
        [image.relative_to(path.parent), CLASSES[label], *map(repr, map(float, row)), *others]
        for image, label, row, *others in zip(paths, labels, outputs, *more.values(), strict=True)
    ]
    write_csv(path, ["image", "label", *columns, *more], rows)
    return path


def deferral():
    """A policy that is to be fitted."""
    return Deferral(max_error=0.15, max_ood_false_alarms=0.1)


def engine_of(predictions):
    """The engine of such a policy, fitted to a file of predictions."""
    return deferral().fit(PredictionTable.read(predictions)).engine_
