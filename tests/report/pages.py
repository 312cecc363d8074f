"""The page of a run as a reader meets it: tables by their title, and paragraphs."""

from html.parser import HTMLParser
from typing import NamedTuple

from fabricated import BLANK

from misgiving.report.reproduction.page import render_page


class Cell(NamedTuple):
    text: str
    small: tuple[str, ...]
    kind: str


class Reader(HTMLParser):
    """Tables as rows of cells, under the summary of their fold or else their caption."""

    def __init__(self):
        super().__init__()
        self.tables, self.paragraphs, self.title, self.open, self.text = {}, [], "", [], ""

    def handle_starttag(self, tag, attrs):
        kind = dict(attrs).get("class", "")
        if tag in ("summary", "p", "li", "td", "th", "small", "caption", "h2", "figcaption"):
            self.open.append((tag, kind, []))
            self.text = ""
        elif tag == "tr":
            self.tables.setdefault(self.title, []).append([])

    def handle_data(self, data):
        if self.open:
            self.open[-1][2].append(data)

    def handle_endtag(self, tag):
        if tag == "details":
            self.title = ""
        if self.open and self.open[-1][0] == tag:
            _, kind, parts = self.open.pop()
            words = "".join(part for part in parts if isinstance(part, str))
            self.finish(tag, kind, parts, " ".join(words.split()))

    def finish(self, tag, kind, parts, text):
        if tag == "small":
            self.open[-1][2].append((text,))
        elif tag in ("td", "th"):
            small = tuple(part[0] for part in parts if isinstance(part, tuple))
            self.tables[self.title][-1].append(Cell(text, small, kind))
        elif tag in ("summary", "h2"):
            self.title = text
        else:
            self.paragraphs.append((tag, kind, text))


def read(run):
    """The page without its figures, which take most of the time."""
    reader = Reader()
    reader.feed(render_page(run, BLANK))
    return reader


def findings(run, start=""):
    """The findings whose text starts so."""
    return [t for tag, kind, t in read(run).paragraphs if kind == "finding" and start in t]


def missing(run):
    return " ".join(text for _, kind, text in read(run).paragraphs if kind == "missing")


def table(run, title, *, heads=1):
    """The rows of a table below its headings; a cell that spans rows is in the first alone."""
    return read(run).tables[title][heads:]


def texts(rows):
    return [[cell.text for cell in row] for row in rows]
