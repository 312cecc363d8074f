"""All that `misgiving train` does, from the name of data to a run folder.

`prepare_training` loads the data set, prepares its images (`data.cache`), puts them into sets
(`data.splits`) and builds the network (`models.joint`). `train_run` trains it (`loop`, where Eq. 2
is) and writes the run (`checkpoint`).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from misgiving.arrays import Names
from misgiving.checkpoint import (
    RUN_CONFIG,
    Architecture,
    Checkpoint,
    EpochRecord,
    TrainingData,
    save,
)
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.check import contradictory_copies, image_hashes, near_duplicates
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.preprocessing import AUGMENTATIONS, Preprocessing
from misgiving.data.splits import (
    SPLITS,
    EvaluationSets,
    cross_validation_split,
    paper_split,
    split_by_group,
    split_of,
)
from misgiving.errors import Parameter, UsageError, reason_of
from misgiving.files import sha256_of_lines
from misgiving.groups import Pair, join_groups
from misgiving.losses import auxiliary_loss
from misgiving.models.backbones import load_weights
from misgiving.models.joint import JointClassifier
from misgiving.predictions.inference import model_fingerprint
from misgiving.predictions.schema import reader_answers
from misgiving.registry import own_source
from misgiving.training import processes
from misgiving.training.config import DataConfig, ModelConfig, Recipe, TrainingConfig, recorded
from misgiving.training.loop import Step, class_weights, optimizer_of, seeded, train
from misgiving.training.processes import start_fabric
from misgiving.training.resume import ResumeFile, resume_path, stop_on_sigterm


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """Images, sets and settings of one training.

    Attributes:
        data: The data as the user named it.
        images: All prepared images of the split.
        sets: Name of the set of each image.
        evaluation_sets: The sets that are tuned on and measured.
        preprocessing: Applied to all images.
        augmentation: Preset of `AUGMENTATIONS`, applied in training.
        model: The network.
        training: How to train it.
        contradictions: Pairs of copies with different labels, by their positions in `images`.
    """

    data: str
    images: ImageSet
    sets: Names
    preprocessing: Preprocessing
    augmentation: str
    model: ModelConfig
    training: TrainingConfig
    evaluation_sets: EvaluationSets = SPLITS["paper"]
    contradictions: Sequence[Pair] = ()

    def images_of(self, set_name: str) -> ImageSet:
        """The images of one set."""
        return self.images.select(np.flatnonzero(self.sets == set_name))


def prepare_training(
    data: str | Dataset,
    recipe: Recipe,
    *,
    cache: Path,
    on_image: Callable[[int, int], None] | None = None,
    on_weights: Callable[[list[str], list[str]], None] = lambda *_: None,
) -> tuple[TrainingSetup, JointClassifier]:
    """Load, prepare and split data for one training, and build its network.

    Args:
        data: The data as the user names it, or a data set.
        recipe: How to prepare and train; the seed of the training also draws the split.
        cache: Folder for prepared images.
        on_image: Called with the number of prepared images and of all.
        on_weights: Called if a weights file lacks more than the classifier, or has more, with the
            names of what it lacks, and of what is unknown.

    Raises:
        UsageError: A setting of the network or the machine does not work; known before any image
            is prepared.
    """
    dataset, config = load_dataset(data), recipe.images
    dataset.check_class_sizes()
    reader_answers(dataset.metadata, dataset.classes)  # what later steps could not read
    preprocessing = replace(dataset.preprocessing, **config.preprocessing_changes)
    count, side = len(dataset.classes), preprocessing.image_size
    model = initial_model(recipe.model, recipe.training, count, side, on_weights)
    prepared = prepare(
        dataset, preprocessing, cache=cache, report=on_image, on_bad_image=config.on_bad_image
    )
    grouped, pairs = grouped_images(prepared, config.split)
    setup = TrainingSetup(
        data=dataset.name,
        images=grouped,
        sets=draw_sets(grouped, config, seed=recipe.training.seed),
        preprocessing=preprocessing,
        augmentation=config.augment or dataset.augmentation,
        model=recipe.model,
        training=recipe.training,
        evaluation_sets=SPLITS[config.split],
        contradictions=contradictory_copies(grouped, pairs),
    )
    return setup, model


def initial_model(
    config: ModelConfig,
    training: TrainingConfig,
    num_classes: int,
    image_size: int,
    on_weights: Callable[[list[str], list[str]], None] = lambda *_: None,
) -> JointClassifier:
    """The network with its initial weights, tried on a blank image.

    Raises:
        UsageError: It cannot be built or run, or its weights or the device are not available.
    """
    start_fabric(training.device, precision=training.precision)
    pretrained = config.pretrained and config.weights is None
    sizes: dict[str, Any] = {"num_classes": num_classes, "image_size": image_size}
    with seeded(training.seed):
        model = JointClassifier(**config.architecture, **sizes, pretrained=pretrained)
    if config.weights is not None:
        unfilled, unknown = load_weights(model.backbone, config.weights)
        new = {*map(id, cast(Any, model.backbone).get_classifier().parameters())}
        needed = {name for name, value in model.backbone.named_parameters() if id(value) not in new}
        if unknown or needed.intersection(unfilled):
            on_weights(unfilled, unknown)
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:  # whatever the network's operations raise
        raise UsageError(
            f"backbone {config.backbone!r} cannot take images of {image_size} pixels "
            f"({reason_of(error)}); choose another ",
            Parameter("image_size"),
        ) from error
    optimizer_of(model, training)  # fails if there is no estimator to train
    auxiliary_loss(training.auxiliary)  # fails if there is none of this name
    return model


def draw_sets(images: ImageSet, config: DataConfig, *, seed: int) -> Names:
    """Split images at random, or for `grouped` as the data do: the name of the set of each."""
    if config.split == "grouped":
        return split_by_group(images, shares=config.split_shares, seed=seed)
    if config.split == "folds":
        return cross_validation_split(images.labels, images.units, seed=seed)
    share = config.validation_share
    return paper_split(images.labels, images.classes, validation_share=share, seed=seed)


def grouped_images(images: ImageSet, split: str) -> tuple[ImageSet, list[Pair]]:
    """Put near duplicates, which are also returned, in one group, if the split is by group."""
    if split == "paper":
        return images, []
    pairs = near_duplicates(image_hashes(images))
    return replace(images, groups=join_groups(images.groups, images.ids, pairs)), pairs


def train_run(
    setup: TrainingSetup,
    model: JointClassifier,
    folder: Path,
    *,
    resume_file: Path | None = None,
    overwrite: bool = False,
    on_step: Callable[[Step], None] = lambda *_: None,
    on_epoch: Callable[[EpochRecord], None] = lambda *_: None,
    on_resume: Callable[[int, int], None] = lambda *_: None,
) -> Checkpoint:
    """Train a model in place and write its run folder: weights, settings, split, `history.csv`.

    The state is saved beside it after every epoch, and at SIGTERM; a training of the same run that
    was stopped resumes there.

    Args:
        setup: The images, and how to train.
        model: The network of `initial_model`.
        folder: The run folder; it appears whole.
        resume_file: File for the state, which the caller removes; None for one beside `folder`,
            which is removed when the run is complete.
        overwrite: Start over if the saved state is damaged or another training's.
        on_step: Called after every step.
        on_epoch: Called after every epoch with the record of the monitored set.
        on_resume: Called with the epoch and the step after which training resumes.
    """
    training, augmentation = setup.images_of("train"), AUGMENTATIONS[setup.augmentation]
    checkpoint = _checkpoint_of(setup, model)
    facts = RUN_CONFIG.dump_python(checkpoint, mode="json")
    path = resume_file or resume_path(folder)
    resume = ResumeFile(
        path=path,
        identity={  # what must be the same for a training to resume
            **facts.pop("settings"),
            **facts,
            "split": sha256_of_lines(checkpoint.split.sets),
            "first weights": model_fingerprint(model),
            "own loss": own_source(setup.training.auxiliary),
        },
        overwrite=overwrite,
        on_resume=on_resume,
    )
    with stop_on_sigterm() as stop:
        history = train(
            model,
            training,
            setup.images_of(setup.evaluation_sets.tuning),
            setup.training,
            augmentation=augmentation,
            on_step=on_step,
            on_epoch=on_epoch,
            monitored_name=setup.evaluation_sets.tuning,
            resume=resume,
            stop=stop,
        )
    if processes.rank() == 0:
        save(folder, checkpoint, history=history)
        if resume_file is None:
            path.unlink(missing_ok=True)
    processes.wait_for_all()
    return checkpoint


def _checkpoint_of(setup: TrainingSetup, model: JointClassifier) -> Checkpoint:
    """A run of these settings with its model, which is still to be trained."""
    training, classes = setup.images_of("train"), setup.images.classes
    # The estimator learns the loss without class weights where its target is the plain one.
    weighting = "none" if setup.training.target == "plain" else setup.training.class_weights
    weights = class_weights(training.labels, len(classes), weighting)
    augmentation = asdict(AUGMENTATIONS[setup.augmentation])
    return Checkpoint(
        model=model,
        split=split_of(setup.images, setup.sets),
        architecture=Architecture(
            **setup.model.architecture,
            num_classes=len(classes),
            image_size=setup.preprocessing.image_size,
        ),
        classes=classes,
        preprocessing=setup.preprocessing,
        class_weights=tuple(weights.tolist()),
        estimates_losses=setup.training.estimates_losses,
        keeps_best_epoch=setup.training.keep == "best",
        data=training_data(setup.data, setup.images, setup.sets),
        views=AUGMENTATIONS[setup.augmentation].views,
        settings={
            "model": recorded(setup.model),
            "training": recorded(setup.training),
            "augmentation": {"preset": setup.augmentation, **augmentation},
        },
    )


def training_data(name: str, images: ImageSet, sets: Names) -> TrainingData:
    """The data that a run records."""
    return TrainingData(
        name=name,
        fingerprint=images.fingerprint,
        group_columns=images.group_columns,
        images={name: int(np.sum(sets == name)) for name in np.unique(sets)},
        skipped=tuple(image._asdict() for image in images.skipped),
    )
