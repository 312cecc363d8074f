"""Run a model once over a set of images."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from misgiving import distributed
from misgiving.checkpoint import Checkpoint
from misgiving.data.batching import batches
from misgiving.data.cache import ImageSet
from misgiving.errors import UsageError
from misgiving.manifests import sha256_of_chunks, sha256_of_json
from misgiving.models.joint import JointClassifier, Output, outputs_of
from misgiving.results.predictions import Head, Predictions


def predict(
    model: JointClassifier,
    images: ImageSet,
    *,
    batch_size: int = 64,
    estimates_losses: bool = True,
) -> Predictions:
    """Run a model once over a set, in evaluation mode, on the device where the model is.

    Several processes share the set, and each has the predictions for all of it.

    Args:
        model: The classifier with its loss estimator.
        images: The set.
        batch_size: Images in one forward pass.
        estimates_losses: False where the estimator was not trained: predicted losses are then None.
    """
    if not len(images):
        raise UsageError("there are no images to predict")
    ours = images.select(distributed.share_of(len(images)))
    shares = outputs_of(model, image_batches(ours, batch_size, device_of(model)))
    output = Output(*(distributed.gathered(share, len(images)) for share in shares))
    return Predictions(
        logits=output.logits.numpy(),
        features=output.features.numpy(),
        predicted_losses=output.predicted_losses.numpy() if estimates_losses else None,
        labels=np.asarray(images.labels),
        ids=images.ids,
        groups=images.groups,
        classes=images.classes,
        head=_head_of(model),
        model=model_fingerprint(model),
    )


def _head_of(model: JointClassifier) -> Head | None:
    layer = model.backbone.get_classifier()
    if not isinstance(layer, torch.nn.Linear):
        return None
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
    return Head(layer.weight.detach().float().cpu().numpy(), bias.float().cpu().numpy())


def model_fingerprint(model: JointClassifier) -> str:
    """SHA-256 over the names and values of all weights: what a policy belongs to."""
    return sha256_of_chunks(
        chunk
        for name, tensor in model.state_dict().items()
        for chunk in (name.encode(), tensor.detach().cpu().numpy().tobytes())
    )


def device_of(model: torch.nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next(model.parameters()).device


def image_batches(
    images: ImageSet, batch_size: int = 64, device: str | torch.device = "cpu"
) -> Iterator[Float[torch.Tensor, "batch 3 height width"]]:
    """The images of a set alone, in order, as float batches in [0, 1]."""
    return (batch.images for batch in batches(images, batch_size=batch_size, device=device))


def predictions_of(checkpoint: Checkpoint, images: ImageSet) -> Predictions:
    """Predictions that know which model, with which preprocessing, they are from."""
    predictions = predict(checkpoint.model, images, estimates_losses=checkpoint.estimates_losses)
    return replace(predictions, model=fingerprint_of(checkpoint))


def fingerprint_of(checkpoint: Checkpoint) -> str:
    """SHA-256 of what scores depend on: weights, classes and preprocessing."""
    facts = {
        "weights": model_fingerprint(checkpoint.model),
        "classes": checkpoint.classes,
        "preprocessing": checkpoint.preprocessing.to_dict(),
        "estimates_losses": checkpoint.estimates_losses,
    }
    return sha256_of_json(facts)
