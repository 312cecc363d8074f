"""Tables of comma-separated values, in which no text is a formula that a spreadsheet computes."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Literal

from misgiving.files import whole_file

SIGNS = r"=+\-@\uff1d\uff0b\uff0d\uff20\ufe62\ufe63\ufe66\ufe6b"
BLANK = r"\s'\u200b\ufeff"
FORMULA = re.compile(rf"[{BLANK}]*[{SIGNS}]|'*[\t\r]")
"""Start of text that a spreadsheet would compute, also with the full-width and small signs of East
Asian keyboards and behind characters without width; or of such text behind apostrophes."""

RUN = re.compile(rf"(;[{BLANK}]*+|[{BLANK}]++)([{SIGNS}]?)")
"""Blank characters, of which semicolons and line ends begin cells, and a sign after all of them."""

STARTS = re.compile(r"(?<=[;\r\n])(?='*[\t\r])"), re.compile(r"(?<=[;\r\n])")
ESCAPED = re.compile(r"(?<=[;\r\n])'(?='*[\t\r])"), re.compile(r"(?<=[;\r\n])'")
"""Formulas in a run without a sign, and in one with a sign."""

NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?(?:e[+-]?\d+)?|inf)", re.ASCII)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table whole or not at all; None and NaN become empty cells."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        file.writelines(csv_lines(header, (map(_cell, row) for row in rows)))


def _cell(value: object) -> object:
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def csv_lines(
    header: Sequence[str],
    rows: Iterable[Iterable[object]],
    *,
    end: str = "\n",
    quoting: Literal[0, 2] = csv.QUOTE_MINIMAL,
) -> Iterator[str]:
    """Lines of a table as comma-separated values, without any text that is a formula."""
    writer = csv.writer(_Echo(), lineterminator="\r\n", quoting=quoting)  # \r and \n are quoted
    for cells in chain([header], rows):
        line = writer.writerow([escape_formulas(c) if isinstance(c, str) else c for c in cells])
        yield line.removesuffix("\r\n") + end


class _Echo:
    """A file whose `write` gives back what it was given."""

    def write(self, text: str) -> str:
        return text


def csv_rows(file: Iterable[str], *, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Rows of comma-separated values, the inverse of `csv_lines`, with the lines where they end.

    Raises:
        csv.Error: It is not CSV; the message names the line.
    """
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            escaped = "'" in "".join(cells)
            yield reader.line_num, [*map(unescape_formulas, cells)] if escaped else cells
    except csv.Error as failure:
        raise csv.Error(f"line {reader.line_num}: {failure}") from failure


@lru_cache  # classes, decisions and most reasons are repeated
def escape_formulas(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would compute; a number stays.

    >>> escape_formulas("=1+1"), escape_formulas("a;=1+1;.png"), escape_formulas("'=1+1")
    ("'=1+1", "a;'=1+1;.png", "''=1+1")
    >>> escape_formulas("lesion 7"), escape_formulas("-7"), escape_formulas("it's")
    ('lesion 7', '-7', "it's")
    """
    if NUMBER.fullmatch(text):
        return text
    if ";" in text or "\n" in text or "\r" in text:  # the search takes longer
        text = RUN.sub(lambda run: STARTS[bool(run[2])].sub("'", run[1]) + run[2], text)
    return f"'{text}" if FORMULA.match(text) else text


def unescape_formulas(text: str) -> str:
    """Inverse of `escape_formulas`.

    >>> unescape_formulas("'=1+1"), unescape_formulas("''=1+1"), unescape_formulas("it's")
    ('=1+1', "'=1+1", "it's")
    """
    text = RUN.sub(lambda run: ESCAPED[bool(run[2])].sub("", run[1]) + run[2], text)
    return text[1:] if text.startswith("'") and FORMULA.match(text, 1) else text
