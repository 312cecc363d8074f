"""The part `paper_folds`: its measures, its convergence and its curves, as README.md registers."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas
from matplotlib.figure import Figure
from study_epochs import BEST_EPOCH, CURVES, HISTORIES
from study_folds import (
    FOLDS,
    HEAD,
    LOSS_SUM,
    PRIMARY,
    VANILLA,
    Measure,
    balanced_accuracy,
    lines_of,
    loss_ranking,
    pseudo_values,
)
from study_format import average, number, table, with_interval
from study_hypotheses import Result, Rows, Values, difference

from misgiving.report.figures import styled
from misgiving.reproduction.report.figures import OTHER_STYLE, STYLES
from misgiving.reproduction.tables import read_table

LAST_EPOCH = "generalization"  # the experiment of its rows
EPOCHS, SMOOTHED = 50, 5  # epochs of a training, and of the means that are compared
COMPARED = (40, EPOCHS)
CONVERGED = 0.01  # a smaller change of balanced accuracy
FURTHER = ("proposed_0.1", "mse", "proposed_sum")
MODELS = (VANILLA, PRIMARY, *FURTHER)
MINORITY = ("AK", "BCC", "DF")
FIGURE = "paper_folds_curves.png"
PANELS = {"primary_loss": "loss", "balanced_accuracy": "balanced accuracy"}
LINES = {"train": "--", "tune": "-"}
MEASURED = {
    "balanced accuracy": ("test", "", "balanced_accuracy"),
    "accuracy": ("test", "", "accuracy"),
    "AURC of MSP": ("test", "msp", "aurc"),
    "AURC of the predicted loss": ("test", "predicted_loss", "aurc"),
    "ECE": ("test", "msp", "ece"),
    "training loss": ("train", "", "weighted_loss"),
    "test loss": ("test", "", "weighted_loss"),
}
"""Columns of the tables by fold; the losses are weighed by class."""


def read_curves(folder: Path) -> pandas.DataFrame:
    """The histories of all trainings."""
    return read_table(folder / f"paper_folds{CURVES}", schema=HISTORIES)


def curve_results(curves: pandas.DataFrame) -> list[Result]:
    """Curves as results, with the epoch in place of the detector."""
    return [
        Result(
            "curves", row.trial, row.model, row.set, str(row.epoch), metric, getattr(row, metric)
        )
        for row in curves.itertuples(index=False)
        for metric in PANELS
    ]


def on_tuning(rows: Rows, model: str) -> pandas.DataFrame:
    """Balanced accuracy on the tuning set by epoch (rows) and fold."""
    epochs = range(1, EPOCHS + 1)
    return pandas.DataFrame(
        {epoch: rows("curves", model, "tune", str(epoch), "balanced_accuracy") for epoch in epochs}
    ).T.sort_index(axis=1)


def changes(rows: Rows, model: str) -> dict[int, float]:
    """Change of the smoothed balanced accuracy over the last ten epochs of each training."""
    curves = on_tuning(rows, model)
    earlier, later = (curves.loc[end - SMOOTHED + 1 : end].mean() for end in COMPARED)
    return (later - earlier).to_dict()


def converged_folds(rows: Rows, model: str) -> set[int]:
    """The folds in which a model's training has converged."""
    return {fold for fold, change in changes(rows, model).items() if abs(change) < CONVERGED}


def primary(rows: Rows, experiment: str, model: str = PRIMARY) -> list[Measure]:
    """The measures A and C after the last or the best epoch."""
    return [measure(rows, model, experiment) for measure in (balanced_accuracy, loss_ranking)]


def secondary(rows: Rows, experiment: str, model: str = PRIMARY) -> list[Measure]:
    """The other registered measures, without those of the error estimator."""
    pooled = partial(pseudo_values, rows, experiment, model)
    losses = [pooled(dataset=name, metric=LOSS_SUM) for name in ("train", "test")]
    right = [pooled(dataset=name) for name in ("train", "test")]

    def compared(name: str) -> Values:
        of_both = (rows(experiment, each, *MEASURED[name]) for each in (model, VANILLA))
        return difference(*of_both)

    values = {
        "accuracy": (compared("accuracy"), 1),
        "AURC of MSP": (compared("AURC of MSP"), -1),
        "ECE": (compared("ECE"), -1),
        f"mean sensitivity of {', '.join(MINORITY)}": (pooled(classes=MINORITY), 1),
        "training loss": (losses[0], -1),
        "test loss": (losses[1], -1),
        "gap in loss, test - training": (difference(*losses[::-1]), -1),
        "gap in balanced accuracy, training - test": (difference(*right), -1),
    }
    ratio = rows.ratio(LAST_EPOCH)
    return [
        Measure(f"{name}, {model} - {VANILLA}", by_fold, ratio, sign=sign)
        for name, (by_fold, sign) in values.items()
    ]


def error_estimators(rows: Rows) -> Iterator[Measure]:
    """The error estimator beside MSP, of each model."""
    for model in (VANILLA, PRIMARY):
        areas = (rows(LAST_EPOCH, model, "test", x, "aurc") for x in ("error_estimator", "msp"))
        name = f"AURC, error estimator - MSP, of {model}"
        yield Measure(name, difference(*areas), rows.ratio(LAST_EPOCH), sign=-1)


def values_by_fold(rows: Rows, experiment: str) -> Iterator[str]:
    """What is measured in each fold, of both models."""
    lines = []
    for fold in range(FOLDS):
        pairs = [
            [rows(experiment, model, *place).get(fold) for model in (VANILLA, PRIMARY)]
            for place in MEASURED.values()
        ]
        if any(value is not None for pair in pairs for value in pair):
            cells = (
                " / ".join("-" if value is None else number(value, digits=3) for value in pair)
                for pair in pairs
            )
            lines.append((str(fold), *cells))
    means = (
        " / ".join(average(rows(experiment, model, *x), digits=3) for model in (VANILLA, PRIMARY))
        for x in MEASURED.values()
    )
    yield from table(("fold", *MEASURED), [*lines, ("mean", *means)])


def convergence(rows: Rows) -> Iterator[str]:
    """Changes over the last ten epochs, and the best epoch, of each training."""
    lines, converged = [], {model: converged_folds(rows, model) for model in MODELS}
    for model, folds in converged.items():
        curves = on_tuning(rows, model)
        for fold, change in changes(rows, model).items():
            curve = curves[fold]
            unsmoothed = curve[COMPARED[1]] - curve[COMPARED[0]]
            numbers = (number(x, signed=True, digits=3) for x in (change, unsmoothed))
            answer = "yes" if fold in folds else "no"
            lines.append((model, str(fold), *numbers, answer, str(curve.idxmax())))
    count = sum(map(len, converged.values()))
    yield f"Converged: {count} of {len(lines)} finished trainings.\n"
    head = (
        "model", "fold", "change, means of 5 epochs", "epoch 50 - 40", "converged", "best epoch",
    )  # fmt: skip
    yield from table(head, lines)
    yield from converged_pairs(rows)


def converged_pairs(rows: Rows) -> Iterator[str]:
    """A and C for the folds in which both models have converged."""
    both = sorted(converged_folds(rows, VANILLA) & converged_folds(rows, PRIMARY))
    counts, ratio = pseudo_values(rows, LAST_EPOCH, PRIMARY, folds=both), rows.ratio(LAST_EPOCH)
    ranking = {fold: x for fold, x in loss_ranking(rows, PRIMARY).values.items() if fold in both}
    yield (
        f"The {len(both)} pairs of `vanilla` and `proposed` of which both have converged, without "
        f"a verdict: A {with_interval(counts, ratio)}; C {with_interval(ranking, ratio)}.\n"
    )


def of_paper_folds(rows: Rows) -> Iterator[str]:
    """The registered measures with verdicts, the values by fold, and convergence."""
    yield (
        "EfficientNet-Lite0, 64 px, recipe `paper` with all its 50 epochs; ten folds, every image "
        "tested once. In balanced accuracy, sensitivity and the losses the values by fold are "
        "pseudo-values of pooled sums. A gain is above zero in accuracies, and below zero in AURC, "
        "ECE, losses and gaps.\n"
    )
    yield "### Primary: the last epoch; p with Holm's adjustment\n"
    yield from table(HEAD, lines_of(primary(rows, LAST_EPOCH), adjusted=True))
    yield "### Secondary, without adjustment\n"
    measures = [*secondary(rows, LAST_EPOCH), *error_estimators(rows)]
    yield from table(HEAD, lines_of(measures, adjusted=False))
    yield "The same at the epoch with the best balanced accuracy on the tuning set.\n"
    measures = [*primary(rows, BEST_EPOCH), *secondary(rows, BEST_EPOCH)]
    yield from table(HEAD, lines_of(measures, adjusted=False))
    for model in [each for each in FURTHER if each in rows.models()]:
        yield f"### `{model}`, without adjustment\n"
        measures = [*primary(rows, LAST_EPOCH, model), *secondary(rows, LAST_EPOCH, model)]
        yield from table(HEAD, lines_of(measures, adjusted=False))
    yield "### By fold: `vanilla` / `proposed`\n"
    yield "Losses are weighed by class.\n"
    yield from values_by_fold(rows, LAST_EPOCH)
    yield "At the best epoch.\n"
    yield from values_by_fold(rows, BEST_EPOCH)
    yield "### Convergence\n"
    yield from convergence(rows)
    yield f"![Training and tuning set by epoch]({FIGURE})\n"


@styled
def curves_figure(curves: pandas.DataFrame) -> Figure:
    """Loss and balanced accuracy by epoch: a thin line for each training, a thick one for means."""
    models = [model for model in MODELS if (curves["model"] == model).any()]
    figure = Figure(figsize=(9, 3 * len(models)))
    panels = figure.subplots(len(models), len(PANELS), sharex=True, sharey="col", squeeze=False)
    for axes_of_model, model in zip(panels, models, strict=True):
        for axes, (metric, title) in zip(axes_of_model, PANELS.items(), strict=True):
            for name, line in LINES.items():
                chosen = curves[(curves["model"] == model) & (curves["set"] == name)]
                runs = chosen.pivot_table(index="epoch", columns="trial", values=metric)
                style = {"color": STYLES.get(model, OTHER_STYLE)[0], "linestyle": line}
                axes.plot(runs, **style, linewidth=0.5, alpha=0.5)
                axes.plot(runs.mean(axis=1), **style, linewidth=2.0, label=f"{name} set")
            axes.set(title=f"{title}, {model}", xlabel="epoch")
            axes.legend()
    return figure
