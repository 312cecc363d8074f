"""Predictions of a run for all images of a data set, by which labels are judged."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from misgiving.checkpoint import Checkpoint
from misgiving.data.bad_images import FAIL, SKIP
from misgiving.predictions.record import Predictions


def predict_all(
    checkpoint: Checkpoint,
    data: str,
    *,
    cache: Path,
    device: str = "auto",
    on_image: Callable[[int, int], None] | None = None,
    on_predicted: Callable[[int, int], None] | None = None,
    on_bad_image: str = FAIL,
) -> Predictions:
    """Predict all images of a data set by a run, with the set that each is in.

    Args:
        checkpoint: A loaded run.
        data: The data as the user names it.
        cache: Folder for prepared images.
        device: Where to compute.
        on_image: Called with the number of prepared images and of all.
        on_predicted: Called with the number of predicted images and of all of a set.
        on_bad_image: `fail`, or `skip` to leave out images that cannot be read.
    """
    from misgiving.data.cache import prepare
    from misgiving.data.datasets import load_dataset
    from misgiving.data.datasets.dataset import ImageFiles
    from misgiving.predictions.graphs import cached_network
    from misgiving.predictions.inference import predictions_of
    from misgiving.training.devices import start_processes
    from misgiving.workflows.related_images import of_training_groups, related_to_training

    source = load_dataset(data)
    checkpoint.model.to(start_processes(device))
    prepared = partial(
        prepare,
        preprocessing=checkpoint.preprocessing,
        cache=cache,
        report=on_image,
        on_bad_image=on_bad_image,
    )
    everything, trained_groups, _ = related_to_training(
        checkpoint, prepared(source), partial(prepared, on_bad_image=SKIP)
    )
    images = everything.align(checkpoint.classes)[0]
    known = checkpoint.split.hashes_of("train")
    related = of_training_groups(images, checkpoint.split, trained_groups)
    trained = related | np.array([content in known for content in images.hashes], dtype=bool)
    files = source.images.paths if isinstance(source.images, ImageFiles) else ()
    path_of = dict(zip(source.ids, files, strict=False))
    return replace(
        predictions_of(
            checkpoint,
            images,
            on_image=on_predicted,
            network=cached_network(checkpoint, len(images), cache),
        ),
        sets=tuple(np.where(trained, "train", "test").tolist()),
        paths=tuple(str(path_of.get(identity, "")) for identity in images.ids),
    )
