"""`misgiving calibrate`: set the deferral policy of a run, on images that nothing was chosen on."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from misgiving.checkpoint import Checkpoint, load
from misgiving.data.bad_images import FAIL, skipped_sentences
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.splits import QUARTERS, Split, partition_groups
from misgiving.decisions.engine import POLICY_FOLDER, save_policy
from misgiving.decisions.fit_policy import (
    MOST_PROBABLE_RULE,
    FittedEngine,
    fit_engine,
)
from misgiving.decisions.rules import DecisionRule
from misgiving.deferral.policy import DeferralPolicy
from misgiving.deferral.scored_cases import one_per_group, refuse_few
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import refuse_too_few
from misgiving.errors import DataError, UsageError
from misgiving.groups import named_groups, unit_of, unit_sentences
from misgiving.predictions.graphs import cached_network
from misgiving.predictions.inference import predictions_of, score_names
from misgiving.predictions.record import Predictions
from misgiving.results.policy_cases import PolicyImages
from misgiving.results.schema import SkippedImage
from misgiving.scores.detectors import OOD_DETECTOR, FittedDetectors
from misgiving.training.devices import device_named
from misgiving.workflows.calibration_history import read_history, refuse_other_folder
from misgiving.workflows.prediction_sets import sizes_of
from misgiving.workflows.related_images import training_images, with_joined_groups

OWN_SETS = ("tune", "calibrate")
CHOSEN_ON = 'on which the run chose its epoch (`keep="best"`)'


class CalibrationSets(NamedTuple):
    """The images that a policy is fitted on, and sentences about their choice."""

    training: ImageSet
    tuning: ImageSet
    calibration: ImageSet
    summary: list[str]


class CalibrationResult(NamedTuple):
    """A policy, and sentences about its images and what it certifies."""

    policy: DeferralPolicy
    summary: list[str]


def calibrate_run(
    run: Path,
    data: str,
    targets: Targets,
    *,
    cache: Path,
    training_data: str | None = None,
    rule: DecisionRule = MOST_PROBABLE_RULE,
    ood_detector: str = OOD_DETECTOR,
    seed: int = 0,
    device: str = "auto",
    on_image: Callable[[int, int], None] | None = None,
    on_predicted: Callable[[int, int], None] | None = None,
    on_bad_image: str = FAIL,
) -> CalibrationResult:
    """Set the deferral policy of a run, and write it into the run's folder.

    Args:
        run: A run folder.
        data: Images with labels, as the user names them. Images that the model was trained on, and
            others of their groups, are left out.
        targets: The error rates to certify.
        cache: Folder for prepared images.
        training_data: Data with the images that the model was trained on; None for `data`, or else
            the data of the run.
        rule: Names the classes.
        ood_detector: The score of the OOD rule.
        seed: Of the draw of one image from each group, and of the quarter to tune on if `data` is
            one set.
        device: Where to compute.
        on_image: Called with the number of prepared images and of all.
        on_predicted: Called with the number of predicted images and of all of a set.
        on_bad_image: `fail`, or `skip` to leave out images that cannot be read.

    Raises:
        DataError: The images cannot support a policy.
    """
    refuse_other_folder(run / POLICY_FOLDER)
    checkpoint = load(run)
    _refuse_unknown_names(checkpoint, targets, rule, ood_detector)
    checkpoint.model.to(device_named(device))
    prepared = partial(
        prepare,
        preprocessing=checkpoint.preprocessing,
        cache=cache,
        report=on_image,
        on_bad_image=on_bad_image,
    )
    everything = prepared(load_dataset(data))
    sets = _sets_among(everything, checkpoint, training_data, prepared, name=data, seed=seed)
    _refuse_few_cases(sets, targets, seed=seed)
    tune, calibration = _identities(sets.tuning), _identities(sets.calibration)
    history = read_history(run / POLICY_FOLDER)
    network = cached_network(checkpoint, sum(map(len, sets[:3])), cache)
    engine, policy, notes = _fit(
        sets,
        partial(predictions_of, checkpoint, on_image=on_predicted, network=network),
        targets=targets,
        rule=rule,
        seed=seed,
        ood_detector=ood_detector,
        repeated=history.repeated((tune, calibration)),
    )
    notes = [*sets.summary, *notes]
    cases = history.with_calibration(
        tune,
        calibration,
        data=data,
        seed=seed,
        group_columns=everything.group_columns,
        fingerprint=sets.calibration.fingerprint,
        max_error=targets.max_error,
        notes=notes,
        skipped=[SkippedImage(data, *bad) for bad in everything.skipped],
    )
    save_policy(run / POLICY_FOLDER, engine, cases)
    return CalibrationResult(policy, [*notes, *policy.summary()])


def _refuse_unknown_names(
    checkpoint: Checkpoint, targets: Targets, rule: DecisionRule, ood_detector: str
) -> None:
    """Refuse classes and detectors that the model does not have, before any image is read."""
    targets.refuse_unknown_classes(checkpoint.classes)
    rule.refuse_unknown_classes(checkpoint.classes)
    if ood_detector not in (known := score_names(checkpoint)):
        raise UsageError(
            f"`ood_detector` is {ood_detector!r}, which this model does not have; choose from "
            f"{', '.join(known)}"
        )


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
        *unit_sentences(images.group_columns, named_groups(images.groups, images.ids)),
        *sets.summary,
        *skipped_sentences(everything.skipped, len(everything), of=name),
        *([f"left out: {unknown} images of classes that the model does not know"] * bool(unknown)),
        f"detectors are fitted on {len(training)} of the {trained_on} training images",
    ]
    return sets._replace(summary=summary)


def _refuse_few_cases(sets: CalibrationSets, targets: Targets, *, seed: int) -> None:
    """Refuse sets that cannot certify the targets whatever the model says of their images."""
    drawn = one_per_group(sets.calibration.groups, seed=seed)
    refuse_few("tuning", len(set(sets.tuning.groups)))
    refuse_few("calibration", len(drawn))
    refuse_too_few(targets, sets.calibration.classes, sets.calibration.labels[drawn])


def _fit(
    sets: CalibrationSets, predict: Callable[[ImageSet], Predictions], **options: Any
) -> FittedEngine:
    """Run the model on the three sets, and fit detectors, the calibrator and the policy."""
    trained, tune, calibration = map(predict, sets[:3])
    return fit_engine(
        tune,
        calibration,
        FittedDetectors.fit(trained),
        calibration_fingerprint=sets.calibration.fingerprint,
        unit=unit_of(sets.calibration.group_columns, sets.calibration.groups),
        **options,
    )


def _identities(images: ImageSet) -> PolicyImages:
    return PolicyImages(images=images.ids, hashes=images.hashes, groups=images.groups)


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
    summary.append(f"{source}: {sizes_of(tuning.groups, calibration.groups)}")
    return CalibrationSets(training, tuning, calibration, summary)


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
