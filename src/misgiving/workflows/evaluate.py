"""`misgiving evaluate`: measure a run, and its policy, on images that it was not trained on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misgiving.checkpoint import Checkpoint, load
from misgiving.data.bad_images import FAIL, SKIP, skipped_sentences
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset, tables_of
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.ood_sets.ood_set import read_ood_folder
from misgiving.data.splits import Split
from misgiving.deferral.deferral import Deferral
from misgiving.errors import UsageError
from misgiving.evaluation.measures import measure_detection, measure_predictions
from misgiving.files import refuse_unwritable_folder
from misgiving.groups import unit_of
from misgiving.models import processes
from misgiving.predictions.graphs import cached_network
from misgiving.predictions.inference import (
    OnImage,
    fingerprint_of,
    predictions_of,
    untuned_scores,
)
from misgiving.predictions.network import Network
from misgiving.predictions.record import Predictions
from misgiving.report.evaluation import Detection, ScoredImages
from misgiving.results.schema import Measurement, SkippedImage
from misgiving.scores.outputs import Scores
from misgiving.training.devices import start_processes
from misgiving.workflows.evaluation_report import (
    evaluated_images,
    finished_evaluation,
    shown_detector,
)
from misgiving.workflows.policy_evaluation import (
    PREDICTIONS,
    TRAINED_ON,
    Evaluation,
    PolicyEvaluation,
    distinct_names,
    evaluate_policy,
    measure_shares,
    refuse_inputs_in,
    refuse_taken_names,
    remove_earlier,
    rows_for_policy,
    write_evaluation,
)
from misgiving.workflows.related_images import of_training_groups, related_to_training


class _Sets(NamedTuple):
    """The images of an evaluation, and sentences about them.

    Attributes:
        source: The data as given.
        everything: All of its images that can be read.
        measured: Those that are measured.
        dataset: Name of these in the measurements.
        outliers: OOD images by the name of their set.
    """

    source: Dataset
    everything: ImageSet
    measured: ImageSet
    dataset: str
    outliers: dict[str, ImageSet]
    summary: list[str]
    warnings: list[str]

    @property
    def skipped(self) -> list[SkippedImage]:
        """Images that cannot be read."""
        sets = {self.source.name: self.everything, **self.outliers}
        return [SkippedImage(name, *bad) for name, of in sets.items() for bad in of.skipped]


@dataclass(frozen=True, eq=False)
class _Model:
    """A trained model with its policy, if it has one, and its graph, if that is to predict."""

    checkpoint: Checkpoint
    deferral: Deferral | None
    on_image: OnImage | None
    network: Network | None

    def predict(self, images: ImageSet) -> Predictions:
        return predictions_of(self.checkpoint, images, on_image=self.on_image, network=self.network)

    def scores(self, images: ImageSet, predictions: Predictions) -> Scores:
        detectors = self.deferral.detectors_ if self.deferral else None
        return untuned_scores(
            self.checkpoint, images, predictions, detectors, on_image=self.on_image
        )


@dataclass(frozen=True, eq=False)
class _Tables:
    """The tables of an evaluation, written anew whenever there is more to say."""

    out: Path
    decided: PolicyEvaluation | None
    skipped: Sequence[SkippedImage]
    measurements: list[Measurement] = field(default_factory=list)

    def add(self, found: Iterable[Measurement]) -> None:
        """Write all but the predictions and the report, in the first process."""
        self.measurements.extend(found)
        if processes.is_first():
            write_evaluation(self.out, self.measurements, self.decided, self.skipped)


@processes.explain_lost_process()
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
    on_image: OnImage | None = None,
    on_predicted: OnImage | None = None,
    on_bad_image: str = FAIL,
) -> Evaluation:
    """Measure a run, and write predictions and measurements.

    The model predicts each image once; only ODIN runs it again. Several processes share the images;
    each has the whole result, and the first writes it.

    Args:
        run: A run folder.
        data: The data as the user names it; images that the model was trained on are left out.
        out: Folder for `report.html`, `predictions.npz` and the tables.
        cache: Folder for prepared images.
        ood: Folders of out-of-distribution images, by name as in `b_box=FOLDER` or without.
        set_name: Measure only this set of the run's split.
        device: Where to compute.
        devices: Processes on each machine.
        nodes: Machines.
        on_image: Called with the number of prepared images and of all.
        on_predicted: Called with the number of predicted images and of all of a set.
        on_bad_image: `fail`, or `skip` to leave out images that cannot be read.
    """
    refuse_unwritable_folder(out)
    refuse_inputs_in(out, tables_of(data))
    checkpoint = load(run)
    checkpoint.model.to(start_processes(device, devices=devices, nodes=nodes))
    folders = distinct_names(ood)
    deferral = Deferral.of_run(run, model=fingerprint_of(checkpoint))
    prepared = partial(
        prepare,
        preprocessing=checkpoint.preprocessing,
        cache=cache,
        report=on_image,
        on_bad_image=on_bad_image,
    )
    sets = _sets_to_measure(checkpoint, load_dataset(data), folders, set_name, prepared)
    count = len(sets.measured) + sum(map(len, sets.outliers.values()))
    network = cached_network(checkpoint, count, cache)
    model = _Model(checkpoint, deferral, on_predicted, network)
    return _evaluate(model, sets, out, set_name)


def _evaluate(model: _Model, sets: _Sets, out: Path, set_name: str | None) -> Evaluation:
    """Predict, measure, and write the tables and the report."""
    if processes.is_first():
        remove_earlier(out)
    predictions = model.predict(sets.measured)
    if processes.is_first():
        predictions.write(out / PREDICTIONS)
    rows, remarks, doubts = rows_for_policy(predictions, model.deferral, named=set_name is not None)
    images, answers = sets.measured.select(rows), predictions.select(rows)
    metadata = _metadata_of(sets.source, images)
    decided = None if model.deferral is None else evaluate_policy(model.deferral, answers, metadata)
    tables = _Tables(out, decided, sets.skipped)
    weights = model.checkpoint.class_weights
    tables.add(
        [
            *measure_predictions(predictions, sets.dataset, class_weights=weights),
            *(decided.measurements if decided else ()),
        ]
    )
    detection = _detection(model, sets, predictions, tables)
    evaluated = evaluated_images(
        sets.source.name,
        answers,
        metadata,
        unit=unit_of(answers.group_columns, answers.groups),
        deferral=model.deferral,
        decided=decided,
        picture=lambda row: images.read(np.array([row]))[0],
        warnings=[*sets.warnings, *doubts],
        notes=[*sets.summary, *remarks],
        detection=detection,
    )
    folder = out if processes.is_first() else None
    evaluation = finished_evaluation(folder, evaluated, tables.measurements, decided)
    processes.wait_for_all()
    return evaluation


def _sets_to_measure(
    checkpoint: Checkpoint,
    source: Dataset,
    folders: Mapping[str, Path],
    set_name: str | None,
    prepared: Callable[..., ImageSet],
) -> _Sets:
    """Prepare all images, and choose those to measure."""
    everything, trained_groups, remarks = related_to_training(
        checkpoint, prepared(source), partial(prepared, on_bad_image=SKIP)
    )
    known, unknown = everything.align(checkpoint.classes)
    related = np.zeros(len(known), dtype=bool)
    if set_name is None:
        related = of_training_groups(known, checkpoint.split, trained_groups)
        known = known.select(np.flatnonzero(~related))
    images, trained = held_out(known, checkpoint.split, set_name=set_name)
    dataset = set_name or name_of(images, checkpoint.split)
    refuse_taken_names(folders, dataset)
    summary = [f"{source.name}: {len(everything)} images; {len(images)} are measured"]
    if set_name is None:
        summary.append(f"left out: {trained} images on which the model was trained")
    else:
        summary.append(f"only the set {set_name!r} of the run's split")
    if related.any():
        summary.append(
            f"left out: {related.sum()} new images of groups on which the model was trained"
        )
    if unknown:
        summary.append(f"left out: {unknown} images of classes that the model does not know")
    summary += remarks
    outliers = {
        name: prepared(read_ood_folder(folder, name=name)) for name, folder in folders.items()
    }
    summary += [f"{name}: {len(of)} images" for name, of in outliers.items()]
    for name, of in {source.name: everything, **outliers}.items():
        summary += skipped_sentences(of.skipped, len(of), of=name)
    warnings = warnings_of(checkpoint, images, set_name)
    return _Sets(source, everything, images, dataset, outliers, summary, warnings)


def warnings_of(checkpoint: Checkpoint, images: ImageSet, set_name: str | None) -> list[str]:
    """Reasons to call the numbers of these images optimistic."""
    warnings, split = [], checkpoint.split
    chosen_on = "tune" if "tune" in split.sets else "validation"
    if set_name == "train":
        warnings.append(TRAINED_ON)
    keep = checkpoint.configuration.get("training", {}).get("keep")
    if keep == "best" and split.hashes_of(chosen_on).intersection(images.hashes):
        warnings.append(
            f"the run kept the epoch that was best on its set {chosen_on}, on which numbers are "
            "optimistic"
        )
    return warnings


def held_out(
    images: ImageSet, split: Split, *, set_name: str | None = None
) -> tuple[ImageSet, int]:
    """The images that a model was not trained on, by content, and how many it was trained on.

    With `set_name`, the images of that set of the split instead.

    Raises:
        UsageError: Nothing is left, or the split has no such set.
    """
    training = split.hashes_of("train")
    trained = np.array([content in training for content in images.hashes])
    if set_name is not None:
        return _of_set(images, split, set_name), int(trained.sum())
    if trained.all():
        raise UsageError(
            f"the model was trained on all {len(images)} of these images; give others, "
            'or measure them nevertheless with `set_name="train"`'
        )
    return images.select(np.flatnonzero(~trained)), int(trained.sum())


def _of_set(images: ImageSet, split: Split, set_name: str) -> ImageSet:
    if set_name not in split.sets:
        names = ", ".join(sorted(set(split.sets)))
        raise UsageError(f"the run's split has no set {set_name!r}; choose from {names}")
    wanted = split.hashes_of(set_name)
    if set_name != "train":  # one copy of an image may have been trained on
        wanted -= split.hashes_of("train")
    rows = np.flatnonzero([content in wanted for content in images.hashes])
    if not len(rows):
        raise UsageError(f"none of these images is in the set {set_name!r} of the run's split")
    return images.select(rows)


def name_of(images: ImageSet, split: Split) -> str:
    """The one set of the split that these images are in, `test` if all are new, or `held_out`."""
    set_of = dict(zip(split.hashes, split.sets, strict=True))
    sets = {set_of.get(content) for content in images.hashes}
    return (sets.pop() or "test") if len(sets) == 1 else "held_out"


def _detection(
    model: _Model, sets: _Sets, predictions: Predictions, tables: _Tables
) -> Detection | None:
    """Add OOD metrics set by set; gives the scores for the report.

    ODIN has its defaults: tuned on the measured sets it would look too good.
    """
    if not sets.outliers:
        return None
    inlier_scores = model.scores(sets.measured, predictions)
    detector, found = shown_detector(model.deferral), {}
    for name, images in sets.outliers.items():
        outputs, outcomes = model.predict(images), None
        scores = model.scores(images, outputs)
        rows = measure_detection(inlier_scores, scores, name)
        if model.deferral is not None:
            decisions = model.deferral.decide(replace(outputs, classes=model.checkpoint.classes))
            rows += measure_shares(decisions, name)
            outcomes = decisions.decisions
        found[name] = ScoredImages(scores[detector], outputs.units, outcomes)
        tables.add(rows)
    of_inliers = ScoredImages(inlier_scores[detector], predictions.units)
    return Detection(detector, of_inliers, found)


def _metadata_of(source: Dataset, images: ImageSet) -> dict[str, list[str]]:
    """Metadata of these images, by column."""
    position = {identity: number for number, identity in enumerate(source.ids)}
    return {
        column: [values[position[identity]] for identity in images.ids]
        for column, values in source.metadata.items()
    }
