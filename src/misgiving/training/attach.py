"""A loss estimator for a classifier that another program trained: what `misgiving attach` does."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misgiving.checkpoint import Architecture, Checkpoint, save
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.splits import SPLITS, SetNames
from misgiving.errors import UsageError
from misgiving.predictions.inference import predict
from misgiving.training.config import AttachConfig, EstimatorConfig
from misgiving.training.devices import device_named
from misgiving.training.estimator import fit_estimator
from misgiving.training.loop import seeded
from misgiving.training.train_run import data_facts, grouped_images, split_of
from misgiving.training.trained_models import TrainedModel, load_hugging_face, load_named


class Attached(NamedTuple):
    """A run that was written, its images and the name of the set of each.

    Attributes:
        checkpoint: The run.
        images: All prepared images.
        sets: Name of the set of each image.
        rounding: As in `TrainedModel`.
    """

    checkpoint: Checkpoint
    images: ImageSet
    sets: SetNames
    rounding: float


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
    sets = SPLITS["grouped"].draw(images.labels, images.classes, images.groups, seed=training.seed)
    learned, tune = (
        predict(joint, images.select(np.flatnonzero(sets == name)), on_image=on_predicted)
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
            "model": config.to_dict(),
            "training": training.to_dict(),
        },
    )
    save(folder, checkpoint, history=history)
    return Attached(checkpoint, images, sets, trained.rounding)


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
    if len(classes) != len(trained.classes) or len(set(classes)) != len(classes):
        raise UsageError(
            f"`classes` must be {len(trained.classes)} different names, one for each logit of the "
            f"model; got {', '.join(classes)}"
        )
    if other := [name for name in dataset.classes if name not in classes]:
        raise UsageError(
            f"{dataset.name} has the classes {', '.join(dataset.classes)}, and the model "
            f"{', '.join(classes)}; name the model's as the data does by `classes`, in their "
            f"order, or leave out {', '.join(other)}"
        )
    return trained._replace(classes=tuple(classes))
