"""What a paired difference says, and in which words."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from statistics import fmean, stdev
from typing import NamedTuple

from misgiving.report.tables.records import Result, ResultInterval, find

MINUS = "\N{MINUS SIGN}"
LOWER_IS_BETTER = frozenset(
    {
        "fpr_at_tpr95",
        "detection_error",
        "errors",
        "aurc",
        "excess_aurc",
        "augrc",
        "balanced_aurc",
        "risk_at_coverage",
        "error_among_accepted",
    }
)  # a metric at one of several levels, such as risk_at_coverage/0.8, by what stands before these


class Spread(NamedTuple):
    """A value over trials; the standard deviation (n - 1) is None for a single trial."""

    mean: float
    deviation: float | None
    values: tuple[float, ...]


def spread(rows: Iterable[Result]) -> Spread | None:
    """Mean, standard deviation and values of rows that differ in the trial alone.

    >>> spread([])
    """
    return spread_of([row.value for row in rows])


def spread_of(numbers: Iterable[float]) -> Spread | None:
    """Mean, standard deviation and values; None where there are none."""
    values = tuple(numbers)
    if not values:
        return None
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, values)


class Verdict(StrEnum):
    """What a paired difference says about a model against its baseline."""

    BETTER = "better"
    TIED = "cannot be told apart"
    WORSE = "worse"
    UNKNOWN = "cannot be judged"


def verdict(difference: ResultInterval | None) -> Verdict:
    """Decide from the interval alone: only one that leaves out zero tells two models apart."""
    if difference is None or difference.lower is None or difference.upper is None:
        return Verdict.UNKNOWN
    if difference.lower <= 0 <= difference.upper:
        return Verdict.TIED
    rises = difference.lower > 0
    falling = difference.metric.partition("/")[0] in LOWER_IS_BETTER
    return Verdict.WORSE if rises == falling else Verdict.BETTER


def unpaired(first: ResultInterval | None, second: ResultInterval | None) -> str:
    """Whether one value is clearly higher, lower or neither: only disjoint intervals tell.

    For values without a paired difference; `unknown` where an interval is missing.
    """
    ends = [end for row in (first, second) if row for end in (row.lower, row.upper)]
    known = [end for end in ends if end is not None]
    if len(known) < 4:
        return "unknown"
    if known[0] > known[3]:
        return "higher"
    return "lower" if known[1] < known[2] else "neither"


def by_verdict(
    differences: Iterable[ResultInterval | None],
) -> dict[Verdict, list[ResultInterval | None]]:
    """The differences under each of the four verdicts."""
    groups: dict[Verdict, list[ResultInterval | None]] = {outcome: [] for outcome in Verdict}
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

    def bounds(self, interval: ResultInterval) -> str:
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

    def difference(self, interval: ResultInterval) -> str:
        """A signed difference with its unit and interval."""
        estimate = self.number(interval.estimate, sign="+")
        return f"{estimate}{self.unit} ({self.bounds(interval)})"


POINTS = Scale(100.0, 1, " points")
PLAIN = Scale(1.0, 3, "")
DOUBT = "; the paper's claim is not seen"
SEEN, IN_PART, NOT_SEEN, UNJUDGED = "seen", "seen in part", "not seen", "cannot be judged"


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


def compare(words: Comparison, difference: ResultInterval | None) -> Finding:
    """The finding of one paired difference: the claim is seen only where its interval says so."""
    status = status_of({verdict(difference): [difference]})
    doubt = DOUBT if status == NOT_SEEN else ""
    return Finding(words.claim, status, f"{clause(words, difference)}{doubt}.")


def clause(words: Comparison, difference: ResultInterval | None) -> str:
    """The outcome of one paired difference with its numbers, without a full stop."""
    outcome = verdict(difference)
    if difference is None:
        numbers = f"intervals.csv holds no difference from {words.baseline} in {words.quantity}"
    else:
        numbers = f"{words.quantity} {words.scale.difference(difference)}"
    if outcome is Verdict.UNKNOWN:
        return f"Against {words.baseline} this cannot be judged: {numbers}"
    return f"{words.outcome(outcome)}: {numbers}"


BASELINES = {
    "vanilla": "vanilla",
    "detached": "detached, whose ranking estimator sends no gradient into the classifier",
}
"""What a gain from joint training must be shown against, and how it is called."""


def against_both(words: Comparison, differences: Sequence[ResultInterval]) -> Finding:
    """The finding of a claim on joint training: seen only against vanilla and detached alike.

    A gain over vanilla alone may come from anything that is drawn anew with an estimator.
    """
    pairs = {name: find(differences, model="proposed", baseline=name) for name in BASELINES}
    clauses = [
        clause(words._replace(baseline=BASELINES[name]), pair) for name, pair in pairs.items()
    ]
    status = status_of(by_verdict(pairs.values()))
    doubt = DOUBT if status == NOT_SEEN else ""
    return Finding(words.claim, status, f"{'. '.join(clauses)}{doubt}.")


def status_of(groups: Mapping[Verdict, Sequence[object]]) -> str:
    """The status of a claim that asks for a gain in every comparison.

    One clear loss outweighs any number of gains, of which chance alone yields some; and a single
    trial, whose intervals leave out the variation between trainings, shows at most a part.
    """
    if groups.get(Verdict.WORSE):
        return NOT_SEEN
    if better := groups.get(Verdict.BETTER):
        single = any(getattr(difference, "trials", None) == 1 for difference in better)
        others = groups.get(Verdict.TIED) or groups.get(Verdict.UNKNOWN)
        return IN_PART if others or single else SEEN
    return NOT_SEEN if groups.get(Verdict.TIED) else UNJUDGED


def joint_status(statuses: Iterable[str]) -> str:
    """The status of a claim that has several halves, and is seen only where all of them are."""
    found = set(statuses)
    if found <= {SEEN}:
        return SEEN if found else UNJUDGED
    if NOT_SEEN in found:
        return IN_PART if SEEN in found else NOT_SEEN
    return IN_PART if found & {SEEN, IN_PART} else UNJUDGED
