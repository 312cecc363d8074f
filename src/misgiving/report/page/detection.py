"""Table 1 of the report: foreign images told by ODIN, and by every other detector."""

from collections.abc import Sequence

from misgiving.report import tables
from misgiving.report.figures import DETECTORS
from misgiving.report.page import markup
from misgiving.report.page.comparisons import (
    BASELINES,
    SAID,
    Block,
    Line,
    comparison_table,
    difference_from,
    minus,
    set_tags,
    value,
)
from misgiving.report.page.material import Material
from misgiving.report.page.sections import DETECTION_CHOICES, holds, missing
from misgiving.report.tables import POINTS, Result, distinct, models_of, select, spread

GROUPS = (
    "Groups: the lesions or source pictures that the images come from, or the images themselves "
    "where nothing else is known."
)
OOD_METRICS = {
    "fpr_at_tpr95": f"FPR@TPR95 {markup.DOWN}",
    "detection_error": f"DTERR {markup.DOWN}",
    "auroc": f"AUROC {markup.UP}",
    "aupr_in": f"AUPR-In {markup.UP}",
    "aupr_out": f"AUPR-Out {markup.UP}",
}


ODINS = {
    "odin": "tuned",
    "odin_default": "untuned",
    "odin_id_only": "without OOD images",
}


def detection(material: Material) -> str:
    """Table 1: does joint training help ODIN to tell foreign images?"""
    rows = select(material.results, experiment="ood_detection")
    sentence = tables.ood_finding(material.intervals, sets=material.claimed_sets).sentence
    return (
        missing(material.results, "results.csv", "ood_detection")
        + markup.paragraph("finding", sentence)
        + holds(material, DETECTION_CHOICES)
        + _odin_table(material)
        + _in_distribution(rows, material.measured)
        + _tuning_table(material)
        + _detectors_table(material, rows)
    )


def _odin_table(material: Material) -> str:
    """Five metrics on each set: the models beneath each other, and then their differences."""
    rows = select(material.results, experiment="ood_detection", detector="odin")
    rows = [row for row in rows if row.metric in OOD_METRICS]
    absent = [name for name in ("vanilla", "proposed") if name not in models_of(rows)]
    gap = markup.paragraph("missing", f"Missing: ODIN for {' and '.join(absent)}.")
    if not rows:
        return gap
    names = [markup.number_head(name) for name in OOD_METRICS.values()]
    heads = [markup.row(markup.head("Set"), markup.head("Model"), *names)]
    bodies = [_odin_rows(material, select(rows, dataset=d)) for d in distinct(rows, "dataset")]
    caption = f"ODIN, tuned on the set that is marked. {SAID} {GROUPS}"
    return (gap if absent else "") + markup.table(caption, heads, bodies)


def _odin_rows(material: Material, rows: Sequence[Result]) -> str:
    dataset, models = rows[0].dataset, models_of(rows)
    wanted = {"experiment": "ood_detection", "dataset": dataset, "detector": "odin"}
    lines = [Line(metric, {**wanted, "metric": metric}) for metric in OOD_METRICS]
    known = [name for name in BASELINES if {name, "proposed"} <= set(models)]
    values = {model: _values(material, lines, model) for model in models}
    values |= {minus(name): _differences(material, lines, name) for name in known}
    tags = set_tags(material, dataset)
    head = markup.row_head(markup.label(dataset), rows=len(values), tags=tags)
    return markup.body(
        markup.row(*([head] if index == 0 else []), markup.cell(words), *cells)
        for index, (words, cells) in enumerate(values.items())
    )


def _values(material: Material, lines: Sequence[Line], model: str) -> list[str]:
    pairs = [difference_from(material, "vanilla", line) for line in lines]
    return [value(material, line, model, pair) for line, pair in zip(lines, pairs, strict=True)]


def _differences(material: Material, lines: Sequence[Line], baseline: str) -> list[str]:
    pairs = [difference_from(material, baseline, line) for line in lines]
    return [markup.difference(pair, POINTS) for pair in pairs]


def _tuning_table(material: Material) -> str:
    """What tuning buys: AUROC of ODIN tuned, as it comes, and tuned without foreign images."""
    rows = select(material.results, experiment="ood_detection", metric="auroc")
    chosen = [row for row in rows if row.detector in ODINS]
    shown = [row for row in chosen if row.model in ("vanilla", "detached", "proposed")]
    if len(set(distinct(shown, "detector"))) < 2:
        return ""
    blocks = [_odins(material, shown, dataset) for dataset in distinct(shown, "dataset")]
    caption = (
        "What tuning buys: AUROC of ODIN tuned on the set that is marked; untuned, with "
        "temperature 1000 and epsilon 0.0014; and with temperature 1000 and an epsilon chosen on "
        f"in-distribution images alone. {SAID}"
    )
    slim = material._replace(results=shown)
    table = comparison_table(slim, caption, blocks, heads=["Set", "ODIN"])
    return f"<h3>What tuning buys</h3>{table}"


def _odins(material: Material, rows: Sequence[Result], dataset: str) -> Block:
    wanted = {"experiment": "ood_detection", "dataset": dataset, "metric": "auroc"}
    present = distinct(select(rows, dataset=dataset), "detector")
    lines = [
        Line(words, {**wanted, "detector": name})
        for name, words in ODINS.items()
        if name in present
    ]
    return Block(markup.label(dataset), set_tags(material, dataset), lines)


def _in_distribution(rows: Sequence[Result], part: str) -> str:
    """How well the models of Section 4.2 classify, and what tuning chose for ODIN."""
    accuracies = select(rows, dataset=part, detector="", metric="balanced_accuracy")
    scores = [
        f"{model} {', '.join(POINTS.number(row.value) for row in select(accuracies, model=model))}"
        for model in models_of(accuracies)
    ]
    chosen = [
        f"{model} {_choices(select(rows, model=model, detector='odin'))}"
        for model in models_of(select(rows, metric="temperature", detector="odin"))
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


def _detectors_table(material: Material, rows: Sequence[Result]) -> str:
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
        bodies.append(
            _detector_rows(material, here, dataset, [(m, n) for m in metrics for n in models])
        )
    heads = [markup.row(*first, *wide), markup.row(*names)]
    content = markup.table("In %, mean over trials, ± standard deviation.", heads, bodies)
    return f"<details><summary>Every detector on every set</summary>{content}</details>"


def _detector_rows(
    material: Material, rows: Sequence[Result], dataset: str, columns: Sequence[tuple[str, str]]
) -> str:
    detectors = distinct(rows, "detector")
    lines = []
    for index, detector in enumerate(detectors):
        tags = [markup.TUNED] if dataset in material.tuned else []
        head = markup.row_head(markup.label(dataset), rows=len(detectors), tags=tags)
        name = [head] if index == 0 else []
        here = select(rows, detector=detector)
        values = [_spread_cell(here, metric, model) for metric, model in columns]
        lines.append(markup.row(*name, markup.cell(DETECTORS.get(detector, detector)), *values))
    return markup.body(lines)


def _spread_cell(rows: Sequence[Result], metric: str, model: str) -> str:
    return markup.mean(spread(select(rows, metric=metric, model=model)), POINTS)
