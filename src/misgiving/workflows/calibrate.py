"""What `misgiving calibrate` does: a policy from images on which nothing was chosen before."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from misgiving.calibrators.apply import Calibrator
from misgiving.checkpoint import POLICY_FOLDER, Checkpoint, load
from misgiving.data.bad_images import FAIL, skipped_sentences
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import Dataset, load_dataset
from misgiving.data.duplicates import Hashes, image_hashes, joined_groups, near_duplicates
from misgiving.data.splits import Split, partition_groups
from misgiving.decisions.engine import CASES, DecisionEngine, save_policy
from misgiving.decisions.fit import OOD_DETECTOR, calibrator_of, fit_policies
from misgiving.deferral.policy import DeferralPolicy
from misgiving.deferral.targets import Targets
from misgiving.errors import BadImages, DataError, ExplainedError, UsageError
from misgiving.evaluation.inference import predictions_of
from misgiving.scores.detectors import FittedDetectors
from misgiving.training.devices import device_named
from misgiving.workflows.train import align

Report = Callable[[int, int], None]

OWN_SETS = ("tune", "calibrate")


class Account(NamedTuple):
    """A policy, and sentences that say what it was made of."""

    policy: DeferralPolicy
    sentences: list[str]


@dataclass(frozen=True, kw_only=True)
class Material:
    """The images that a policy is made of, and sentences on what was left out."""

    training: ImageSet
    tune: ImageSet
    calibration: ImageSet
    sentences: list[str]


def calibrate_run(
    run: Path,
    data: str,
    targets: Targets,
    *,
    cache: Path,
    training_data: str | None = None,
    ood_detector: str = OOD_DETECTOR,
    seed: int = 0,
    device: str = "auto",
    on_image: Report | None = None,
    on_bad_image: str = FAIL,
) -> Account:
    """Set the deferral policy of a run, and write it into the run's folder.

    Args:
        run: A run folder.
        data: Images with labels, as the user names them; those the model was trained on are left
            out, and those of lesions it was trained on.
        targets: What the accepted answers must keep.
        cache: Folder for prepared images.
        training_data: Holds the images that the model was trained on; None for `data`, or else
            what the run was trained with.
        ood_detector: Tells OOD images.
        seed: Of the draws: of one image for each lesion, and of halves where DATA is one set.
        device: Where to compute.
        on_image: Told how many images are prepared, of how many.
        on_bad_image: `fail`, or `skip` to go on without images that cannot be read.

    Raises:
        DataError: The images cannot support a policy.
    """
    checkpoint = load(run)
    checkpoint.model.to(device_named(device))
    prepared = partial(
        prepare,
        preprocessing=checkpoint.preprocessing,
        cache=cache,
        report=on_image,
        on_bad_image=on_bad_image,
    )
    everything = prepared(load_dataset(data))
    images, unknown_classes = align(everything, checkpoint.classes)
    training = _training_images(checkpoint, images, training_data, prepared)
    keep = str(checkpoint.configuration.get("training", {}).get("keep", "last"))
    material = material_for(checkpoint.split, images, training, seed=seed, keep=keep)
    material.sentences.extend(skipped_sentences(everything.skipped, len(everything), of=data))
    if unknown_classes:
        material.sentences.append(
            f"left out: {unknown_classes} images of classes that the model does not know"
        )
    trained, tune, calibration = (
        predictions_of(checkpoint, part)
        for part in (material.training, material.tune, material.calibration)
    )
    detectors = FittedDetectors.fit(trained)
    calibrator = calibrator_of(tune, detectors)
    (policy,) = fit_policies(
        tune,
        calibration,
        detectors,
        calibrator,
        [targets],
        seed=seed,
        calibration_fingerprint=material.calibration.fingerprint,
        ood_detector=ood_detector,
    )
    before = _earlier(run / POLICY_FOLDER)
    this = {"cases": policy.calibration_fingerprint, "max_error": targets.max_error}
    cases = _cases(data, seed, material, [*before, this])
    skipped = [one._asdict() for one in everything.skipped]
    engine = DecisionEngine(
        classes=policy.classes, policy=policy, calibrator=calibrator, detectors=detectors
    )
    save_policy(run / POLICY_FOLDER, engine, {**cases, "skipped": skipped})
    sentences = [
        *material.sentences,
        f"detectors fitted on {len(training)} of the {_trained_count(checkpoint.split)} images "
        "that the model was trained on",
        *_tried(calibrator),
        *policy.summary(),
        *_again(before, this),
    ]
    return Account(policy, sentences)


def _earlier(folder: Path) -> list[dict[str, Any]]:
    """What has been calibrated before in this folder; what cannot be read is as nothing."""
    try:
        told = json.loads((folder / CASES).read_text(encoding="utf-8"))["calibrations"]
        return [dict(one) for one in told]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _again(before: Sequence[Mapping[str, Any]], this: Mapping[str, Any]) -> list[str]:
    """A warning where the same cases have certified before: then looking has begun."""
    times = sum(one.get("cases") == this["cases"] for one in before)
    if not times:
        return []
    return [
        f"These cases have calibrated {times} other {'policy' if times == 1 else 'policies'} of "
        "this run before: the confidence holds for one that was chosen beforehand, not for the "
        "one that looks best."
    ]


def _training_images(
    checkpoint: Checkpoint,
    images: ImageSet,
    training_data: str | None,
    prepared: Callable[[Dataset], ImageSet],
) -> ImageSet:
    """Of the given data, or else of the data that the run says it was trained with."""
    found = _trained_on(images, checkpoint.split)
    known = str(checkpoint.configuration.get("data", {}).get("name", ""))
    if training_data is None and len(found) < _trained_count(checkpoint.split) and known:
        try:
            others = align(prepared(load_dataset(known)), checkpoint.classes)[0]
            found = max(found, _trained_on(others, checkpoint.split), key=len)
        except ExplainedError as failure:
            if isinstance(failure, BadImages) and not failure.whole:
                raise
            training_data = known  # it has moved: what was found must do, if anything was
    elif training_data is not None:
        others = align(prepared(load_dataset(training_data)), checkpoint.classes)[0]
        found = _trained_on(others, checkpoint.split)
    if not len(found):
        raise DataError(
            f"{training_data or known}: holds none of the images that the model was trained on, "
            "which its detectors are fitted on; name the data it was trained with by "
            "--training-data"
        )
    return found


def _trained_count(split: Split) -> int:
    return sum(part == "train" for part in split.sets)


def _trained_on(images: ImageSet, split: Split) -> ImageSet:
    trained = split.hashes_of("train")
    return images.select(np.flatnonzero([content in trained for content in images.hashes]))


def material_for(
    split: Split, images: ImageSet, training: ImageSet, *, seed: int, keep: str = "last"
) -> Material:
    """Which images to learn what scores mean on, and which to certify with.

    The run's own parts `tune` and `calibrate` where the data holds them; else what the model was
    not trained on, halved by group. Its part `test` is never used: it is only measured.

    Args:
        split: Of the run.
        images: Those offered.
        training: Those that the model was trained on.
        seed: Of the halves.
        keep: Which epoch the run kept; the images that the `best` was chosen on set no policy.
    """
    joined, trained_groups = with_joined_groups(split, images, training)
    usable, sentences = _usable(split, joined, trained_groups, keep)
    part_of = dict(zip(split.hashes, split.sets, strict=True))
    parts = np.array([part_of.get(content, "") for content in usable.hashes])
    if set(OWN_SETS) <= set(parts.tolist()):
        tune, calibration = (usable.select(np.flatnonzero(parts == name)) for name in OWN_SETS)
        how = "the run's parts tune and calibrate"
        if others := len(usable) - len(tune) - len(calibration):
            sentences.append(
                f"left out: {others} images that are in neither of the run's parts tune and "
                "calibrate; give them alone to calibrate with them"
            )
    else:
        if keep == "best":
            usable, said = _without(usable, parts == "tune", CHOSEN_ON)
            sentences += said
        halves = partition_groups(usable.groups, 2, seed=seed)
        tune, calibration = (usable.select(rows) for rows in halves)
        how = f"halves of {len(usable)} images, drawn by group with seed {seed}"
    sentences.append(
        f"{how}: {len(tune)} images ({_groups(tune)} groups) to learn and choose on, "
        f"{len(calibration)} images ({_groups(calibration)} groups) to certify with"
    )
    return Material(training=training, tune=tune, calibration=calibration, sentences=sentences)


CHOSEN_ON = "on which the run chose its epoch (--keep best)"


def _without(
    images: ImageSet, left_out: Bool[np.ndarray, " n"], reason: str
) -> tuple[ImageSet, list[str]]:
    """The images less some, and a sentence that says so."""
    if not left_out.any():
        return images, []
    kept = images.select(np.flatnonzero(~left_out))
    return kept, [f"left out: {left_out.sum()} images {reason}"]


def _groups(images: ImageSet) -> int:
    return len(set(images.groups))


def _usable(
    split: Split, images: ImageSet, trained_groups: Sequence[str], keep: str
) -> tuple[ImageSet, list[str]]:
    """The images on which nothing was trained, chosen or is to be measured."""
    part_of = dict(zip(split.hashes, split.sets, strict=True))
    part_of |= dict.fromkeys(split.hashes_of("train"), "train")  # of copies in two parts
    parts = np.array([part_of.get(content, "") for content in images.hashes])
    groups = np.array(images.groups)
    chosen = "validation" if keep == "best" else "none"  # `tune` may be chosen on once more
    rules = {
        "on which the model was trained": parts == "train",
        "of lesions (groups) on which the model was trained": np.isin(groups, trained_groups),
        "of the run's test part, which is only measured": np.isin(groups, groups[parts == "test"]),
        CHOSEN_ON: np.isin(groups, groups[parts == chosen]),
    }
    reasons = [
        next((reason for reason, holds in rules.items() if holds[row]), "")
        for row in range(len(images))
    ]
    counts = Counter(reason for reason in reasons if reason)
    usable = images.select(np.flatnonzero([not reason for reason in reasons]))
    if not len(usable):
        raise UsageError(
            "none of these images can set a policy "
            f"({_joined(counts)}); give labelled images that the model has not met"
        )
    return usable, [f"left out: {count} images {reason}" for reason, count in counts.items()]


def with_joined_groups(
    split: Split, images: ImageSet, training: ImageSet
) -> tuple[ImageSet, list[str]]:
    """The images in groups that hold all that may show one lesion, and those of training images.

    Joined are images of one group (a name that is not just the image's own), images of one group
    of the run's split, and near duplicates, also of training images.
    """
    both = [*_named_groups(training, "training"), *_named_groups(images, "offered")]
    contents = [*training.hashes, *images.hashes]
    group_of = dict(zip(split.hashes, split.groups, strict=True))
    pairs = [
        *near_duplicates(stacked_hashes(training, images)),
        *_chained(contents),
        *_chained([group_of.get(content, "") for content in contents]),
    ]
    groups = joined_groups(both, pairs)
    return replace(images, groups=groups[len(training) :]), sorted(set(groups[: len(training)]))


def _named_groups(images: ImageSet, apart: str) -> list[str]:
    """Groups that are names of something; an image's own name means nothing beyond its set."""
    return [
        f"{apart} {group}" if group == identity else group
        for group, identity in zip(images.groups, images.ids, strict=True)
    ]


def _chained(keys: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs of neighbours with the same key; an empty key joins nothing."""
    last: dict[str, int] = {}
    for position, key in enumerate(keys):
        if key and key in last:
            yield last[key], position
        last[key] = position


def stacked_hashes(*sets: ImageSet) -> Hashes:
    """Perceptual hashes of several sets, one after another."""
    parts = [image_hashes(images) for images in sets]
    return Hashes(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _joined(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{count} {reason}" for reason, count in counts.items())


def _tried(calibrator: Calibrator) -> list[str]:
    tried = ", ".join(f"{name} {value:.4f}" for name, value in calibrator.tried.items())
    return [
        f"the acceptance score is {calibrator.score}, whose AURC on the tuning set is the lowest "
        f"of: {tried}"
    ]


def _cases(
    data: str, seed: int, material: Material, calibrations: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Which images the policy was made of, and what was calibrated here before, in order."""
    return {
        "data": data,
        "seed": seed,
        "calibrations": list(calibrations),
        **{
            name: {
                "images": list(part.ids),
                "hashes": list(part.hashes),
                "groups": list(part.groups),
            }
            for name, part in {"tune": material.tune, "calibration": material.calibration}.items()
        },
    }


def read_cases(run: Path) -> frozenset[str]:
    """Hashes of the images that a run's policy was made of.

    Raises:
        DataError: They are not told.
    """
    path = run / POLICY_FOLDER / CASES
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return frozenset(told["tune"]["hashes"] + told["calibration"]["hashes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: missing or damaged ({error}); run `misgiving calibrate` again"
        ) from error
