"""Report of an evaluation: one HTML file without external resources, and its findings as text."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from misgiving.arrays import Picture
from misgiving.data.decoding import picture_of
from misgiving.deferral.sentences import certificate_sentences
from misgiving.evaluation.evaluate import Evaluation
from misgiving.evaluation.readers import confusion_of
from misgiving.evaluation.shares import reliability_with_intervals
from misgiving.files import write_text
from misgiving.report.contact_sheet import thumbnail_link
from misgiving.report.figures import (
    acceptance_figure,
    figure_link,
    histogram_figure,
    matrix_figure,
    reliability_figure,
    team_figure,
)
from misgiving.report.rendering import detector_name, environment, lines

MAX_CLASSES = 15  # of the confusion matrix; the others are one row and column
GALLERY_IMAGES = 12  # of each kind
OPERATING_POINTS = 10
DESCRIBED_POINTS, DESCRIBED_ERRORS = 6, 5  # in the words that describe a figure

Scores = Float[np.ndarray, " _"]

Pictures = Callable[[str], Picture | None]
"""Reads the image of an id; None where it cannot be read."""


def write_report(
    evaluation: Evaluation, path: str | Path, *, title: str = "", pictures: Pictures | None = None
) -> Path:
    """Write the report of an evaluation as one HTML file, and return its path.

    Args:
        evaluation: What `misgiving.evaluate` returns.
        path: The file.
        title: Name of the data.
        pictures: Reads the images of the gallery; None: from the paths of the predictions, if any.
    """
    path = Path(path)
    read, numbers = pictures or _pictures_of(evaluation), _numbers(evaluation)
    page = environment().get_template("evaluation.html")
    text = page.render(
        evaluation=evaluation,
        title=title,
        certificate_sentences=certificate_sentences,
        thumbnail=None if read is None else lambda identity: thumbnail_link(read(identity)),
        figures=_figures(evaluation, numbers),
        **numbers,
    )
    write_text(path, text)
    return path


def findings(evaluation: Evaluation) -> list[str]:
    """Five sentences on accuracy, acceptance, the certificate, subgroups and OOD detection."""
    return lines("findings.html", "lines", evaluation=evaluation)


def notes(evaluation: Evaluation) -> list[str]:
    """Sentences on the images that were measured, and on numbers that are optimistic."""
    return lines("findings.html", "notes", evaluation=evaluation)


def _pictures_of(evaluation: Evaluation) -> Pictures | None:
    """Reads image files by their paths; None where no path is known."""
    judged = evaluation.judged
    if not judged.paths:
        return None
    paths = dict(zip(judged.ids, judged.paths, strict=True))
    return lambda identity: picture_of(Path(paths[identity]))


def gallery(evaluation: Evaluation) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]:
    """Rows of the errors of the highest probability, and of the answers of the lowest score."""
    probabilities = np.nan_to_num(evaluation.probabilities, nan=-np.inf)
    wrong = np.flatnonzero(evaluation.wrong)
    confident = wrong[np.argsort(-probabilities[wrong], kind="stable")[:GALLERY_IMAGES]]
    scores = np.nan_to_num(evaluation.scores, nan=-np.inf)
    return confident, np.argsort(scores, kind="stable")[:GALLERY_IMAGES]


def confusion(
    classes: Sequence[str], counts: Int[np.ndarray, "true answer"]
) -> tuple[Int[np.ndarray, "rows columns"], list[str]]:
    """Images of each true class (row) by predicted class; beyond 15, the others are pooled.

    Those with most errors are kept, in the order of the classes.
    """
    count = len(classes)
    if count <= MAX_CLASSES:
        return counts, list(classes)
    errors = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    most = np.sort(np.argsort(-errors, kind="stable")[:MAX_CLASSES])
    position = np.full(count, MAX_CLASSES)
    position[most] = np.arange(MAX_CLASSES)
    pooled = np.zeros((MAX_CLASSES + 1, MAX_CLASSES + 1), dtype=int)
    np.add.at(pooled, (position[:, None], position[None, :]), counts)
    return pooled, [*(classes[k] for k in most), f"{count - MAX_CLASSES} others"]


def _spaced(items: Sequence[Any], count: int) -> list[Any]:
    """Some of the items, evenly, with the first and the last."""
    rows = np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))
    return [items[row] for row in rows]


def _operating_points(evaluation: Evaluation) -> list[Any]:
    """Some operating points of the calibration cases, the chosen one among them."""
    if evaluation.deferral is None or evaluation.deferral.certificate_.by_value:
        return []
    certificate = evaluation.deferral.certificate_
    points = certificate.operating_points
    chosen = [point for point in points if point.threshold == certificate.accept_threshold]
    return sorted({*_spaced(points, OPERATING_POINTS), *chosen}, key=lambda p: -p.threshold)


def _numbers(evaluation: Evaluation) -> dict[str, Any]:
    """Variables of the page, most of which describe figures to those who do not see them."""
    judged, scores, wrong = evaluation.judged, evaluation.scores, evaluation.wrong
    decided, ood_sets = evaluation.decided, {}
    if evaluation.inlier_scores is not None:
        ood_sets = {"in-distribution": evaluation.inlier_scores}
        ood_sets |= {name: result.scores for name, result in evaluation.ood.items()}
    counts = confusion_of(judged.labels, evaluation.classes, num_classes=len(judged.classes))
    counts, names = confusion(judged.classes, counts)
    errors = counts * (1 - np.eye(len(names), dtype=int))
    cells = np.argsort(-errors, axis=None)[:DESCRIBED_ERRORS]
    most = [divmod(int(cell), len(names)) for cell in cells]
    accepts = bool(decided) and decided["accept"].events > 0
    confident_errors, doubtful = gallery(evaluation)
    return {
        "operating_points": _operating_points(evaluation),
        "confident_errors": confident_errors.tolist(),
        "doubtful": doubtful.tolist(),
        "chosen": (decided["accept"].value, decided["error"].value) if accepts else None,
        "points": _spaced(evaluation.curve, DESCRIBED_POINTS),
        "score_sets": _finite({"right": scores[~wrong], "wrong": scores[wrong]}),
        "ood_sets": _finite(ood_sets),
        "confusion": (counts, names),
        "pooled": len(judged.classes) - MAX_CLASSES,
        "most_frequent_errors": [
            (names[i], names[j], errors[i, j]) for i, j in most if errors[i, j]
        ],
        "reliability": reliability_with_intervals(evaluation.probabilities, wrong, judged.units)
        if np.isfinite(evaluation.probabilities).any()
        else None,
    }


def _finite(sets: Mapping[str, Scores]) -> dict[str, Scores]:
    """The finite scores of each set that has some."""
    finite = {name: scores[np.isfinite(scores)] for name, scores in sets.items()}
    return {name: scores for name, scores in finite.items() if len(scores)}


def _figures(evaluation: Evaluation, numbers: Mapping[str, Any]) -> dict[str, str]:
    """The figures of the page as data URLs; one that would be empty is missing."""
    deferral = evaluation.deferral
    certificate = None if deferral is None else deferral.certificate_
    decisions = evaluation.decisions
    drawn = {
        "acceptance": acceptance_figure(
            evaluation.curve,
            score=evaluation.score,
            chosen=numbers["chosen"],
            limit=None if deferral is None else deferral.certificate_.targets.max_error,
        ),
        "scores": histogram_figure(
            numbers["score_sets"],
            xlabel=f"acceptance score: {detector_name(evaluation.score)}",
            limit=None
            if decisions is None or len(decisions.thresholds) > 1
            else decisions.threshold,
            limit_label="threshold",
        ),
        "confusion": matrix_figure(*numbers["confusion"]),
    }
    if numbers["reliability"]:
        drawn["reliability"] = reliability_figure(*numbers["reliability"])
    if evaluation.ood:
        drawn["ood"] = histogram_figure(
            numbers["ood_sets"],
            xlabel=f"OOD score: {detector_name(evaluation.ood_detector)}",
            limit=None if certificate is None else certificate.ood_threshold,
            limit_label="OOD limit",
        )
    for number, team in enumerate(evaluation.readers.teams if evaluation.readers else ()):
        drawn[f"team {number}"] = team_figure(team)
        names = evaluation.judged.classes if certificate is None else certificate.answers
        table = confusion(names, team.confusion)
        drawn[f"reader {number}"] = matrix_figure(*table, xlabel="answer of the reader")
    return {name: figure_link(figure, "svg") for name, figure in drawn.items()}
