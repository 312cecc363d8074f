"""Train a loss estimator alone, on what a trained classifier says of images that are new to it.

The classifier runs over the images once; the estimator then learns from averages of its
activations, in seconds. Objective, optimizer and schedule are those of `loop`.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from misgiving.checkpoint import EpochRecord
from misgiving.data.batching import sampling_order
from misgiving.errors import UsageError
from misgiving.models.joint import JointClassifier
from misgiving.models.loss_estimator import LossEstimator
from misgiving.predictions.record import Predictions
from misgiving.training.config import TrainingConfig
from misgiving.training.loop import record_of, seeded
from misgiving.training.objective import objective_of, optimizer_of, schedule_of, usable_count
from misgiving.training.recipes import ATTACHED

MIN_DEVIATION = 1e-6  # share of the largest deviation below which a channel counts as constant


def fit_estimator(
    model: JointClassifier,
    training: Predictions,
    monitored: Predictions,
    config: TrainingConfig = ATTACHED,
    *,
    monitored_name: str = "tune",
) -> list[EpochRecord]:
    """Train the loss estimator of a model in place, and return two records for each epoch.

    The losses that it learns are those of `training`. They must be of images that the classifier
    was not trained on: held out, or with the logits of a cross-fit. Averages are standardised while
    it learns, because activations may have any scale; this is then put into its weights.

    Args:
        model: Its classifier is left as it is. It is moved to the CPU.
        training: Predictions of this model, with the averages of its taps.
        monitored: Predictions that are only measured.
        config: How to train; what concerns the classifier is not used.
        monitored_name: Name of the monitored set in the records.

    Raises:
        UsageError: The model has no estimator, or the predictions have no averages.
        TrainingError: The loss is no longer finite.
    """
    estimator = model.to("cpu").loss_estimator
    if estimator is None or training.taps is None or monitored.taps is None:
        raise UsageError("give a model with `taps`, and predictions with the averages of these")
    mean, std = _scale(training.taps)
    sets = {
        name: (predictions, *_inputs(predictions, model.reader.channels, mean, std))
        for name, predictions in (("train", training), (monitored_name, monitored))
    }
    _, taps, logits = sets["train"]
    labels = torch.from_numpy(np.asarray(training.labels))
    if not config.estimates_losses:
        raise UsageError("`auxiliary` and `auxiliary_weight` train no estimator; change them")
    objective = objective_of(config, training, torch.device("cpu"))
    history = []
    with seeded(config.seed):
        optimizer = optimizer_of(model, config)
        used = usable_count(len(training), config.batch_size)
        steps = -(-used // config.batch_size)
        schedule = schedule_of(optimizer, config, steps)
        for epoch in range(1, config.epochs + 1):
            order = sampling_order(
                training.labels, class_weighted=config.sampling, seed=config.seed, epoch=epoch
            )
            batches = torch.split(torch.from_numpy(order[:used]), config.batch_size)
            for step, rows in enumerate(batches):
                predicted = estimator([tap[rows] for tap in taps], logits[rows])
                losses = objective(logits[rows], predicted, labels[rows])
                schedule.step_update((epoch - 1) * steps + step)
                optimizer.zero_grad()
                torch.autograd.backward(losses.total)
                optimizer.step()
            for name, (predictions, inputs, outputs) in sets.items():
                with torch.no_grad():
                    estimates = estimator(inputs, outputs)
                history.append(
                    record_of(
                        outputs,
                        estimates,
                        predictions,
                        config,
                        objective,
                        epoch=epoch,
                        set_name=name,
                    )
                )
    _fold(estimator, mean, std, model.reader.channels)
    return history


def _scale(taps: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel; 1 for channels that do not vary."""
    averages = torch.from_numpy(np.asarray(taps, dtype=np.float32))
    std = averages.std(dim=0, correction=0)
    return averages.mean(dim=0), torch.where(std > MIN_DEVIATION * std.max(), std, 1.0)


def _inputs(
    predictions: Predictions, channels: Sequence[int], mean: Tensor, std: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Standardised averages of each tap, and the logits."""
    averages = torch.from_numpy(np.asarray(predictions.taps, dtype=np.float32))
    taps = torch.split((averages - mean) / std, list(channels), dim=1)
    return list(taps), torch.from_numpy(np.asarray(predictions.logits, dtype=np.float32))


@torch.no_grad()
def _fold(estimator: LossEstimator, mean: Tensor, std: Tensor, channels: Sequence[int]) -> None:
    """Let an estimator that learned from standardised averages read the averages themselves."""
    shifts, scales = (torch.split(values, list(channels)) for values in (mean, std))
    for layer, shift, scale in zip(estimator.projections, shifts, scales, strict=False):
        layer = cast(nn.Linear, layer)
        layer.weight.div_(scale)
        layer.bias.sub_(layer.weight @ shift)
