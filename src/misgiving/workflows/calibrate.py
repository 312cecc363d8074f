"""`misgiving calibrate`: set the deferral policy of a run, on images that nothing was chosen on."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misgiving.checkpoint import Checkpoint, load
from misgiving.data.bad_images import FAIL, skipped_sentences
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.splits import Split
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.policy_file import POLICY_FOLDER, check_policy_folder
from misgiving.errors import DataError, UsageError
from misgiving.groups import QUARTERS, partition_groups
from misgiving.predictions.graphs import cached_network
from misgiving.predictions.inference import predictions_of
from misgiving.training.devices import device_named
from misgiving.workflows.related_images import OFFERED, training_images, with_joined_groups

OWN_SETS = ("tune", "calibrate")
CHOSEN_ON = 'on which the run chose its epoch (`keep="best"`)'


class CalibrationSets(NamedTuple):
    """The images that a policy is fitted on, and sentences about their choice."""

    training: ImageSet
    tuning: ImageSet
    calibration: ImageSet
    summary: list[str]


def calibrate_run(
    run: Path,
    data: str,
    deferral: Deferral,
    *,
    cache: Path,
    training_data: str | None = None,
    device: str = "auto",
    on_image: Callable[[int, int], None] | None = None,
    on_predicted: Callable[[int, int], None] | None = None,
    on_bad_image: str = FAIL,
) -> list[str]:
    """Fit the deferral policy of a run, and write it into the run's folder.

    Args:
        run: A run folder.
        data: Images with labels, as the user names them. Images that the model was trained on, and
            others of their groups, are left out.
        deferral: Its parameters are the targets.
        cache: Folder for prepared images.
        training_data: Data with the images that the model was trained on; None for `data`, or else
            the data of the run.
        device: Where to compute.
        on_image: Called with the number of prepared images and of all.
        on_predicted: Called with the number of predicted images and of all of a set.
        on_bad_image: `fail`, or `skip` to leave out images that cannot be read.

    Returns:
        Sentences on the images.

    Raises:
        DataError: The images cannot support a policy.
    """
    check_policy_folder(run / POLICY_FOLDER)
    checkpoint = load(run)
    deferral.check_classes(checkpoint.classes)
    checkpoint.model.to(device_named(device))
    prepared = partial(
        prepare,
        preprocessing=checkpoint.preprocessing,
        cache=cache,
        report=on_image,
        on_bad_image=on_bad_image,
    )
    everything = prepared(load_dataset(data))
    sets = _sets_among(
        everything, checkpoint, training_data, prepared, name=data, seed=deferral.seed
    )
    network = cached_network(checkpoint, sum(map(len, sets[:3])), cache)
    training, tuning, calibration = (
        predictions_of(checkpoint, images, on_image=on_predicted, network=network)
        for images in sets[:3]
    )
    deferral.fit(tuning, calibration, training=training).save(run / POLICY_FOLDER)
    return sets.summary


def _sets_among(
    everything: ImageSet,
    checkpoint: Checkpoint,
    training_data: str | None,
    prepared: Callable[[Dataset], ImageSet],
    *,
    name: str,
    seed: int,
) -> CalibrationSets:
    """Choose the sets among all images of the data, and say which were left out."""
    images, unknown = everything.align(checkpoint.classes)
    training = training_images(checkpoint, images, training_data, prepared)
    if not len(training):
        known = training_data or checkpoint.configuration.get("data", {}).get("name", "")
        raise DataError(
            f"{known}: contains none of the model's training images, on which its detectors are "
            "fitted; give the data that it was trained on as `training_data`"
        )
    keep = str(checkpoint.configuration.get("training", {}).get("keep", "last"))
    sets = choose_sets(checkpoint.split, images, training, seed=seed, keep=keep)
    trained_on = checkpoint.split.sets.count("train")
    summary = [
        *sets.summary,
        *skipped_sentences(everything.skipped, len(everything), name=name),
        *([f"left out: {unknown} images of classes that the model does not know"] * bool(unknown)),
        f"detectors are fitted on {len(training)} of the {trained_on} training images",
    ]
    return sets._replace(summary=summary)


def choose_sets(
    split: Split, images: ImageSet, training: ImageSet, *, seed: int, keep: str = "last"
) -> CalibrationSets:
    """Choose the images to fit calibrators on, and those to certify with.

    These are the run's sets `tune` and `calibrate` where the data has them; otherwise a quarter, by
    group, of the images that the model was not trained on, and the other three quarters. The run's
    set `test` is never used.

    Args:
        split: The split of the run.
        images: Images to choose from.
        training: The model's training images.
        seed: Of the draw of the quarter.
        keep: The epoch that the run kept; images that the `best` was chosen on are not used.
    """
    joined, trained_groups = with_joined_groups(split, images, training)
    usable, summary = _usable(split, joined, trained_groups, keep)
    set_of = dict(zip(split.hashes, split.sets, strict=True))
    sets = np.array([set_of.get(content, "") for content in usable.hashes])
    if set(OWN_SETS) <= set(sets.tolist()):
        tuning, calibration = (usable.select(np.flatnonzero(sets == name)) for name in OWN_SETS)
        source = "the run's sets tune and calibrate"
        if others := len(usable) - len(tuning) - len(calibration):
            summary.append(
                f"left out: {others} images that are in neither of the run's sets tune and "
                "calibrate; to calibrate with them, give them alone"
            )
    else:
        chosen_on = sets == "tune"
        if keep == "best" and chosen_on.any():
            usable = usable.select(np.flatnonzero(~chosen_on))
            summary.append(f"left out: {chosen_on.sum()} images {CHOSEN_ON}")
        quarter = partition_groups(usable.groups, QUARTERS, seed=seed)[0]
        rest = np.setdiff1d(np.arange(len(usable)), quarter)
        tuning, calibration = usable.select(quarter), usable.select(rest)
        source = f"a quarter of {len(usable)} images, drawn by group with seed {seed}, and the rest"
    summary.append(source)
    tuning, calibration = map(_without_prefix, (tuning, calibration))
    return CalibrationSets(training, tuning, calibration, summary)


def _without_prefix(images: ImageSet) -> ImageSet:
    return replace(images, groups=tuple(name.removeprefix(OFFERED) for name in images.groups))


def _usable(
    split: Split, images: ImageSet, trained_groups: Sequence[str], keep: str
) -> tuple[ImageSet, list[str]]:
    """The images that were not used for training or choices, and are not test images."""
    set_of = dict(zip(split.hashes, split.sets, strict=True))
    set_of |= dict.fromkeys(split.hashes_of("train"), "train")  # of copies in two sets
    sets = np.array([set_of.get(content, "") for content in images.hashes])
    groups = np.array(images.groups)
    chosen_on = "validation" if keep == "best" else "none"  # `tune` may be chosen on once more
    rules = {
        "on which the model was trained": sets == "train",
        "of groups on which the model was trained": np.isin(groups, trained_groups),
        "of the run's test set, which is only measured": np.isin(groups, groups[sets == "test"]),
        CHOSEN_ON: np.isin(groups, groups[sets == chosen_on]),
    }
    reasons = [
        next((reason for reason, applies in rules.items() if applies[row]), "")
        for row in range(len(images))
    ]
    counts = Counter(filter(None, reasons))
    usable = images.select(np.flatnonzero([not reason for reason in reasons]))
    if not len(usable):
        left_out = "; ".join(f"{count} {reason}" for reason, count in counts.items())
        raise UsageError(
            f"none of these images can set a policy ({left_out}); give labelled images that are "
            "new to the model"
        )
    return usable, [f"left out: {count} images {reason}" for reason, count in counts.items()]
