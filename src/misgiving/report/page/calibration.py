"""What the probabilities that are shown with an answer mean."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from matplotlib.figure import Figure

from misgiving.report import markup, tables
from misgiving.report.inputs import Material
from misgiving.report.tables import (
    PLAIN,
    POINTS,
    ReliabilityRow,
    Result,
    main_model,
    models_of,
    select,
    spread,
)

METRICS = {
    "ece": f"ECE, equal mass {markup.DOWN}",
    "ece_width": f"ECE, equal width {markup.DOWN}",
    "classwise_ece": f"Classwise ECE {markup.DOWN}",
    "brier": f"Brier {markup.DOWN}",
    "nll": f"NLL {markup.DOWN}",
}
SHOWN = {
    "softmax": "class probabilities, before scaling",
    "scaled_softmax": "class probabilities, scaled",
    "error_probability": "error probability",
    "expected_loss": "expected loss (nats)",
}
FIGURE = "reliability"


def calibration(material: Material, drawn: Mapping[str, Figure]) -> str:
    """Do the probabilities mean what they say, and does scaling make them do so?"""
    rows = select(material.results, experiment="generalization", dataset=tables.POLICY_SET)
    rows = [row for row in rows if row.detector in SHOWN and row.metric in METRICS]
    if not rows:
        return markup.paragraph("missing", "Missing in results.csv: calibration (policy_test).")
    sentences = [stated_sentence(material.reliability), scaling_sentence(rows)]
    return (
        "<h3>What the probabilities mean</h3>"
        + _figure(drawn, sentences[0])
        + "".join(markup.paragraph("finding", sentence) for sentence in sentences)
        + _table(rows)
    )


def _figure(drawn: Mapping[str, Figure], sentence: str) -> str:
    if FIGURE not in drawn:
        return markup.paragraph("missing", "Missing: reliability.csv, which draws what was meant.")
    caption = (
        "Predicted against observed, each mark the mean of some images of one trial, about a "
        "tenth where predictions differ; its area is their number. On the dashed line the "
        "prediction is right on average; above it, errors or losses are understated. There are no "
        "intervals here, and marks of few images scatter."
    )
    return markup.figure(drawn[FIGURE], caption, alt=f"Predicted against observed. {sentence}")


def stated_sentence(bins: Sequence[ReliabilityRow]) -> str:
    """The mean error probability against the share of errors, in every trial of one model."""
    rows = select(bins, quantity="error_probability")
    if not rows:
        return "Whether error probabilities are right cannot be told: reliability.csv lacks them."
    models = models_of(rows)
    model = main_model(models)
    own = select(rows, model=model)
    pairs = [_means(select(own, trial=trial)) for trial in sorted({row.trial for row in own})]
    told = [f"{POINTS.number(said)} % said, {POINTS.number(seen)} % found" for said, seen in pairs]
    under = sum(said < seen for said, seen in pairs)
    return (
        f"Mean error probability of the {model} model, and share of wrong answers, trial by trial: "
        f"{'; '.join(told)}. Errors are understated in {under} of {len(pairs)} trials; this is a "
        "count without an interval."
    )


def _means(bins: Sequence[ReliabilityRow]) -> tuple[float, float]:
    """Mean of what was predicted, and of what was observed, over all images."""
    images = sum(row.images for row in bins)
    said = sum(row.images * row.predicted for row in bins) / images
    return said, sum(row.images * row.observed for row in bins) / images


def scaling_sentence(rows: Sequence[Result]) -> str:
    """In how many trials of every model scaling lowers the calibration error; a count, no test."""
    pairs = [
        (row, after[0])
        for row in select(rows, detector="softmax", metric="ece")
        if (after := _scaled(rows, row))
    ]
    if not pairs:
        return "What scaling does cannot be told: results.csv lacks one of the two."
    counts = [
        f"{model} {sum(after.value < before.value for before, after in here)} of {len(here)}"
        for model in models_of([before for before, _ in pairs])
        if (here := [pair for pair in pairs if pair[0].model == model])
    ]
    means = [PLAIN.number(fmean(pair[side].value for pair in pairs)) for side in (0, 1)]
    return (
        f"Scaling by a temperature and a bias of each class lowers ECE (equal mass) in so many "
        f"trials: {', '.join(counts)}; on average over these from {means[0]} to {means[1]}. This "
        "is a count without an interval."
    )


def _scaled(rows: Sequence[Result], row: Result) -> list[Result]:
    return select(
        rows, detector="scaled_softmax", metric=row.metric, model=row.model, trial=row.trial
    )


def _table(rows: Sequence[Result]) -> str:
    names = [markup.number_head(name) for name in METRICS.values()]
    heads = [markup.row(markup.head("Model"), markup.head("What is shown"), *names)]
    caption = (
        "Mean over trials, ± standard deviation over trials; no intervals are measured. ECE of "
        "class probabilities is of the largest one. A calibration error of few images is above "
        "zero even where all is right."
    )
    return markup.table(caption, heads, [_model(select(rows, model=m)) for m in models_of(rows)])


def _model(rows: Sequence[Result]) -> str:
    present = [name for name in SHOWN if select(rows, detector=name)]
    lines = []
    for index, name in enumerate(present):
        head = [markup.row_head(rows[0].model, rows=len(present))] if index == 0 else []
        here = select(rows, detector=name)
        values = [markup.mean(spread(select(here, metric=metric)), PLAIN) for metric in METRICS]
        lines.append(markup.row(*head, markup.cell(SHOWN[name]), *values))
    return markup.body(lines)
