"""How a run answers: with torch, by the policy of its folder."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from misgiving import distributed
from misgiving.bundle import Answer, Outputs, answers_of
from misgiving.checkpoint import Checkpoint, load
from misgiving.decisions.engine import Decider
from misgiving.evaluation import device_of, fingerprint_of
from misgiving.models.joint import outputs_of
from misgiving.results.predictions import Predictions
from misgiving.training.devices import start_processes
from misgiving.workflows.evaluate import policy_of
from misgiving.workflows.predict import Answerer, Key, Squares, Value, policy_mark


class _Processes:
    """The processes of this command."""

    @property
    def is_first(self) -> bool:
        return distributed.is_first()

    def share(self, todo: list[int]) -> list[int]:
        return todo[distributed.rank() :: distributed.count()]

    def together(self, found: Mapping[Key, Value]) -> dict[Key, Value]:
        with distributed.losses_explained():
            return distributed.merged(found)


def answerer_of_run(
    run: Path, *, device: str = "auto", devices: int = 1, nodes: int = 1
) -> Answerer:
    """What answers as a run does, in as many processes as are asked for."""
    checkpoint = load(run)
    decider = policy_of(run, checkpoint)
    checkpoint.model.to(start_processes(device, devices=devices, nodes=nodes))
    fingerprint = fingerprint_of(checkpoint)

    def answer(squares: Squares) -> list[Answer]:
        images = torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255
        return _answers(predict_pixels(checkpoint, images, fingerprint), decider)

    policy = None if decider is None else decider.policy
    return Answerer(
        answer=answer,
        preprocessing=checkpoint.preprocessing,
        decides=decider is not None,
        fingerprint=fingerprint + policy_mark(policy),
        team=_Processes(),
    )


def _answers(predictions: Predictions, decider: Decider | None) -> list[Answer]:
    outputs = Outputs(
        logits=predictions.logits,
        features=predictions.features,
        predicted_losses=predictions.predicted_losses,
    )
    if decider is None:
        return answers_of(outputs, predictions.classes, None, None)
    scaling = decider.estimate.scaling
    return answers_of(outputs, predictions.classes, decider(predictions), scaling)


def predict_pixels(
    checkpoint: Checkpoint, images: Float[Tensor, "batch 3 size size"], fingerprint: str
) -> Predictions:
    """Predictions for a batch of images of unknown class, by a model of this fingerprint."""
    output = outputs_of(checkpoint.model, [images.to(device_of(checkpoint.model))])
    names = tuple(str(number) for number in range(len(images)))
    return Predictions(
        logits=output.logits.numpy(),
        features=output.features.numpy(),
        predicted_losses=output.predicted_losses.numpy() if checkpoint.estimates_losses else None,
        labels=np.zeros(len(images), dtype=np.int64),  # unknown, and not used
        ids=names,
        groups=names,
        classes=checkpoint.classes,
        model=fingerprint,
    )
