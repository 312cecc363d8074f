"""The page of an evaluation: one HTML file without external resources."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure

from misgiving.deferral.deferral import Deferral
from misgiving.metrics.calibration import expected_calibration_error
from misgiving.metrics.subgroups import Subgroup
from misgiving.report.certificate import certificate_sentences
from misgiving.report.contact_sheet import thumbnail_link
from misgiving.report.evaluation import Answers, Evaluated, NamedClasses
from misgiving.report.evaluation.cells import ABSENT, TUNED, Cell, Rows, Table, heads, number
from misgiving.report.evaluation.findings import Findings, Harm
from misgiving.report.evaluation.shares import (
    CurvePoint,
    Share,
    percent,
    reliability_of,
    risk_over_coverage,
)
from misgiving.report.figures import figure_link
from misgiving.report.figures.classes import matrix_figure
from misgiving.report.figures.curves import acceptance_figure, reliability_figure
from misgiving.report.figures.histograms import histogram_figure
from misgiving.report.names import detector_name
from misgiving.report.rendering import environment

MOST_CLASSES = 15  # of the confusion matrix; the others are one row and column
MOST_GROUPS, MORE_GROUPS = 25, 200  # of the table of subgroups, and folded below it
SHOWN = 12  # images of each kind in the gallery
OPERATING_POINTS = 10
WIDTH = 20  # characters of a name in a figure


class Drawn(NamedTuple):
    """A figure as a link, with the words for those who do not see it."""

    link: str
    alt: str


class Card(NamedTuple):
    """An image of the gallery."""

    name: str
    picture: str | None
    named: str
    true: str
    probability: str
    decision: str
    reason: str


def evaluation_page(evaluated: Evaluated, findings: Findings) -> str:
    """The page as HTML, given the findings on what was evaluated."""
    answers = evaluated.answers
    curve = risk_over_coverage(answers)
    decided, found = findings.decided, findings.harms
    errors, doubtful = gallery(answers)
    return (
        environment()
        .get_template("evaluation.html")
        .render(
            evaluated=evaluated,
            findings=findings.sentences,
            policy=evaluated.deferral,
            decided=decided,
            certified=certificate_sentences(evaluated.deferral) if evaluated.deferral else [],
            acceptance=_acceptance(evaluated, curve, decided),
            operating_points=_operating_points(evaluated.deferral),
            reliability=_reliability(answers),
            confusion=_confusion(answers.classes),
            pooled=max(0, len(answers.classes.names) - MOST_CLASSES) if answers.classes else 0,
            subgroups=_subgroups(found[:MOST_GROUPS]),
            more_subgroups=_subgroups(found[MOST_GROUPS : MOST_GROUPS + MORE_GROUPS]),
            left_out=max(0, len(found) - MOST_GROUPS - MORE_GROUPS),
            shown_groups=MOST_GROUPS,
            scores=_scores(evaluated),
            ood_scores=_ood_scores(evaluated),
            ood_table=_ood_table(findings),
            errors=errors,
            doubtful=doubtful,
            has_pictures=any(card.picture for card in (*errors, *doubtful)),
            score=detector_name(answers.score),
            grouped=answers.num_groups < len(answers),
            TUNED=TUNED,
        )
    )


def _link(figure: Figure, alt: str) -> Drawn:
    return Drawn(figure_link(figure, "svg"), alt)


def shortened(name: str) -> str:
    """A name as a figure can show it; matplotlib would read formulas between dollar signs."""
    short = name if len(name) <= WIDTH else f"{name[: WIDTH - 1]}\N{HORIZONTAL ELLIPSIS}"
    return short.replace("$", r"\$")


def _acceptance(
    evaluated: Evaluated, curve: Sequence[CurvePoint], decided: Mapping[str, Share]
) -> Drawn:
    points = np.array([(one.coverage, one.error.value, *one.error[2:]) for one in curve])
    chosen = None
    if decided and decided["accept"].events:
        chosen = decided["accept"].value, decided["error"].value
    deferral = evaluated.deferral
    limit = deferral.certificate_.targets.max_error if deferral and decided else None
    words = "; ".join(
        f"{percent(one.coverage)} accepted: {percent(one.error.value)} wrong"
        for one in _spaced(curve, 6)
    )
    at = "" if chosen is None else f" The policy is at {percent(chosen[0])}, {percent(chosen[1])}."
    alt = f"Error among the accepted over the share accepted. {words}.{at}"
    score = evaluated.answers.score
    return _link(acceptance_figure(points, score=score, chosen=chosen, limit=limit), alt)


def _spaced(items: Sequence[Any], count: int) -> list[Any]:
    """Some of the items, evenly, with the first and the last."""
    rows = np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))
    return [items[row] for row in rows]


def _operating_points(deferral: Deferral | None) -> Table | None:
    """Some operating points of the calibration cases, the chosen one among them."""
    if deferral is None:
        return None
    certificate = deferral.certificate_
    points = certificate.calibration_scores.operating_points(
        confidence=certificate.targets.confidence
    )
    chosen = [one for one in points if one.threshold == certificate.accept_threshold]
    shown = sorted({*_spaced(points, OPERATING_POINTS), *chosen}, key=lambda one: -one.threshold)
    rows: Rows = [
        [
            Cell(
                "all" if one.threshold == -math.inf else f"{one.threshold:.4g}",
                ("the policy",) if one in chosen else (),
                scope="row",
            ),
            number(f"{one.accepted} of {certificate.cases}", percent(one.coverage)),
            number(f"{one.wrong}", ABSENT if one.error is None else percent(one.error)),
            number(percent(one.bound)),
        ]
        for one in shown
    ]
    return Table([heads("threshold", numbers=("accepted", "wrong", "at most"))], [rows])


def _reliability(answers: Answers) -> Drawn | None:
    if not np.isfinite(answers.probabilities).any():
        return None
    found, observed = reliability_of(answers)
    shares = np.array([(share.value, share.cases, share.lower, share.upper) for share in observed])
    known = np.isfinite(answers.probabilities)
    error = expected_calibration_error(
        answers.probabilities[known], ~answers.wrong[known], bins=len(found.counts)
    )
    words = "; ".join(
        f"{percent(float(predicted))} predicted, {percent(share.value)} right"
        for predicted, share in zip(found.predicted, observed, strict=True)
    )
    alt = f"Probability of the named class and how often it is right. {words}."
    figure = reliability_figure(found.predicted, *shares[:, :2].T, ends=shares[:, 2:])
    drawn = _link(figure, alt)
    return drawn._replace(alt=f"{alt} Expected calibration error {error:.3f}.")


def confusion(classes: NamedClasses) -> tuple[Int[np.ndarray, "true named"], list[str]]:
    """Images of each true class (row) by named class; beyond some classes, the others are pooled.

    Those with most errors are kept, in the order of the classes.
    """
    count = len(classes.names)
    cells = np.bincount(classes.true * count + classes.named, minlength=count**2)
    counts = cells.reshape(count, count)
    if count <= MOST_CLASSES:
        return counts, list(classes.names)
    errors = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    kept = np.sort(np.argsort(-errors, kind="stable")[:MOST_CLASSES])
    place = np.full(count, MOST_CLASSES)
    place[kept] = np.arange(MOST_CLASSES)
    pooled = np.zeros((MOST_CLASSES + 1, MOST_CLASSES + 1), dtype=int)
    np.add.at(pooled, (place[:, None], place[None, :]), counts)
    return pooled, [*(classes.names[k] for k in kept), f"{count - MOST_CLASSES} others"]


def _confusion(classes: NamedClasses | None) -> Drawn | None:
    if classes is None:
        return None
    counts, names = confusion(classes)
    off = counts * (1 - np.eye(len(names), dtype=int))
    most = [divmod(int(cell), len(names)) for cell in np.argsort(-off, axis=None)[:5]]
    words = "; ".join(
        f"{names[true]} named {names[named]}: {off[true, named]}"
        for true, named in most
        if off[true, named]
    )
    alt = f"Confusion matrix. Most frequent errors: {words or 'none'}."
    return _link(matrix_figure(counts, [*map(shortened, names)]), alt)


def _subgroups(found: Sequence[Harm]) -> Table | None:
    if not found:
        return None
    with_policy = found[0].decisions is not None
    columns = ["images", "wrong"]
    columns += ["accepted", "wrong among accepted", "deferred"] * with_policy
    rows = []
    for harm in found:
        cells = [
            Cell(harm.name, scope="row"),
            number(str(harm.errors.cases)),
            _interval(harm.errors, "error"),
        ]
        if harm.decisions is not None:
            parts = ("coverage", "error", "deferral")
            cells += [_interval(harm.decisions, quantity) for quantity in parts]
        rows.append([*cells, Cell(", ".join(harm.worse) or ABSENT)])
    head = [*heads("class or group", numbers=columns), Cell("significantly worse", scope="col")]
    return Table([head], [rows])


def _interval(group: Subgroup, quantity: str) -> Cell:
    value = getattr(group, quantity)
    if math.isnan(value):
        return number(ABSENT)
    ends = [percent(getattr(group, f"{quantity}_{end}")) for end in ("lower", "upper")]
    return number(percent(value), f"{ends[0]} to {ends[1]}")


def _scores(evaluated: Evaluated) -> Drawn:
    answers, deferral = evaluated.answers, evaluated.deferral
    decided = deferral is not None and answers.outcomes is not None
    sets = {"right": answers.scores[~answers.wrong], "wrong": answers.scores[answers.wrong]}
    figure = histogram_figure(
        sets,
        xlabel=f"acceptance score: {detector_name(answers.score)}",
        limit=deferral.certificate_.accept_threshold if deferral and decided else None,
        limit_label="threshold",
    )
    return _link(figure, f"Histogram of the acceptance score. {_medians(sets)}")


def _medians(sets: Mapping[str, np.ndarray]) -> str:
    known = {name: scores[np.isfinite(scores)] for name, scores in sets.items()}
    words = (f"{name} {np.median(of):.3g}" for name, of in known.items() if len(of))
    return f"Medians: {', '.join(words)}."


def _ood_scores(evaluated: Evaluated) -> Drawn | None:
    detection = evaluated.detection
    if detection is None or not detection.outliers:
        return None
    sets = {"in-distribution": detection.inliers.scores}
    sets |= {name: of.scores for name, of in detection.outliers.items()}
    figure = histogram_figure(
        {shortened(name): of for name, of in sets.items()},
        xlabel=f"OOD score: {detector_name(detection.detector)}",
        limit=evaluated.deferral.certificate_.ood_threshold if evaluated.deferral else None,
        limit_label="OOD limit",
    )
    return _link(figure, f"Histogram of the OOD score. {_medians(sets)}")


def _ood_table(findings: Findings) -> Table | None:
    if not findings.ood:
        return None
    columns = ["images", "AUROC", "FPR@TPR95", *["called OOD", "accepted"] * bool(findings.decided)]
    rows = []
    for name, (images, of, decided) in findings.ood.items():
        cells = [
            Cell(name, scope="row"),
            number(str(images)),
            _with_ends(of.auroc, of.lower, of.upper, "{:.3f}".format),
            number(ABSENT if math.isnan(of.fpr_at_tpr95) else f"{of.fpr_at_tpr95:.3f}"),
        ]
        for one in [decided[outcome] for outcome in ("ood", "accept") if decided]:
            cells.append(_with_ends(one.value, one.lower, one.upper, percent))
        rows.append(cells)
    return Table([heads("OOD set", numbers=columns)], [rows])


def _with_ends(value: float, lower: float, upper: float, written: Callable[[float], str]) -> Cell:
    """A value above its interval, if there is one."""
    if math.isnan(value):
        return number(ABSENT)
    ends = "no interval" if math.isnan(lower) else f"{written(lower)} to {written(upper)}"
    return number(written(value), ends)


def gallery(answers: Answers) -> tuple[list[Card], list[Card]]:
    """The wrong answers of the highest probability, and the answers of the lowest score."""
    if answers.classes is None:
        return [], []
    probabilities = np.nan_to_num(answers.probabilities, nan=-np.inf)
    wrong = np.flatnonzero(answers.wrong)
    confident = wrong[np.argsort(-probabilities[wrong], kind="stable")[:SHOWN]]
    scores = np.nan_to_num(answers.scores, nan=-np.inf)
    doubtful = np.argsort(scores, kind="stable")[:SHOWN]
    return _cards(answers, confident), _cards(answers, doubtful)


def _cards(answers: Answers, rows: Int[np.ndarray, " _"]) -> list[Card]:
    names, true, named = answers.classes or NamedClasses((), rows, rows)
    shown = answers.probabilities
    return [
        Card(
            name=answers.ids[row],
            picture=thumbnail_link(answers.picture(row)) if answers.picture else None,
            named=names[named[row]],
            true=names[true[row]],
            probability=percent(float(shown[row])) if np.isfinite(shown[row]) else ABSENT,
            decision="" if answers.outcomes is None else str(answers.outcomes[row]),
            reason=answers.reasons[row] if answers.reasons else "",
        )
        for row in rows.tolist()
    ]
