"""Tables as records, and cells with a value and its interval or its spread over trials."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from misgiving.report.findings import BASELINES, MINUS, POINTS, Effect, Scale, effect_of
from misgiving.report.inputs import (
    ReportInputs,
    Spread,
    differences_by_trial,
    distinct,
    find,
    models_of,
    select,
    spread,
)
from misgiving.report.names import DETECTOR_TITLES
from misgiving.report.published import title
from misgiving.report.wording import count
from misgiving.results.schema import Result, ResultInterval

ABSENT = "\N{EN DASH}"  # not defined for a model, or not measured
TUNED = "ODIN is tuned on this set"
ZERO = "\N{WHITE CIRCLE}"  # marks a difference whose interval includes zero
OVER_TRIALS = "t "  # before a t-interval over trials
DOWN, UP = "\N{DOWNWARDS ARROW}", "\N{UPWARDS ARROW}"  # the better direction of a metric
DECIDED = (Effect.BETTER, Effect.WORSE)


class Cell(NamedTuple):
    """A cell; with a `scope` (`row` or `col`) it is a heading, and `small` lines stand below."""

    text: str
    small: tuple[str, ...] = ()
    kind: str = ""
    scope: str = ""
    rows: int = 1
    columns: int = 1


Rows = list[list[Cell]]


class Table(NamedTuple):
    """Rows of headings, and groups of rows between which a line is drawn."""

    heads: Rows
    bodies: list[Rows]


class Line(NamedTuple):
    """A quantity of every model: its words, and the fields by which rows of it are found."""

    text: str
    wanted: Mapping[str, Any]


class Block(NamedTuple):
    """Lines that belong together under one name, with fainter words beneath it."""

    name: str
    tags: Sequence[str]
    lines: Sequence[Line]


def heads(*texts: str, numbers: Iterable[str] = ()) -> list[Cell]:
    """A row of headings, those above numbers last."""
    return [
        *(Cell(text, scope="col") for text in texts),
        *(Cell(text, scope="col", kind="number") for text in numbers),
    ]


def group(name: str, lines: Sequence[list[Cell]], tags: Sequence[str] = ()) -> Rows:
    """Rows under one heading that spans them."""
    first = Cell(name, tuple(tags), scope="row", rows=len(lines))
    return [[first, *line] if index == 0 else line for index, line in enumerate(lines)]


def number(text: str, small: str = "") -> Cell:
    """A cell with a number, and a fainter one below it."""
    return Cell(text, (small,) if small else (), kind="number")


def mean(values: Spread | None, scale: Scale) -> Cell:
    """The mean over trials above the standard deviation."""
    if values is None:
        return number(ABSENT)
    deviation = "" if values.deviation is None else f"± {scale.number(values.deviation)}"
    return number(scale.number(values.mean), deviation)


def bounds(lower: float | None, upper: float | None, scale: Scale) -> str:
    """The ends of an interval in brackets."""
    if lower is None or upper is None:
        return "(no interval)"
    return f"({scale.number(lower)} to {scale.number(upper)})"


def estimate(interval: ResultInterval | None, values: Spread | None, scale: Scale) -> Cell:
    """A value above its interval or, where there is none, above the spread over trials."""
    if interval is None:
        return mean(values, scale)
    return number(scale.number(interval.estimate), bounds(interval.lower, interval.upper, scale))


def difference(
    pair: ResultInterval | None, scale: Scale, by_trial: Mapping[int, float] | None = None
) -> Cell:
    """A paired difference above its bootstrap interval, marked where this includes zero.

    Below stand the t-interval over trials, and the difference of each trial where it is given.
    """
    if pair is None:
        return Cell(ABSENT, kind="difference")
    effect = effect_of(pair)
    mark = f" {ZERO}" if effect is Effect.UNDECIDED else ""
    lines = [bounds(pair.lower, pair.upper, scale)]
    if pair.trial_lower is not None:
        lines.append(f"{OVER_TRIALS}{bounds(pair.trial_lower, pair.trial_upper, scale)}")
    if by_trial:
        lines.append(scale.by_trial(by_trial))
    return Cell(
        f"{scale.number(pair.estimate, sign='+')}{mark}",
        tuple(lines),
        kind="difference decided" if effect in DECIDED else "difference",
    )


def minus(baseline: str) -> str:
    """The heading of a paired difference."""
    return f"proposed {MINUS} {baseline}"


def pair_cell(inputs: ReportInputs, baseline: str, line: Line) -> Cell:
    """The paired difference of the proposed model from a baseline, with that of each trial."""
    by_trial = differences_by_trial(inputs.results, "proposed", baseline, line.wanted)
    return difference(pair_of(inputs, baseline, line), POINTS, by_trial)


def pair_of(inputs: ReportInputs, baseline: str, line: Line) -> ResultInterval | None:
    """The paired difference of the proposed model from a baseline; None where there is none."""
    return find(inputs.intervals, model="proposed", baseline=baseline, **line.wanted)


def value(inputs: ReportInputs, line: Line, model: str) -> Cell:
    """The mean over trials."""
    return mean(spread(select(inputs.results, model=model, **line.wanted)), POINTS)


def comparison_table(
    inputs: ReportInputs, blocks: Sequence[Block], *titles: str, models: Sequence[str] = ()
) -> Table | None:
    """A row for each line: every model, and proposed minus vanilla and minus detached.

    `titles` are above the blocks' names and, where blocks have several lines, the lines' words.
    """
    lines = [line for block in blocks for line in block.lines]
    found = [row for line in lines for row in select(inputs.results, **line.wanted)]
    shown = models_of(found if not models else [row for row in found if row.model in models])
    if not shown:
        return None
    baselines = [name for name in BASELINES if {name, "proposed"} <= set(shown)]

    def cells(line: Line) -> list[Cell]:
        return [
            *([Cell(line.text)] if len(titles) > 1 else []),
            *(value(inputs, line, model) for model in shown),
            *(pair_cell(inputs, name, line) for name in baselines),
        ]

    return Table(
        [heads(*titles, numbers=(*shown, *map(minus, baselines)))],
        [group(block.name, list(map(cells, block.lines)), block.tags) for block in blocks],
    )


def estimates(
    inputs: ReportInputs, rows: Sequence[Result], metrics: Mapping[str, tuple[str, Scale]]
) -> list[Cell]:
    """The value of each metric among rows that differ in metric and trial alone."""
    if not rows:
        return [number(ABSENT)] * len(metrics)
    return [
        estimate(
            interval_like(inputs, rows[0], metric=metric),
            spread(select(rows, metric=metric)),
            scale,
        )
        for metric, (_, scale) in metrics.items()
    ]


def interval_like(
    inputs: ReportInputs, row: Result, *, metric: str, baseline: str = ""
) -> ResultInterval | None:
    """The interval of a metric where a result was measured; None where there is none."""
    keys = ("experiment", "model", "dataset", "detector")
    where = {key: getattr(row, key) for key in keys}
    return find(inputs.intervals, metric=metric, baseline=baseline, **where)


def detectors_of(rows: Iterable[Result]) -> list[str]:
    """The detectors that occur: known ones in their order, then any others."""
    present = distinct(rows, "detector")
    return [name for name in DETECTOR_TITLES if name in present] + [
        name for name in present if name not in DETECTOR_TITLES
    ]


def set_tags(inputs: ReportInputs, dataset: str, *, full: bool = False) -> list[str]:
    """Facts about a set: its size, the paper's set that it is or stands in for, ODIN's tuning.

    `full` adds its contents.
    """
    facts = inputs.datasets.get(dataset)
    tags = []
    if inputs.stands_in(dataset):
        tags.append(f"stands in for {title(inputs.paper_set(dataset))}")
    tags += filter(None, [inputs.origin(dataset)])
    if facts is not None:
        tags += [facts.contents] if full else []
        tags += [count(facts.images, "images")]
        tags += [count(facts.groups, "groups")] if facts.groups != facts.images else []
    return [*tags, TUNED] if dataset in inputs.tuned else tags
