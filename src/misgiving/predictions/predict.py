"""Predict a data set with a trained model: `predict` runs the model, and a run keeps the result.

The predictions of a run hold all that is known of its images: the set of the run's split that each
belongs to, its group, content and path.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from misgiving.checkpoint import Checkpoint, load
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset, ImageFiles, Metadata
from misgiving.data.decoding import FAIL, SKIP
from misgiving.data.duplicates import image_hashes, near_duplicates
from misgiving.data.splits import Split
from misgiving.errors import BadImage, BadImagesError, DataError, ExplainedError, UsageError
from misgiving.files import default_cache
from misgiving.groups import chained, join_groups, named_groups
from misgiving.manifests import sha256_of
from misgiving.models.joint import JointClassifier
from misgiving.predictions import inference
from misgiving.predictions.inference import (
    OnImage,
    cached_network,
    fingerprint_of,
    odin_scores,
    predictions_of,
)
from misgiving.predictions.network import Network
from misgiving.predictions.record import Predictions
from misgiving.predictions.schema import EXCLUDED, UNKNOWN, VALIDATION
from misgiving.scores.odin import Odin

PRECEDENCE = ("train", "test", EXCLUDED, "calibrate", "tune")
"""Sets by rank: of a group with images in several, those in the first one keep their set."""

FOLDER = "predictions"  # in a run
ODIN = "odin_default"
KNOWN = ("labels", "ids", "groups", "group_columns", "paths", "sets", "metadata")  # without a model


class PredictedData(NamedTuple):
    """Predictions of a run for a data set.

    Attributes:
        predictions: For the images of the chosen sets, in the order of the data; last come training
            images from elsewhere.
        counts: Images by set, whether chosen or not.
        skipped: Images that cannot be read.
        picture: Reads the image of this id as the model saw it, (size, size, 3).
        unknown: Number of images of classes that the model does not know.
        searched: Training images among which near duplicates were sought.
        trained_on: All training images of the model.
    """

    predictions: Predictions
    counts: Counter[str]
    skipped: tuple[BadImage, ...]
    picture: Callable[[str], UInt8[np.ndarray, "size size 3"]] | None = None
    unknown: int = 0
    searched: int = 0
    trained_on: int = 0


def predict(
    model: str | Path | Checkpoint | JointClassifier,
    data: str | Dataset | ImageSet,
    *,
    batch_size: int = 64,
    estimates_losses: bool = True,
    on_image: OnImage | None = None,
) -> Predictions:
    """Run a model once over a set of images.

    Args:
        model: A run folder, or a model that is in memory.
        data: The data as a user names it, such as "folder:photos", or a data set; for a
            `JointClassifier` a prepared set.
        batch_size: Images in one forward pass.
        estimates_losses: False for a `JointClassifier` whose estimator was not trained: there are
            then no predicted losses.
        on_image: Called with the number of predicted images and of all.
    """
    if isinstance(model, JointClassifier):
        if not isinstance(data, ImageSet):
            raise UsageError("give a `JointClassifier` a set that `prepare` has made")
        return inference.predict(
            model,
            data,
            batch_size=batch_size,
            estimates_losses=estimates_losses,
            on_image=on_image,
        )
    if isinstance(model, Checkpoint):
        if not isinstance(data, ImageSet):
            dataset = load_dataset(data) if isinstance(data, str) else data
            data = prepare(dataset, model.preprocessing, cache=default_cache())
        return predictions_of(model, data.align(model.classes)[0], on_image=on_image)
    return TrainedRun(Path(model), on_predicted=on_image).predict(data).predictions


class TrainedRun:
    """A run that is ready to predict.

    Args:
        folder: The run's folder.
        device: Where the model is to compute.
        cache: Folder for prepared images; None: the user's.
        on_image: Called with the number of prepared images and of all.
        on_predicted: Called with the number of predicted images and of all of a set.
        on_bad_image: `fail`, or `skip` to leave out images that cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "cpu",
        cache: Path | None = None,
        on_image: OnImage | None = None,
        on_predicted: OnImage | None = None,
        on_bad_image: str = FAIL,
    ) -> None:
        self.folder = folder
        self.checkpoint = load(folder)
        self.checkpoint.model.to(device)
        self.model = fingerprint_of(self.checkpoint)
        # the data that the run was trained on, as its user named it; may be empty
        self.data_name = str(self.checkpoint.configuration.get("data", {}).get("name", ""))
        self.cache = cache or default_cache()
        self.on_image, self.on_predicted, self.on_bad_image = on_image, on_predicted, on_bad_image

    def predict(
        self,
        data: str | Dataset | ImageSet,
        *,
        sets: Callable[[Collection[str]], Collection[str]] | None = None,
        training_data: str | None = None,
        needs_training: bool = False,
        odin: bool = False,
    ) -> PredictedData:
        """Predict the images of the model's classes, each once: what is kept is used again.

        Args:
            data: The data as the user names it, or a data set.
            sets: Chooses the sets to predict among those that the images are in; None: all.
            training_data: Data with the images that the model was trained on; None: `data`, and for
                those that are not there the data of the run.
            needs_training: True where detectors are fitted on the training images, so that none
                that cannot be read is passed over unless `on_bad_image` says so.
            odin: Also score the images by ODIN with its defaults, which runs the model again.

        Raises:
            DataError: Images cannot be read; or the set `train` is chosen, and none of its images
                is there.
        """
        dataset = load_dataset(data) if isinstance(data, str) else data
        prepared = (
            dataset if isinstance(dataset, ImageSet) else self._prepared(dataset, self.on_bad_image)
        )
        images, unknown = prepared.align(self.checkpoint.classes)
        on_bad_image = self.on_bad_image if needs_training or training_data else SKIP
        others = self._training_images(images, training_data, on_bad_image)
        described = self._described(dataset, images, others)
        set_of = described.sets or ()
        present = Counter(set_of)
        chosen = frozenset(present if sets is None else sets(present))
        if "train" in chosen and not present["train"]:
            raise DataError(
                f"{training_data or self.data_name}: contains none of the model's training "
                "images, on which its detectors are fitted; give the data that it was trained on "
                "as `training_data`"
            )

        def picture(name: str) -> UInt8[np.ndarray, "size size 3"]:
            row = described.ids.index(name)
            source, row = (images, row) if row < len(images) else (others, row - len(images))
            return np.asarray(source.read(np.array([row]))[0])

        rows = np.flatnonzero([name in chosen for name in set_of])
        return PredictedData(
            self._predictions(dataset, [images, others], described, rows, odin=odin),
            Counter(set_of[: len(images)]),
            prepared.skipped,
            picture,
            unknown,
            searched=present["train"],
            trained_on=self.checkpoint.split.sets.count("train"),
        )

    def predict_outliers(self, dataset: Dataset) -> PredictedData:
        """Predict out-of-distribution images, which have no class, and score them by ODIN."""
        images = self._prepared(dataset, self.on_bad_image)
        unknown = np.full(len(images), UNKNOWN)
        images = replace(images, labels=unknown, classes=self.checkpoint.classes)
        described = _described(dataset, images, named_groups(images.groups, images.ids))
        rows = np.arange(len(images))
        predictions = self._predictions(dataset, [images], described, rows, odin=True)
        return PredictedData(predictions, Counter({"": len(images)}), images.skipped)

    def _prepared(self, dataset: Dataset, on_bad_image: str) -> ImageSet:
        return prepare(
            dataset,
            self.checkpoint.preprocessing,
            cache=self.cache,
            report=self.on_image,
            on_bad_image=on_bad_image,
        )

    def _training_images(
        self, images: ImageSet, training_data: str | None, on_bad_image: str
    ) -> ImageSet:
        """The model's training images that are not among these; may be none."""
        hashes, offered = self.checkpoint.split.hashes_of("train"), set(images.hashes)
        name = training_data or self.data_name
        none = images.select(np.arange(0))
        if training_data is None and (not name or hashes <= offered):
            return none
        try:
            training = self._prepared(load_dataset(name), on_bad_image)
            training = training.align(self.checkpoint.classes)[0]
        except ExplainedError as failure:
            if training_data or (isinstance(failure, BadImagesError) and not failure.whole):
                raise
            return none  # the run's data was moved: the images that are offered must do
        missing = hashes - offered
        return training.select(np.flatnonzero([name in missing for name in training.hashes]))

    def _described(
        self, dataset: Dataset | ImageSet, images: ImageSet, others: ImageSet
    ) -> Predictions:
        """All images with their sets and groups, training images from elsewhere last."""
        split = self.checkpoint.split
        keep = self.checkpoint.configuration.get("training", {}).get("keep")
        groups = related_groups([images, others], split)
        described = _described(dataset, images, groups[: len(images)])
        if len(others):
            taken = set(images.ids)
            ids = tuple(f"{name} (training)" if name in taken else name for name in others.ids)
            elsewhere = _described(others, replace(others, ids=ids), groups[len(images) :])
            empty = {name: ("",) * len(others) for name in described.metadata}
            described = Predictions.concatenated([described, replace(elsewhere, metadata=empty)])
        groups_of_data = [*images.groups, *others.groups]
        sets = sets_of(described, groups_of_data, split, chosen_on_validation=keep == "best")
        return replace(described, sets=sets)

    def _predictions(
        self,
        dataset: Dataset | ImageSet,
        sources: Sequence[ImageSet],
        described: Predictions,
        rows: Int[np.ndarray, " chosen"],
        *,
        odin: bool,
    ) -> Predictions:
        """Predict these rows of the sources together, each set of a source at a time."""
        name = dataset.fingerprint if isinstance(dataset, ImageSet) else dataset.name
        folder = self.folder / FOLDER / sha256_of(name.encode())[:16]
        network = cached_network(self.checkpoint, len(rows), self.cache)
        sets = described.sets or ("",) * len(described)
        firsts = np.cumsum([0, *map(len, sources)])
        source_of = np.searchsorted(firsts, rows, side="right") - 1
        part_of = [*zip(source_of, (sets[row] for row in rows), strict=True)]
        parts, positions = [], []
        for source, name in dict.fromkeys(part_of):
            members = np.flatnonzero([part == (source, name) for part in part_of])
            images = sources[source].select(rows[members] - firsts[source])
            path = folder / f"{name or 'new'}{'_elsewhere' * source}.npz"
            parts.append(self._reused(images, path, network, odin=odin))
            positions.append(members)
        ordered = Predictions.concatenated(parts).select(np.argsort(np.concatenate(positions)))
        chosen = described.select(rows)
        return replace(
            ordered,
            **{name: getattr(chosen, name) for name in KNOWN},
            class_weights=tuple(self.checkpoint.class_weights),
        )

    def _reused(
        self, images: ImageSet, path: Path, network: Network | None, *, odin: bool
    ) -> Predictions:
        """Predictions of one set: those in this file of the run, or new ones, which are written."""
        with suppress(DataError):  # there are none, or they are damaged
            predictions = Predictions.read(path)
            same = (predictions.model, predictions.hashes) == (self.model, images.hashes)
            if same and (ODIN in predictions.scores or not odin):
                return predictions
        report = self.on_predicted
        predictions = predictions_of(self.checkpoint, images, on_image=report, network=network)
        if odin:
            scores = odin_scores(self.checkpoint, images, [Odin()], on_image=report)
            predictions = replace(predictions, scores={ODIN: scores[Odin()]})
        with suppress(OSError, UsageError):  # a run that cannot be written to can be used
            predictions.write(path)
        return predictions


def _described(
    dataset: Dataset | ImageSet, images: ImageSet, groups: tuple[str, ...]
) -> Predictions:
    """All that is known of images before a model sees them; the logits have no columns."""
    paths: tuple[str, ...] | None = None
    metadata: Metadata = {}
    if isinstance(dataset, Dataset):
        position = {name: row for row, name in enumerate(dataset.ids)}
        dataset = dataset.select(np.array([position[name] for name in images.ids]))
        metadata = dataset.metadata
        if isinstance(dataset.images, ImageFiles):
            paths = tuple(map(str, dataset.images.paths))
    return Predictions(
        logits=np.zeros((len(images), 0)),
        labels=np.asarray(images.labels),
        classes=images.classes,
        ids=images.ids,
        groups=groups,
        group_columns=images.group_columns,
        hashes=images.hashes,
        paths=paths,
        metadata=metadata,
    )


def related_groups(sources: Sequence[ImageSet], split: Split) -> tuple[str, ...]:
    """Group of each image, joined where images may show the same object; empty for a single one.

    Joined are images of one named group, of one group of the run's split, of the same content, and
    near duplicates.
    """
    contents = [content for images in sources for content in images.hashes]
    groups = [g for images in sources for g in named_groups(images.groups, images.ids)]
    ids = [name for images in sources for name in images.ids]
    group_of = dict(zip(split.hashes, split.groups, strict=True))
    pairs = [
        *near_duplicates(np.concatenate([*map(image_hashes, sources)])),
        *chained(contents),
        *chained([group_of.get(content, "") for content in contents]),
    ]
    return join_groups(groups, ids, pairs)


def sets_of(
    images: Predictions, groups: Sequence[str], split: Split, *, chosen_on_validation: bool
) -> tuple[str, ...]:
    """Set of each image in the run's split, by its content.

    Images of the validation set are excluded if the run chose its epoch on them. Excluded are also
    new images of a group on which the model was trained, and images of a group that has
    images in another set as well, which is named before theirs in `PRECEDENCE`.

    Args:
        images: With hashes and joined groups.
        groups: Of the images as the data name them.
        split: Of the run.
        chosen_on_validation: True for a run that kept its best epoch.
    """
    set_of = dict(zip(split.hashes, split.sets, strict=True))
    set_of |= dict.fromkeys(split.hashes_of("train"), "train")  # of copies in two sets
    sets = [set_of.get(content, "") for content in images.hashes or ()]
    is_new = [content not in set_of for content in images.hashes or ()]
    if chosen_on_validation:
        sets = [EXCLUDED if name == VALIDATION else name for name in sets]
    rows = zip(split.groups, split.ids, split.sets, strict=True)
    trained = {group for group, name, in_set in rows if in_set == "train" and group != name}
    units = images.units.tolist()
    first: dict[int, str] = {}
    for name in reversed(PRECEDENCE):
        first |= {unit: name for unit, own in zip(units, sets, strict=True) if own == name}
    return tuple(
        EXCLUDED
        if (name in PRECEDENCE and name != first[unit])
        or (new and (first.get(unit) == "train" or group in trained))
        else name
        for name, unit, new, group in zip(sets, units, is_new, groups, strict=True)
    )
