"""The tables of a reproduction folder: records, pivots, and the sentences that they support."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple, TypeVar

from misgiving.errors import DataError

MINUS = "\N{MINUS SIGN}"
MODELS = ("vanilla", "mse", "detached", "proposed", "proposed+logits")
LOWER_IS_BETTER = frozenset({"fpr_at_tpr95", "detection_error", "aurc", "errors"})
COLLAPSED_SPREAD = 0.1  # an estimate with less than a tenth of the true spread counts as constant


class Result(NamedTuple):
    """One line of `results.csv`: a fraction, or for `errors`, `temperature` and so on a number."""

    experiment: str
    trial: int
    model: str
    dataset: str
    detector: str
    metric: str
    value: float


class Interval(NamedTuple):
    """One line of `intervals.csv`: a value, or where `baseline` is set, model minus baseline.

    The bounds are None where no interval can be given; `n` counts independent groups.
    """

    experiment: str
    model: str
    baseline: str
    dataset: str
    detector: str
    metric: str
    estimate: float
    lower: float | None
    upper: float | None
    n: int | None
    trials: int | None
    tuned: bool


class Epoch(NamedTuple):
    """One line of `histories.csv`; what was not measured is None."""

    experiment: str
    trial: int
    model: str
    epoch: int
    part: str
    primary_loss: float | None
    auxiliary_loss: float | None
    accuracy: float | None
    balanced_accuracy: float | None
    rank_correlation: float | None
    spread_ratio: float | None
    r_squared: float | None


Row = TypeVar("Row", Result, Interval, Epoch)


def read_results(folder: Path) -> list[Result]:
    """Read `results.csv`, leaving out what could not be measured (an empty value or NaN)."""
    path = folder / "results.csv"
    rows = _read_rows(path, Result.__annotations__, optional=())
    results = [Result(**row) for row in rows if row["value"] is not None]
    if not results:
        raise DataError(f"{path} holds no results; run `misgiving reproduce` again")
    return results


def read_intervals(folder: Path) -> list[Interval]:
    """Read `intervals.csv`; empty where there is no such file."""
    path = folder / "intervals.csv"
    optional = ("lower", "upper", "n", "trials", "tuned")
    rows = _read_rows(path, Interval.__annotations__, optional=optional) if path.exists() else []
    return [Interval(**row) for row in rows if row["estimate"] is not None]


def read_histories(folder: Path) -> list[Epoch]:
    """Read `histories.csv`; empty where there is no such file."""
    path = folder / "histories.csv"
    rows = (
        _read_rows(path, Epoch.__annotations__, optional=Epoch._fields[5:]) if path.exists() else []
    )
    return [Epoch(**row) for row in rows]


def _read_rows(
    path: Path, kinds: Mapping[str, Any], *, optional: Sequence[str]
) -> list[dict[str, Any]]:
    columns = {name: _parser(kind) for name, kind in kinds.items()}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.DictReader(file, strict=True)
            _refuse_missing(columns.keys() - set(optional) - set(lines.fieldnames or ()))
            return [_parsed(line, columns, place=lines.line_num) for line in lines]
    except (OSError, ValueError, csv.Error) as reason:
        raise DataError(
            f"{path} cannot be used: {reason}; run `misgiving reproduce` again"
        ) from reason


def _refuse_missing(columns: Iterable[str]) -> None:
    if missing := sorted(columns):
        raise ValueError(f"column {', '.join(missing)} is missing")


def _parsed(
    line: Mapping[str, str | None], columns: Mapping[str, Callable[[str], Any]], *, place: int
) -> dict[str, Any]:
    if None in line.values():  # csv fills a line that breaks off
        raise ValueError(f"line {place} is cut short")
    try:
        return {name: parse(line.get(name) or "") for name, parse in columns.items()}
    except ValueError as reason:
        raise ValueError(f"line {place}: {reason}") from reason


def _parser(kind: object) -> Callable[[str], Any]:
    parsers: dict[object, Callable[[str], Any]] = {str: str, int: int, bool: bool}
    parsers[int | None] = lambda text: int(text) if text else None
    return parsers.get(kind, _number)


def _number(text: str) -> float | None:
    """A finite number; None where nothing was measured."""
    number = float(text or "nan")
    if math.isinf(number):
        raise ValueError("an infinite value")
    return None if math.isnan(number) else number


def select(rows: Iterable[Row], **wanted: object) -> list[Row]:
    """The rows whose named fields hold the wanted values."""
    return [
        row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())
    ]


def distinct(rows: Iterable[Row], field: str) -> list[str]:
    """The values of a field, each once, in order of appearance."""
    return list(dict.fromkeys(getattr(row, field) for row in rows))


def models_of(rows: Iterable[Row]) -> list[str]:
    """The models that occur: the known ones from plain to proposed, then any others."""
    found = distinct(rows, "model")
    return [name for name in MODELS if name in found] + [
        name for name in found if name not in MODELS
    ]


class Spread(NamedTuple):
    """A value over trials; the standard deviation (n - 1) is None for a single trial."""

    mean: float
    deviation: float | None
    values: tuple[float, ...]


def spread(rows: Iterable[Result]) -> Spread | None:
    """Mean, standard deviation and values of rows that differ in the trial alone.

    >>> spread([])
    """
    values = tuple(row.value for row in rows)
    if not values:
        return None
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, values)


def find(intervals: Iterable[Interval], **wanted: object) -> Interval | None:
    """The first interval with the wanted fields; None where there is none."""
    return next(iter(select(intervals, **wanted)), None)


class Verdict(StrEnum):
    """What a paired difference says about a model against its baseline."""

    BETTER = "better"
    TIED = "cannot be told apart"
    WORSE = "worse"
    UNKNOWN = "cannot be judged"


def verdict(difference: Interval | None) -> Verdict:
    """Decide from the interval alone: only one that leaves out zero tells two models apart."""
    if difference is None or difference.lower is None or difference.upper is None:
        return Verdict.UNKNOWN
    if difference.lower <= 0 <= difference.upper:
        return Verdict.TIED
    rises = difference.lower > 0
    return Verdict.WORSE if rises == (difference.metric in LOWER_IS_BETTER) else Verdict.BETTER


def by_verdict(differences: Iterable[Interval]) -> dict[Verdict, list[Interval]]:
    """The differences under each of the four verdicts."""
    groups: dict[Verdict, list[Interval]] = {outcome: [] for outcome in Verdict}
    for difference in differences:
        groups[verdict(difference)].append(difference)
    return groups


class Scale(NamedTuple):
    """How values of a metric are written.

    >>> Scale(100.0, 1, " points").number(0.25, sign="+"), Scale(1.0, 2, "").number(-0.001)
    ('+25.0', '0.00')
    """

    factor: float
    digits: int
    unit: str

    def bounds(self, interval: Interval) -> str:
        """The interval in words; of a difference also whether it includes zero."""
        if interval.lower is None or interval.upper is None:
            return "no interval can be given"
        ends = [self.number(bound) for bound in (interval.lower, interval.upper)]
        zero = interval.baseline and verdict(interval) is Verdict.TIED
        given = ", given these trained models" if interval.trials == 1 else ""
        included = ", which includes zero" if zero else ""
        return f"95 % interval {ends[0]} to {ends[1]}{included}{given}"

    def number(self, value: float, *, sign: str = "") -> str:
        """The value without its unit; what rounds to zero has no minus; `sign` "+" shows a plus."""
        rounded = round(self.factor * value, self.digits) + 0.0
        return f"{rounded:{sign}.{self.digits}f}".replace("-", MINUS)

    def difference(self, interval: Interval) -> str:
        """A signed difference with its unit and interval."""
        estimate = self.number(interval.estimate, sign="+")
        return f"{estimate}{self.unit} ({self.bounds(interval)})"


POINTS = Scale(100.0, 1, " points")
PLAIN = Scale(1.0, 3, "")
DOUBT = "; the paper's claim is not seen"


class Finding(NamedTuple):
    """What the numbers say on one claim."""

    claim: str
    status: str
    sentence: str


class Comparison(NamedTuple):
    """The words for a paired difference: `subject` does `verb` better or worse than `baseline`."""

    claim: str
    subject: str
    verb: str
    baseline: str
    quantity: str
    scale: Scale = POINTS

    def outcome(self, outcome: Verdict) -> str:
        """The outcome as a clause."""
        degree = {Verdict.BETTER: "clearly better than", Verdict.WORSE: "worse than"}.get(outcome)
        said = f"{self.verb} {degree}" if degree else "cannot be told apart from"
        return f"{self.subject} {said} {self.baseline}"


def compare(words: Comparison, difference: Interval | None) -> Finding:
    """The finding of one paired difference: the claim is seen only where its interval says so."""
    outcome = verdict(difference)
    status = _status({outcome: [difference]})
    numbers = f"intervals.csv holds no difference in {words.quantity}"
    if difference is not None:
        numbers = f"{words.quantity} {words.scale.difference(difference)}"
    if outcome is Verdict.UNKNOWN:
        return Finding(words.claim, status, f"This cannot be judged: {numbers}.")
    doubt = "" if outcome is Verdict.BETTER else DOUBT
    return Finding(words.claim, status, f"{words.outcome(outcome)}: {numbers}{doubt}.")


def _status(groups: Mapping[Verdict, Sequence[object]]) -> str:
    others = [*groups.get(Verdict.TIED, ()), *groups.get(Verdict.WORSE, ())]
    if groups.get(Verdict.BETTER):
        return "seen in part" if others else "seen"
    return "not seen" if others else "cannot be judged"


def ranking_finding(intervals: Sequence[Interval]) -> Finding:
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


def accuracy_finding(intervals: Sequence[Interval]) -> Finding:
    """Does joint training raise balanced accuracy, and which sensitivities (Figure 3)?"""
    wanted = {"experiment": "generalization", "model": "proposed", "baseline": "vanilla"}
    differences = select(intervals, detector="", **wanted)
    words = Comparison(
        "Joint training improves the classifier",
        "The proposed model",
        "classifies",
        "vanilla",
        "balanced accuracy",
    )
    finding = compare(words, find(differences, metric="balanced_accuracy"))
    groups = by_verdict(row for row in differences if row.metric.startswith("sensitivity/"))
    total = sum(map(len, groups.values()))
    if not total:
        return finding
    higher, lower = len(groups[Verdict.BETTER]), len(groups[Verdict.WORSE])
    classes = f"sensitivity is clearly higher for {higher} of {total} classes, lower for {lower}"
    return finding._replace(sentence=f"{finding.sentence[:-1]}; {classes}.")


def new_classes_finding(intervals: Sequence[Interval]) -> Finding:
    """Does joint training tell unseen classes better (Figure 5)?"""
    wanted = {"experiment": "new_classes", "dataset": "unseen_classes", "detector": "odin"}
    words = Comparison(
        "Joint training reveals unseen classes",
        "With ODIN the proposed model",
        "tells unseen classes",
        "vanilla",
        "AUROC",
    )
    pair = {"model": "proposed", "baseline": "vanilla", "metric": "auroc"}
    return compare(words, find(intervals, **wanted, **pair))


def ood_finding(intervals: Sequence[Interval], *, tuned: Iterable[str]) -> Finding:
    """On how many sets, of those that did not tune ODIN, is AUROC better (Table 1)?"""
    wanted = {"experiment": "ood_detection", "model": "proposed", "baseline": "vanilla"}
    rows = select(intervals, detector="odin", metric="auroc", tuned=False, **wanted)
    groups = by_verdict(row for row in rows if row.dataset not in set(tuned))
    words = {
        Verdict.BETTER: "clearly higher than vanilla's",
        Verdict.WORSE: "clearly lower than vanilla's",
        Verdict.TIED: "not to be told apart from vanilla's (interval includes zero)",
        Verdict.UNKNOWN: "without an interval",
    }
    names = {outcome: ", ".join(distinct(found, "dataset")) for outcome, found in groups.items()}
    counts = [
        f"{words[outcome]} on {len(found)} ({names[outcome].replace('_', ' ')})"
        for outcome, found in groups.items()
        if found
    ]
    status, total = _status(groups), sum(map(len, groups.values()))
    sentence = f"Of {total} untuned sets, the proposed model's ODIN AUROC is {', '.join(counts)}"
    if not total:
        sentence = "This cannot be judged: intervals.csv holds no difference in ODIN's AUROC"
    doubt = "; the paper's claim, better on every set, is not seen" if status == "not seen" else ""
    return Finding("Joint training helps ODIN", status, f"{sentence}{doubt}.")


def collapse_finding(histories: Sequence[Epoch]) -> Finding:
    """Does the mse estimate become a constant on validation by the last epoch (Figure 2)?"""
    claim = "The mse estimate collapses to the mean loss"
    rows = select(histories, experiment="generalization", model="mse", part="validation")
    last = [row for row in rows if row.epoch == max(other.epoch for other in rows)]
    spreads = [row.spread_ratio for row in last if row.spread_ratio is not None]
    fits = [row.r_squared for row in last if row.r_squared is not None]
    if not spreads:
        reason = "histories.csv holds no spread of the mse estimate on validation"
        return Finding(claim, "cannot be judged", f"This cannot be judged: {reason}.")
    collapsed = sum(ratio < COLLAPSED_SPREAD for ratio in spreads)
    status = "seen" if collapsed == len(spreads) else "seen in part" if collapsed else "not seen"
    sentence = (
        f"The mse estimate is constant in {collapsed} of {len(spreads)} trials: after the last "
        f"epoch its spread on validation is {_range(spreads)} of the true losses' (below "
        f"{COLLAPSED_SPREAD} counts as constant), and R² is {_range(fits)}"
    )
    return Finding(claim, status, f"{sentence}{'' if collapsed else DOUBT}.")


def _range(values: Sequence[float]) -> str:
    if not values:
        return "unknown"
    ends = [Scale(1.0, 2, "").number(end) for end in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)
