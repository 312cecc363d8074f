"""The prepared images of a reproduction: its data, its splits and its OOD sets, trial by trial."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from misgiving.checkpoint import Checkpoint, versions
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset, without
from misgiving.data.decoding import skipped_sentences
from misgiving.data.preprocessing import AUGMENTATIONS
from misgiving.data.splits import SPLITS, leakage_of, split_of
from misgiving.errors import DataError, Parameter, UsageError, separated
from misgiving.files import read_json, sha256_of_file, sha256_of_lines
from misgiving.predictions.record import Predictions
from misgiving.registry import own_source
from misgiving.reproduction.config import Protocol, Unit, learning_rate_of, settings_of
from misgiving.reproduction.ood_sets import SCIKIT_IMAGE, build, images_at
from misgiving.reproduction.ood_sets.derived import DERIVED_SETS
from misgiving.reproduction.ood_sets.lesions import with_masks
from misgiving.reproduction.protocol import EXPERIMENTS
from misgiving.reproduction.published import PAPER_IMAGES
from misgiving.reproduction.source_code import code_digest
from misgiving.reproduction.tables import RUN_AGAIN
from misgiving.training.config import ModelConfig, TrainingConfig, recorded
from misgiving.training.loop import Step
from misgiving.training.train_run import (
    TrainingSetup,
    draw_sets,
    grouped_images,
    initial_model,
)

MEASURING = frozenset({"scores", "detection", "measuring_code"})
"""Parts of a unit's record on which its training does not depend."""

CODE = frozenset({"sets", "training_code", "measuring_code", "versions"})
"""Parts of a unit's record that follow from code and data."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Callbacks that report progress."""

    on_start: Callable[[int, int], None] = lambda *_: None
    on_unit: Callable[[Unit], None] = lambda *_: None
    on_step: Callable[[Step], None] = lambda *_: None
    on_image: Callable[[int, int], None] | None = None


class TrialData:
    """The prepared images of a reproduction, and the sets that are derived from them.

    Args:
        protocol: What is reproduced.
        cache_folder: For prepared images.
        progress: What is reported.
        trains: Refuse, before images are prepared, settings with which no model can be trained on
            this machine.
    """

    def __init__(
        self,
        protocol: Protocol,
        cache_folder: Path,
        progress: Progress | None = None,
        *,
        trains: bool = False,
    ) -> None:
        self.protocol, self.cache = protocol, cache_folder
        self.evaluation_sets = SPLITS[protocol.images.split]
        self.progress = progress or Progress()
        self.dataset = with_masks(load_dataset(protocol.data), protocol.masks)
        self.dataset.check_class_sizes()
        for source in protocol.sources:
            if source.location != SCIKIT_IMAGE:
                images_at(source.location, source.name)  # refused before anything is prepared
        self.preprocessing = replace(
            self.dataset.preprocessing, **protocol.images.preprocessing_changes
        )
        self.augmentation = protocol.images.augment or self.dataset.augmentation
        for classes in (protocol.in_distribution, protocol.unseen):
            self.dataset.restrict(classes)  # refuses a class that the data does not have
        if trains:
            count, side = len(self.dataset.classes), self.preprocessing.image_size
            initial_model(protocol.model, protocol.training, count, side)
        prepared = self._prepare(self.dataset)
        self.images, _ = grouped_images(prepared, protocol.images.split)
        self.dataset = without(self.dataset, self.images.skipped)
        self.inliers, _ = self.images.align(protocol.in_distribution)
        self.outliers = cache(self._prepared_outliers)
        self._sets = cache(partial(draw_sets, config=protocol.images))

    def setup(self, unit: Unit) -> TrainingSetup:
        """The training run of a unit; all models of a trial see the same split and batches."""
        images = self.inliers if unit.experiment == "ood_detection" else self.images
        changes = settings_of(unit.model, TrainingConfig)
        if (rate := learning_rate_of(unit.experiment)) is not None:
            changes["learning_rate"] = rate
        seed = self.protocol.seed + unit.trial
        return TrainingSetup(
            data=self.protocol.data,
            images=images,
            sets=self._sets(images, seed=seed),
            evaluation_sets=self.evaluation_sets,
            preprocessing=self.preprocessing,
            augmentation=self.augmentation,
            model=replace(self.protocol.model, **settings_of(unit.model, ModelConfig)),
            training=replace(self.protocol.training, seed=seed, **changes),
        )

    def size(self, experiment: str) -> dict[str, Any]:
        """Images of an experiment in its first trial: all, those trained on, those measured."""
        setup = self.setup(Unit(experiment, 0, self.protocol.models[0]))
        names = {"trained": "train", "measured": self.evaluation_sets.measured}
        counts = {key: len(setup.images_of(name)) for key, name in names.items()}
        return {"experiment": experiment, "images": len(setup.images), **counts}

    def _prepared_outliers(self, trial: int) -> Mapping[str, tuple[Dataset, ImageSet]]:
        """The OOD sets of a trial, before and after preparation, without unreadable images.

        Derived sets come from images that were not trained on.
        """
        outliers = {}
        for name, dataset in self._ood_sets(self.protocol.seed + trial):
            images = self._prepare(dataset)
            remarks = skipped_sentences(images.skipped, len(images))
            contents = "; ".join([dataset.contents, *remarks])
            outliers[name] = replace(without(dataset, images.skipped), contents=contents), images
        return outliers

    def _ood_sets(self, seed: int) -> Iterator[tuple[str, Dataset]]:
        """The OOD sets of a trial by name, before preprocessing."""
        everything = self.dataset.restrict(self.protocol.in_distribution)
        measured = self._sets(self.inliers, seed=seed) == self.evaluation_sets.measured
        held_out = everything.select(np.flatnonzero(measured))
        sources = {source.name: source for source in self.protocol.sources}
        for name in self.protocol.ood_sets:
            if source := sources.get(name):
                count = PAPER_IMAGES.get(source.row)
                built = build(name, held_out, seed=seed, place=source.location, count=count)
                about = f"{source.about}; " if source.about else ""
            else:
                built = build(name, held_out, seed=seed)
                about = "of held-out images: " if name in DERIVED_SETS else ""
            yield name, replace(built, contents=f"{about}{built.contents}")

    def skipped(self) -> list[dict[str, str]]:
        """The images of the data and of the OOD sets of all trials that cannot be read."""
        sets = [(self.protocol.data, self.images)]
        for trial in range(self.protocol.trials):
            sets += [(name, images) for name, (_, images) in self.outliers(trial).items()]
        skipped = dict.fromkeys((name, image) for name, images in sets for image in images.skipped)
        return [{"set": name, **image._asdict()} for name, image in skipped]

    def leakage(self) -> list[dict[str, Any]]:
        """The groups and images that sets share, in each trial of each experiment."""
        leakage = []
        for experiment, trial in product(EXPERIMENTS, range(self.protocol.trials)):
            setup = self.setup(Unit(experiment, trial, self.protocol.models[0]))
            shared = leakage_of(split_of(setup.images, setup.sets), self.evaluation_sets.measured)
            leakage.append({"experiment": experiment, "trial": trial, **shared})
        return leakage

    def record(self, unit: Unit) -> dict[str, Any]:
        """What must be the same for a unit to be used again, as JSON.

        With the same of all but `MEASURING`, its trained model is used again.
        """
        setup, protocol = self.setup(unit), self.protocol
        scores = protocol.scores if unit.experiment == "generalization" else ()
        record = {
            "unit": unit._asdict(),
            "scores": {name: own_source(name) for name in scores},
            "data": protocol.data,
            "split": [protocol.images.split, protocol.images.validation_share],
            "model": recorded(setup.model),
            "training": recorded(setup.training),
            "preprocessing": asdict(self.preprocessing),
            "augmentation": asdict(AUGMENTATIONS[self.augmentation]),
            "images": [setup.images.fingerprint, sha256_of_lines(setup.images.groups)],
            "weights": setup.model.weights and sha256_of_file(setup.model.weights),
            "sets": sha256_of_lines(map(str, setup.sets)),
            "training_code": code_digest("misgiving.training.train_run") + own_source(unit.model),
            "measuring_code": code_digest("misgiving.reproduction.runner"),
            "versions": versions(),
        }
        if unit.experiment == "ood_detection":
            record["detection"] = {
                "search": asdict(protocol.odin),
                "unseen": protocol.unseen,
                "seed": protocol.seed,
                "outliers": {
                    name: [images.fingerprint, sha256_of_lines(images.groups)]
                    for name, (_, images) in self.outliers(unit.trial).items()
                },
            }
        return dict(json.loads(json.dumps(record)))  # in which tuples are lists

    def records(self, units: Iterable[Unit], out: Path) -> dict[Unit, dict[str, Any]]:
        """The record of each unit; refuse to replace finished units of other settings or data.

        Units of other code or versions are not refused, and neither are damaged ones.

        Raises:
            UsageError: A unit in the folder `out` differs.
        """
        records = {unit: self.record(unit) for unit in units}
        for unit, record in records.items():
            path = out / unit.folder / "unit.json"
            if (finished := read_record(path)) and (names := _changed(finished, record)):
                raise UsageError(
                    f"{path}: was finished with other settings (",
                    *separated(map(Parameter, sorted(names)), ", "),
                    "); repeat those to resume, or choose another ",
                    Parameter("out"),
                )
        return records

    def _prepare(self, dataset: Dataset) -> ImageSet:
        return prepare(
            dataset,
            self.preprocessing,
            cache=self.cache,
            report=self.progress.on_image,
            on_bad_image=self.protocol.images.on_bad_image,
        )


class TrainedUnit(NamedTuple):
    """A unit with its trained model, ready to be measured.

    Attributes:
        trial_data: The images of its reproduction.
        unit: Its name.
        setup: Of its training.
        checkpoint: The trained model.
        predictions: For the measured set.
        folder: For results.
    """

    trial_data: TrialData
    unit: Unit
    setup: TrainingSetup
    checkpoint: Checkpoint
    predictions: Predictions
    folder: Path

    @property
    def measured(self) -> str:
        """The set of the predictions."""
        return self.setup.evaluation_sets.measured


def read_record(path: Path) -> dict[str, Any]:
    """The record in a file; empty where it is missing or damaged."""
    try:
        return read_json(path, remedy=RUN_AGAIN)
    except DataError:
        return {}


def _changed(finished: Mapping[str, Any], record: Mapping[str, Any]) -> set[str]:
    """Settings and data of a record that were others in a finished one."""
    names: set[str] = set()
    for name in record.keys() - CODE:
        old, new = finished.get(name, {}), record[name]
        if isinstance(old, dict) and isinstance(new, dict):
            names |= {key for key in {**old, **new} if old.get(key) != new.get(key)}
        elif old != new:
            names.add(name)
    return names
