"""Report of an evaluation: one HTML file without external resources, and its findings as text."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from misgiving.data.decoding import Picture, picture_of
from misgiving.evaluation.evaluate import Evaluation
from misgiving.evaluation.shares import reliability_with_intervals
from misgiving.files import write_text
from misgiving.groups import unit_of
from misgiving.metrics.calibration import expected_calibration_error
from misgiving.report.certificate import certificate_sentences, fitting_sentences, warnings
from misgiving.report.names import detector_name
from misgiving.report.rendering import environment, percent

MAX_CLASSES = 15  # of the confusion matrix; the others are one row and column
MAX_GROUPS, MAX_MORE_GROUPS = 25, 200  # of the table of subgroups, and folded below it
GALLERY_IMAGES = 12  # of each kind
OPERATING_POINTS = 10
MAX_NAME = 20  # characters of a name in a figure

Pictures = Callable[[str], Picture | None]
"""Reads the image of an id; None where it cannot be read."""


class Drawing(NamedTuple):
    """A figure as a data URL, with a description for those who do not see it."""

    link: str
    alt: str


class Card(NamedTuple):
    """An image of the gallery."""

    row: int
    picture: str | None


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
    page = environment().get_template("evaluation.html")
    write_text(path, page.render(context(evaluation, title=title, pictures=pictures)))
    return path


def findings(evaluation: Evaluation) -> list[str]:
    """Five sentences on accuracy, acceptance, the certificate, subgroups and OOD detection."""
    return _lines("findings.txt", evaluation)


def notes(evaluation: Evaluation) -> list[str]:
    """Sentences on the images that were measured, and on numbers that are optimistic."""
    return _lines("notes.txt", evaluation)


def _lines(template: str, evaluation: Evaluation) -> list[str]:
    text = environment(html=False).get_template(template).render(_facts(evaluation))
    return text.strip().splitlines()


def _facts(evaluation: Evaluation) -> dict[str, Any]:
    """Variables of the sentences."""
    deferral = evaluation.deferral
    unit = unit_of(evaluation.judged.group_columns)
    one_unit = unit if unit in ("patient", "lesion") else "group"
    grouped = evaluation.num_groups < len(evaluation.judged)
    return {
        "evaluation": evaluation,
        "certificate": None if deferral is None else deferral.certificate_,
        "grouped": grouped,
        "one_unit": one_unit,
        "units": f"{one_unit}s" if grouped else "images",
        "detector_name": detector_name,
    }


def context(evaluation: Evaluation, *, title: str, pictures: Pictures | None) -> dict[str, Any]:
    """Variables of the page."""
    judged, harms, deferral = evaluation.judged, evaluation.harms, evaluation.deferral
    errors, doubtful = gallery(evaluation)
    read = pictures or _pictures_of(evaluation)
    shown = harms[: MAX_GROUPS + MAX_MORE_GROUPS]
    return {
        **_facts(evaluation),
        "title": title,
        "inf": np.inf,
        "certified": [] if deferral is None else certificate_sentences(deferral),
        "policy_warnings": [] if deferral is None else warnings(deferral),
        "remarks": [] if deferral is None else fitting_sentences(deferral),
        "figures": _figures(evaluation),
        "operating_points": _operating_points(evaluation),
        "pooled": max(0, len(judged.classes) - MAX_CLASSES),
        "harms": shown[:MAX_GROUPS],
        "more_harms": shown[MAX_GROUPS:],
        "left_out": len(harms) - len(shown),
        "errors": _cards(judged.ids, errors, read),
        "doubtful": _cards(judged.ids, doubtful, read),
        "has_pictures": read is not None,
    }


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


def _cards(ids: Sequence[str], rows: Int[np.ndarray, " _"], read: Pictures | None) -> list[Card]:
    from misgiving.report.contact_sheet import thumbnail_link

    return [Card(row, thumbnail_link(read(ids[row])) if read else None) for row in rows.tolist()]


def confusion(
    classes: Sequence[str], true: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, "true predicted"], list[str]]:
    """Images of each true class (row) by predicted class; beyond 15, the others are pooled.

    Those with most errors are kept, in the order of the classes.
    """
    count = len(classes)
    counts = np.bincount(true * count + predicted, minlength=count**2).reshape(count, count)
    if count <= MAX_CLASSES:
        return counts, list(classes)
    errors = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    kept = np.sort(np.argsort(-errors, kind="stable")[:MAX_CLASSES])
    position = np.full(count, MAX_CLASSES)
    position[kept] = np.arange(MAX_CLASSES)
    pooled = np.zeros((MAX_CLASSES + 1, MAX_CLASSES + 1), dtype=int)
    np.add.at(pooled, (position[:, None], position[None, :]), counts)
    return pooled, [*(classes[k] for k in kept), f"{count - MAX_CLASSES} others"]


def _spaced(items: Sequence[Any], count: int) -> list[Any]:
    """Some of the items, evenly, with the first and the last."""
    rows = np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))
    return [items[row] for row in rows]


def _operating_points(evaluation: Evaluation) -> list[Any]:
    """Some operating points of the calibration cases, the chosen one among them."""
    if evaluation.deferral is None:
        return []
    certificate = evaluation.deferral.certificate_
    confidence = certificate.targets.confidence
    points = certificate.calibration_scores.operating_points(confidence=confidence)
    chosen = [point for point in points if point.threshold == certificate.accept_threshold]
    shown = {*_spaced(points, OPERATING_POINTS), *chosen}
    return sorted(shown, key=lambda point: -point.threshold)


def _figures(evaluation: Evaluation) -> dict[str, Drawing]:
    """The figures of the page; one that would be empty is missing."""
    from misgiving.report.figures.evaluation import histogram_figure

    scores, deferral = evaluation.scores, evaluation.deferral
    certificate = None if deferral is None else deferral.certificate_
    sets = {"right": scores[~evaluation.wrong], "wrong": scores[evaluation.wrong]}
    drawn = {
        "acceptance": _acceptance(evaluation),
        "confusion": _confusion(evaluation),
        "scores": _drawing(
            histogram_figure(
                sets,
                xlabel=f"acceptance score: {detector_name(evaluation.score)}",
                limit=None if certificate is None else certificate.accept_threshold,
                limit_label="threshold",
            ),
            f"Histogram of the acceptance score. {_medians(sets)}",
        ),
    }
    if np.isfinite(evaluation.probabilities).any():
        drawn["reliability"] = _reliability(evaluation)
    if evaluation.ood and evaluation.inliers:
        sets = {"in-distribution": evaluation.inliers.scores}
        sets |= {name: result.images.scores for name, result in evaluation.ood.items()}
        figure = histogram_figure(
            {shortened(name): values for name, values in sets.items()},
            xlabel=f"OOD score: {detector_name(evaluation.ood_detector)}",
            limit=None if certificate is None else certificate.ood_threshold,
            limit_label="OOD limit",
        )
        drawn["ood"] = _drawing(figure, f"Histogram of the OOD score. {_medians(sets)}")
    return drawn


def _drawing(figure: Any, alt: str) -> Drawing:
    from misgiving.report.figures import figure_link

    return Drawing(figure_link(figure, "svg"), alt)


def shortened(name: str) -> str:
    """A name as a figure can show it; matplotlib would read formulas between dollar signs."""
    short = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"
    return short.replace("$", r"\$")


def _medians(sets: Mapping[str, np.ndarray]) -> str:
    finite = {name: scores[np.isfinite(scores)] for name, scores in sets.items()}
    medians = (f"{name} {np.median(values):.3g}" for name, values in finite.items() if len(values))
    return f"Medians: {', '.join(medians)}."


def _acceptance(evaluation: Evaluation) -> Drawing:
    from misgiving.report.figures.evaluation import acceptance_figure

    curve, decided = evaluation.curve, evaluation.decided
    accepts = bool(decided) and decided["accept"].events > 0
    chosen = (decided["accept"].value, decided["error"].value) if accepts else None
    deferral = evaluation.deferral
    figure = acceptance_figure(
        np.array([[point.coverage, point.error.value, *point.error[2:]] for point in curve]),
        score=evaluation.score,
        chosen=chosen,
        limit=deferral.max_error if deferral else None,
    )
    words = "; ".join(
        f"{percent(point.coverage)} accepted: {percent(point.error.value)} wrong"
        for point in _spaced(curve, 6)
    )
    at = "" if chosen is None else f" The policy is at {percent(chosen[0])}, {percent(chosen[1])}."
    return _drawing(figure, f"Error among the accepted over the share accepted. {words}.{at}")


def _reliability(evaluation: Evaluation) -> Drawing:
    from misgiving.report.figures.evaluation import reliability_figure

    probabilities, wrong = evaluation.probabilities, evaluation.wrong
    bins, observed = reliability_with_intervals(probabilities, wrong, evaluation.judged.units)
    known = np.isfinite(probabilities)
    error = expected_calibration_error(probabilities[known], ~wrong[known], bins=len(bins.counts))
    shares = np.array([[share.value, share.lower, share.upper] for share in observed])
    figure = reliability_figure(
        bins.predicted, shares[:, 0], bins.counts.astype(float), ends=shares[:, 1:]
    )
    words = "; ".join(
        f"{percent(float(predicted))} predicted, {percent(share.value)} right"
        for predicted, share in zip(bins.predicted, observed, strict=True)
    )
    alt = f"Probability of the predicted class and how often it is right. {words}."
    return _drawing(figure, f"{alt} Expected calibration error {error:.3f}.")


def _confusion(evaluation: Evaluation) -> Drawing:
    from misgiving.report.figures.evaluation import matrix_figure

    judged = evaluation.judged
    counts, names = confusion(judged.classes, judged.labels, evaluation.classes)
    off = counts * (1 - np.eye(len(names), dtype=int))
    most = [divmod(int(cell), len(names)) for cell in np.argsort(-off, axis=None)[:5]]
    words = "; ".join(
        f"{names[true]} predicted as {names[predicted]}: {off[true, predicted]}"
        for true, predicted in most
        if off[true, predicted]
    )
    alt = f"Confusion matrix. Most frequent errors: {words or 'none'}."
    return _drawing(matrix_figure(counts, [*map(shortened, names)]), alt)
