"""Measure a run for one reviewer, who gets wrong answers and OOD images alike."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misgiving.calibration.error_or_ood import ERROR_OR_OOD
from misgiving.checkpoint import Checkpoint
from misgiving.data.cache import ImageSet
from misgiving.decisions.engine import CASES, POLICY_FOLDER, DecisionEngine
from misgiving.decisions.fit_policy import LOGITS_RULE, calibrator_of
from misgiving.evaluation.one_reviewer import fit_one_reviewer, measure_one_reviewer
from misgiving.results.formats import read_document
from misgiving.results.policy_cases import PolicyCases
from misgiving.results.predictions import Predictions
from misgiving.results.schema import UNSEEN_SET, Measurement
from misgiving.scores.detectors import FittedDetectors

TUNE = "tune"
FEWEST = 20  # tuning images, of which a standard deviation is taken


class MeasuredSet(NamedTuple):
    """Images on which a model is measured, their name in the results, and its predictions."""

    name: str
    images: ImageSet
    predictions: Predictions


def measured_together(
    run: Path,
    checkpoint: Checkpoint,
    engine: DecisionEngine,
    everything: ImageSet,
    measured: MeasuredSet,
    outliers: Mapping[str, Predictions],
    *,
    predict: Callable[[ImageSet], Predictions],
) -> tuple[list[Measurement], list[str]]:
    """Measurements of `error_or_ood`, and a sentence on how it was fitted, or why it was not.

    It is fitted on the tuning images among the data, and measured on images of other groups. Images
    of classes that the model does not know are one more OOD set.

    Args:
        run: A run folder.
        checkpoint: Its model.
        engine: Its policy, if it has one.
        everything: All images of the data.
        measured: Those on which the model is measured.
        outliers: Predictions by the name of an OOD set; without any, nothing is measured.
        predict: Runs the model, on images that are in none of these sets.
    """
    if not outliers:
        return [], []
    known, _ = everything.align(checkpoint.classes)
    tuning = _tuning_hashes(run, checkpoint, engine)
    tune = known.select(np.flatnonzero([content in tuning for content in known.hashes]))
    groups = set(tune.groups)
    rows = np.flatnonzero([group not in groups for group in measured.predictions.groups])
    if not len(rows) or len(tune) < FEWEST:
        return [], [f"no {ERROR_OR_OOD}: it needs {FEWEST} tuning images that are not measured"]
    sets, test = dict(outliers), measured.predictions.select(rows)
    names = np.array(everything.classes)[everything.labels]
    unseen = np.flatnonzero(~np.isin(names, checkpoint.classes))
    if len(unseen):
        sets[UNSEEN_SET] = predict(everything.select(unseen))
    of_tune = _known(tune, measured) or predict(tune)
    detectors, rule = engine.detectors or FittedDetectors.none(), engine.rule or LOGITS_RULE
    reviewer = fit_one_reviewer(of_tune, calibrator_of(of_tune, detectors, rule), detectors)
    complete = len(test) == len(measured.predictions)
    dataset = measured.name if complete else f"{measured.name}_without_tuning"
    return measure_one_reviewer(reviewer, test, sets, dataset), [
        f"{ERROR_OR_OOD}: {reviewer.combined.names}, fitted on {len(tune)} tuning images and "
        f"measured on {len(test)} others"
    ]


def _known(images: ImageSet, measured: MeasuredSet) -> Predictions | None:
    """Predictions of these images, if all of them were measured."""
    row_of = {name: row for row, name in enumerate(_names(measured.images))}
    rows = [row_of.get(name) for name in _names(images)]
    return None if None in rows else measured.predictions.select(np.array(rows))


def _names(images: ImageSet) -> list[tuple[str, str, int]]:
    """The key of each image within the same data, also where files are listed twice."""
    return list(zip(images.ids, images.hashes, images.labels.tolist(), strict=True))


def _tuning_hashes(run: Path, checkpoint: Checkpoint, engine: DecisionEngine) -> frozenset[str]:
    """Contents of the policy's tuning images, or else of those of the run's split."""
    if engine.policy is not None:
        return frozenset(read_document(run / POLICY_FOLDER / CASES, PolicyCases).tune.hashes)
    return checkpoint.split.hashes_of(TUNE) - checkpoint.split.hashes_of("train")
