"""Cells of the tables of an evaluation."""

from collections.abc import Iterable
from typing import NamedTuple

ABSENT = "\N{EN DASH}"  # not defined
TUNED = "ODIN is tuned on this set"


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


def heads(*texts: str, numbers: Iterable[str] = ()) -> list[Cell]:
    """A row of headings, those above numbers last."""
    return [
        *(Cell(text, scope="col") for text in texts),
        *(Cell(text, scope="col", kind="number") for text in numbers),
    ]


def number(text: str, small: str = "") -> Cell:
    """A cell with a number, and a fainter one below it."""
    return Cell(text, (small,) if small else (), kind="number")
