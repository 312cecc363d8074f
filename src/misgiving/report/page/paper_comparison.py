"""Our numbers beside the paper's: what differs in data and settings, and then every number."""

from collections.abc import Iterator, Sequence

from misgiving.report import markup
from misgiving.report.inputs import Material
from misgiving.report.page.comparisons import Line, difference_from, set_tags, value
from misgiving.report.page.differences import NONE, differences
from misgiving.report.published import (
    FIGURE_3,
    FIGURE_5,
    READ_OTHERWISE,
    SETS,
    Published,
    table_1,
    title,
)
from misgiving.report.tables import POINTS, ResultInterval

METRICS = {
    "fpr_at_tpr95": f"FPR@TPR95 {markup.DOWN}",
    "detection_error": f"DTERR {markup.DOWN}",
    "auroc": f"AUROC {markup.UP}",
    "aupr_in": f"AUPR-In {markup.UP}",
    "aupr_out": f"AUPR-Out {markup.UP}",
    "balanced_accuracy": f"Balanced accuracy {markup.UP}",
}
CAPTION = (
    "Every number that the paper prints, in %, and the same quantity here: mean over trials, "
    "± standard deviation over trials. The difference is proposed minus vanilla in points, ours "
    "paired and with its 95 % interval; the last column says whether this interval holds the "
    f"paper's difference. {markup.ZERO_SAID} The detector is ODIN, tuned on the set that is marked."
)


def beside(material: Material) -> str:
    """The section that sets a dermoscopy run beside the paper."""
    differ = differences(material) or [NONE]
    return (
        '<section id="beside"><h2>Beside the paper</h2>'
        + "<h3>What differs from the paper in data and settings</h3>"
        + markup.items(differ)
        + "<h3>Every number that the paper prints, and ours</h3>"
        + f"{_table(material)}</section>"
    )


def _table(material: Material) -> str:
    over = [markup.head(text, rows=2) for text in ("Set", "Metric")]
    wide = [markup.head("The paper", columns=3), markup.head("Here", columns=3)]
    inside = markup.head("Paper's difference in our interval?", rows=2)
    names = [markup.number_head(text) for text in ("vanilla", "proposed", "difference") * 2]
    heads = [markup.row(*over, *wide, inside), markup.row(*names)]
    return markup.table(CAPTION, heads, _bodies(material))


def _bodies(material: Material) -> Iterator[str]:
    held_out = [f"{material.measured}, all classes (4.1)"]
    yield _block(material, "Figure 3", held_out, material.measured, [FIGURE_3])
    for row, paper in SETS.items():
        cells = list(table_1(row))
        found = material.sets_of(row)
        if not found:
            yield _unmeasured(paper.title, cells)
        for name in found:
            tags = [*set_tags(material, name, full=True), *_beyond(material, name, row)]
            yield _block(material, title(name), tags, name, cells)
    unseen = ["all unseen classes (4.3)"]
    yield _block(material, "Figure 5", unseen, FIGURE_5.dataset, [FIGURE_5])


def _beyond(material: Material, name: str, row: str) -> list[str]:
    """How many images the paper had, and how many of ours gave no crop."""
    facts = material.datasets.get(name, {})
    paper = facts.get("paper_images") or SETS[row].images
    left_out = facts.get("left_out")
    another = (
        []
        if name not in READ_OTHERWISE
        else [f"another reading, beside the paper's {SETS[row].title}"]
    )
    dropped = [f"{left_out} left out: no clean crop"] if left_out else []
    return [*another, f"paper: {paper:,} images", *dropped]


def _unmeasured(name: str, cells: Sequence[Published]) -> str:
    rows = []
    for index, cell in enumerate(cells):
        first = [markup.row_head(name, rows=len(cells))] if index == 0 else []
        absent = markup.cell("not measured", columns=4)
        rows.append(markup.row(*first, markup.cell(METRICS[cell.metric]), *_paper(cell), absent))
    return markup.body(rows)


def _block(
    material: Material, name: str, tags: Sequence[str], dataset: str, cells: Sequence[Published]
) -> str:
    rows = []
    for index, cell in enumerate(cells):
        first = [markup.row_head(name, rows=len(cells), tags=tags)] if index == 0 else []
        rows.append(markup.row(*first, *_row(material, dataset, cell)))
    return markup.body(rows)


def _row(material: Material, dataset: str, cell: Published) -> list[str]:
    wanted = {"experiment": cell.experiment, "dataset": dataset, "detector": cell.detector}
    line = Line(METRICS[cell.metric], {**wanted, "metric": cell.metric})
    pair = difference_from(material, "vanilla", line)
    ours = [value(material, line, model, pair) for model in ("vanilla", "proposed")]
    difference = markup.difference(pair, POINTS)
    inside = markup.cell(_inside(cell, pair))
    return [markup.cell(line.text), *_paper(cell), *ours, difference, inside]


def _paper(cell: Published) -> list[str]:
    values = [markup.number(str(number)) for number in (cell.vanilla, cell.proposed)]
    return [*values, markup.number(POINTS.number(cell.difference, sign="+"))]


def _inside(cell: Published, pair: ResultInterval | None) -> str:
    if pair is None or pair.lower is None or pair.upper is None:
        return markup.ABSENT
    return "yes" if pair.lower <= cell.difference <= pair.upper else "no"
