"""Tables of comma-separated values, in which no text is a formula (see `escape_formulas`)."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

from misgiving.files import escape_formulas, unescape_formulas, whole_file


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
