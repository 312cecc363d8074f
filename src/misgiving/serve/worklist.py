"""The worklist as a table for spreadsheets."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from misgiving.files import harmless
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
    "ood_p_value",
    "score",
    "ood_score",
    "reason",
    "reviewed",
)
OF_REVIEW = ("verdict", "final_class", "note", "reviewer", "reviewed_at")
OF_ORIGIN = ("sha256", "model_fingerprint", "policy_fingerprint")
HEADER = (*OF_CASE, *OF_REVIEW, *OF_ORIGIN)
AT_ONCE = 100


def csv_lines(cases: Iterable[Case]) -> Iterator[str]:
    """The header, and then the cases in pieces of some lines."""
    yield _lines([HEADER])
    rows = map(_row, cases)
    while piece := list(islice(rows, AT_ONCE)):
        yield _lines(piece)


def _lines(rows: Iterable[Sequence[object]]) -> str:
    """Ended as RFC 4180 says; texts are quoted, so that no separator within one ends its cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n", quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    return text.getvalue()


def _row(case: Case) -> list[Any]:
    values = case.model_dump(mode="json")
    review = values["review"] or dict.fromkeys(OF_REVIEW)
    found = [*(values[name] for name in OF_CASE), *(review[name] for name in OF_REVIEW)]
    return [_cell(value) for value in [*found, *(values[name] for name in OF_ORIGIN)]]


def _cell(value: object) -> object:
    """Words for yes and no, and no formulas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return harmless(value) if isinstance(value, str) else value
