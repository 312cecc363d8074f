"""The claims of the paper, each with its status and its evidence."""

from collections.abc import Iterable, Mapping, Sequence

from misgiving.report.findings import (
    BASELINES,
    PLAIN,
    POINTS,
    Comparison,
    Effect,
    Finding,
    Scale,
    Status,
    by_effect,
    effect_of,
    from_baselines,
    not_measured,
    status_of,
)
from misgiving.report.findings.sweep import speed_finding, sweep_of
from misgiving.report.inputs import ReportInputs, distinct, find, select
from misgiving.report.published import title
from misgiving.results.schema import HistoryRow, ResultInterval

COLLAPSED_SPREAD = 0.1  # an estimate with less than a tenth of the true spread counts as constant
PERFECT = 0.9995  # an AUROC from here on is shown as 100.0 %, where nothing is left to gain
RATIO = Scale(1.0, 2, "")


def claims(inputs: ReportInputs) -> dict[str, Finding]:
    """The finding on each claim, in the order of the report."""
    intervals = inputs.intervals
    return {
        "collapse": collapse_finding(inputs.histories, monitored=inputs.settings.monitored_set),
        "ranking": ranking_finding(intervals),
        "accuracy": accuracy_finding(intervals),
        "minority": minority_finding(
            intervals,
            minority=inputs.minority,
            majority=inputs.majority,
            images=inputs.measured_images,
        ),
        "speed": speed_finding(sweep_of(inputs)),
        "ood": ood_finding(intervals, sets=inputs.claimed_sets),
        "new_classes": new_classes_finding(intervals),
    }


def collapse_finding(histories: Sequence[HistoryRow], *, monitored: str) -> Finding:
    """Collapse of the mse estimate to a constant on the monitored set (Figure 2)."""
    claim = "The mse estimate collapses to the mean loss"
    rows = select(histories, experiment="generalization", model="mse", set=monitored)
    last = [row for row in rows if row.epoch == max(other.epoch for other in rows)]
    spreads = [row.spread_ratio for row in last if row.spread_ratio is not None]
    fits = [row.r_squared for row in last if row.r_squared is not None]
    if not spreads:
        return not_measured(
            claim, f"histories.csv has no spread of the mse estimate on the {monitored} set"
        )
    collapsed = sum(ratio < COLLAPSED_SPREAD for ratio in spreads)
    status = Status.IN_PART if collapsed else Status.CONTRADICTED
    sentence = (
        f"The mse estimate is constant in {collapsed} of {len(spreads)} trials: after the last "
        f"epoch its spread on the {monitored} set is {RATIO.range(spreads)} of that of the true "
        f"losses (below {COLLAPSED_SPREAD} counts as constant), and R² is "
        f"{RATIO.range(fits) if fits else 'unknown'}."
    )
    return Finding(claim, Status.SUPPORTED if collapsed == len(spreads) else status, sentence)


def ranking_finding(intervals: Sequence[ResultInterval]) -> Finding:
    """The order of images by loss, learned by ranking and by mse (Figure 2)."""
    wanted = {"experiment": "generalization", "detector": "predicted_loss", "metric": "spearman"}
    difference = find(intervals, model="proposed", baseline="mse", **wanted)
    quantity = "Spearman correlation of predicted and true loss"
    words = Comparison("the ranking estimator", "ranks", quantity, PLAIN)
    return words.finding("Ranking generalises better than mse", {"the mse estimator": difference})


def accuracy_finding(intervals: Sequence[ResultInterval]) -> Finding:
    """Balanced accuracy with joint training, and the effect of the joint gradient (Figure 3)."""
    wanted = {"experiment": "generalization", "model": "proposed", "detector": ""}
    differences = select(intervals, **wanted)
    judged = from_baselines(select(differences, metric="balanced_accuracy"))
    words = Comparison("the proposed model", "classifies", "balanced accuracy")
    finding = words.finding("Joint training improves the classifier", judged)
    sentences = [finding.sentence, _cause(finding.differences), _classes(differences)]
    return finding._replace(sentence=" ".join(filter(None, sentences)))


def _cause(differences: Sequence[ResultInterval | None]) -> str:
    """The cause of a gain over vanilla, where there is one."""
    vanilla, detached = map(effect_of, differences)
    if vanilla is not Effect.BETTER:
        return ""
    if detached is Effect.BETTER:
        return "So the gain comes with the joint gradient."
    return "So the gain over vanilla cannot be attributed to the joint gradient."


def _classes(differences: Iterable[ResultInterval]) -> str:
    against = select(differences, baseline="vanilla")
    groups = by_effect(row for row in against if row.metric.startswith("sensitivity/"))
    if not (total := sum(map(len, groups.values()))):
        return ""
    return (
        f"Against vanilla, sensitivity is higher for {len(groups[Effect.BETTER])} of {total} "
        f"classes and lower for {len(groups[Effect.WORSE])}, with intervals that exclude zero."
    )


def minority_finding(
    intervals: Sequence[ResultInterval],
    *,
    minority: Sequence[str],
    majority: Sequence[str] = (),
    images: Mapping[str, int] | None = None,
) -> Finding:
    """Sensitivity for the rare classes, which decide, and for the frequent ones (Figure 3)."""
    claim = "Minority classes gain"
    wanted = {"experiment": "generalization", "model": "proposed", "baseline": "vanilla"}
    rows = select(intervals, detector="", **wanted)
    pairs = {name: find(rows, metric=f"sensitivity/{name}") for name in (*minority, *majority)}
    if not any(pairs.values()):
        return not_measured(claim, "intervals.csv has no difference in sensitivity")
    judged = tuple(pairs[name] for name in minority)
    groups = by_effect(judged)
    gains = {name: _gain(name, pair, (images or {}).get(name)) for name, pair in pairs.items()}
    sentence = (
        f"Against vanilla, the proposed model's sensitivity is higher for "
        f"{len(groups[Effect.BETTER])} of {len(minority)} minority classes and lower for "
        f"{len(groups[Effect.WORSE])}: {'; '.join(gains[name] for name in minority)}."
    )
    if majority:
        sentence += f" Frequent classes: {'; '.join(gains[name] for name in majority)}."
    return Finding(claim, status_of(judged), sentence, judged)


def _gain(name: str, pair: ResultInterval | None, images: int | None) -> str:
    if pair is None:
        return f"{name} not measured"
    known = f"{pair.n} groups / {images} images" if images else f"{pair.n} groups"
    return f"{name} ({known}) {POINTS.difference(pair)}"


def ood_finding(intervals: Sequence[ResultInterval], *, sets: Iterable[str]) -> Finding:
    """ODIN's AUROC on those of `sets` on which it was not tuned (Table 1)."""
    claim = "Joint training helps ODIN"
    wanted = {"experiment": "ood_detection", "model": "proposed", "metric": "auroc"}
    rows = select(intervals, detector="odin", tuned=False, **wanted)
    untuned = [row for row in rows if row.dataset in set(sets)]
    perfect = {row.dataset for row in untuned if _is_perfect(intervals, row)}
    judged = [row for row in untuned if row.dataset not in perfect]
    pairs = {name: select(judged, baseline=name) for name in BASELINES}
    if not pairs["vanilla"]:
        return not_measured(claim, "intervals.csv has no difference in ODIN's AUROC")
    differences: list[ResultInterval | None] = []
    for found in pairs.values():
        differences += found or [None]
    sentences = [_by_set(name, found) for name, found in pairs.items()]
    if perfect:
        names = ", ".join(map(title, sorted(perfect)))
        sentences.append(f"Both models separate {names} perfectly, so it is left out.")
    return Finding(claim, status_of(differences), " ".join(sentences), tuple(differences))


def _is_perfect(intervals: Sequence[ResultInterval], pair: ResultInterval) -> bool:
    """True if both models of a pair separate the set perfectly, as the paper's do B-Box-70."""
    same = {name: getattr(pair, name) for name in ("experiment", "dataset", "detector", "metric")}
    values = [find(intervals, model=name, baseline="", **same) for name in (pair.model, "vanilla")]
    return all(value is not None and value.estimate >= PERFECT for value in values)


def _by_set(baseline: str, differences: Sequence[ResultInterval]) -> str:
    if not differences:
        return f"There is no comparison with {baseline}."
    words = {
        Effect.BETTER: f"higher than {baseline}'s",
        Effect.WORSE: f"lower than {baseline}'s",
        Effect.UNDECIDED: f"not clearly different from {baseline}'s (interval includes zero)",
        Effect.UNKNOWN: "without an interval",
    }
    groups = by_effect(differences)
    counts = [
        f"{words[effect]} on {len(found)} "
        f"({', '.join(map(title, distinct(filter(None, found), 'dataset')))})"
        for effect, found in groups.items()
        if found
    ]
    return (
        f"Of the {len(differences)} sets that ODIN was not tuned on, the proposed model's AUROC is "
        f"{', '.join(counts)}."
    )


def new_classes_finding(intervals: Sequence[ResultInterval]) -> Finding:
    """Detection of classes that were unseen in training (Figure 5)."""
    wanted = {"experiment": "new_classes", "dataset": "unseen_classes", "detector": "odin"}
    judged = from_baselines(select(intervals, metric="auroc", **wanted))
    words = Comparison("with ODIN the proposed model", "detects unseen classes", "AUROC")
    return words.finding("Joint training reveals unseen classes", judged)
