"""`report.html` of an evaluation, from what the workflows measure; needs no torch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from misgiving.data.decoding import Picture
from misgiving.deferral.deferral import Deferral
from misgiving.files import write_text
from misgiving.predictions.record import Predictions
from misgiving.report.certificate import warnings as weakening
from misgiving.report.evaluation import Answers, Detection, Evaluated, NamedClasses
from misgiving.report.evaluation.findings import Findings, findings_of
from misgiving.results.schema import LabelledDecision, Measurement
from misgiving.scores.detectors import WITHOUT_FEATURES
from misgiving.workflows.policy_evaluation import (
    REPORT,
    Evaluation,
    PolicyEvaluation,
    audit_groups,
)

WITHOUT_POLICY = "msp"  # by which images would be accepted


def write_report(path: Path, evaluated: Evaluated, findings: Findings) -> Path:
    """Write the page."""
    from misgiving.report.evaluation.page import evaluation_page  # draws with matplotlib

    write_text(path, evaluation_page(evaluated, findings))
    return path


def shown_detector(deferral: Deferral | None) -> str:
    """The OOD score that the report is about."""
    return deferral.ood_detector_ if deferral else WITHOUT_FEATURES


def finished_evaluation(
    out: Path | None,
    evaluated: Evaluated,
    measurements: list[Measurement],
    decided: PolicyEvaluation | None,
) -> Evaluation:
    """The result of an evaluation, whose report is written into the folder, if one is given."""
    findings = findings_of(evaluated)
    report = None if out is None else write_report(out / REPORT, evaluated, findings)
    return Evaluation(
        measurements,
        [*evaluated.notes, *evaluated.warnings],
        decided.subgroups if decided else [],
        [*map(str, findings.sentences)],
        report,
    )


def evaluated_images(
    title: str,
    predictions: Predictions,
    metadata: Mapping[str, Sequence[str]],
    *,
    unit: str,
    deferral: Deferral | None = None,
    decided: PolicyEvaluation | None = None,
    picture: Callable[[int], Picture | None] | None = None,
    warnings: Sequence[str] = (),
    notes: Sequence[str] = (),
    detection: Detection | None = None,
) -> Evaluated:
    """The report's record of labelled images, with the decisions of a policy if there are any.

    Args:
        title: Name of the data.
        predictions: Of the images.
        metadata: Values of each image by column.
        unit: What a group of them is.
        deferral: The policy whose certificate is shown.
        decided: Its decisions on these images.
        picture: Reads an image.
        warnings: Sentences on numbers that are optimistic.
        notes: Other sentences on the images.
        detection: OOD scores.
    """
    seed = deferral.seed if deferral else 0
    answers = _answers(predictions, decided, deferral, picture)
    everything = np.ones(len(predictions), dtype=bool)
    errors = audit_groups(predictions, metadata, everything, ~everything, answers.wrong, seed=seed)
    weakened, rule = [], []
    if deferral is not None:
        weakened = weakening(deferral)
        rule = [f"classes are named by the rule {deferral.rule_.rule}"] * (decided is not None)
    return Evaluated(
        title=title,
        answers=answers,
        deferral=deferral,
        warnings=[*warnings, *weakened],
        notes=[*notes, *rule],
        errors=errors,
        decisions=decided.subgroups if decided else (),
        detection=detection,
        seed=seed,
        unit=unit,
    )


def _answers(
    predictions: Predictions,
    decided: PolicyEvaluation | None,
    deferral: Deferral | None,
    picture: Callable[[int], Picture | None] | None,
) -> Answers:
    if decided is None or deferral is None:
        probabilities = predictions.probabilities
        named = predictions.choices
        shown = probabilities[np.arange(len(predictions)), named]
        measured: dict[str, Any] = {"scores": shown, "score": WITHOUT_POLICY}
    else:
        rows = decided.decisions
        position = {name: number for number, name in enumerate(predictions.classes)}
        named = np.array([position[one.predicted_class] for one in rows])
        shown = np.array([one.probability for one in rows])
        measured = {
            "scores": _column(rows, "acceptance_score"),
            "score": deferral.calibration_.score,
            "outcomes": np.array([one.decision for one in rows]),
            "reasons": [one.reason for one in rows],
        }
    return Answers(
        wrong=named != predictions.labels,
        probabilities=shown,
        groups=predictions.units,
        ids=predictions.ids,
        classes=NamedClasses(predictions.classes, predictions.labels, named),
        picture=picture,
        **measured,
    )


def _column(rows: Sequence[LabelledDecision], field: str) -> np.ndarray:
    values = (getattr(one, field) for one in rows)
    return np.array([np.nan if value is None else value for value in values])
