"""What `misgiving evaluate` and `misgiving predict` do with a trained run, and its policy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from misgiving import distributed
from misgiving.calibrators.apply import CALIBRATED, COMBINATION, Calibrator
from misgiving.checkpoint import POLICY_FOLDER, Checkpoint, load
from misgiving.data.bad_images import FAIL, skipped_sentences
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import Metadata, load_dataset, unlabelled
from misgiving.decisions.engine import DecisionEngine, load_policy
from misgiving.errors import UsageError
from misgiving.evaluation.inference import fingerprint_of, predictions_of, untuned_scores
from misgiving.evaluation.measures import (
    measure_classification,
    measure_detection,
    measure_failures,
    measure_loss_estimation,
    measure_scaling,
)
from misgiving.metrics.subgroups import Subgroup
from misgiving.results.formats import write_table
from misgiving.results.predictions import Predictions
from misgiving.results.schema import Measurement, SkippedImage
from misgiving.scores.detectors import all_scores
from misgiving.training.devices import start_processes
from misgiving.workflows.calibrate import read_cases
from misgiving.workflows.decision_audit import (
    Decided,
    measure_decisions,
    measure_shares,
    metadata_of,
    remove_decisions,
)
from misgiving.workflows.train import align, held_out

Report = Callable[[int, int], None]


class Evaluation(NamedTuple):
    """Measurements of a run, sentences that say on what, and groups where it has a policy."""

    measurements: list[Measurement]
    account: list[str]
    subgroups: list[Subgroup]


@distributed.explain_lost_process()
def evaluate_run(
    run: Path,
    data: str,
    *,
    out: Path,
    cache: Path,
    ood: Sequence[str] = (),
    set_name: str | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    on_image: Report | None = None,
    on_bad_image: str = FAIL,
) -> Evaluation:
    """Measure a run on data that it was not trained on, and write predictions and measurements.

    Several processes share the images; each has the whole result, and the first writes it.

    Args:
        run: A run folder.
        data: The data as the user names it.
        out: Folder for `predictions.safetensors` and `measurements.csv`.
        cache: Folder for prepared images.
        ood: Folders of images of another kind.
        set_name: Measure only this set of the run's split.
        device: Where to compute.
        devices: Processes on each machine.
        nodes: Machines.
        on_image: Told how many images are prepared, of how many.
        on_bad_image: `fail`, or `skip` to go on without images that cannot be read.
    """
    checkpoint = load(run)
    checkpoint.model.to(start_processes(device, devices=devices, nodes=nodes))
    names = _distinct_names(ood)
    engine = engine_of(run, checkpoint)
    dataset_read = load_dataset(data)
    prepared = partial(
        prepare,
        preprocessing=checkpoint.preprocessing,
        cache=cache,
        report=on_image,
        on_bad_image=on_bad_image,
    )
    everything = prepared(dataset_read)
    images, account = _images_to_measure(checkpoint, everything, dataset_read.name, set_name)
    predictions = predictions_of(checkpoint, images)
    dataset = set_name or _name_of_set(images, checkpoint)
    measurements = [
        *measure_classification(predictions, dataset),
        *measure_loss_estimation(predictions, dataset, class_weights=checkpoint.class_weights),
        *measure_failures(predictions, all_scores(predictions), dataset),
    ]
    outliers = {
        name: prepared(unlabelled([Path(folder)], name=name)) for name, folder in names.items()
    }
    measurements += _detection(checkpoint, images, outliers, engine)
    account += [f"{name}: {len(outliers[name])} images" for name in outliers]
    account += _write_skipped(out, {dataset_read.name: everything, **outliers})
    subgroups: list[Subgroup] = []
    decided = None
    if engine.policy is not None and engine.calibrator is not None:
        rows, said = _without_cases_of_policy(run, images, set_name)
        account += said
        if len(rows):
            metadata = metadata_of(dataset_read, images.select(rows))
            decided = _decided(
                engine, engine.calibrator, predictions.select(rows), dataset, metadata
            )
            measurements += decided.measurements
            account += decided.sentences
            subgroups = decided.subgroups
    if distributed.is_first():
        _write_evaluation(out, predictions, measurements, decided)
    distributed.wait_for_all()
    return Evaluation(measurements, account, subgroups)


def _write_evaluation(
    out: Path,
    predictions: Predictions,
    measurements: list[Measurement],
    decided: Decided | None,
) -> None:
    remove_decisions(out)
    if decided is not None:
        decided.write(out)
    predictions.save(out / "predictions.safetensors")
    write_table(out / "measurements.csv", Measurement, measurements)


def _decided(
    engine: DecisionEngine,
    calibrator: Calibrator,
    predictions: Predictions,
    dataset: str,
    metadata: Metadata,
) -> Decided:
    """What the policy does, after failures by the learned scores and calibration."""
    learned = calibrator.with_learned(all_scores(predictions, engine.used), predictions.logits)
    scores = {name: learned[name] for name in (CALIBRATED, COMBINATION) if name in learned}
    seed = 0 if engine.policy is None else engine.policy.seed
    decided = measure_decisions(
        engine.decide_predictions(predictions), predictions, dataset, metadata, seed=seed
    )
    measured = [
        *measure_failures(predictions, scores, dataset),
        *measure_scaling(predictions, calibrator, dataset),
        *decided.measurements,
    ]
    return replace(decided, measurements=measured)


def _without_cases_of_policy(
    run: Path, images: ImageSet, set_name: str | None
) -> tuple[Int[np.ndarray, " n"], list[str]]:
    """Positions of images that did not set the policy, as numbers on those would flatter.

    With `set_name`, all images of the set, and a sentence that says so.
    """
    known = read_cases(run)
    met = np.array([content in known for content in images.hashes])
    if not met.any():
        return np.arange(len(images)), []
    counted = f"{met.sum()} of these {len(images)} images set the policy"
    if set_name is not None:
        return np.arange(len(images)), [f"{counted}: what is said of its decisions flatters"]
    return np.flatnonzero(~met), [f"{counted}; its decisions are measured on the others alone"]


def engine_of(run: Path, checkpoint: Checkpoint) -> DecisionEngine:
    """The decision engine of a run; without a policy where none was calibrated.

    Raises:
        DataError: It is damaged, was edited, or was made for another model.
    """
    folder = run / POLICY_FOLDER
    if not folder.exists():
        return DecisionEngine(classes=checkpoint.classes)
    engine = load_policy(folder)
    if engine.policy is not None:
        engine.policy.refuse_other_model(fingerprint_of(checkpoint))
    return engine


def _name_of_set(images: ImageSet, checkpoint: Checkpoint) -> str:
    """`validation`, `test` for images that the run has never met, `held_out` for some of both."""
    known = set(checkpoint.split.hashes)
    met = [content in known for content in images.hashes]
    return "validation" if all(met) else "held_out" if any(met) else "test"


def _distinct_names(folders: Sequence[str]) -> dict[str, str]:
    names = {Path(folder).resolve().name: folder for folder in folders}
    if len(names) < len(folders):
        raise UsageError(
            f"two --ood folders of {', '.join(folders)} have the same name; rename one, "
            "so that rows differ"
        )
    return names


SKIPPED = "skipped.csv"


def _write_skipped(out: Path, sets: Mapping[str, ImageSet]) -> list[str]:
    """Write which images of which set were left out as unreadable, if any; gives sentences."""
    rows = [SkippedImage(name, *one) for name, images in sets.items() for one in images.skipped]
    if not rows:
        (out / SKIPPED).unlink(missing_ok=True)  # of an earlier evaluation
        return []
    write_table(out / SKIPPED, SkippedImage, rows)
    return [
        sentence
        for name, images in sets.items()
        for sentence in skipped_sentences(images.skipped, len(images), of=name)
    ]


def _images_to_measure(
    checkpoint: Checkpoint, everything: ImageSet, name: str, set_name: str | None
) -> tuple[ImageSet, list[str]]:
    known, ood = align(everything, checkpoint.classes)
    images, seen = held_out(known, checkpoint.split, set_name=set_name)
    account = [f"{name}: {len(everything)} images; {len(images)} are measured"]
    if set_name is None:
        account.append(f"left out: {seen} images on which the model was trained")
    else:
        account.append(f"only the set {set_name!r} of the run's split")
    if set_name == "train":
        account.append("these numbers flatter: the model was trained on these images")
    if checkpoint.configuration.get("training", {}).get("keep") == "best":
        account.append(
            "the run kept the epoch that was best on its validation set: numbers on it flatter"
        )
    if ood:
        account.append(f"left out: {ood} images of classes that the model does not know")
    return images, account


def _detection(
    checkpoint: Checkpoint,
    inliers: ImageSet,
    outliers: dict[str, ImageSet],
    engine: DecisionEngine,
) -> list[Measurement]:
    """ODIN's default only: tuning it on the sets that are measured would flatter."""
    if not outliers:
        return []
    inlier_scores = untuned_scores(checkpoint, inliers, engine.detectors)
    rows = []
    for name, images in outliers.items():
        rows += measure_detection(
            inlier_scores, untuned_scores(checkpoint, images, engine.detectors), name
        )
        if engine.policy is not None:
            found = engine.decide_predictions(predictions_of(checkpoint, images))
            rows += measure_shares([one.decision for one in found], name)
    return rows
