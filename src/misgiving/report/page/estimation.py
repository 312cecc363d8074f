"""How well losses are estimated: the predicted loss against the softmax confidence (MSP)."""

from collections.abc import Sequence

from misgiving.report import markup
from misgiving.report.figures import DETECTORS
from misgiving.report.inputs import Material
from misgiving.report.page.sections import ESTIMATOR_CHOICES, holds
from misgiving.report.tables import (
    PLAIN,
    Result,
    ResultInterval,
    distinct,
    find,
    models_of,
    select,
    spread,
    unpaired,
)

METRICS = {
    "spearman": f"Spearman {markup.UP}",
    "spearman_plain": f"Spearman, plain loss {markup.UP}",
    "order_agreement": f"Order agreement {markup.UP}",
}
ORDERS = {"higher": "a clearly higher", "lower": "a clearly lower"}
QUANTITIES = {
    "spearman": "Spearman correlation with the true loss",
    "error_auroc": "AUROC for errors",
}


def estimation(material: Material) -> str:
    """Does the predicted loss order images by loss better than the softmax?"""
    rows = select(material.results, experiment="generalization", dataset=material.measured)
    measured = [row for row in rows if row.detector and row.metric in METRICS]
    if not measured:
        return markup.paragraph("missing", "Missing in results.csv: the estimation of losses.")
    names = [markup.number_head(name) for name in METRICS.values()]
    heads = [markup.row(markup.head("Model"), markup.head("Score"), *names)]
    bodies = [
        _rows_of_model(material.intervals, select(measured, model=model))
        for model in models_of(measured)
    ]
    caption = (
        "Mean over trials, and its 95 % interval, or ± the standard deviation over trials where "
        "intervals.csv has none. How the scores tell errors is in the next section."
    )
    return (
        markup.table(caption, heads, bodies)
        + markup.paragraph(
            "finding", estimation_sentence(material.intervals, part=material.measured)
        )
        + holds(material, ESTIMATOR_CHOICES)
    )


def _rows_of_model(intervals: Sequence[ResultInterval], rows: Sequence[Result]) -> str:
    detectors = distinct(rows, "detector")
    lines = []
    for index, detector in enumerate(detectors):
        name = [markup.row_head(rows[0].model, rows=len(detectors))] if index == 0 else []
        here = select(rows, detector=detector)
        values = [_estimate(intervals, select(here, metric=metric)) for metric in METRICS]
        lines.append(markup.row(*name, markup.cell(DETECTORS.get(detector, detector)), *values))
    return markup.body(lines)


def _estimate(intervals: Sequence[ResultInterval], rows: Sequence[Result]) -> str:
    """A cell with the value and its interval, or where there is none, the spread over trials."""
    if not rows:
        return markup.number(markup.ABSENT)
    keys = ("experiment", "model", "dataset", "detector", "metric")
    found = find(intervals, baseline="", **{key: getattr(rows[0], key) for key in keys})
    return markup.estimate(found, spread(rows), PLAIN)


def estimation_sentence(intervals: Sequence[ResultInterval], *, part: str = "validation") -> str:
    """The predicted loss of the proposed model against its MSP, on ordering and on errors.

    The intervals of the two scores are not paired, so that only disjoint ones tell them apart.
    """
    wanted = {"experiment": "generalization", "model": "proposed", "baseline": ""}
    said = []
    for metric, words in QUANTITIES.items():
        rows = select(intervals, metric=metric, dataset=part, **wanted)
        predicted, plain = (find(rows, detector=name) for name in ("predicted_loss", "msp"))
        if predicted and plain and not _is_paired(intervals, predicted):
            numbers = f"{_value(predicted)} against {_value(plain)}"
            order = ORDERS.get(unpaired(predicted, plain), "no clearly different")
            said.append(f"{order} {words}, {numbers}")
    if not said:
        return "Predicted loss and MSP cannot be compared: intervals.csv lacks the two."
    return f"The proposed model's predicted loss has, compared with its MSP, {'; '.join(said)}."


def _is_paired(intervals: Sequence[ResultInterval], row: ResultInterval) -> bool:
    """Whether the two scores have a paired difference, which is told where errors are."""
    keys = ("experiment", "model", "dataset", "detector", "metric")
    return bool(select(intervals, baseline="msp", **{key: getattr(row, key) for key in keys}))


def _value(row: ResultInterval) -> str:
    return f"{PLAIN.number(row.estimate)} {markup.bounds(row, PLAIN)}"
