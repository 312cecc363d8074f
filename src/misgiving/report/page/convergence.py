"""Learning rates in the report: how soon each model gets there, and whether it gets there."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from misgiving.report import markup, tables
from misgiving.report.inputs import Material
from misgiving.report.tables import POINTS, Sweep, SweptRun, spread_of
from misgiving.report.tables.sweep import SWEPT

NEVER = "never"


def convergence(material: Material, drawn: Mapping[str, Figure]) -> str:
    """Does joint training allow higher learning rates, and converge faster?"""
    sweep = material.sweep
    sentence = tables.speed_finding(sweep).sentence
    if sweep is None:
        return markup.paragraph("finding", sentence)
    return _figure(drawn, sentence) + markup.paragraph("finding", sentence) + _table(sweep)


def _figure(drawn: Mapping[str, Figure], sentence: str) -> str:
    if "learning-rates" not in drawn:
        return ""
    caption = (
        "Each mark is one trial. Left: epochs until the level is first reached, or never. Right: "
        "balanced accuracy of the finished model; a cross at the foot is a run that diverged."
    )
    return markup.figure(drawn["learning-rates"], caption, alt=f"Learning rates. {sentence}")


def _table(sweep: Sweep) -> str:
    names = [
        markup.number_head("Epochs to the level, per trial"),
        markup.number_head("Final balanced accuracy, per trial"),
        markup.number_head("Mean"),
        markup.number_head("Diverged"),
    ]
    heads = [markup.row(markup.head("Learning rate"), markup.head("Model"), *names)]
    caption = (
        f"Epochs until balanced accuracy on {sweep.part} first reaches "
        f"{POINTS.number(sweep.level)} %, and final balanced accuracy in %, trial by trial; mean "
        "± standard deviation over the trials that did not diverge."
    )
    return markup.table(caption, heads, [_rate(sweep, rate) for rate in sweep.rates])


def _rate(sweep: Sweep, rate: float) -> str:
    tags = ["the protocol's own"] if rate == sweep.own_rate else []
    found = {model: sweep.at(rate, model) for model in SWEPT}
    present = {model: runs for model, runs in found.items() if runs}
    name = markup.row_head(f"{rate:g}", rows=len(present), tags=tags)
    rows = [
        markup.row(*([name] if index == 0 else []), markup.cell(model), *_cells(runs))
        for index, (model, runs) in enumerate(present.items())
    ]
    return markup.body(rows)


def _cells(runs: Sequence[SweptRun]) -> list[str]:
    epochs = [NEVER if run.epochs is None else str(run.epochs) for run in runs]
    finals = [run.final for run in runs]
    said = [markup.ABSENT if final is None else POINTS.number(final) for final in finals]
    known = spread_of([final for final in finals if final is not None])
    diverged = f"{sum(run.diverged for run in runs)} of {len(runs)}"
    words = [markup.number(", ".join(texts)) for texts in (epochs, said)]
    return [*words, markup.mean(known, POINTS), markup.number(diverged)]
