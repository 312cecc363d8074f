"""Tables that set the models beside each other, with the paired differences that judge them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from misgiving.report import markup, tables
from misgiving.report.inputs import Material, stands_in
from misgiving.report.published import title
from misgiving.report.tables import POINTS, ResultInterval, Verdict, find, models_of, select, spread

BASELINES = ("vanilla", "detached")
SAID = (
    "Mean over trials in %, ± standard deviation over trials. Differences are paired, in points, "
    "with their 95 % interval; of vanilla and proposed the better is bold, only where this "
    "leaves out zero. "
    f"{markup.ZERO_SAID}"
)


class Line(NamedTuple):
    """A quantity of every model: its words, and the fields by which rows of it are found."""

    text: str
    wanted: Mapping[str, Any]


class Block(NamedTuple):
    """Lines that belong together under one name, with fainter words beneath it."""

    name: str
    tags: Sequence[str]
    lines: Sequence[Line]


def comparison_table(
    material: Material, caption: str, blocks: Sequence[Block], *, heads: Sequence[str]
) -> str:
    """A row for each line: every model, and proposed minus vanilla and minus detached.

    `heads` stand above the blocks' names and, where blocks have several lines, the lines' words.
    """
    lines = [line for block in blocks for line in block.lines]
    shown = [row for line in lines for row in select(material.results, **line.wanted)]
    models = models_of(shown)
    if not models:
        return ""
    baselines = [name for name in BASELINES if {name, "proposed"} <= set(models)]
    first = [markup.head(text) for text in heads]
    names = [markup.number_head(text) for text in (*models, *map(minus, baselines))]
    bodies = [_block(material, block, models, baselines, words=len(heads) > 1) for block in blocks]
    return markup.table(caption, [markup.row(*first, *names)], bodies)


def minus(baseline: str) -> str:
    """The heading of a paired difference."""
    return f"proposed {tables.MINUS} {baseline}"


def _block(
    material: Material,
    block: Block,
    models: Sequence[str],
    baselines: Sequence[str],
    *,
    words: bool,
) -> str:
    rows = []
    for index, line in enumerate(block.lines):
        name = [markup.row_head(block.name, rows=len(block.lines), tags=block.tags)]
        first = [*(name if index == 0 else []), *([markup.cell(line.text)] if words else [])]
        pairs = {baseline: difference_from(material, baseline, line) for baseline in baselines}
        values = [value(material, line, model, pairs.get("vanilla")) for model in models]
        differences = [markup.difference(pair, POINTS) for pair in pairs.values()]
        rows.append(markup.row(*first, *values, *differences))
    return markup.body(rows)


def difference_from(material: Material, baseline: str, line: Line) -> ResultInterval | None:
    """The paired difference of the proposed model from a baseline; None where there is none."""
    return find(material.intervals, model="proposed", baseline=baseline, **line.wanted)


def value(material: Material, line: Line, model: str, pair: ResultInterval | None) -> str:
    """A cell with the mean over trials, bold where the pair shows this model to be the better."""
    found = spread(select(material.results, model=model, **line.wanted))
    return markup.mean(found, POINTS, bold=model == _told_better(pair))


def _told_better(pair: ResultInterval | None) -> str:
    """The model of the pair that its interval shows to be better; empty where it shows neither."""
    if pair is None:
        return ""
    better = {Verdict.BETTER: pair.model, Verdict.WORSE: pair.baseline}
    return better.get(tables.verdict(pair), "")


def set_tags(material: Material, dataset: str, *, full: bool = False) -> list[str]:
    """What must be known of a set: its size, whether ODIN is tuned on it, and for what it stands.

    `full` adds what is in it.
    """
    facts, row = material.datasets.get(dataset, {}), material.row(dataset)
    told = [str(facts["contents"])] if full and facts.get("contents") else []
    counts = [
        markup.count(facts.get("images", markup.UNKNOWN), "images"),
        markup.count(facts.get("sources", markup.UNKNOWN), "groups"),
    ]
    tuned = [markup.TUNED] if dataset in material.tuned else []
    return [*stand_in_tag(dataset, row), *told, *counts, *tuned]


def stand_in_tag(dataset: str, row: str) -> list[str]:
    """The words that a set is not the paper's own; none where it is, or has no row there."""
    if not stands_in(dataset, row):
        return []
    return [f"stands in for {title(row)}"]
