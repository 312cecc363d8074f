"""A loss estimator for a classifier that another program trained: what `misgiving attach` does.

The classifier runs over the images once; the estimator then learns from averages of its
activations, in seconds. Objective, optimizer and schedule are those of `loop`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from misgiving.checkpoint import Architecture, Checkpoint, EpochRecord, save
from misgiving.data.batching import sampling_order
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.splits import grouped_split
from misgiving.errors import UsageError
from misgiving.models.joint import JointClassifier, LossEstimator
from misgiving.predictions.inference import predictions_of
from misgiving.predictions.record import Predictions
from misgiving.training.config import ATTACHED, AttachConfig, TrainingConfig, recorded
from misgiving.training.loop import (
    objective_of,
    optimizer_of,
    record_of,
    schedule_of,
    seeded,
    usable_count,
)
from misgiving.training.processes import device_named
from misgiving.training.train_run import data_facts, grouped_images, split_of
from misgiving.training.trained_models import TrainedModel, load_hugging_face, load_named

MIN_DEVIATION = 1e-6  # share of the largest deviation below which a channel counts as constant


def attach_run(
    model: str,
    data: str,
    folder: Path,
    *,
    config: AttachConfig,
    training: TrainingConfig,
    cache: Path,
    on_image: Callable[[int, int], None] | None = None,
    on_predicted: Callable[[int, int], None] | None = None,
) -> tuple[Checkpoint, ImageSet]:
    """Give a trained classifier a loss estimator, write both as a run, and return it and its data.

    The classifier is not trained. The data are split by group into the sets train, tune, calibrate
    and test; the estimator learns the losses of the set `train`. No image of the data may be one
    that the classifier was trained on: its losses on these are not those of new images.

    Args:
        model: A Hugging Face folder, the name of a timm model, or `torchvision:NAME`.
        data: Labelled images that are new to the model, as the user names them.
        folder: The run folder; it appears whole.
        config: The model, and what its estimator reads.
        training: How the estimator is trained; its seed also draws the split.
        cache: Folder for prepared images.
        on_image: Called with the number of prepared images and of all.
        on_predicted: Called with the number of predicted images and of all of a set.

    Raises:
        DataError: The model cannot be loaded, or its images cannot be prepared as it does it.
        UsageError: The classes of the data are not the model's.
    """
    dataset = load_dataset(data)
    dataset.check_class_sizes()
    trained = _load(model, dataset, config)
    architecture = Architecture(
        backbone=trained.name,
        num_classes=len(trained.classes),
        image_size=trained.preprocessing.image_size,
        taps=config.taps,
        hidden=config.hidden,
        reads_logits=config.reads_logits,
        attached=trained.source,
    )
    with seeded(training.seed):
        joint = architecture.around(trained.module).eval()
    joint.to(device_named(training.device))
    prepared = prepare(
        dataset,
        trained.preprocessing,
        cache=cache,
        report=on_image,
        on_bad_image=config.on_bad_image,
    )
    images = grouped_images(prepared.align(trained.classes)[0], "grouped")
    sets = grouped_split(images.labels, images.classes, images.groups, seed=training.seed)
    learned, tune = (
        predictions_of(joint, images.select(np.flatnonzero(sets == name)), on_image=on_predicted)
        for name in ("train", "tune")
    )
    history = fit_estimator(joint, learned, tune, training)
    checkpoint = Checkpoint(
        model=joint.eval(),
        architecture=architecture,
        classes=trained.classes,
        preprocessing=trained.preprocessing,
        split=split_of(images, sets),
        class_weights=(1.0,) * len(trained.classes),
        estimates_losses=True,
        configuration={
            "data": data_facts(data, images, sets),
            "model": recorded(config),
            "training": recorded(training),
        },
    )
    save(folder, checkpoint, history=history)
    return checkpoint, images


def _load(model: str, dataset: Dataset, config: AttachConfig) -> TrainedModel:
    """The trained model, whose classes have the names that the data give them."""
    if Path(model).is_dir():
        if config.weights is not None or config.image_size is not None:
            raise UsageError("`weights` and `image_size` are for models by name; leave them out")
        trained = load_hugging_face(Path(model))
    else:
        names = config.classes or dataset.classes
        trained = load_named(model, config.weights, names, config.image_size)
    classes = config.classes or trained.classes
    fits = len(classes) == len({*classes}) == len(trained.classes)
    if not (fits and {*dataset.classes} <= {*classes}):
        raise UsageError(
            f"{dataset.name} has the classes {', '.join(dataset.classes)}, and the model "
            f"{len(trained.classes)}, named {', '.join(classes)}; give `classes`, another name for "
            "each logit of the model in their order, with all that the data have"
        )
    return trained._replace(classes=tuple(classes))


def fit_estimator(
    model: JointClassifier,
    training: Predictions,
    monitored: Predictions,
    config: TrainingConfig = ATTACHED,
) -> list[EpochRecord]:
    """Train the loss estimator of a model in place, and return two records for each epoch.

    The losses that it learns are those of `training`. They must be of images that the classifier
    was not trained on: held out, or with the logits of a cross-fit. Averages are standardised while
    it learns, because activations may have any scale; this is then put into its weights.

    Args:
        model: Its classifier is left as it is. It is moved to the CPU.
        training: Predictions of this model, with the averages of its taps.
        monitored: Predictions that are only measured: `tune` in the records.
        config: How to train; what concerns the classifier is not used.

    Raises:
        UsageError: The model has no estimator, the predictions have no averages, or the
            configuration trains none.
        TrainingError: The loss is no longer finite.
    """
    estimator = model.to("cpu").loss_estimator
    given = config.estimates_losses and monitored.taps is not None
    if estimator is None or training.taps is None or not given:
        raise UsageError(
            "give a model with `taps`, predictions with the averages of these, and an `auxiliary` "
            "loss with an `auxiliary_weight`"
        )
    channels = list(model.reader.channels)
    averages = torch.from_numpy(np.asarray(training.taps, dtype=np.float32))
    mean, std = averages.mean(dim=0), averages.std(dim=0, correction=0)
    std = torch.where(std > MIN_DEVIATION * std.max(), std, 1.0)  # a channel may not vary
    sets = {"train": (training, *_inputs(training, channels, mean, std))}
    sets["tune"] = (monitored, *_inputs(monitored, channels, mean, std))
    _, taps, logits = sets["train"]
    labels = torch.from_numpy(np.asarray(training.labels))
    objective = objective_of(config, training, torch.device("cpu"))
    history: list[EpochRecord] = []
    with seeded(config.seed):
        optimizer = optimizer_of(model, config)
        used = usable_count(len(training), config.batch_size)
        steps = -(-used // config.batch_size)
        schedule = schedule_of(optimizer, config, steps)
        for epoch in range(1, config.epochs + 1):
            order = sampling_order(
                training.labels, weighting=config.sampling, seed=config.seed, epoch=epoch
            )
            batches = torch.split(torch.from_numpy(order[:used]), config.batch_size)
            for step, rows in enumerate(batches):
                predicted = estimator([tap[rows] for tap in taps], logits[rows])
                losses = objective(logits[rows], predicted, labels[rows])
                schedule.step_update((epoch - 1) * steps + step)
                optimizer.zero_grad()
                torch.autograd.backward(losses.total)
                optimizer.step()
            with torch.no_grad():
                history += [
                    record_of(logits, estimator(taps, logits), data, config, objective, epoch, name)
                    for name, (data, taps, logits) in sets.items()
                ]
    _fold(estimator, mean, std, channels)
    return history


def _inputs(
    predictions: Predictions, channels: list[int], mean: Tensor, std: Tensor
) -> tuple[Sequence[Tensor], Tensor]:
    """Standardised averages of each tap, and the logits."""
    averages = torch.from_numpy(np.asarray(predictions.taps, dtype=np.float32))
    taps = torch.split((averages - mean) / std, channels, dim=1)
    return taps, torch.from_numpy(np.asarray(predictions.logits, dtype=np.float32))


@torch.no_grad()
def _fold(estimator: LossEstimator, mean: Tensor, std: Tensor, channels: list[int]) -> None:
    """Let an estimator that learned from standardised averages read the averages themselves."""
    shifts, scales = (torch.split(values, channels) for values in (mean, std))
    for layer, shift, scale in zip(estimator.projections, shifts, scales, strict=False):
        layer = cast(nn.Linear, layer)
        layer.weight.div_(scale)
        layer.bias.sub_(layer.weight @ shift)
