"""The worklist as a table for spreadsheets."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from misgiving.serve.records import Case

OF_CASE = (
    "id",
    "received",
    "name",
    "decision",
    "predicted_class",
    "probability",
    "error_probability",
    "expected_loss",
    "predicted_loss",
    "foreign_p_value",
    "score",
    "foreign_score",
    "reason",
    "reviewed",
)
OF_REVIEW = ("verdict", "final_class", "note", "reviewer", "reviewed_at")
OF_ORIGIN = ("sha256", "model_fingerprint", "policy_fingerprint")
HEADER = (*OF_CASE, *OF_REVIEW, *OF_ORIGIN)
FORMULA = ("=", "+", "-", "@", "\t", "\r")
AT_ONCE = 100


def csv_lines(cases: Iterable[Case]) -> Iterator[str]:
    """The header, and then the cases in pieces of some lines."""
    yield _lines([HEADER])
    rows = map(_row, cases)
    while piece := list(islice(rows, AT_ONCE)):
        yield _lines(piece)


def _lines(rows: Iterable[Sequence[object]]) -> str:
    """Ended as RFC 4180 says, so that both kinds of line end within a text are quoted."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()


def _row(case: Case) -> list[Any]:
    values = case.model_dump(mode="json")
    review = values["review"] or dict.fromkeys(OF_REVIEW)
    found = [*(values[name] for name in OF_CASE), *(review[name] for name in OF_REVIEW)]
    return [_harmless(value) for value in [*found, *(values[name] for name in OF_ORIGIN)]]


def _harmless(value: object) -> object:
    """A text that a spreadsheet would compute gets an apostrophe before it.

    >>> _harmless("=1+1"), _harmless(-0.5), _harmless("lesion 7")
    ("'=1+1", -0.5, 'lesion 7')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
