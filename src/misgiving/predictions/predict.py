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
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset, ImageFiles
from misgiving.data.decoding import FAIL, SKIP, BadImage, BadImagesError
from misgiving.data.duplicates import related_groups
from misgiving.data.splits import Split
from misgiving.errors import DataError, ExplainedError, Parameter, UsageError
from misgiving.files import default_cache, sha256_of
from misgiving.predictions.inference import (
    OnImage,
    concatenated,
    fingerprint_of,
    kept_network,
    odin_scores,
    predictions_of,
)
from misgiving.predictions.network import Network
from misgiving.predictions.record import Predictions, check_classes
from misgiving.predictions.schema import EXCLUDED, UNKNOWN, VALIDATION, take_readers
from misgiving.scores.odin import Odin

PRECEDENCE = ("train", "test", EXCLUDED, "calibrate", "tune", VALIDATION)
"""Sets by rank: of a group with images in several, those in the first one keep their set."""

FOLDER = "predictions"  # in a run
ODIN = "odin_default"


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
    model: str | Path | Checkpoint, data: str | Dataset, *, on_image: OnImage | None = None
) -> Predictions:
    """Run a model once over a set of images.

    Args:
        model: A run folder, which adds what it knows of the images: their sets, and groups of near
            duplicates; or a model that `load` has read.
        data: The data as a user names it, such as "folder:photos", or a data set.
        on_image: Called with the number of predicted images and of all.
    """
    if not isinstance(model, Checkpoint | str | Path):
        raise UsageError(
            Parameter("model"), f" is a {type(model).__name__}; give a run, or what `load` reads"
        )
    if not isinstance(model, Checkpoint):
        return TrainedRun(Path(model), on_predicted=on_image).predict(data).predictions
    dataset = load_dataset(data) if isinstance(data, str) else data
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

    Raises:
        DataError: The folder is not a run; or a second opinion is on other classes.
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
        opinions: "Mapping[str, TrainedRun | Predictions] | None" = None,
    ) -> None:
        self.folder = folder
        self.checkpoint = load(folder)
        self.checkpoint.model.to(device)
        self.model = fingerprint_of(self.checkpoint)
        # the data that the run was trained on, as its user named it; may be empty
        self.data_name = str(self.checkpoint.configuration.get("data", {}).get("name", ""))
        self.cache = cache or default_cache()
        self.on_image, self.on_predicted, self.on_bad_image = on_image, on_predicted, on_bad_image
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
        dataset = load_dataset(data) if isinstance(data, str) else data
        prepared = self._prepared(dataset, self.on_bad_image)
        images, unknown = prepared.align(self.checkpoint.classes)
        on_bad_image = self.on_bad_image if needs_training or training_data else SKIP
        others = self._training_images(images, training_data, on_bad_image)
        sources, split = [images, others], self.checkpoint.split
        groups = related_groups(sources, split)
        keep = self.checkpoint.configuration.get("training", {}).get("keep")
        facts = {
            "chosen_on_validation": keep == "best",
            "is_same_data": dataset.name == self.data_name,
        }
        set_of = sets_of(sources, groups, split, **facts)
        present = Counter(set_of)
        chosen = frozenset(present if sets is None else sets(present))
        if "train" in chosen and not present["train"]:
            raise DataError(
                f"{training_data or self.data_name}: contains none of the model's training "
                "images, on which its detectors are fitted; give the data that it was trained on "
                "as ",
                Parameter("training_data"),
            )
        taken = {*dataset.ids}
        ids = tuple(f"{name} (training)" if name in taken else name for name in others.ids)
        images = replace(images, groups=groups[: len(images)])
        others = replace(others, groups=groups[len(images) :], ids=ids)

        def picture(name: str) -> UInt8[np.ndarray, "size size 3"]:
            source = images if name in taken else others
            return np.asarray(source.read(np.array([source.ids.index(name)]))[0])

        predictions = self._predictions(dataset.name, [images, others], set_of, chosen, odin=odin)
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

    def predict_outliers(self, dataset: Dataset) -> PredictedData:
        """Predict out-of-distribution images, which have no class, and score them by ODIN."""
        images = self._prepared(dataset, self.on_bad_image)
        images = replace(
            images,
            labels=np.full(len(images), UNKNOWN),
            classes=self.checkpoint.classes,
            groups=images.named_groups,
        )
        sets = ("",) * len(images)
        predictions = self._predictions(dataset.name, [images], sets, {""}, odin=True)
        predictions = self._with_opinions(predictions, dataset)
        return PredictedData(predictions, Counter(sets), images.skipped)

    def predict_again(self, predictions: Predictions, dataset: Dataset) -> Predictions:
        """Predict the images of another run's predictions, found in the data by their content.

        Raises:
            DataError: This run was trained on one of them, and the other run was not.
        """
        set_of = dict(zip(predictions.hashes or (), predictions.sets or (), strict=True))
        images = self._prepared(dataset, SKIP)
        images = images.select(np.flatnonzero([name in set_of for name in images.hashes]))
        unknown = np.full(len(images), UNKNOWN)
        images = replace(images, labels=unknown, classes=self.classes)
        sets = [set_of[content] for content in images.hashes]
        new = images.select(np.flatnonzero([name != "train" for name in sets]))
        is_attached = self.checkpoint.architecture.attached is not None  # trained on other images
        training = set() if is_attached else self.checkpoint.split.hashes_of("train")
        if trained_on := [x for x, key in zip(new.ids, new.hashes, strict=True) if key in training]:
            raise DataError(
                f"{self.folder}: was trained on {len(trained_on)} of these images, the first is "
                f"{trained_on[0]!r}; a second opinion is on images that are new to both models, so "
                "train both with the same data, seed and image size"
            )
        return self._predictions(dataset.name, [images], sets, {*sets}, odin=False)

    def _with_opinions(
        self, predictions: Predictions, dataset: Dataset, *, without: Sequence[str] = ()
    ) -> Predictions:
        """Add the second opinions on the images that are not in these sets."""
        rows = np.flatnonzero(~np.isin(np.array(predictions.sets), without))
        asked = predictions.select(rows)
        for name, other in self.opinions.items():
            if isinstance(other, TrainedRun):
                other = other.predict_again(asked, dataset)
            predictions = predictions.with_opinion(other, name)
        return predictions

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
        name, none = training_data or self.data_name, images.select(np.arange(0))
        if training_data is None and not (name and missing):
            return none
        try:
            training = self._prepared(load_dataset(name), on_bad_image)
            training = training.align(self.checkpoint.classes)[0]
        except (ExplainedError, OSError) as failure:
            if training_data or (isinstance(failure, BadImagesError) and not failure.whole):
                raise
            return none  # the run's data was moved: the images that are offered must do
        return training.select(np.flatnonzero([name in missing for name in training.hashes]))

    def _predictions(
        self,
        name: str,
        sources: Sequence[ImageSet],
        sets: Sequence[str],
        chosen: Collection[str],
        *,
        odin: bool,
    ) -> Predictions:
        """Predict the chosen sets, each set of a source at a time; in the order of the sources."""
        folder = self.folder / FOLDER / sha256_of(name.encode())[:16]
        count = sum(set_name in chosen for set_name in sets)
        network = kept_network(self.checkpoint, count, self.folder)
        first, parts, positions = 0, [], []
        for number, source in enumerate(sources):
            own = np.array(sets[first : first + len(source)], dtype=str)
            for set_name in dict.fromkeys(own.tolist()):
                if set_name in chosen:
                    members = np.flatnonzero(own == set_name)
                    path = folder / f"{set_name or 'new'}{'_elsewhere' * number}.npz"
                    part = self._predicted(source.select(members), path, network, odin=odin)
                    parts.append(replace(part, sets=(set_name,) * len(members)))
                    positions.append(first + members)
            first += len(source)
        return concatenated(parts).select(np.argsort(np.concatenate(positions)))

    def _predicted(
        self, images: ImageSet, path: Path, network: Network | None, *, odin: bool
    ) -> Predictions:
        """Predictions of one set: by the outputs in this file of the run, or else new ones.

        Images in the file have the same content, and may have other labels, names and groups.
        """
        predictions, report = None, self.on_predicted
        with suppress(DataError):  # there are none, or they are damaged
            stored = Predictions.read(path)
            same = (stored.model, stored.hashes) == (self.model, images.hashes)
            predictions = stored if same and (ODIN in stored.scores or not odin) else None
        if predictions is None:
            predictions = predictions_of(self.checkpoint, images, on_image=report, network=network)
            if odin:
                scores = odin_scores(self.checkpoint, images, [Odin()], on_image=report)
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
            class_weights=tuple(self.checkpoint.class_weights),
        )


def _columns(dataset: Dataset, predictions: Predictions) -> dict[str, Any]:
    """Paths, readers and metadata by field; empty for an image that is not in the data."""

    def column(values: Sequence[object]) -> tuple[str, ...]:
        value_of = dict(zip(dataset.ids, values, strict=True))
        return tuple(str(value_of.get(name, "")) for name in predictions.ids)

    files = dataset.images
    metadata = {name: column(values) for name, values in dataset.metadata.items()}
    return {
        "readers": take_readers(metadata, predictions.classes),
        "metadata": metadata,
        "paths": column(files.paths) if isinstance(files, ImageFiles) else None,
    }


def sets_of(
    sources: Sequence[ImageSet],
    joined: Sequence[str],
    split: Split,
    *,
    chosen_on_validation: bool,
    is_same_data: bool,
) -> tuple[str, ...]:
    """Set of each image in the run's split, by its content.

    In the run's own data, an image of another content is found by its id: it was written again.

    Images of the validation set are excluded if the run chose its epoch on them. Excluded are also
    new images of a group on which the model was trained, and images of a group that has
    images in another set as well, which is named before theirs in `PRECEDENCE`.

    Args:
        sources: The images, with the groups that the data name.
        joined: Groups of all images, as `related_groups` joins them.
        split: Of the run.
        chosen_on_validation: True for a run that kept its best epoch.
        is_same_data: True for the data that the run was trained on.
    """
    ids = [name for images in sources for name in images.ids]
    contents = [content for images in sources for content in images.hashes]
    groups = [group for images in sources for group in images.groups]
    set_of = dict(zip(split.hashes, split.sets, strict=True))
    set_of |= dict.fromkeys(split.hashes_of("train"), "train")  # of copies in two sets
    set_of_id = dict(zip(split.ids, split.sets, strict=True)) if is_same_data else {}
    sets = [
        set_of.get(content) or set_of_id.get(name, "")
        for content, name in zip(contents, ids, strict=True)
    ]
    if chosen_on_validation:
        sets = [EXCLUDED if name == VALIDATION else name for name in sets]
    rows = zip(split.groups, split.ids, split.sets, strict=True)
    trained = {group for group, name, in_set in rows if in_set == "train" and group != name}
    first: dict[str, str] = {}
    for name in reversed(PRECEDENCE):
        first |= {
            unit: name for unit, own in zip(joined, sets, strict=True) if own == name and unit
        }
    return tuple(
        EXCLUDED
        if (name in PRECEDENCE and name != first.get(unit, name))
        or (not name and (first.get(unit) == "train" or group in trained))
        else name
        for name, unit, group in zip(sets, joined, groups, strict=True)
    )
