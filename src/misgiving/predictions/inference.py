"""Run a model over a set of images: predictions once, and ODIN, which needs the images again."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from misgiving.checkpoint import Checkpoint
from misgiving.data.batching import BATCHES_AHEAD, batches
from misgiving.data.cache import ImageSet
from misgiving.data.decoding import in_order
from misgiving.errors import UsageError
from misgiving.groups import named_groups
from misgiving.manifests import sha256_of_chunks, sha256_of_json
from misgiving.models.folding import folded
from misgiving.models.joint import FullOutput, JointClassifier, full_outputs_of
from misgiving.predictions.network import BATCH, Network
from misgiving.predictions.record import Predictions
from misgiving.scores.odin import Odin
from misgiving.scores.odin_tuning import GridScores, score_grid
from misgiving.scores.outputs import Head

Batch = TypeVar("Batch", bound=Sized)
OnImage = Callable[[int, int], None]
ODIN_BATCH = 64  # images


def predict(
    model: JointClassifier,
    images: ImageSet,
    *,
    batch_size: int = 64,
    estimates_losses: bool = True,
    on_image: OnImage | None = None,
    network: Network | None = None,
) -> Predictions:
    """Run a model once over a set, in evaluation mode, on the device where the model is.

    Args:
        model: The classifier with its loss estimator.
        images: The set.
        batch_size: Images in one forward pass.
        estimates_losses: False where the estimator was not trained: predicted losses are then None.
        on_image: Called with the number of predicted images and of all.
        network: The graph of the same model, to run in its place.
    """
    if not len(images):
        raise UsageError("there are no images to predict")
    if network is None:
        batched = batches(images, batch_size=batch_size, device=device_of(model))
        inputs = (batch.images for batch in batched)
        output = full_outputs_of(model, _reported(inputs, len(images), on_image))
    else:
        output = _outputs_of_graph(network, images, on_image)
    return Predictions(
        logits=output.logits.numpy(),
        features=output.features.numpy(),
        predicted_losses=output.predicted_losses.numpy() if estimates_losses else None,
        labels=np.asarray(images.labels),
        ids=images.ids,
        groups=named_groups(images.groups, images.ids),
        group_columns=images.group_columns,
        hashes=images.hashes,
        classes=images.classes,
        head=_linear_head(model),
        model=model_fingerprint(model),
        taps=output.taps.numpy() if output.taps.shape[1] else None,
        tap_widths=tuple(model.reader.channels) if output.taps.shape[1] else (),
    )


def _outputs_of_graph(network: Network, images: ImageSet, on_image: OnImage | None) -> FullOutput:
    """All outputs of a set; a thread reads the next images while the graph runs."""
    chunks = np.split(np.arange(len(images)), range(BATCH, len(images), BATCH))
    ahead = 1 + BATCHES_AHEAD
    read = in_order(lambda number: images.read(chunks[number]), len(chunks), workers=1, ahead=ahead)
    outputs = [network(inputs) for inputs in _reported(read, len(images), on_image)]
    parts = zip(*outputs, strict=True)
    return FullOutput(*(torch.from_numpy(np.concatenate(values)) for values in parts))


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
        for chunk in (name.encode(), tensor.detach().cpu().numpy().tobytes())
    )


def device_of(model: torch.nn.Module) -> torch.device:
    """Device of a model's parameters."""
    return next(model.parameters()).device


def _reported(batched: Iterable[Batch], total: int, on_image: OnImage | None) -> Iterator[Batch]:
    """Report each batch when the next is asked for, which is when it is done."""
    done = 0
    for images in batched:
        yield images
        done += len(images)
        if on_image is not None:
            on_image(done, total)


def predictions_of(
    checkpoint: Checkpoint,
    images: ImageSet,
    *,
    on_image: OnImage | None = None,
    network: Network | None = None,
) -> Predictions:
    """Predictions with the fingerprint of their model and its preprocessing."""
    predictions = predict(
        checkpoint.model,
        images,
        estimates_losses=checkpoint.estimates_losses,
        on_image=on_image,
        network=network,
    )
    return replace(predictions, model=fingerprint_of(checkpoint))


def fingerprint_of(checkpoint: Checkpoint) -> str:
    """SHA-256 of weights, classes and preprocessing, on which scores depend."""
    facts = {
        "weights": model_fingerprint(checkpoint.model),
        "classes": checkpoint.classes,
        "preprocessing": checkpoint.preprocessing.to_dict(),
        "estimates_losses": checkpoint.estimates_losses,
    }
    return sha256_of_json(facts)


def odin_scores(
    checkpoint: Checkpoint,
    images: ImageSet,
    grid: Sequence[Odin],
    *,
    on_image: OnImage | None = None,
) -> GridScores:
    """ODIN's scores of a set."""
    batched = batches(images, batch_size=ODIN_BATCH, device=device_of(checkpoint.model))
    reported = _reported((batch.images for batch in batched), len(images), on_image)
    model = folded(checkpoint.model, checkpoint.architecture.image_size)
    return score_grid(model.classify, reported, grid)
