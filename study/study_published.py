"""The published numbers beside those of the study, and the effects that it rules out."""

from collections.abc import Iterator
from statistics import mean

from study_format import number, table
from study_hypotheses import UNSEEN_CLASSES, Rows, difference, hypotheses

from misgiving.metrics.uncertainty import t_interval
from misgiving.reproduction.published import (
    FIGURE_3,
    FIGURE_5,
    PAPER_SETS,
    TUNING_SET,
    table_1,
    title,
)

STAND_INS = {"histology": "nct", "photographs": "imagenet", "clinical_skin": "clin_skin"}
GAIN_IN_OOD = mean(
    cell.difference
    for name in PAPER_SETS
    for cell in table_1(name)
    if cell.metric == "auroc" and name != TUNING_SET
)
GAINS = {"a": FIGURE_3.difference, "b": GAIN_IN_OOD, "c": FIGURE_5.difference}
"""The paper's gains by hypothesis; the paper has no AURC."""


def of_effects(rows: Rows) -> Iterator[str]:
    """The paper's gains beside the unadjusted intervals, and the effect of the summed loss."""
    lines = []
    for hypothesis in hypotheses(rows):
        interval, gain = hypothesis.interval, GAINS.get(hypothesis.name)
        if interval is None or gain is None:
            continue
        ends = " to ".join(number(x, signed=True) for x in (interval.lower, interval.upper))
        answer = "yes" if interval.upper < gain else "no"
        lines.append((hypothesis.measure, number(gain, signed=True), ends, answer))
    yield "### Effects\n"
    yield (
        "*Inconclusive* says that zero is not excluded. The same intervals, unadjusted, beside the "
        "gains that the paper reports:\n"
    )
    head = ("measure", "the paper's gain", "95 % interval", "gains of this size are excluded")
    yield from table(head, lines)
    values = difference(
        *(
            rows("generalization", model, "test", "", "balanced_accuracy")
            for model in ("proposed_sum", "vanilla")
        )
    )
    if len(values) > 1:
        summed = t_interval([*values.values()], split_ratio=rows.ratio("generalization"))
        lower, mean_, upper = (
            number(100 * value, signed=True, digits=1)
            for value in (summed.lower, summed.mean, summed.upper)
        )
        yield (
            "With the loss of Eq. 1 as the paper prints it, a sum over pairs, balanced accuracy "
            f"differs from that of `vanilla` by {mean_} points ({lower} to {upper}, unadjusted).\n"
        )


def beside_published(rows: Rows) -> Iterator[str]:
    """Every published number of ODIN's table and of the figures, beside ours."""
    stand_ins = {STAND_INS.get(name, name): name for name in rows.ood_sets()}
    cells = [(FIGURE_3, "test")]
    for paper_set in PAPER_SETS:
        if paper_set in stand_ins:
            cells += [(cell, stand_ins[paper_set]) for cell in table_1(paper_set)]
    cells.append((FIGURE_5, UNSEEN_CLASSES))
    lines = []
    for cell, dataset in cells:
        models = [
            rows(cell.experiment, model, dataset, cell.detector, cell.metric)
            for model in ("vanilla", "proposed")
        ]
        if models[0]:
            means = [f"{100 * mean(values.values()):.1f}" if values else "-" for values in models]
            name = title(dataset) if dataset != "test" else "classifier (4.1)"
            tuned = " (tuned)" if STAND_INS.get(dataset) == TUNING_SET else ""
            lines.append(
                (f"{name}{tuned}", cell.metric, f"{cell.vanilla}", f"{cell.proposed}", *means)
            )
    yield (
        "Published numbers (other images, network, resolution and epochs) beside ours, in %. Of "
        "FPR and detection error lower is better, of the others higher.\n"
    )
    head = ("set", "metric", "paper: vanilla", "paper: proposed", "ours: vanilla", "ours: proposed")
    yield from table(head, lines)
