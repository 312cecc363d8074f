"""The page of a run as a reader meets it: tables by their title, and paragraphs."""

from html.parser import HTMLParser
from typing import NamedTuple

from fabricated import BLANK

from misgiving.reproduction.report.page import render_page


class Cell(NamedTuple):
    text: str
    small: tuple[str, ...]


class Reader(HTMLParser):
    """Tables as rows of cells, under the summary of their fold or else their caption."""

    def __init__(self):
        super().__init__()
        self.tables, self.paragraphs, self.title, self.open = {}, [], "", []

    def handle_starttag(self, tag, attrs):
        if tag in ("summary", "p", "li", "td", "th", "small", "caption", "h2"):
            self.open.append((tag, dict(attrs).get("class", ""), []))
        elif tag == "tr":
            self.tables.setdefault(self.title, []).append([])

    def handle_data(self, data):
        if self.open:
            self.open[-1][2].append(data)

    def handle_endtag(self, tag):
        if tag == "details":
            self.title = ""
        if not self.open or self.open[-1][0] != tag:
            return
        _, kind, parts = self.open.pop()
        text = " ".join("".join(part for part in parts if isinstance(part, str)).split())
        if tag == "small":
            self.open[-1][2].append((text,))
        elif tag in ("td", "th"):
            small = tuple(part[0] for part in parts if isinstance(part, tuple))
            self.tables[self.title][-1].append(Cell(text, small))
        elif tag in ("summary", "h2"):
            self.title = text
        else:
            self.paragraphs.append((tag, kind, text))

    def texts(self, tag, kind=""):
        return [text for name, its, text in self.paragraphs if name == tag and kind in ("", its)]


def read(run):
    """The page without its figures, which take most of the time."""
    reader = Reader()
    reader.feed(render_page(run, BLANK))
    return reader


def findings(run, words):
    """The findings in which the words are."""
    return [text for text in read(run).texts("p", "finding") if words in text]


def missing(run):
    return " ".join(read(run).texts("p", "missing"))


def table(run, title, *, heads=1):
    """The rows of a table below its headings; a cell that spans rows is in the first alone."""
    return read(run).tables[title][heads:]


def texts(rows):
    return [[cell.text for cell in row] for row in rows]
