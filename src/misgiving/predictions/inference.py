"""Run a model over a set of images: predictions once, and ODIN, which needs the images again.

On a processor the ONNX graph of a model is faster than torch: onnxruntime joins convolutions with
what follows them, and does not ask for memory at each step.
"""

from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from misgiving.checkpoint import Checkpoint
from misgiving.data.batching import BATCHES_AHEAD, batches
from misgiving.data.cache import ImageSet, Report
from misgiving.data.decoding import in_order
from misgiving.errors import DataError, UsageError
from misgiving.files import sha256_of_chunks, sha256_of_json, whole_file
from misgiving.models.joint import JointClassifier, evaluated
from misgiving.models.optimised import folded, write_graph
from misgiving.predictions.network import GRAPH, GRAPH_BATCH, INPUT, OUTPUTS, Network
from misgiving.predictions.record import Predictions
from misgiving.scores.odin import GridScores, Odin, score_grid
from misgiving.scores.outputs import Head, Outputs, concatenated

Batch = TypeVar("Batch", bound=Sized)
MODEL_BATCH = 64  # views in one forward pass

CLOSE = 1e-4  # how far an output of a graph may be off, as a share of the largest
TRIED = 5  # images on which graph and model are compared
PAYS = 16_000_000  # pixels; for fewer, writing a graph takes longer than it saves


def predictions_of(
    source: Checkpoint | JointClassifier,
    images: ImageSet,
    *,
    on_image: Report | None = None,
    network: Network | None = None,
) -> Predictions:
    """Run a model once over a set, in evaluation mode, on the device where the model is.

    Predictions of a run are means over its views. They have the fingerprint of its preprocessing as
    well, and no predicted losses if its estimator was not trained.

    Args:
        source: A run, or the classifier with its loss estimator alone.
        images: The set.
        on_image: Called with the number of predicted images and of all.
        network: The graph of the same model, to run in its place.
    """
    if isinstance(source, Checkpoint):
        model, fingerprint, views = source.model, fingerprint_of(source), source.views
    else:
        model, fingerprint, views = source, model_fingerprint(source), 1
    if network is None:
        batched = batches(images, batch_size=MODEL_BATCH, device=device_of(model))
        inputs = (pixels for pixels, _ in batched)
        outputs = outputs_of_model(model, _reported(inputs, len(images), on_image), views)
    else:
        outputs = _outputs_of_graph(network, images, on_image)
    if isinstance(source, Checkpoint) and not source.estimates_losses:
        outputs = replace(outputs, predicted_losses=None)
    widths = () if outputs.taps is None else tuple(model.reader.channels)
    return Predictions(
        **vars(replace(outputs, tap_widths=widths)),
        labels=np.asarray(images.labels),
        ids=images.ids,
        groups=images.groups,
        group_columns=images.group_columns,
        hashes=images.hashes,
        classes=images.classes,
        head=_linear_head(model),
        model=fingerprint,
    )


def outputs_of_model(
    model: JointClassifier, inputs: Iterable[torch.Tensor], views: int = 1
) -> Outputs:
    """Outputs of a model for batches of images, in evaluation mode: means over so many views."""
    if views > 1:
        inputs = (part for batch in inputs for part in torch.split(batch, MODEL_BATCH // views))
    tensors = evaluated(model, (model.full_output(images, views) for images in inputs))
    arrays: dict[str, Any] = {
        name: tensor.numpy() for name, tensor in zip(OUTPUTS, tensors, strict=True)
    }
    return Outputs(**{name: x for name, x in arrays.items() if 0 not in x.shape[1:]})


def _outputs_of_graph(network: Network, images: ImageSet, on_image: Report | None) -> Outputs:
    """All outputs of a set; a thread reads the next images while the graph runs."""
    chunks = np.split(np.arange(len(images)), range(GRAPH_BATCH, len(images), GRAPH_BATCH))
    ahead = 1 + BATCHES_AHEAD
    read = in_order(lambda number: images.read(chunks[number]), len(chunks), workers=1, ahead=ahead)
    return concatenated([network(inputs) for inputs in _reported(read, len(images), on_image)])


def _linear_head(model: JointClassifier) -> Head | None:
    layer = model.head
    if layer is None:
        return None
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
    return Head(layer.weight.detach().float().cpu().numpy(), bias.float().cpu().numpy())


def model_fingerprint(model: JointClassifier) -> str:
    """SHA-256 over the names and values of all weights."""
    return sha256_of_chunks(
        chunk
        for name, tensor in model.state_dict().items()
        for chunk in (
            name.encode(),
            tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes(),
        )
    )


def device_of(model: torch.nn.Module) -> torch.device:
    """Device of a model's parameters."""
    return next(model.parameters()).device


def _reported(batched: Iterable[Batch], total: int, on_image: Report | None) -> Iterator[Batch]:
    """Report each batch when the next is asked for, which is when it is done."""
    done = 0
    for images in batched:
        yield images
        done += len(images)
        if on_image is not None:
            on_image(done, total)


def fingerprint_of(checkpoint: Checkpoint) -> str:
    """SHA-256 of weights, classes, preprocessing and views, on which scores depend."""
    facts: dict[str, Any] = {
        "weights": model_fingerprint(checkpoint.model),
        "classes": checkpoint.classes,
        "preprocessing": asdict(checkpoint.preprocessing),
        "estimates_losses": checkpoint.estimates_losses,
    }
    if checkpoint.views > 1:
        facts["views"] = checkpoint.views
    return sha256_of_json(facts)


def odin_scores(
    checkpoint: Checkpoint,
    images: ImageSet,
    grid: Sequence[Odin],
    *,
    on_image: Report | None = None,
) -> GridScores:
    """ODIN's scores of a set, of one view of each image."""
    batched = batches(images, batch_size=MODEL_BATCH, device=device_of(checkpoint.model))
    reported = _reported((pixels for pixels, _ in batched), len(images), on_image)
    model = folded(checkpoint.model, checkpoint.architecture.image_size)
    return score_grid(model.classify, reported, grid)


def kept_network(checkpoint: Checkpoint, count: int, folder: Path) -> Network | None:
    """The graph of a run that is to score so many images; None where the model itself is to.

    That is on other devices than processors, for few images, and where the backbone cannot be
    exported or the folder not be written to. It depends on the images and not on whether there is a
    graph already, so that the same command gives the same numbers again.

    Args:
        checkpoint: The run.
        count: Number of images in all.
        folder: Of the run, where the graph is kept.
    """
    pixels = count * checkpoint.views * checkpoint.architecture.image_size**2
    if device_of(checkpoint.model).type != "cpu" or pixels < PAYS:
        return None
    path = folder / (GRAPH if checkpoint.views == 1 else f"model_{checkpoint.views}_views.onnx")
    with suppress(DataError):  # there is none, or it is damaged or of another model
        return _compared(checkpoint, path)
    with suppress(DataError, OSError, UsageError), whole_file(path) as place:
        return write_compared_graph(checkpoint, place)
    return None  # the model gives the same answers in more time


def write_compared_graph(checkpoint: Checkpoint, path: Path) -> Network:
    """Write the graph of a run, compare its outputs with those of the model, and give it.

    Raises:
        DataError: The graph cannot be exported, or its outputs differ from the model's.
    """
    write_graph(
        checkpoint.model,
        path,
        size=checkpoint.architecture.image_size,
        inputs=INPUT,
        outputs=tuple(OUTPUTS),
        views=checkpoint.views,
    )
    return _compared(checkpoint, path)


def _compared(checkpoint: Checkpoint, path: Path) -> Network:
    """The graph in a file, compared with the model on images of noise and of one colour."""
    size = checkpoint.architecture.image_size
    network = Network(
        path, size=size, num_classes=len(checkpoint.classes), threads=torch.get_num_threads()
    )
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (TRIED, size, size, 3), dtype=np.uint8)
    images[0], images[1] = 0, random.integers(0, 256, 3)
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    outputs = outputs_of_model(checkpoint.model, [inputs], checkpoint.views)
    repeated = network(images)
    for name in OUTPUTS:
        expected, values = getattr(outputs, name), getattr(repeated, name)
        if expected is None and values is None:
            continue
        largest = np.abs(np.nan_to_num(expected)).max()
        if values.shape != expected.shape or not np.allclose(
            values, expected, rtol=0, atol=CLOSE * largest, equal_nan=True
        ):
            raise DataError(
                f"the exported graph differs from the model in its {name} by more than {CLOSE:g} "
                "of the largest; this backbone cannot be exported"
            )
    return network
