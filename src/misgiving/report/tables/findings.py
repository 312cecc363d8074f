"""The claims of the paper, each with what the numbers say on it."""

from collections.abc import Iterable, Mapping, Sequence

from misgiving.report.published import title
from misgiving.report.tables.records import HistoryRow, ResultInterval, distinct, find, select
from misgiving.report.tables.verdicts import (
    BASELINES,
    DOUBT,
    IN_PART,
    NOT_SEEN,
    PLAIN,
    POINTS,
    SEEN,
    UNJUDGED,
    Comparison,
    Finding,
    Scale,
    Verdict,
    against_both,
    by_verdict,
    compare,
    joint_status,
    status_of,
    verdict,
)

COLLAPSED_SPREAD = 0.1  # an estimate with less than a tenth of the true spread counts as constant
CEILING = 0.9995  # an AUROC from here on prints as 100.0 %, where nothing is left to gain


def collapse_finding(histories: Sequence[HistoryRow], *, part: str = "validation") -> Finding:
    """Does the mse estimate become a constant on the watched part by the last epoch (Figure 2)?"""
    claim = "The mse estimate collapses to the mean loss"
    rows = select(histories, experiment="generalization", model="mse", set=part)
    last = [row for row in rows if row.epoch == max(other.epoch for other in rows)]
    spreads = [row.spread_ratio for row in last if row.spread_ratio is not None]
    fits = [row.r_squared for row in last if row.r_squared is not None]
    if not spreads:
        reason = f"histories.csv holds no spread of the mse estimate on {part}"
        return Finding(claim, UNJUDGED, f"This cannot be judged: {reason}.")
    collapsed = sum(ratio < COLLAPSED_SPREAD for ratio in spreads)
    status = SEEN if collapsed == len(spreads) else IN_PART if collapsed else NOT_SEEN
    sentence = (
        f"The mse estimate is constant in {collapsed} of {len(spreads)} trials: after the last "
        f"epoch its spread on {part} is {_range(spreads)} of the true losses' (below "
        f"{COLLAPSED_SPREAD} counts as constant), and R² is {_range(fits)}"
    )
    return Finding(claim, status, f"{sentence}{'' if collapsed else DOUBT}.")


def _range(values: Sequence[float]) -> str:
    if not values:
        return "unknown"
    ends = [Scale(1.0, 2, "").number(end) for end in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def ranking_finding(intervals: Sequence[ResultInterval]) -> Finding:
    """Does the ranking objective order images by loss better than mse (Figure 2)?"""
    wanted = {"experiment": "generalization", "detector": "predicted_loss", "metric": "spearman"}
    words = Comparison(
        "Ranking generalises better than mse",
        "The ranking estimator",
        "ranks",
        "the mse estimator",
        "Spearman correlation of predicted and true loss",
        PLAIN,
    )
    return compare(words, find(intervals, model="proposed", baseline="mse", **wanted))


def accuracy_finding(intervals: Sequence[ResultInterval]) -> Finding:
    """Does joint training raise balanced accuracy, and is it the joint gradient (Figure 3)?"""
    wanted = {"experiment": "generalization", "model": "proposed", "detector": ""}
    differences = select(intervals, **wanted)
    words = Comparison(
        "Joint training improves the classifier",
        "The proposed model",
        "classifies",
        "",
        "balanced accuracy",
    )
    balanced = select(differences, metric="balanced_accuracy")
    finding = against_both(words, balanced)
    sentence = f"{finding.sentence[:-1]}{_cause(balanced)}{_classes_told(differences)}."
    return finding._replace(sentence=sentence)


def _cause(differences: Sequence[ResultInterval]) -> str:
    outcomes = [verdict(find(differences, baseline=name)) for name in BASELINES]
    if outcomes == [Verdict.BETTER, Verdict.BETTER]:
        return "; so the gain goes with the joint gradient"
    if outcomes[0] is Verdict.BETTER:
        return "; so the gain over vanilla cannot be ascribed to the joint gradient"
    return ""


def _classes_told(differences: Iterable[ResultInterval]) -> str:
    against = select(differences, baseline="vanilla")
    groups = by_verdict(row for row in against if row.metric.startswith("sensitivity/"))
    if not (total := sum(map(len, groups.values()))):
        return ""
    higher, lower = len(groups[Verdict.BETTER]), len(groups[Verdict.WORSE])
    return (
        f"; against vanilla, sensitivity is clearly higher for {higher} of {total} classes, "
        f"lower for {lower}"
    )


def minority_finding(
    intervals: Sequence[ResultInterval],
    *,
    minority: Sequence[str],
    majority: Sequence[str] = (),
    images: Mapping[str, int] | None = None,
) -> Finding:
    """Do the rare classes gain in sensitivity, and do the frequent ones (Figure 3)?

    Args:
        intervals: The rows of `intervals.csv`.
        minority: The rare classes, which decide.
        majority: The frequent classes, which are told beside them.
        images: Held-out images of each class.
    """
    claim = "Minority classes gain"
    wanted = {"experiment": "generalization", "model": "proposed", "baseline": "vanilla"}
    rows = select(intervals, detector="", **wanted)
    pairs = {name: find(rows, metric=f"sensitivity/{name}") for name in (*minority, *majority)}
    groups = by_verdict(pairs[name] for name in minority)
    if not any(pairs.values()) or not minority:
        reason = "settings.json does not tell which classes are rare"
        if minority:
            reason = "intervals.csv holds no difference in sensitivity"
        return Finding(claim, UNJUDGED, f"This cannot be judged: {reason}.")
    told = {name: _gain(name, pair, (images or {}).get(name)) for name, pair in pairs.items()}
    higher, lower = len(groups[Verdict.BETTER]), len(groups[Verdict.WORSE])
    sentence = (
        f"Sensitivity of proposed against vanilla is clearly higher for {higher} of "
        f"{len(minority)} minority classes, lower for {lower}: {_listed(told, minority)}"
    )
    frequent = f". Of the frequent classes: {_listed(told, majority)}" if majority else ""
    status = status_of(groups)
    return Finding(claim, status, f"{sentence}{DOUBT * (status == NOT_SEEN)}{frequent}.")


def _listed(told: Mapping[str, str], names: Iterable[str]) -> str:
    return "; ".join(told[name] for name in names)


def _gain(name: str, pair: ResultInterval | None, images: int | None) -> str:
    if pair is None:
        return f"{name} not measured"
    counts = [f"{pair.n} groups" if pair.n else "", f"{images} images" if images else ""]
    known = " / ".join(filter(None, counts))
    return f"{name}{f' ({known})' if known else ''} {POINTS.difference(pair)}"


def ood_finding(intervals: Sequence[ResultInterval], *, sets: Iterable[str]) -> Finding:
    """On how many sets, of those that did not tune ODIN, is AUROC better (Table 1)?

    Args:
        intervals: The rows of `intervals.csv`.
        sets: Those to judge on.
    """
    claim = "Joint training helps ODIN"
    wanted = {"experiment": "ood_detection", "model": "proposed", "metric": "auroc"}
    rows = select(intervals, detector="odin", tuned=False, **wanted)
    untuned = [row for row in rows if row.dataset in set(sets)]
    perfect = {row.dataset for row in untuned if _leaves_nothing(intervals, row)}
    judged = [row for row in untuned if row.dataset not in perfect]
    groups = {name: by_verdict(select(judged, baseline=name)) for name in BASELINES}
    if not any(map(len, groups["vanilla"].values())):
        reason = "intervals.csv holds no difference in ODIN's AUROC"
        return Finding(claim, UNJUDGED, f"This cannot be judged: {reason}.")
    status = joint_status(map(status_of, groups.values()))
    sentences = [_sets_told(name, found) for name, found in groups.items()]
    left = f"; both separate {_names(sorted(perfect))} perfectly, which is left out"
    doubt = "; the paper's claim, better on every set, is not seen" if status == NOT_SEEN else ""
    return Finding(claim, status, f"{'. '.join(sentences)}{left if perfect else ''}{doubt}.")


def _leaves_nothing(intervals: Sequence[ResultInterval], pair: ResultInterval) -> bool:
    """Whether both models of a pair separate the set perfectly, as the paper's do B-Box-70."""
    same = {name: getattr(pair, name) for name in ("experiment", "dataset", "detector", "metric")}
    values = [find(intervals, model=name, baseline="", **same) for name in (pair.model, "vanilla")]
    return all(value is not None and value.estimate >= CEILING for value in values)


def _sets_told(baseline: str, groups: Mapping[Verdict, Sequence[ResultInterval | None]]) -> str:
    words = {
        Verdict.BETTER: f"clearly higher than {baseline}'s",
        Verdict.WORSE: f"clearly lower than {baseline}'s",
        Verdict.TIED: f"not to be told apart from {baseline}'s (interval includes zero)",
        Verdict.UNKNOWN: "without an interval",
    }
    if not (total := sum(map(len, groups.values()))):
        return f"Against {baseline} this cannot be judged"
    counts = [
        f"{words[outcome]} on {len(found)} ({_names(distinct(filter(None, found), 'dataset'))})"
        for outcome, found in groups.items()
        if found
    ]
    return f"Of {total} untuned sets, the proposed model's ODIN AUROC is {', '.join(counts)}"


def _names(datasets: Iterable[str]) -> str:
    return ", ".join(map(title, datasets))


def new_classes_finding(intervals: Sequence[ResultInterval]) -> Finding:
    """Does joint training tell unseen classes better (Figure 5)?"""
    wanted = {"experiment": "new_classes", "dataset": "unseen_classes", "detector": "odin"}
    words = Comparison(
        "Joint training reveals unseen classes",
        "With ODIN the proposed model",
        "tells unseen classes",
        "",
        "AUROC",
    )
    return against_both(words, select(intervals, metric="auroc", **wanted))
