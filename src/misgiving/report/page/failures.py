"""How well every score tells wrong answers from right ones, and whether it beats MSP."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from misgiving.report import markup, tables
from misgiving.report.figures import DETECTORS
from misgiving.report.inputs import Material
from misgiving.report.page.sections import ESTIMATOR_CHOICES, holds
from misgiving.report.tables import (
    PLAIN,
    POINTS,
    Result,
    Scale,
    distinct,
    find,
    models_of,
    select,
    spread,
)

METRICS: dict[str, tuple[str, Scale]] = {
    "aurc": (f"AURC {markup.DOWN}", PLAIN),
    "augrc": (f"AUGRC {markup.DOWN}", PLAIN),
    "excess_aurc": (f"E-AURC {markup.DOWN}", PLAIN),
    "balanced_aurc": (f"Balanced AURC {markup.DOWN}", PLAIN),
    "error_auroc": (f"Error AUROC, % {markup.UP}", POINTS),
    "risk_at_coverage/0.8": (f"Error at 80 % accepted, % {markup.DOWN}", POINTS),
    "coverage_at_risk/0.1": (f"Accepted at 10 % error, % {markup.UP}", POINTS),
}
DIFFERENCES: dict[str, tuple[str, Scale]] = {
    "aurc": (f"AURC {tables.MINUS} MSP's", PLAIN),
    "error_auroc": (f"Error AUROC {tables.MINUS} MSP's", POINTS),
}
FIGURE = "risk-coverage"


def failures(material: Material, drawn: Mapping[str, Figure]) -> str:
    """Which score should decide what is answered? Every one beside MSP."""
    rows = select(material.results, experiment="generalization", dataset=material.measured)
    measured = [row for row in rows if row.detector and row.metric in METRICS]
    if not measured:
        return markup.paragraph("missing", "Missing in results.csv: scores that tell errors.")
    sentences = tables.failure_sentences(material.intervals, part=material.measured)
    return (
        _figure(drawn, sentences)
        + "".join(markup.paragraph("finding", sentence) for sentence in sentences)
        + holds(material, ESTIMATOR_CHOICES)
        + _table(material, measured, _count_errors(rows))
    )


def _figure(drawn: Mapping[str, Figure], sentences: Sequence[str]) -> str:
    if FIGURE not in drawn:
        return markup.paragraph("missing", "Missing: risk_coverage.csv, which draws the errors.")
    caption = (
        "The error among the accepted images as more of them are accepted, the most confident "
        "first: lower is better, and all lines of a model meet where everything is accepted. "
        "Lines are means over trials, bands their 95 % intervals, which are not paired; MSP is "
        "black in every panel."
    )
    alt = f"Error among the accepted images, by share accepted. {' '.join(sentences)}"
    return markup.figure(drawn[FIGURE], caption, alt=alt)


def _count_errors(rows: Sequence[Result]) -> str:
    counts = [row.value for row in select(rows, metric="errors")]
    if not counts:
        return ""
    return f" Each trial has {min(counts):g} to {max(counts):g} wrongly classified images to find."


def _table(material: Material, rows: Sequence[Result], counted: str) -> str:
    present = [metric for metric in METRICS if metric in distinct(rows, "metric")]
    paired = [m for m in DIFFERENCES if select(material.intervals, baseline="msp", metric=m)]
    names = [METRICS[metric][0] for metric in present] + [DIFFERENCES[m][0] for m in paired]
    first = [markup.head("Model"), markup.head("Score")]
    heads = [markup.row(*first, *map(markup.number_head, names))]
    bodies = [_model(material, select(rows, model=m), present, paired) for m in models_of(rows)]
    caption = (
        "Mean over trials, and its 95 % interval, or ± the standard deviation over trials where "
        "intervals.csv has none. Differences are from MSP in the same model, paired. "
        f"{markup.ZERO_SAID}{counted}"
    )
    return markup.table(caption, heads, bodies)


def _model(
    material: Material, rows: Sequence[Result], metrics: Sequence[str], paired: Sequence[str]
) -> str:
    detectors = [name for name in DETECTORS if name in distinct(rows, "detector")]
    lines = []
    for index, detector in enumerate(detectors):
        name = [markup.row_head(rows[0].model, rows=len(detectors))] if index == 0 else []
        here = select(rows, detector=detector)
        values = [_value(material, select(here, metric=metric)) for metric in metrics]
        differences = [_difference(material, here[0], metric) for metric in paired]
        lines.append(markup.row(*name, markup.cell(DETECTORS[detector]), *values, *differences))
    return markup.body(lines)


def _value(material: Material, rows: Sequence[Result]) -> str:
    if not rows:
        return markup.number(markup.ABSENT)
    found = find(material.intervals, baseline="", metric=rows[0].metric, **_where(rows[0]))
    return markup.estimate(found, spread(rows), METRICS[rows[0].metric][1])


def _difference(material: Material, row: Result, metric: str) -> str:
    pair = find(material.intervals, baseline="msp", metric=metric, **_where(row))
    return markup.difference(pair, DIFFERENCES[metric][1])


def _where(row: Result) -> dict[str, str]:
    keys = ("experiment", "model", "dataset", "detector")
    return {key: getattr(row, key) for key in keys}
