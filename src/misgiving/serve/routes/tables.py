"""Tables of cases as CSV."""

import csv
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import Any

from fastapi.responses import StreamingResponse

from misgiving.csv_tables import csv_lines
from misgiving.deferral.decisions import COLUMNS
from misgiving.serve.case import Case, Review, classes_against, standing
from misgiving.serve.problems import content
from misgiving.serve.service import Service

CSV = content("text/csv", {"type": "string"})
CSV_ROWS = 100  # in one chunk
CASE_COLUMNS = ("id", "received", "name", *COLUMNS, "place", "remark", "reviewed")
AUDIT_COLUMNS = ["group", "audited", "standing", "label"]
REVIEW_COLUMNS = list(Review.model_fields)
ORIGIN_COLUMNS = ["sha256", "model_fingerprint", "policy_fingerprint"]
CSV_COLUMNS = [*CASE_COLUMNS, *REVIEW_COLUMNS, *ORIGIN_COLUMNS, *AUDIT_COLUMNS]


def cases_as_csv(
    service: Service, file: str, cases: Iterable[Case], **more: Callable[[Case], object]
) -> StreamingResponse:
    """A table of cases, with more columns by their names."""
    answers = service.store.blind_reviews()
    readers = sorted({answer.reviewer for given in answers.values() for answer in given})
    columns = [*CSV_COLUMNS, *(f"reader_{name}" for name in readers), *more]
    rows = (
        [
            *_csv_row(case, answers.get(case.id, []), readers),
            *(value(case) for value in more.values()),
        ]
        for case in cases
    )
    return csv_response(file, columns, rows)


def csv_response(
    file: str, columns: Sequence[str], rows: Iterable[Iterable[object]]
) -> StreamingResponse:
    """A table as a spreadsheet opens it safely, sent in parts."""
    headers = {"Content-Disposition": f'attachment; filename="{file}"'}
    # As in RFC 4180; texts are quoted, so that no separator within one ends its cell.
    lines = csv_lines(columns, rows, end="\r\n", quoting=csv.QUOTE_NONNUMERIC)
    chunks = iter(lambda: "".join(islice(lines, CSV_ROWS)), "")
    first = next(chunks)  # a database that fails is a problem, not a response without an end
    return StreamingResponse(
        chain([first], chunks), media_type="text/csv; charset=utf-8", headers=headers
    )


def _csv_row(case: Case, answers: Sequence[Review], readers: Sequence[str]) -> list[Any]:
    values = case.model_dump(mode="json")
    if case.blind:
        values = {name: values[name] for name in ("id", "received", "name")}
        return [*map(values.get, CSV_COLUMNS), *(None for _ in readers)]
    values |= {"reviewed": "yes" if case.reviewed else "no"}
    values |= values["review"] or {}
    judged, against = standing(answers), [None, *classes_against(answers)]
    agreed = [case.predicted_class, *(x.final_class for x in answers if x.verdict == "agree")]
    labels = {"right": agreed[-1], "wrong": against[-1]}
    values["label"] = values.get("final_class") if judged is None else labels.get(judged)
    values |= {"audited": "yes" if case.audited else "no", "standing": judged}
    classes = {answer.reviewer: answer.final_class for answer in answers}
    return [*map(values.get, CSV_COLUMNS), *map(classes.get, readers)]
