"""Loss estimators for trained classifiers: `attach`, and a run as `misgiving attach` makes it.

Where a loss estimator is asked for, it learns from averages of the classifier's activations, which
are computed once, in seconds. Objective, optimizer and schedule are those of `loop`.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from misgiving.checkpoint import Architecture, Checkpoint, EpochRecord, save
from misgiving.data.batching import sampling_order
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.decoding import SKIP
from misgiving.data.splits import split_of
from misgiving.errors import DataError, Parameter, UsageError
from misgiving.losses import auxiliary_loss
from misgiving.models.joint import JointClassifier, LossEstimator
from misgiving.predictions.inference import predictions_of
from misgiving.predictions.record import Predictions
from misgiving.training.config import ATTACHED, AttachConfig, DataConfig, TrainingConfig, recorded
from misgiving.training.loop import (
    objective_of,
    optimizer_of,
    record_of,
    schedule_of,
    seeded,
    usable_count,
)
from misgiving.training.processes import device_named
from misgiving.training.train_run import draw_sets, grouped_images, training_data
from misgiving.training.trained_models import TrainedModel, load_hugging_face, load_named

MIN_DEVIATION = 1e-6  # share of the largest deviation below which a channel counts as constant
OF_NAMED = ("weights", "image_size", "crop", "interpolation", "mean", "std")
"""Settings of a model by name; a Hugging Face folder has its own."""
TRIED_IMAGES = 400  # images on which the classifier is tried before the others are prepared
CHANCE_LEVEL = 0.05  # of the test against chance
SHARES = (30, 15, 45, 10)  # of the split, in percent, where no loss estimator is trained


def attach(
    module: nn.Module,
    *,
    taps: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    hidden: int = 128,
    reads_logits: bool = True,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> JointClassifier:
    """Give a trained classifier a loss estimator that is still to be trained.

    The classifier is a frozen copy: its logits are bit for bit those of the module in evaluation
    mode, and the module itself stays as it is, whatever happens to the copy. Train the estimator
    with `fit_estimator`, or in a loop of your own, on images that the classifier was not trained
    on: on those that it was, it makes too few errors to learn from.

    Args:
        module: Any module from images (N, 3, H, W) to logits.
        taps: As in `JointClassifier`.
        classes: Names of the classes, in the order of the logits.
        hidden: As in `JointClassifier`.
        reads_logits: As in `JointClassifier`, but on by default: it ranks losses better.
        image_size: As in `JointClassifier`.
        mean: As in `JointClassifier`.
        std: As in `JointClassifier`.

    Raises:
        UsageError: The module cannot be read, or has another number of classes.
        RuntimeError: It cannot be copied, because it holds tensors of an earlier call.
    """
    model = JointClassifier(
        deepcopy(module),
        None if classes is None else len(classes),
        taps=taps,
        hidden=hidden,
        reads_logits=reads_logits,
        image_size=image_size,
        mean=mean,
        std=std,
    )
    model.classes = None if classes is None else tuple(classes)
    return model.freeze_classifier().eval()


def attach_run(
    model: str,
    data: str | Dataset,
    folder: Path,
    *,
    config: AttachConfig,
    training: TrainingConfig,
    cache: Path,
    on_image: Callable[[int, int], None] | None = None,
    on_predicted: Callable[[int, int], None] | None = None,
    on_accuracy: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Checkpoint, ImageSet]:
    """Write a run of a trained classifier, and return it and its data.

    The classifier is not trained. The data are split by group into the sets train (30 %), tune
    (15 %), calibrate (45 %) and test (10 %), or as they name sets; OOD detectors and the error
    estimator are fitted on `train` when the run is calibrated. Where `training` has an auxiliary
    loss, the sets are those of `train`, and a loss estimator learns the losses of the set `train`.
    No image of the data may be one that the classifier was trained on: its losses on these are not
    those of new images.

    Args:
        model: A Hugging Face folder, the name of a timm model, or `torchvision:NAME`.
        data: Labelled images that are new to the model, as the user names them, or a data set.
        folder: The run folder; it appears whole.
        config: The model, and what is read of it.
        training: How a loss estimator is trained, if at all; its seed also draws the split.
        cache: Folder for prepared images.
        on_image: Called with the number of prepared images and of all.
        on_predicted: Called with the number of predicted images and of all of a set.
        on_accuracy: Called with the number of right answers on a sample, and of its images.

    Raises:
        DataError: The model cannot be loaded, its images cannot be prepared as it does it, or it
            is right as often as by chance.
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
        reads_logits=config.reads_logits,
        attached=trained.source,
    )
    with seeded(training.seed):
        joint = architecture.build(trained.module).eval().to(device_named(training.device))
    auxiliary_loss(training.auxiliary)  # fails if there is none of this name

    def prepared(part: Dataset, on_bad_image: str) -> ImageSet:
        images = prepare(
            part, trained.preprocessing, cache=cache, report=on_image, on_bad_image=on_bad_image
        )
        return images.align(trained.classes)[0]

    drawn = np.random.default_rng(training.seed).permutation(len(dataset))[:TRIED_IMAGES]
    sample = predictions_of(joint, prepared(dataset.select(np.sort(drawn)), SKIP))
    check_answers(sample, trained)
    on_accuracy(int((~sample.errors).sum()), len(sample))
    images, _ = grouped_images(prepared(dataset, config.on_bad_image), "grouped")
    shares = DataConfig.split_shares if training.estimates_losses else SHARES
    grouped = DataConfig(split="grouped", split_shares=shares)
    sets = draw_sets(images, grouped, seed=training.seed)
    history = None
    if training.estimates_losses:
        parts = (images.select(np.flatnonzero(sets == name)) for name in ("train", "tune"))
        learned, tune = (predictions_of(joint, part, on_image=on_predicted) for part in parts)
        history = fit_estimator(joint, learned, tune, training)
    checkpoint = Checkpoint(
        model=joint.eval(),
        architecture=architecture,
        classes=trained.classes,
        preprocessing=trained.preprocessing,
        split=split_of(images, sets),
        class_weights=(1.0,) * len(trained.classes),
        estimates_losses=training.estimates_losses,
        data=training_data(dataset.name, images, sets),
        views=config.views,
        settings={"model": recorded(config), "training": recorded(training)},
    )
    save(folder, checkpoint, history=history)
    return checkpoint, images


def _load(model: str, dataset: Dataset, config: AttachConfig) -> TrainedModel:
    """The trained model, whose classes have the names that the data give them."""
    if Path(model).is_dir():
        for name in config.given(*OF_NAMED):
            raise UsageError(Parameter(name), " is for models by name; leave it out")
        trained = load_hugging_face(Path(model))
    else:
        names = config.classes or dataset.classes
        trained = load_named(model, config.weights, names, config.image_size)
        trained = trained._replace(
            source=replace(trained.source, **config.given("mean", "std")),
            preprocessing=replace(trained.preprocessing, **config.given("crop", "interpolation")),
        )
    classes = config.classes or trained.classes
    fits = len(classes) == len({*classes}) == len(trained.classes)
    if not (fits and {*dataset.classes} <= {*classes}):
        raise UsageError(
            f"{dataset.name} has the classes {', '.join(dataset.classes)}, and the model "
            f"{len(trained.classes)}, named {', '.join(classes)}; give ",
            Parameter("classes"),
            ", another name for each logit of the model in order, with all that the data have",
        )
    return trained._replace(classes=tuple(classes))


def check_answers(predictions: Predictions, trained: TrainedModel) -> None:
    """Check that a classifier is right more often than its answers in random order would be.

    A one-sided binomial test at 5 %. Chance is the sum over classes of their share of the labels
    times their share of the answers: for always the most frequent class, that class's share.

    Raises:
        DataError: It is not.
    """
    count, width = len(predictions), len(predictions.classes)
    answers, labels = (
        np.bincount(values, minlength=width) for values in (predictions.choices, predictions.labels)
    )
    right, chance = count - int(predictions.errors.sum()), answers @ labels / count**2
    if binomtest(right, count, chance, alternative="greater").pvalue <= CHANCE_LEVEL:
        return
    values = vars(trained.preprocessing) | vars(trained.source)
    by_name = trained.source.library != "transformers"  # of which a folder has its own
    remedy: list[str | Parameter] = []
    for name in OF_NAMED[1:] if by_name else ():
        remedy += [Parameter(name), f" (now {values[name]}), "]
    raise DataError(
        f"{trained.name} is right on {right} of {count} images, and by chance it would be on "
        f"{chance * count:.0f}; give what it was trained with: ",
        *(*remedy, Parameter("classes"), " in the order of its logits"),
    )


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
            *(
                "give a model with ",
                Parameter("taps"),
                ", predictions with the averages of these, ",
            ),
            *("and an ", Parameter("auxiliary"), " loss with an ", Parameter("auxiliary_weight")),
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
