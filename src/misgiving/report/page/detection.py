"""Table 1 of the report: foreign images told by ODIN, and by every other detector."""

from collections.abc import Sequence
from html import escape

from misgiving.report import tables
from misgiving.report.figures import DETECTORS
from misgiving.report.page import markup
from misgiving.report.page.material import Material
from misgiving.report.page.sections import DETECTION_CHOICES, holds, missing
from misgiving.report.tables import (
    POINTS,
    Interval,
    Result,
    Verdict,
    distinct,
    find,
    models_of,
    select,
    spread,
)

OOD_METRICS = {
    "fpr_at_tpr95": f"FPR@TPR95 {markup.DOWN}",
    "detection_error": f"DTERR {markup.DOWN}",
    "auroc": f"AUROC {markup.UP}",
    "aupr_in": f"AUPR-In {markup.UP}",
    "aupr_out": f"AUPR-Out {markup.UP}",
}


def detection(material: Material) -> str:
    """Table 1: does joint training help ODIN to tell foreign images?"""
    rows = select(material.results, experiment="ood_detection")
    others = [name for name in models_of(rows) if name not in ("vanilla", "proposed")]
    sentence = tables.ood_finding(material.intervals, tuned=material.tuned).sentence
    caption = (
        "ODIN, in %: mean over trials, ± standard deviation over trials. Beneath: proposed minus "
        "vanilla in points, with its 95 % interval; the better is bold only where this leaves out "
        "zero. Sources: the independent pictures or lesions that the images come from."
    )
    return (
        missing(material.results, "results.csv", "ood_detection")
        + _odin_table(material, ("vanilla", "proposed"), caption)
        + markup.paragraph("finding", sentence)
        + holds(material, DETECTION_CHOICES)
        + _in_distribution(rows)
        + (_odin_table(material, others, "ODIN on the other models, as above.") if others else "")
        + _detectors_table(rows)
    )


def _odin_table(material: Material, models: Sequence[str], caption: str) -> str:
    """Five metrics on each set, the models side by side, and their difference beneath."""
    rows = select(material.results, experiment="ood_detection", detector="odin")
    rows = [row for row in rows if row.model in models and row.metric in OOD_METRICS]
    present = models_of(rows)
    if not present:
        return markup.paragraph("missing", f"Missing: ODIN for {' and '.join(models)}.")
    metrics = [markup.head(name, columns=len(present)) for name in OOD_METRICS.values()]
    names = [markup.number_head(model) for _ in OOD_METRICS for model in present]
    heads = [markup.row(markup.head("Set", rows=2), *metrics), markup.row(*names)]
    bodies = [_odin_rows(material, rows, dataset) for dataset in distinct(rows, "dataset")]
    return markup.table(caption, heads, bodies)


def _odin_rows(material: Material, rows: Sequence[Result], dataset: str) -> str:
    models, facts = models_of(rows), material.datasets.get(dataset, {})
    wanted = {"experiment": "ood_detection", "model": "proposed", "baseline": "vanilla"}
    known = select(material.intervals, dataset=dataset, detector="odin", **wanted)
    pairs = {metric: find(known, metric=metric) for metric in OOD_METRICS}
    compared = models == ["vanilla", "proposed"] and any(pairs.values())
    tags = [markup.count(facts.get(kind, markup.UNKNOWN), kind) for kind in ("images", "sources")]
    tags += ["ODIN is tuned on this set"] if dataset in material.tuned else []
    name = markup.row_head(markup.label(dataset), rows=1 + compared, tags=tags)
    here = select(rows, dataset=dataset)
    values = [
        _spread_cell(here, metric, model, pairs[metric]) for metric in pairs for model in models
    ]
    differences = [_difference(pair) for pair in pairs.values()]
    below = [markup.row(*differences)] if compared else []
    return markup.body([markup.row(name, *values), *below], ruled=False)


def _spread_cell(rows: Sequence[Result], metric: str, model: str, pair: Interval | None) -> str:
    found = spread(select(rows, metric=metric, model=model))
    return markup.mean(found, POINTS, bold=model == _told_better(pair))


def _told_better(pair: Interval | None) -> str:
    """The model of the pair that its interval shows to be better; empty where it shows neither."""
    if pair is None:
        return ""
    better = {Verdict.BETTER: pair.model, Verdict.WORSE: pair.baseline}
    return better.get(tables.verdict(pair), "")


def _difference(pair: Interval | None) -> str:
    text = markup.ABSENT
    if pair is not None:
        text = f"{POINTS.number(pair.estimate, sign='+')} {markup.bounds(pair, POINTS)}"
    kind = "difference told" if _told_better(pair) else "difference"
    return f'<td class="{kind}" colspan="2">{escape(text)}</td>'


def _in_distribution(rows: Sequence[Result]) -> str:
    """How well the models of Section 4.2 classify, and what tuning chose for ODIN."""
    accuracies = select(rows, dataset="validation", detector="", metric="balanced_accuracy")
    scores = [
        f"{model} {', '.join(POINTS.number(row.value) for row in select(accuracies, model=model))}"
        for model in models_of(accuracies)
    ]
    chosen = [
        f"{model} {_choices(select(rows, model=model))}"
        for model in models_of(select(rows, metric="temperature"))
    ]
    lines = {
        "Balanced accuracy of these models on their own classes, in % per trial: ": scores,
        "ODIN's tuned temperature / epsilon per trial: ": chosen,
    }
    return "".join(
        markup.paragraph("note", start + "; ".join(said) + ".")
        for start, said in lines.items()
        if said
    )


def _choices(rows: Sequence[Result]) -> str:
    epsilons = {row.trial: row.value for row in select(rows, metric="epsilon")}
    chosen = [
        f"{row.value:g} / {epsilons.get(row.trial, float('nan')):g}"
        for row in select(rows, metric="temperature")
    ]
    return f"{chosen[0]} in each" if len(set(chosen)) == 1 else ", ".join(chosen)


def _detectors_table(rows: Sequence[Result]) -> str:
    """AUROC and FPR@TPR95 of every detector and model, folded away."""
    measured = [row for row in rows if row.metric in ("auroc", "fpr_at_tpr95") and row.detector]
    models = models_of(measured)
    if not measured:
        return ""
    metrics = ("auroc", "fpr_at_tpr95")
    first = [markup.head(text, rows=2) for text in ("Set", "Detector")]
    wide = [markup.head(OOD_METRICS[metric], columns=len(models)) for metric in metrics]
    names = [markup.number_head(model) for _ in metrics for model in models]
    bodies = []
    for dataset in distinct(measured, "dataset"):
        here = select(measured, dataset=dataset)
        bodies.append(_detector_rows(here, dataset, [(m, n) for m in metrics for n in models]))
    heads = [markup.row(*first, *wide), markup.row(*names)]
    content = markup.table("In %, mean over trials, ± standard deviation.", heads, bodies)
    return f"<details><summary>Every detector on every set</summary>{content}</details>"


def _detector_rows(rows: Sequence[Result], dataset: str, columns: Sequence[tuple[str, str]]) -> str:
    detectors = distinct(rows, "detector")
    lines = []
    for index, detector in enumerate(detectors):
        name = [markup.row_head(markup.label(dataset), rows=len(detectors))] if index == 0 else []
        here = select(rows, detector=detector)
        values = [_spread_cell(here, metric, model, None) for metric, model in columns]
        lines.append(markup.row(*name, markup.cell(DETECTORS.get(detector, detector)), *values))
    return markup.body(lines)
