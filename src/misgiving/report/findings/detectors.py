"""Acceptance scores against MSP, detectors against ODIN, the OOD rule, and calibration."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from misgiving.report.findings import (
    BOOTSTRAP,
    PLAIN,
    POINTS,
    Comparison,
    Effect,
    Order,
    Scale,
    by_effect,
    capitalized,
    order_of,
)
from misgiving.report.inputs import Spread, distinct, find, main_model, models_of, select, spread
from misgiving.report.published import title
from misgiving.results.schema import CHOSEN, ReliabilityRow, Result, ResultInterval

MSP = "msp"
JUDGED = {
    "predicted_loss": "predicted loss",
    "calibrated": "calibrated probability",
    "combination": "combination",
    "error_estimator": "error estimator",
}
"""The scores that are compared with MSP in words."""
UNMEASURED = {
    "predicted_loss": "intervals.csv has no such difference",
    "calibrated": "this needs a grouped split, which has a set to learn it on",
    "combination": "this needs a grouped split, which has a set to learn it on",
    "error_estimator": "this needs a grouped split, and taps or features of the model",
}
QUANTITIES: dict[str, tuple[str, Scale]] = {
    "aurc": ("AURC", PLAIN),
    "error_auroc": ("AUROC for errors", POINTS),
}
COUNTED = {
    Effect.BETTER: "better than MSP's in",
    Effect.UNDECIDED: "not clearly different in",
    Effect.WORSE: "worse than MSP's in",
    Effect.UNKNOWN: "without an interval in",
}
ODIN_AND_MSP = {"odin": "ODIN", "msp": "MSP"}
RATE = 0.05  # of false alarms, to which the OOD rule is calibrated


def error_detection_sentences(intervals: Sequence[ResultInterval], *, measured: str) -> list[str]:
    """For each judged score its paired differences from MSP, in the main model and in all."""
    wanted = {"experiment": "generalization", "dataset": measured, "baseline": MSP}
    rows = select(intervals, **wanted)
    sentences = []
    for detector, words in JUDGED.items():
        if here := select(rows, detector=detector):
            main = main_model(models_of(here))
            clauses = ". ".join(_in_main_model(select(here, model=main), main, words))
            counts = "; ".join(_in_all_models(here))
            sentences.append(f"{clauses}. Over all models ({BOOTSTRAP}): {counts}.")
        else:
            sentences.append(
                f"{capitalized(words)} was not compared with MSP: {UNMEASURED[detector]}."
            )
    return sentences


def _in_main_model(rows: Sequence[ResultInterval], model: str, score: str) -> Iterator[str]:
    """One clause for each metric."""
    for metric, (quantity, scale) in QUANTITIES.items():
        words = Comparison(f"the {model} model's {score}", "ranks errors", quantity, scale)
        for row in select(rows, metric=metric):
            yield words.clause("its MSP", row)


def _in_all_models(rows: Sequence[ResultInterval]) -> Iterator[str]:
    for metric, (quantity, _) in QUANTITIES.items():
        groups = by_effect(select(rows, metric=metric))
        counts = [
            f"{COUNTED[effect]} {len(found)} ({', '.join(models_of(filter(None, found)))})"
            for effect, found in groups.items()
            if found
        ]
        if counts:
            yield f"{quantity} {', '.join(counts)}"


def estimation_sentence(intervals: Sequence[ResultInterval], *, measured: str) -> str:
    """The proposed model's predicted loss against its MSP, as estimates of the true loss."""
    wanted = {"experiment": "generalization", "model": "proposed", "dataset": measured}
    rows = select(intervals, **wanted, detector="predicted_loss", baseline=MSP)
    words = Comparison(
        "the proposed model's predicted loss",
        "ranks the true losses",
        "Spearman correlation with the true loss",
        PLAIN,
    )
    return f"{words.clause('its MSP', find(rows, metric='spearman'))}."


def chosen_sentence(intervals: Sequence[ResultInterval], *, sets: Sequence[str]) -> str:
    """The detector with the highest AUROC on the tuning set, on sets that did not choose it."""
    rows = [
        row
        for row in select(intervals, metric="auroc", baseline="")
        if row.dataset in sets and row.experiment in ("ood_detection", "new_classes")
    ]
    models = models_of(select(rows, detector=CHOSEN))
    if not models:
        return "The best detector on the tuning set cannot be judged: intervals.csv lacks it."
    model = main_model(models)
    clauses = [_against(select(rows, model=model), name) for name in ODIN_AND_MSP]
    return (
        f"For the {model} model, the AUROC of the detector that was best on the tuning set is, "
        f"on the other sets, {'; '.join(clauses)}. Only disjoint intervals count ({BOOTSTRAP})."
    )


def _against(rows: Sequence[ResultInterval], other: str) -> str:
    groups: dict[Order, list[str]] = {}
    for name in distinct(select(rows, detector=CHOSEN), "dataset"):
        pair = [find(rows, dataset=name, detector=of) for of in (CHOSEN, other)]
        groups.setdefault(order_of(*pair), []).append(title(name))
    counts = [
        f"{order} on {len(groups[order])} ({', '.join(groups[order])})"
        for order in Order
        if order in groups
    ]
    return f"compared with {ODIN_AND_MSP[other]}'s, {', '.join(counts)}"


def ood_sentence(results: Sequence[Result], *, measured: str) -> str:
    """False alarms of the OOD rule against their target, and the shares of OOD sets detected."""
    every = select(results, detector="ood_rule", metric="ood_share")
    model = main_model(models_of(every))
    rows = select(every, experiment="ood_detection", model=model)
    alarms, others = select(rows, dataset=measured), [r for r in rows if r.dataset != measured]
    if not alarms or not others:
        return "The OOD rule was not measured: results.csv lacks it."
    if not any(row.value for row in rows):
        return (
            f"For the {model} model the OOD rule calls no image OOD: there were too few "
            "independent cases to certify its rate of false alarms."
        )
    met = sum(row.value <= RATE for row in alarms)
    shares = sorted(
        (found, name)
        for name in distinct(others, "dataset")
        if (found := spread(select(others, dataset=name)))
    )
    (lowest, least), (highest, most) = shares[0], shares[-1]
    return (
        f"For the {model} model, {_mean(spread(alarms))} of in-distribution images are called OOD "
        f"by mistake (at most {100 * RATE:g} % in {met} of {len(alarms)} trials); of OOD images, "
        f"from {_mean(lowest)} ({title(least)}) to {_mean(highest)} ({title(most)}) are detected."
    )


def _mean(found: Spread | None) -> str:
    if found is None:
        return "an unknown share"
    deviation = "" if found.deviation is None else f" ± {POINTS.number(found.deviation)}"
    return f"{POINTS.number(found.mean)}{deviation} %"


def reliability_sentence(bins: Sequence[ReliabilityRow]) -> str:
    """The mean error probability against the share of errors, in every trial of one model."""
    rows = select(bins, quantity="error_probability")
    if not rows:
        return "The calibration of error probabilities is unknown: reliability.csv lacks them."
    model = main_model(models_of(rows))
    own = select(rows, model=model)
    pairs = [_means(select(own, trial=trial)) for trial in sorted({row.trial for row in own})]
    means = [f"{POINTS.number(mean)} % and {POINTS.number(found)} %" for mean, found in pairs]
    under = sum(mean < found for mean, found in pairs)
    return (
        f"Mean error probability of the {model} model and share of errors, trial by trial: "
        f"{'; '.join(means)}. Errors are understated in {under} of {len(pairs)} trials; this is a "
        "count without an interval."
    )


def _means(bins: Sequence[ReliabilityRow]) -> tuple[float, float]:
    """Mean prediction and mean outcome over all images."""
    images = sum(row.images for row in bins)
    predicted = sum(row.images * row.predicted for row in bins) / images
    return predicted, sum(row.images * row.observed for row in bins) / images


def scaling_sentence(rows: Iterable[Result]) -> str:
    """The trials of every model in which scaling lowers the calibration error; no test."""
    errors = select(rows, metric="ece")
    scaled = select(errors, detector="scaled_softmax")
    pairs = [
        (row, after[0])
        for row in select(errors, detector="softmax")
        if (after := select(scaled, model=row.model, trial=row.trial))
    ]
    if not pairs:
        return "The effect of scaling is unknown: results.csv lacks one of the two."
    counts = [
        f"{model} {sum(after.value < before.value for before, after in here)} of {len(here)}"
        for model in models_of([before for before, _ in pairs])
        if (here := [pair for pair in pairs if pair[0].model == model])
    ]
    means = [PLAIN.number(fmean(pair[side].value for pair in pairs)) for side in (0, 1)]
    return (
        "Scaling by a temperature and a bias for each class lowers ECE (equal mass) in these "
        f"trials: {', '.join(counts)}; on average over models and trials from {means[0]} to "
        f"{means[1]}. This is a count without an interval."
    )
