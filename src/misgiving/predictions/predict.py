"""Predict a data set with a trained model: `predict` runs the model, and a run keeps the result.

The predictions of a run hold all that is known of its images: the set of the run's split that each
belongs to, its group, content and path.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from misgiving.checkpoint import Checkpoint, load
from misgiving.data.cache import ImageSet, Report, prepare
from misgiving.data.check import related_groups
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset, FileImage
from misgiving.data.datasets.tags import with_tags
from misgiving.data.decoding import FAIL, SKIP, BadImage, BadImagesError
from misgiving.errors import DataError, ExplainedError, Parameter, UsageError
from misgiving.files import default_cache, sha256_of
from misgiving.predictions.cells import UNKNOWN_CLASS
from misgiving.predictions.inference import (
    fingerprint_of,
    kept_network,
    odin_scores,
    predictions_of,
)
from misgiving.predictions.network import Network
from misgiving.predictions.record import Predictions, check_classes
from misgiving.predictions.schema import READER_COLUMN, named, reader_answers
from misgiving.predictions.sets import sets_of
from misgiving.scores.odin import Odin
from misgiving.scores.outputs import concatenated

FOLDER = "predictions"  # in a run
ODIN = "odin_default"  # name of its scores


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
    model: str | Path | Checkpoint, data: str | Dataset, *, on_image: Report | None = None
) -> Predictions:
    """Run a model once over a set of images.

    Args:
        model: A run folder, which adds what it knows of the images: their sets, and groups of near
            duplicates; or a model that `load` has read.
        data: The data as a user names it, such as "folder:photos", or a data set.
        on_image: Called with the number of predicted images and of all.
    """
    if not isinstance(model, Checkpoint):
        return TrainedRun(Path(model), on_predicted=on_image).predict(data).predictions
    dataset = load_dataset(data)
    images = prepare(dataset, model.preprocessing, cache=default_cache())
    return predictions_of(model, images.align(model.classes)[0], on_image=on_image)


class TrainedRun:
    """A run that is ready to predict.

    Args:
        folder: The run's folder.
        device: Where the model is to compute.
        cache: Folder for prepared images; None: the user's.
        on_image: Called with the number of prepared images and of all.
        on_predicted: Called with the number of predicted images and of all of a set.
        on_bad_image: `fail`, or `skip` to leave out images that cannot be read.
        opinions: Runs, or predictions by other models, whose second opinions are added by name.
        views: Number of views of each image over which outputs are averaged; None: the run's.

    Raises:
        DataError: The folder is not a run; or a second opinion is on other classes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "cpu",
        cache: Path | None = None,
        on_image: Report | None = None,
        on_predicted: Report | None = None,
        on_bad_image: str = FAIL,
        opinions: "Mapping[str, TrainedRun | Predictions] | None" = None,
        views: int | None = None,
    ) -> None:
        self.folder, self.checkpoint = folder, load(folder)
        if views is not None:
            self.checkpoint = replace(self.checkpoint, views=views)
        self.checkpoint.model.to(device)
        self.fingerprint = fingerprint_of(self.checkpoint)
        self.cache = cache or default_cache()
        self.on_image, self.on_predicted = on_image, on_predicted
        self.on_bad_image = on_bad_image
        self.classes, self.opinions = self.checkpoint.classes, opinions or {}
        for name, other in self.opinions.items():
            check_classes(self.classes, other.classes, name)

    def predict(
        self,
        data: str | Dataset,
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
        dataset = with_tags(load_dataset(data), self.checkpoint.preprocessing)
        prepared = self._prepared(dataset, self.on_bad_image)
        images, unknown = prepared.align(self.classes)
        on_bad_image = self.on_bad_image if needs_training or training_data else SKIP
        others = self._training_images(images, training_data, on_bad_image)
        sources, split = [images, others], self.checkpoint.split
        groups = related_groups(sources, split)
        facts = {
            "chosen_on_validation": self.checkpoint.keeps_best_epoch,
            "is_same_data": dataset.name == self.checkpoint.data.name,
        }
        set_of = sets_of(sources, groups, split, **facts)
        present = Counter(set_of)
        chosen = frozenset(present if sets is None else sets(present))
        if "train" in chosen and not present["train"]:
            raise DataError(
                f"{training_data or self.checkpoint.data.name}: contains none of the model's "
                "training images, on which its detectors are fitted; give the data that it was "
                "trained on as ",
                Parameter("training_data"),
            )
        taken = {*dataset.ids}
        ids = tuple(f"{name} (training)" if name in taken else name for name in others.ids)
        images = replace(images, groups=groups[: len(images)])
        others = replace(others, groups=groups[len(images) :], ids=ids)

        def picture(name: str) -> UInt8[np.ndarray, "size size 3"]:
            source = images if name in taken else others
            return np.asarray(source.read(np.array([source.ids.index(name)]))[0])

        predictions = self._of_sets(dataset.name, [images, others], set_of, chosen, odin=odin)
        asked = ("train",) if needs_training else ()  # detectors alone read these images
        predictions = self._with_opinions(predictions, dataset, without=asked)
        return PredictedData(
            replace(predictions, **_columns(dataset, predictions)),
            Counter(set_of[: len(images)]),
            prepared.skipped,
            picture,
            unknown,
            searched=present["train"],
            trained_on=split.sets.count("train"),
        )

    def predict_unlabelled(self, dataset: Dataset, *, odin: bool = False) -> PredictedData:
        """Predict images without classes, as out-of-distribution ones; also score them by ODIN."""
        dataset = with_tags(dataset, self.checkpoint.preprocessing)
        images = self._prepared(dataset, self.on_bad_image)
        sources, sets = [self._unlabelled(images)], ("",) * len(images)
        predictions = self._of_sets(dataset.name, sources, sets, {""}, odin=odin)
        predictions = self._with_opinions(predictions, dataset)
        predictions = replace(predictions, **_columns(dataset, predictions))
        return PredictedData(predictions, Counter(sets), images.skipped)

    def second_opinion(self, predictions: Predictions, dataset: Dataset) -> Predictions:
        """Predict the images of another run's predictions, found in the data by their content."""
        images, split = self._prepared(dataset, SKIP), self.checkpoint.split
        images = images.select(np.flatnonzero(np.isin(images.hashes, predictions.hashes or ())))
        if self.checkpoint.architecture.attached is None:
            set_of = dict(zip(split.hashes, split.sets, strict=True))
            set_of |= dict.fromkeys(split.hashes_of("train"), "train")
        else:  # trained on other images
            set_of = {}
        sets = [set_of.get(content, "") for content in images.hashes]
        return self._of_sets(dataset.name, [self._unlabelled(images)], sets, {*sets})

    def _with_opinions(
        self, predictions: Predictions, dataset: Dataset, *, without: Sequence[str] = ()
    ) -> Predictions:
        """Add the second opinions on the images that are not in these sets."""
        rows = np.flatnonzero(~np.isin(np.array(predictions.sets), without))
        asked = predictions.select(rows)
        for name, other in self.opinions.items():
            if isinstance(other, TrainedRun):
                other = other.second_opinion(asked, dataset)
            predictions = predictions.with_opinion(other, name)
        return predictions

    def _of_sets(
        self,
        data: str,
        sources: Sequence[ImageSet],
        sets: Sequence[str],
        chosen: Collection[str],
        *,
        odin: bool = False,
    ) -> Predictions:
        """Predictions for the images of the chosen sets, in the order of the sources.

        They are kept in the run's folder by the name of the data and the number of views, in a file
        for each set; the second source has its own files.
        """
        views = self.checkpoint.views
        place = sha256_of(data.encode())[:16] + (f"_{views}_views" if views > 1 else "")
        folder = self.folder / FOLDER / place
        names = np.array(sets, dtype=str)
        rows = np.flatnonzero(np.isin(names, [*chosen]))
        network = kept_network(self.checkpoint, len(rows), self.folder)
        first, parts, positions = 0, [], []
        for number, images in enumerate(sources):
            own = rows[(rows >= first) & (rows < first + len(images))]
            for name in dict.fromkeys(names[own].tolist()):
                members = own[names[own] == name]
                path = folder / f"{name or 'new'}{'_elsewhere' * number}.npz"
                part = self._kept(images.select(members - first), path, network, odin=odin)
                parts.append(replace(part, sets=(name,) * len(members)))
                positions.append(members)
            first += len(images)
        return concatenated(parts).select(np.argsort(np.concatenate(positions)))

    def _kept(
        self, images: ImageSet, path: Path, network: Network | None, *, odin: bool
    ) -> Predictions:
        """Predictions for a set: the outputs in its file, or else new ones, which are kept.

        Images in the file have the same content, and may have other labels, names and groups.
        """
        checkpoint, predictions = self.checkpoint, None
        with suppress(DataError):  # there are none, or they are damaged
            stored = Predictions.read(path)
            same = (stored.model, stored.hashes) == (self.fingerprint, images.hashes)
            predictions = stored if same and (ODIN in stored.scores or not odin) else None
        if predictions is None:
            report = self.on_predicted
            predictions = predictions_of(checkpoint, images, on_image=report, network=network)
            if odin:
                scores = odin_scores(checkpoint, images, [Odin()], on_image=report)
                predictions = replace(predictions, scores={ODIN: scores[Odin()]})
            with suppress(OSError, UsageError):  # a run that cannot be written to can be used
                predictions.write(path)
        return replace(
            predictions,
            labels=np.asarray(images.labels),
            ids=images.ids,
            groups=images.groups,
            group_columns=images.group_columns,
            scores=predictions.scores if odin else {},  # as other sets may have none
            class_weights=checkpoint.class_weights,
        )

    def _unlabelled(self, images: ImageSet) -> ImageSet:
        return replace(images, labels=np.full(len(images), UNKNOWN_CLASS), classes=self.classes)

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
        missing = self.checkpoint.split.hashes_of("train") - {*images.hashes}
        name, none = training_data or self.checkpoint.data.name, images.select(np.arange(0))
        if training_data is None and not (name and missing):
            return none
        try:
            training = self._prepared(load_dataset(name), on_bad_image)
            training = training.align(self.classes)[0]
        except (ExplainedError, OSError) as failure:
            if training_data or (isinstance(failure, BadImagesError) and not failure.whole):
                raise
            return none  # the run's data was moved: the images that are offered must do
        return training.select(np.flatnonzero([name in missing for name in training.hashes]))


def _columns(dataset: Dataset, predictions: Predictions) -> dict[str, Any]:
    """Paths, readers and metadata by field; empty for an image that is not in the data."""

    def column(values: Sequence[object]) -> tuple[str, ...]:
        value_of = dict(zip(dataset.ids, values, strict=True))
        return tuple(str(value_of.get(name, "")) for name in predictions.ids)

    files = [image.path for image in dataset.images if isinstance(image, FileImage)]
    columns = {name: column(values) for name, values in dataset.metadata.items()}
    return {
        "readers": reader_answers(columns, predictions.classes),
        "metadata": {name: columns[name] for name in columns if not named(name, READER_COLUMN)},
        "paths": column(files) if files else None,
    }
