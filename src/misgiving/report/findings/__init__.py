"""The effect of a paired difference by its bootstrap interval, and the numbers in words."""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from misgiving.results.schema import ResultInterval

MINUS = "\N{MINUS SIGN}"
BOOTSTRAP = "bootstrap, unadjusted"
"""The label of every bootstrap interval, over trials and groups of images together."""
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
        "error_per_group",
        "ood_share",
    }
)  # a metric at one of several levels, such as risk_at_coverage/0.8, by the name before the slash


class Effect(StrEnum):
    """The effect of a paired difference by its bootstrap interval."""

    BETTER = "better"
    UNDECIDED = "the interval includes zero"
    WORSE = "worse"
    UNKNOWN = "no interval"


def effect_of(difference: ResultInterval | None) -> Effect:
    """Judge a paired difference by its bootstrap interval alone."""
    if difference is None or difference.lower is None or difference.upper is None:
        return Effect.UNKNOWN
    if difference.lower <= 0 <= difference.upper:
        return Effect.UNDECIDED
    rises = difference.lower > 0
    falling = difference.metric.partition("/")[0] in LOWER_IS_BETTER
    return Effect.WORSE if rises == falling else Effect.BETTER


def by_effect(
    differences: Iterable[ResultInterval | None],
) -> dict[Effect, list[ResultInterval | None]]:
    """The differences under each effect."""
    groups: dict[Effect, list[ResultInterval | None]] = {effect: [] for effect in Effect}
    for difference in differences:
        groups[effect_of(difference)].append(difference)
    return groups


class Order(StrEnum):
    """The order of two values whose intervals are not paired: only disjoint ones decide."""

    HIGHER = "higher"
    LOWER = "lower"
    OVERLAPPING = "not clearly different"
    UNKNOWN = "without an interval"


def order_of(first: ResultInterval | None, second: ResultInterval | None) -> Order:
    """Compare two values that have no paired difference."""
    ends = [end for row in (first, second) if row for end in (row.lower, row.upper)]
    known = [end for end in ends if end is not None]
    if len(known) < 4:
        return Order.UNKNOWN
    if known[0] > known[3]:
        return Order.HIGHER
    return Order.LOWER if known[1] < known[2] else Order.OVERLAPPING


class Scale(NamedTuple):
    """The unit and the precision of a metric's values in words.

    >>> Scale(100.0, 1, " points").number(0.25, sign="+"), Scale(1.0, 2, "").number(-0.001)
    ('+25.0', '0.00')
    """

    factor: float
    digits: int
    unit: str

    def number(self, value: float, *, sign: str = "") -> str:
        """The value without its unit; a value that rounds to zero has no minus sign."""
        rounded = round(self.factor * value, self.digits) + 0.0
        return f"{rounded:{sign}.{self.digits}f}".replace("-", MINUS)

    def range(self, values: Sequence[float]) -> str:
        """The lowest and the highest value; one number where they are written alike."""
        ends = [self.number(end) for end in (min(values), max(values))]
        return ends[0] if ends[0] == ends[1] else " to ".join(ends)

    def bounds(self, interval: ResultInterval) -> str:
        """The bootstrap interval in words; of a difference also whether it includes zero."""
        if interval.lower is None or interval.upper is None:
            return "no interval available"
        ends = [self.number(bound) for bound in (interval.lower, interval.upper)]
        undecided = interval.baseline and effect_of(interval) is Effect.UNDECIDED
        included = ", which includes zero" if undecided else ""
        return f"95 % interval {ends[0]} to {ends[1]}{included}, {BOOTSTRAP}"

    def difference(self, interval: ResultInterval) -> str:
        """A signed difference with its unit and interval."""
        estimate = self.number(interval.estimate, sign="+")
        return f"{estimate}{self.unit} ({self.bounds(interval)})"

    def brief(self, interval: ResultInterval) -> str:
        """A signed difference with the ends of its interval alone, in a sentence that labels it."""
        ends = [self.number(end) for end in (interval.lower, interval.upper) if end is not None]
        return f"{self.number(interval.estimate, sign='+')}{self.unit} ({' to '.join(ends)})"

    def by_trial(self, differences: Mapping[int, float]) -> str:
        """The signed differences trial by trial; their range where they are many."""
        values = [differences[trial] for trial in sorted(differences)]
        if len(values) > MOST_LISTED:
            return f"{len(values)} values from {self.range(values)}"
        return ", ".join(self.number(value, sign="+") for value in values)


POINTS = Scale(100.0, 1, " points")
PLAIN = Scale(1.0, 3, "")
MOST_LISTED = 10  # trials whose values are listed one by one
WITHOUT_UNIT = (
    *("spearman", "spearman_plain", "order_agreement"),
    *("aurc", "augrc", "excess_aurc", "balanced_aurc"),
)


def scale_of(metric: str) -> Scale:
    """The scale on which a metric is written: in points, or as it is."""
    return PLAIN if metric in WITHOUT_UNIT else POINTS


class Comparison(NamedTuple):
    """The words for a paired difference: `subject` does `verb` better or worse than a baseline."""

    subject: str
    verb: str
    quantity: str
    scale: Scale = POINTS

    def clause(self, baseline: str, difference: ResultInterval | None) -> str:
        """One paired difference with its numbers, as a sentence without a full stop."""
        if difference is None:
            return capitalized(
                f"intervals.csv has no difference from {baseline} in {self.quantity}"
            )
        start = {
            Effect.BETTER: f"{self.subject} {self.verb} better than {baseline}",
            Effect.WORSE: f"{self.subject} {self.verb} worse than {baseline}",
            Effect.UNDECIDED: f"no clear difference from {baseline}",
            Effect.UNKNOWN: f"the difference from {baseline} cannot be judged",
        }[effect_of(difference)]
        return capitalized(f"{start}: {self.quantity} {self.scale.difference(difference)}")


def capitalized(text: str) -> str:
    """The text with its first letter in upper case.

    >>> capitalized("the MSP")
    'The MSP'
    """
    return text[:1].upper() + text[1:]


BASELINES = ("vanilla", "detached")
"""The baselines that stand beside the proposed model in every table.

`detached`, a ranking estimator without a gradient into the classifier, shows the effect of the
joint gradient; a difference from vanilla alone may come from anything that an estimator changes.
"""
