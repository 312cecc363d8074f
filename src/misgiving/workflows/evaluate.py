"""Predictions of a run for `misgiving evaluate`: of labelled images, and of OOD images by set."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from misgiving.checkpoint import Checkpoint, load
from misgiving.data.bad_images import FAIL, SKIP
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset, ImageFiles
from misgiving.data.ood_sets.ood_set import read_ood_folder
from misgiving.errors import UsageError
from misgiving.predictions.graphs import cached_network
from misgiving.predictions.inference import OnImage, odin_scores, predictions_of
from misgiving.predictions.network import Network
from misgiving.predictions.record import Predictions
from misgiving.results.schema import SkippedImage
from misgiving.scores.odin import Odin
from misgiving.training.devices import start_processes
from misgiving.workflows.related_images import of_training_groups, related_to_training


class RunPredictions(NamedTuple):
    """Predictions of a run, of OOD images by set, and the images that could not be read."""

    predictions: Predictions
    ood: dict[str, Predictions]
    skipped: list[SkippedImage]


def predict_run(
    run: Path,
    data: str,
    *,
    cache: Path,
    ood: Mapping[str, Path],
    set_name: str | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    on_image: OnImage | None = None,
    on_predicted: OnImage | None = None,
    on_bad_image: str = FAIL,
) -> RunPredictions:
    """Predict the images that `evaluate` measures, and OOD images.

    Args:
        run: A run folder.
        data: The data as the user names it.
        cache: Folder for prepared images.
        ood: Folders of out-of-distribution images, by name.
        set_name: Measure only this set of the run's split.
        device: Where to compute.
        devices: Processes on each machine.
        nodes: Machines.
        on_image: Called with the number of prepared images and of all.
        on_predicted: Called with the number of predicted images and of all of a set.
        on_bad_image: `fail`, or `skip` to leave out images that cannot be read.
    """
    checkpoint = load(run)
    checkpoint.model.to(start_processes(device, devices=devices, nodes=nodes))
    prepared = partial(
        prepare,
        preprocessing=checkpoint.preprocessing,
        cache=cache,
        report=on_image,
        on_bad_image=on_bad_image,
    )
    source = load_dataset(data)
    everything = prepared(source)
    folders = {name: prepared(read_ood_folder(folder, name=name)) for name, folder in ood.items()}
    related, trained_groups, _ = related_to_training(
        checkpoint, everything, partial(prepared, on_bad_image=SKIP)
    )
    images, sets = _images_to_measure(checkpoint, related, trained_groups, set_name)
    network = cached_network(checkpoint, len(images) + sum(map(len, folders.values())), cache)
    model = partial(
        _predictions, checkpoint, with_odin=bool(ood), network=network, on_image=on_predicted
    )
    skipped = [
        SkippedImage(name, *bad)
        for name, image_set in {source.name: everything, **folders}.items()
        for bad in image_set.skipped
    ]
    described = replace(model(images), sets=sets, **_described(source, images))
    outliers = {
        name: replace(model(folder), classes=checkpoint.classes, labels=np.full(len(folder), -1))
        for name, folder in folders.items()
    }
    return RunPredictions(described, outliers, skipped)


def _images_to_measure(
    checkpoint: Checkpoint,
    images: ImageSet,
    trained_groups: frozenset[str],
    set_name: str | None,
) -> tuple[ImageSet, tuple[str, ...]]:
    """Images of the set, by default `test` or all that are not of training groups, and their sets.

    An image with a copy in the training set is of that set.
    """
    split, images = checkpoint.split, images.align(checkpoint.classes)[0]
    set_of = dict(zip(split.hashes, split.sets, strict=True))
    set_of |= dict.fromkeys(split.hashes_of("train"), "train")
    sets = np.array([set_of.get(content, "") for content in images.hashes], dtype=object)
    sets[of_training_groups(images, split, trained_groups)] = "excluded"
    chosen = set_name or ("test" if "test" in sets else None)
    rows = np.flatnonzero(
        ~np.isin(sets, ("train", "excluded")) if chosen is None else sets == chosen
    )
    if not len(rows):
        known = ", ".join(sorted({*sets} - {""}))
        raise UsageError(
            f"none of these images can be measured; they are in the sets {known} of the run: give "
            "others, or choose one with `set`"
        )
    named = [name if name in ("train", "tune", "calibrate", "test") else "" for name in sets[rows]]
    return images.select(rows), tuple(named)


def _described(source: Dataset, images: ImageSet) -> dict[str, Any]:
    """Paths and metadata of these images."""
    position = {identity: number for number, identity in enumerate(source.ids)}
    rows = [position[identity] for identity in images.ids]
    files = source.images.paths if isinstance(source.images, ImageFiles) else None
    return {
        "paths": None if files is None else tuple(str(files[row]) for row in rows),
        "metadata": {
            column: tuple(values[row] for row in rows) for column, values in source.metadata.items()
        },
    }


def _predictions(
    checkpoint: Checkpoint,
    images: ImageSet,
    *,
    with_odin: bool,
    network: Network | None,
    on_image: OnImage | None,
) -> Predictions:
    """Predictions with what the loss was weighted by, and ODIN's scores with its defaults.

    Tuned on the measured sets, ODIN would look too good.
    """
    predictions = predictions_of(checkpoint, images, on_image=on_image, network=network)
    weights: Sequence[float] | None = checkpoint.class_weights
    scores = {}
    if with_odin:
        scores = {
            "odin_default": odin_scores(checkpoint, images, [Odin()], on_image=on_image)[Odin()]
        }
    return replace(
        predictions, class_weights=None if weights is None else tuple(weights), scores=scores
    )
