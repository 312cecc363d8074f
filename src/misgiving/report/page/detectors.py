"""Every detector of OOD images, and the one that was chosen without looking at the others."""

from collections.abc import Sequence

from misgiving.report import markup, tables
from misgiving.report.figures import DETECTORS
from misgiving.report.inputs import Material
from misgiving.report.page.comparisons import set_tags
from misgiving.report.tables import POINTS, Result, distinct, find, models_of, select, spread
from misgiving.report.tables.ood import CHOSEN

METRICS = {
    "fpr_at_tpr95": f"FPR@TPR95 {markup.DOWN}",
    "detection_error": f"DTERR {markup.DOWN}",
    "auroc": f"AUROC {markup.UP}",
    "aupr_in": f"AUPR-In {markup.UP}",
    "aupr_out": f"AUPR-Out {markup.UP}",
}
BESIDE = (CHOSEN, "odin", "msp")
BOTH = ("auroc", "fpr_at_tpr95")
POOLED = "unseen_classes"
TUNED_HERE = {"odin": "tuned here", CHOSEN: "chosen here"}
VALUES = (
    "In %: mean over trials, and its 95 % interval, or ± the standard deviation over trials where "
    "intervals.csv has none."
)


def chosen(material: Material) -> str:
    """The detector that was best on the tuning set, on the sets that did not choose it."""
    named = select(material.results, experiment="ood_detection", metric="chosen")
    if not named:
        return markup.paragraph("missing", "Missing in results.csv: the best detector on tuning.")
    rows = [row for row in _measured(material) if row.dataset not in material.tuned]
    sentence = tables.chosen_sentence(material.intervals, sets=distinct(rows, "dataset"))
    return (
        "<h3>Best on tuning, measured elsewhere</h3>"
        + markup.paragraph("finding", sentence)
        + markup.paragraph("note", _choices(named))
        + _chosen_table(material, rows)
    )


def _measured(material: Material) -> list[Result]:
    """All detectors on the sets of 4.2, and on all unseen classes of 4.3 together."""
    rows = [row for row in material.results if row.metric in METRICS and row.detector]
    sets = select(rows, experiment="ood_detection")
    return sets + select(rows, experiment="new_classes", dataset=POOLED)


def _choices(named: Sequence[Result]) -> str:
    said = [
        f"{model} {' / '.join(DETECTORS.get(row.detector, row.detector) for row in rows)}"
        for model in models_of(named)
        if (rows := sorted(select(named, model=model), key=lambda row: row.trial))
    ]
    sets = ", ".join(map(markup.label, distinct(named, "dataset")))
    return f"Highest AUROC on {sets}, trial by trial: {'; '.join(said)}."


def _chosen_table(material: Material, rows: Sequence[Result]) -> str:
    over = [markup.head(text, rows=2) for text in ("Set", "Model")]
    wide = [markup.head(DETECTORS[name], columns=len(BOTH)) for name in BESIDE]
    names = [markup.number_head(METRICS[metric]) for _ in BESIDE for metric in BOTH]
    heads = [markup.row(*over, *wide), markup.row(*names)]
    bodies = [_chosen_set(material, select(rows, dataset=d)) for d in distinct(rows, "dataset")]
    caption = f"The detector that was chosen, beside ODIN (tuned on the same set) and MSP. {VALUES}"
    return markup.table(caption, heads, bodies)


def _chosen_set(material: Material, rows: Sequence[Result]) -> str:
    dataset, models = rows[0].dataset, models_of(select(rows, detector=CHOSEN))
    head = markup.row_head(
        markup.label(dataset), rows=len(models), tags=set_tags(material, dataset)
    )
    lines = []
    for index, model in enumerate(models):
        here = select(rows, model=model)
        cells = [
            _value(material, select(here, detector=name, metric=metric))
            for name in BESIDE
            for metric in BOTH
        ]
        lines.append(markup.row(*([head] if index == 0 else []), markup.cell(model), *cells))
    return markup.body(lines)


def _value(material: Material, rows: Sequence[Result]) -> str:
    if not rows:
        return markup.number(markup.ABSENT)
    keys = ("experiment", "model", "dataset", "detector", "metric")
    wanted = {key: getattr(rows[0], key) for key in keys}
    return markup.estimate(find(material.intervals, baseline="", **wanted), spread(rows), POINTS)


def every_detector(material: Material) -> str:
    """All metrics of all detectors, a folded table for each model."""
    rows = _measured(material)
    return "".join(
        markup.folded(
            f"Every detector on every set: {model}", _table(material, select(rows, model=model))
        )
        for model in models_of(rows)
    )


def _table(material: Material, rows: Sequence[Result]) -> str:
    names = [markup.number_head(name) for name in METRICS.values()]
    heads = [markup.row(markup.head("Set"), markup.head("Detector"), *names)]
    bodies = [_set(material, select(rows, dataset=d)) for d in distinct(rows, "dataset")]
    return markup.table(f"{rows[0].model}. {VALUES}", heads, bodies)


def _set(material: Material, rows: Sequence[Result]) -> str:
    dataset, detectors = rows[0].dataset, _in_order(distinct(rows, "detector"))
    tags = [markup.TUNED] if dataset in material.tuned else []
    head = markup.row_head(markup.label(dataset), rows=len(detectors), tags=tags)
    lines = []
    for index, detector in enumerate(detectors):
        here = select(rows, detector=detector)
        values = [_value(material, select(here, metric=metric)) for metric in METRICS]
        words = markup.cell(_words(detector, is_tuned=bool(tags)))
        lines.append(markup.row(*([head] if index == 0 else []), words, *values))
    return markup.body(lines)


def _in_order(present: Sequence[str]) -> list[str]:
    known = [name for name in DETECTORS if name in present]
    return known + [name for name in present if name not in known]


def _words(detector: str, *, is_tuned: bool) -> str:
    """The detector's name; on the tuning set also that it was tuned or chosen there."""
    name = DETECTORS.get(detector, detector)
    here = TUNED_HERE.get(detector, "") if is_tuned else ""
    return f"{name} ({here})" if here else name
