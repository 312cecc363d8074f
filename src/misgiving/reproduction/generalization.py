"""Section 4.1 of the paper: is the classifier better, and does the estimate follow the loss?"""

from pathlib import Path

from misgiving.checkpoint import Checkpoint
from misgiving.decisions.engine import detectors_of
from misgiving.evaluation import (
    FAILURE_SCORES,
    measure_classification,
    measure_failures,
    measure_loss_estimation,
    predictions_of,
)
from misgiving.reproduction.policies import measure_reliance, policy_sets
from misgiving.results.schema import Measurement
from misgiving.results.scores import save_scores
from misgiving.scores.confidences import all_confidences
from misgiving.workflows.train import Run

FAILURES = "failures"  # the confidences of the measured part, for intervals


def measure_generalization(run: Run, checkpoint: Checkpoint, folder: Path) -> list[Measurement]:
    """Predict every part once, keep predictions in `folder`, and measure.

    Learned scores are among the failure scores where they were learned on other images than are
    measured.
    """
    part = run.roles.measured
    predictions = predictions_of(checkpoint, run.part(part))
    predictions.save(folder / "predictions" / f"{part}.safetensors")
    parts = policy_sets(run, checkpoint, predictions)
    detectors = detectors_of(parts.training)
    relied, estimate = measure_reliance(parts, detectors, folder, seed=run.training.seed)
    confidences = all_confidences(predictions, detectors)
    if estimate is not None and run.roles.tunes_apart:
        confidences = dict(estimate.with_learned(confidences, predictions.logits))
    failure_scores = {name: confidences[name] for name in FAILURE_SCORES if name in confidences}
    save_scores(folder, FAILURES, failure_scores, predictions.groups)
    return [
        *measure_classification(predictions, part),
        *measure_loss_estimation(predictions, part, class_weights=checkpoint.class_weights),
        *measure_failures(predictions, failure_scores, part),
        *relied,
    ]
