"""Numbers and tables of the study's page of results."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import mean

from study_hypotheses import ENOUGH_TRIALS, Values

from misgiving.metrics.uncertainty import t_interval

FEWER = f"the value of each trial if there are fewer than {ENOUGH_TRIALS}"


def number(value: float, *, signed: bool = False, digits: int = 4) -> str:
    """So many decimals with a true minus sign."""
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "\N{MINUS SIGN}")


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(cells)} |" for cells in lines)
    yield ""


def by_trial(values: Values) -> str:
    """Signed values."""
    return ", ".join(number(value, signed=True) for value in values.values()) or "-"


def with_interval(values: Values, ratio: float) -> str:
    """Mean difference with its t-interval; of few trials, the values."""
    if values and not any(values.values()):
        return "0 in each trial"
    if len(values) < ENOUGH_TRIALS:
        return by_trial(values)
    interval = t_interval(list(values.values()), split_ratio=ratio)
    ends = " to ".join(number(end, signed=True) for end in (interval.lower, interval.upper))
    return f"{number(interval.mean, signed=True)} ({ends})"


def average(values: Values, *, digits: int = 4) -> str:
    """Mean over trials, or a dash."""
    return number(mean(values.values()), digits=digits) if values else "-"
