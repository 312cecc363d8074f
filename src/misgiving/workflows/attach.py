"""`misgiving attach`: a loss estimator for a classifier that was trained elsewhere, as a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from misgiving.checkpoint import Architecture, Checkpoint, save
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.splits import SPLITS, SetNames, Split
from misgiving.errors import UsageError
from misgiving.models.joint import JointClassifier
from misgiving.predictions.inference import predict
from misgiving.results.schema import EpochRecord
from misgiving.training.config import AttachConfig, EstimatorConfig
from misgiving.training.devices import device_named
from misgiving.training.estimator import fit_estimator
from misgiving.training.loop import seeded
from misgiving.workflows.train import data_facts, grouped_images, split_of
from misgiving.workflows.trained_models import TrainedModel, load_hugging_face, load_named

NAMED = 8  # classes that a message lists


class Attached(NamedTuple):
    """A run that was written, the records of its estimator's training, and sentences about it."""

    checkpoint: Checkpoint
    images: ImageSet
    sets: SetNames
    history: list[EpochRecord]
    summary: list[str]


def attach_run(
    model: str,
    data: str,
    folder: Path,
    *,
    config: AttachConfig,
    training: EstimatorConfig,
    cache: Path,
    on_image: Callable[[int, int], None] | None = None,
    on_predicted: Callable[[int, int], None] | None = None,
) -> Attached:
    """Give a trained classifier a loss estimator, and write both as a run.

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
    dataset.refuse_single_images()
    trained = _load(model, dataset, config)
    architecture = _architecture(trained, config)
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
    sets = SPLITS["grouped"].draw(images.labels, images.classes, images.groups, seed=training.seed)
    learned, tune = (
        predict(joint, images.select(np.flatnonzero(sets == name)), on_image=on_predicted)
        for name in ("train", "tune")
    )
    history = fit_estimator(joint, learned, tune, training)
    configuration = {
        "data": data_facts(data, images, sets),
        "model": config.to_dict(),
        "training": training.to_dict(),
    }
    split = split_of(images, sets)
    checkpoint = _checkpoint(joint, architecture, trained, split, configuration)
    save(folder, checkpoint, history=history)
    accuracy = 100 * float(np.mean(~learned.errors))
    summary = [
        *trained.remarks,
        f"the loss estimator reads {', '.join(map(str, joint.taps))}",
        f"it learned the losses of {len(learned)} images; the classifier is right on "
        f"{accuracy:.1f} % of them",
    ]
    return Attached(checkpoint, images, sets, history, summary)


def _checkpoint(
    model: JointClassifier,
    architecture: Architecture,
    trained: TrainedModel,
    split: Split,
    configuration: dict[str, Any],
) -> Checkpoint:
    return Checkpoint(
        model=model.eval(),
        architecture=architecture,
        classes=trained.classes,
        preprocessing=trained.preprocessing,
        split=split,
        class_weights=(1.0,) * len(trained.classes),
        estimates_losses=True,
        configuration=configuration,
    )


def _architecture(trained: TrainedModel, config: AttachConfig) -> Architecture:
    return Architecture(
        backbone=trained.name,
        num_classes=len(trained.classes),
        image_size=trained.preprocessing.image_size,
        taps=config.taps,
        hidden=config.hidden,
        reads_logits=config.reads_logits,
        attached=trained.source,
    )


def _load(model: str, dataset: Dataset, config: AttachConfig) -> TrainedModel:
    """The trained model, whose classes are named as those of the data."""
    if Path(model).is_dir():
        if config.weights is not None or config.image_size is not None:
            raise UsageError("`weights` and `image_size` are for models by name; leave them out")
        trained = load_hugging_face(Path(model))
    else:
        names = config.classes or dataset.classes
        trained = load_named(model, config.weights, names, config.image_size)
    if config.classes is not None:
        count = len(trained.classes)
        if len(config.classes) != count or len(set(config.classes)) != count:
            raise UsageError(
                f"`classes` must be {count} different names, one for each logit of "
                f"the model; got {_listed(config.classes)}"
            )
        trained = trained._replace(classes=config.classes)
    if other := [name for name in dataset.classes if name not in trained.classes]:
        raise UsageError(
            f"{dataset.name} has the classes {_listed(dataset.classes)}, and the model "
            f"{_listed(trained.classes)}; name the model's as the data does by `classes`, in their "
            f"order, or leave out {_listed(other)}"
        )
    return trained


def _listed(names: tuple[str, ...] | list[str]) -> str:
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return ", ".join([*names[:NAMED], *more])
