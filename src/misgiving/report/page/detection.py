"""Table 1 of the report: OOD images told by ODIN, and what tuning it buys."""

from collections.abc import Sequence

from misgiving.report import markup, tables
from misgiving.report.inputs import Material
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
from misgiving.report.page.detectors import METRICS, chosen, every_detector
from misgiving.report.page.sections import DETECTION_CHOICES, holds, missing
from misgiving.report.tables import POINTS, Result, distinct, models_of, select

GROUPS = (
    "Groups: the lesions or source pictures that the images come from, or the images themselves "
    "where nothing else is known."
)
ODINS = {
    "odin": "tuned",
    "odin_default": "untuned",
    "odin_id_only": "without OOD images",
}


def detection(material: Material) -> str:
    """Table 1: does joint training help ODIN to tell OOD images?"""
    rows = select(material.results, experiment="ood_detection")
    sentence = tables.ood_finding(material.intervals, sets=material.claimed_sets).sentence
    return (
        missing(material.results, "results.csv", "ood_detection")
        + markup.paragraph("finding", sentence)
        + holds(material, DETECTION_CHOICES)
        + _odin_table(material)
        + _in_distribution(rows, material.measured)
        + _tuning_table(material)
        + chosen(material)
        + every_detector(material)
    )


def _odin_table(material: Material) -> str:
    """Five metrics on each set: the models beneath each other, and then their differences."""
    rows = select(material.results, experiment="ood_detection", detector="odin")
    rows = [row for row in rows if row.metric in METRICS]
    absent = [name for name in ("vanilla", "proposed") if name not in models_of(rows)]
    gap = markup.paragraph("missing", f"Missing: ODIN for {' and '.join(absent)}.")
    if not rows:
        return gap
    names = [markup.number_head(name) for name in METRICS.values()]
    heads = [markup.row(markup.head("Set"), markup.head("Model"), *names)]
    bodies = [_odin_rows(material, select(rows, dataset=d)) for d in distinct(rows, "dataset")]
    caption = f"ODIN, tuned on the set that is marked. {SAID} {GROUPS}"
    return (gap if absent else "") + markup.table(caption, heads, bodies)


def _odin_rows(material: Material, rows: Sequence[Result]) -> str:
    dataset, models = rows[0].dataset, models_of(rows)
    wanted = {"experiment": "ood_detection", "dataset": dataset, "detector": "odin"}
    lines = [Line(metric, {**wanted, "metric": metric}) for metric in METRICS]
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
    """What tuning buys: AUROC of ODIN tuned, as it comes, and tuned without OOD images."""
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
