"""Detectors that were chosen on one set and measured on others, and the rule for OOD images."""

from collections.abc import Iterable, Sequence

from misgiving.report.published import title
from misgiving.report.tables.records import (
    Result,
    ResultInterval,
    distinct,
    find,
    main_model,
    models_of,
    select,
)
from misgiving.report.tables.verdicts import POINTS, spread, unpaired

CHOSEN = "best_on_tuning"
OTHERS = {"odin": "ODIN", "msp": "MSP"}
ORDERS = {
    "higher": "clearly higher",
    "lower": "clearly lower",
    "neither": "not told apart",
    "unknown": "without an interval",
}
RATE = 0.05  # of false alarms, to which the rule is calibrated


def chosen_sentence(intervals: Sequence[ResultInterval], *, sets: Sequence[str]) -> str:
    """Whether the detector that was best on the tuning set is so on sets that did not choose it.

    The intervals of two detectors are not paired, so that only disjoint ones tell them apart.

    Args:
        intervals: The rows of `intervals.csv`.
        sets: Those to judge on.
    """
    rows = [
        row
        for row in select(intervals, metric="auroc", baseline="")
        if row.dataset in sets and row.experiment in ("ood_detection", "new_classes")
    ]
    models = models_of(select(rows, detector=CHOSEN))
    if not models:
        return "The best detector on the tuning set cannot be judged: intervals.csv lacks it."
    model = main_model(models)
    said = [_against(select(rows, model=model), name) for name in OTHERS]
    return (
        f"For the {model} model, the AUROC of the detector that was best on the tuning set is, "
        f"on the other sets, {'; '.join(said)}. Only disjoint intervals count as a difference."
    )


def _against(rows: Sequence[ResultInterval], other: str) -> str:
    groups: dict[str, list[str]] = {}
    for name in distinct(select(rows, detector=CHOSEN), "dataset"):
        pair = [find(rows, dataset=name, detector=of) for of in (CHOSEN, other)]
        groups.setdefault(ORDERS[unpaired(*pair)], []).append(title(name))
    counts = [
        f"{words} on {len(groups[words])} ({', '.join(groups[words])})"
        for words in ORDERS.values()
        if words in groups
    ]
    return f"compared with {OTHERS[other]}'s, {', '.join(counts)}"


def ood_sentence(results: Sequence[Result], *, model: str, measured: str) -> str:
    """False alarms of the OOD rule against what it is calibrated to, and the shares found."""
    rows = select(results, detector="ood_rule", metric="ood_share", model=model)
    rows = select(rows, experiment="ood_detection")
    alarms, others = select(rows, dataset=measured), [r for r in rows if r.dataset != measured]
    if not alarms or not others:
        return "What the OOD rule finds cannot be told: results.csv lacks it."
    if not any(row.value for row in rows):
        return (
            f"For the {model} model the OOD rule calls no image OOD: there were too few "
            "independent cases to promise few false alarms."
        )
    kept = sum(row.value <= RATE for row in alarms)
    shares = {name: spread(select(others, dataset=name)) for name in distinct(others, "dataset")}
    told = sorted((found.mean, name) for name, found in shares.items() if found)
    return (
        f"For the {model} model, {_mean(alarms)} of ordinary images are called OOD by mistake "
        f"(at most {100 * RATE:g} % in {kept} of {len(alarms)} trials); of OOD images, from "
        f"{_mean(select(others, dataset=told[0][1]))} ({title(told[0][1])}) to "
        f"{_mean(select(others, dataset=told[-1][1]))} ({title(told[-1][1])}) are found."
    )


def _mean(rows: Iterable[Result]) -> str:
    found = spread(rows)
    if found is None:
        return "an unknown share"
    deviation = "" if found.deviation is None else f" ± {POINTS.number(found.deviation)}"
    return f"{POINTS.number(found.mean)}{deviation} %"
