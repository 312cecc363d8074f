"""Elements of the page: HTML from text and numbers.

What is named `text` is plain and gets escaped here; what is named `content` is HTML already.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Literal

from matplotlib.figure import Figure

from misgiving.report.figures import render
from misgiving.report.tables import ResultInterval, Scale, Spread, Verdict, verdict
from misgiving.report.wording import UNKNOWN, count, in_words, label

__all__ = ["UNKNOWN", "count", "in_words", "label"]
ABSENT = "\N{EN DASH}"  # what a model does not have, or was not measured
TUNED = "ODIN is tuned on this set"
ZERO = "\N{WHITE CIRCLE}"  # marks a difference whose interval includes zero
ZERO_SAID = f"{ZERO}: the interval includes zero, so that the two are not told apart."
DOWN, UP = "\N{DOWNWARDS ARROW}", "\N{UPWARDS ARROW}"  # which way a metric is better


def head(text: str, *, rows: int = 1, columns: int = 1) -> str:
    """A heading of columns."""
    spans = (f' rowspan="{rows}"' * (rows > 1)) + (f' colspan="{columns}"' * (columns > 1))
    return f'<th scope="col"{spans}>{escape(text)}</th>'


def number_head(text: str) -> str:
    """A heading above numbers, which stand to the right."""
    return f'<th scope="col" class="number">{escape(text)}</th>'


def row_head(text: str, *, rows: int = 1, tags: Sequence[str] = ()) -> str:
    """A heading of one or several rows, with fainter lines beneath it."""
    spans = f' rowspan="{rows}"' * (rows > 1)
    below = "".join(
        f"<small{' class=tuned' * (tag == TUNED)}>{escape(tag)}</small>" for tag in tags
    )
    return f'<th scope="row"{spans}>{escape(text)}{below}</th>'


def cell(text: str, *, columns: int = 1) -> str:
    """A cell of words."""
    spans = f' colspan="{columns}"' * (columns > 1)
    return f"<td{spans}>{escape(text)}</td>"


def items(texts: Iterable[str]) -> str:
    """A list of sentences."""
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def number(text: str, *, small: str = "", bold: bool = False) -> str:
    """A cell with a number, and a `small` one below it."""
    content = f"<strong>{escape(text)}</strong>" if bold else escape(text)
    below = f"<small>{escape(small)}</small>" if small else ""
    return f'<td class="number">{content}{below}</td>'


def mean(values: Spread | None, scale: Scale, *, bold: bool = False) -> str:
    """A cell with the mean over trials, and the standard deviation below it."""
    if values is None:
        return number(ABSENT)
    deviation = "" if values.deviation is None else f"± {scale.number(values.deviation)}"
    return number(scale.number(values.mean), small=deviation, bold=bold)


def bounds(interval: ResultInterval, scale: Scale) -> str:
    """The ends of an interval in brackets."""
    if interval.lower is None or interval.upper is None:
        return "(no interval)"
    return f"({scale.number(interval.lower)} to {scale.number(interval.upper)})"


def estimate(interval: ResultInterval | None, values: Spread | None, scale: Scale) -> str:
    """A cell with a value and its interval, or where there is none, the spread over trials."""
    if interval is None:
        return mean(values, scale)
    return number(scale.number(interval.estimate), small=bounds(interval, scale))


def folded(summary: str, content: str) -> str:
    """What is shown only where the reader opens it; printed in full."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def difference(pair: ResultInterval | None, scale: Scale) -> str:
    """A cell with a paired difference above its interval, marked where this includes zero."""
    if pair is None:
        return number(ABSENT)
    outcome = verdict(pair)
    kind = "difference told" if outcome in (Verdict.BETTER, Verdict.WORSE) else "difference"
    mark = f" {ZERO}" if outcome is Verdict.TIED else ""
    estimate = f"{scale.number(pair.estimate, sign='+')}{mark}"
    below = f"<small>{escape(bounds(pair, scale))}</small>"
    return f'<td class="{kind}">{escape(estimate)}{below}</td>'


def row(*cells: str) -> str:
    """A row of cells."""
    return f"<tr>{''.join(cells)}</tr>"


def body(rows: Iterable[str], *, ruled: bool = True) -> str:
    """Rows that belong together; `ruled` draws a faint line between them."""
    return f"<tbody{' class=plain' * ruled}>{''.join(rows)}</tbody>"


def table(caption: str, heads: Sequence[str], bodies: Iterable[str]) -> str:
    """A table with its caption; it scrolls by itself where the screen is narrow."""
    top = f"<thead>{''.join(heads)}</thead>" if heads else ""
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{escape(caption)}</caption>'
        f"{top}{''.join(bodies)}</table></div>"
    )


def pairs(caption: str, facts: Mapping[str, Any]) -> str:
    """A table of names and values."""
    rows = [row(row_head(label(name)), cell(in_words(value))) for name, value in facts.items()]
    return table(caption, [], [body(rows)])


def figure(drawn: Figure, caption: str, *, alt: str, kind: Literal["svg", "jpg"] = "svg") -> str:
    """A figure within the page; `alt` says it to those who cannot see it."""
    media = {"svg": "image/svg+xml", "jpg": "image/jpeg"}[kind]
    content = base64.b64encode(render(drawn, kind)).decode("ascii")
    return (
        f'<figure><img alt="{escape(alt)}" src="data:{media};base64,{content}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def paragraph(kind: str, text: str) -> str:
    """A paragraph of a kind that the page's style knows: finding, holds, note or missing."""
    return f'<p class="{kind}">{escape(text)}</p>'
