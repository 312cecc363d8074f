"""What `misgiving calibrate` does: a policy from images on which nothing was chosen before."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misgiving.checkpoint import POLICY_FOLDER, Checkpoint, load
from misgiving.data.datasets import load_dataset
from misgiving.data.loading import ImageSet, prepare
from misgiving.data.splits import Split
from misgiving.deciding import (
    FOREIGN_DETECTOR,
    Decider,
    calibrated,
    detectors_of,
    estimate_of,
    halves,
)
from misgiving.deferral import Promises
from misgiving.errors import DataError, UsageError
from misgiving.evaluation import Predictions, predict
from misgiving.experiments.runs import align
from misgiving.training import device_named

Report = Callable[[int, int], None]

CASES = "cases.json"
OWN_PARTS = ("tune", "calibrate")


class Account(NamedTuple):
    """A policy, and sentences that say what it was made of."""

    decider: Decider
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
    promises: Promises,
    *,
    cache: Path,
    training_data: str | None = None,
    foreign_detector: str = FOREIGN_DETECTOR,
    seed: int = 0,
    device: str = "auto",
    on_image: Report | None = None,
) -> Account:
    """Set the deferral policy of a run, and write it into the run's folder.

    Args:
        run: A run folder.
        data: Images with labels, as the user names them; those the model was trained on are left
            out, and those of lesions it was trained on.
        promises: What the accepted answers must keep.
        cache: Folder for prepared images.
        training_data: Holds the images that the model was trained on; None for `data`, or else
            what the run was trained with.
        foreign_detector: Tells foreign images.
        seed: Of the draws: of one image for each lesion, and of halves where DATA is one set.
        device: Where to compute.
        on_image: Told how many images are prepared, of how many.

    Raises:
        DataError: The images cannot support a policy.
    """
    checkpoint = load(run)
    checkpoint.model.to(device_named(device))
    images, foreign_classes = _prepared(checkpoint, data, cache, on_image)
    training = _training_images(checkpoint, images, training_data, cache, on_image)
    keep = str(checkpoint.configuration.get("training", {}).get("keep", "last"))
    material = material_for(checkpoint.split, images, training, seed=seed, keep=keep)
    if foreign_classes:
        material.sentences.append(
            f"left out: {foreign_classes} images of classes that the model does not know"
        )
    trained, tune, calibration = (
        _predictions(checkpoint, part)
        for part in (material.training, material.tune, material.calibration)
    )
    detectors = detectors_of(trained)
    decider = calibrated(
        tune,
        calibration,
        detectors,
        estimate_of(tune, detectors),
        promises,
        seed=seed,
        calibration_fingerprint=material.calibration.fingerprint,
        foreign_detector=foreign_detector,
    )
    decider.save(run / POLICY_FOLDER, {CASES: _cases(data, seed, material)})
    return Account(decider, [*material.sentences, *_tried(decider), *decider.policy.sentences()])


def _prepared(
    checkpoint: Checkpoint, data: str, cache: Path, on_image: Report | None
) -> tuple[ImageSet, int]:
    everything = prepare(load_dataset(data), checkpoint.preprocessing, cache=cache, report=on_image)
    return align(everything, checkpoint.classes)


def _training_images(
    checkpoint: Checkpoint,
    images: ImageSet,
    training_data: str | None,
    cache: Path,
    on_image: Report | None,
) -> ImageSet:
    """Of the given data, or else of the data that the run says it was trained with."""
    found = _trained_on(images, checkpoint.split)
    if training_data is None and not len(found):
        training_data = str(checkpoint.configuration.get("data", {}).get("name", ""))
    if training_data:
        found = _trained_on(
            _prepared(checkpoint, training_data, cache, on_image)[0], checkpoint.split
        )
    if not len(found):
        raise DataError(
            f"{training_data}: holds none of the images that the model was trained on, which its "
            "detectors are fitted on; name the data it was trained with by --training-data"
        )
    return found


def _trained_on(images: ImageSet, split: Split) -> ImageSet:
    trained = {
        content for content, part in zip(split.hashes, split.parts, strict=True) if part == "train"
    }
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
    usable, sentences = _usable(split, images, keep)
    part_of = dict(zip(split.hashes, split.parts, strict=True))
    parts = np.array([part_of.get(content, "") for content in usable.hashes])
    if set(OWN_PARTS) <= set(parts.tolist()):
        tune, calibration = (usable.select(np.flatnonzero(parts == name)) for name in OWN_PARTS)
        how = "the run's parts tune and calibrate"
    else:
        tune, calibration = (usable.select(rows) for rows in halves(usable.groups, seed=seed))
        how = f"halves of {len(usable)} images, drawn by group with seed {seed}"
    sentences.append(
        f"{how}: {len(tune)} images ({_groups(tune)} groups) to learn and choose on, "
        f"{len(calibration)} images ({_groups(calibration)} groups) to certify with"
    )
    return Material(training=training, tune=tune, calibration=calibration, sentences=sentences)


def _groups(images: ImageSet) -> int:
    return len(set(images.groups))


def _usable(split: Split, images: ImageSet, keep: str) -> tuple[ImageSet, list[str]]:
    """The images on which nothing was trained, chosen or is to be measured."""
    known = list(zip(split.hashes, split.parts, split.groups, strict=True))
    images = _with_groups_of(split, images)
    trained = {content for content, part, _ in known if part == "train"}
    lesions = {group for _, part, group in known if part == "train"}
    tested = {content for content, part, _ in known if part == "test"}
    # A kept epoch was chosen on `validation`; what was chosen on `tune` may be once more.
    chosen = {content for content, part, _ in known if (part, keep) == ("validation", "best")}
    reasons = [
        _reason(content, group, trained, lesions, tested, chosen)
        for content, group in zip(images.hashes, images.groups, strict=True)
    ]
    counts = Counter(reason for reason in reasons if reason)
    usable = images.select(np.flatnonzero([not reason for reason in reasons]))
    if not len(usable):
        raise UsageError(
            "none of these images can set a policy "
            f"({_joined(counts)}); give labelled images that the model has not met"
        )
    return usable, [f"left out: {count} images {reason}" for reason, count in counts.items()]


def _with_groups_of(split: Split, images: ImageSet) -> ImageSet:
    """The split's groups, which may join near duplicates, for the images that it knows."""
    group_of = dict(zip(split.hashes, split.groups, strict=True))
    pairs = zip(images.hashes, images.groups, strict=True)
    return replace(images, groups=tuple(group_of.get(content, group) for content, group in pairs))


def _joined(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{count} {reason}" for reason, count in counts.items())


def _reason(
    content: str,
    group: str,
    trained: set[str],
    lesions: set[str],
    tested: set[str],
    chosen: set[str],
) -> str:
    """Why an image cannot be used; empty where it can."""
    rules = {
        "on which the model was trained": content in trained,
        "of lesions (groups) on which the model was trained": group in lesions,
        "of the run's test part, which is only measured": content in tested,
        "on which the run chose its epoch (--keep best)": content in chosen,
    }
    return next((reason for reason, holds in rules.items() if holds), "")


def _predictions(checkpoint: Checkpoint, images: ImageSet) -> Predictions:
    return predict(checkpoint.model, images, estimates_losses=checkpoint.estimates_losses)


def _tried(decider: Decider) -> list[str]:
    tried = ", ".join(f"{name} {value:.4f}" for name, value in decider.estimate.tried.items())
    return [
        f"accepting by {decider.estimate.score}, whose AURC on the tune part is lowest of: {tried}"
    ]


def _cases(data: str, seed: int, material: Material) -> dict[str, object]:
    """Which images the policy was made of, as kept beside it."""
    return {
        "data": data,
        "seed": seed,
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
