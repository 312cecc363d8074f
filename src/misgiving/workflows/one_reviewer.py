"""Measure a run for one reviewer, who gets wrong answers and OOD images alike."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from misgiving.calibrators.error_or_ood import ERROR_OR_OOD
from misgiving.checkpoint import POLICY_FOLDER, Checkpoint
from misgiving.data.cache import ImageSet
from misgiving.decisions.engine import CASES, DecisionEngine
from misgiving.decisions.fit_policy import LOGITS_RULE, calibrator_of
from misgiving.evaluation.inference import predictions_of
from misgiving.evaluation.one_reviewer import fit_one_reviewer, measure_one_reviewer
from misgiving.results.formats import read_document
from misgiving.results.schema import Measurement, PolicyCases
from misgiving.scores.detectors import FittedDetectors

TUNE, UNSEEN = "tune", "unseen_classes"
FEWEST = 20  # tuning images, of which a standard deviation is taken


def measured_together(
    run: Path,
    checkpoint: Checkpoint,
    engine: DecisionEngine,
    everything: ImageSet,
    measured: ImageSet,
    outliers: Mapping[str, ImageSet],
    *,
    dataset: str,
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
        outliers: OOD images by the name of their set; without any, nothing is measured.
        dataset: Name of the measured images in the results.
    """
    if not outliers:
        return [], []
    known, _ = everything.align(checkpoint.classes)
    tuning = _tuning_hashes(run, checkpoint, engine)
    tune = known.select(np.flatnonzero([content in tuning for content in known.hashes]))
    groups = set(tune.groups)
    test = measured.select(np.flatnonzero([group not in groups for group in measured.groups]))
    if not len(test) or len(tune) < FEWEST:
        return [], [f"no {ERROR_OR_OOD}: it needs {FEWEST} tuning images that are not measured"]
    sets = {name: predictions_of(checkpoint, images) for name, images in outliers.items()}
    names = np.array(everything.classes)[everything.labels]
    unseen = np.flatnonzero(~np.isin(names, checkpoint.classes))
    if len(unseen):
        sets[UNSEEN] = predictions_of(checkpoint, everything.select(unseen))
    of_tune = predictions_of(checkpoint, tune)
    detectors, rule = engine.detectors or FittedDetectors.none(), engine.rule or LOGITS_RULE
    reviewer = fit_one_reviewer(of_tune, calibrator_of(of_tune, detectors, rule), detectors)
    rows = measure_one_reviewer(reviewer, predictions_of(checkpoint, test), sets, dataset)
    return rows, [
        f"{ERROR_OR_OOD}: {reviewer.combined.names}, fitted on {len(tune)} tuning images and "
        f"measured on {len(test)} others"
    ]


def _tuning_hashes(run: Path, checkpoint: Checkpoint, engine: DecisionEngine) -> frozenset[str]:
    """Contents of the policy's tuning images, or else of those of the run's split."""
    if engine.policy is not None:
        return frozenset(read_document(run / POLICY_FOLDER / CASES, PolicyCases).tune.hashes)
    return checkpoint.split.hashes_of(TUNE) - checkpoint.split.hashes_of("train")
