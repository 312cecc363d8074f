"""`/audit` and `/found-wrong`: what blind readers say of accepted answers, and who was told."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field, StringConstraints

from misgiving.errors import UsageError
from misgiving.serve.audits import HIDDEN, Audit, Shadow, audit_sample, count_audits, first_alarm
from misgiving.serve.case import Case, StorableText
from misgiving.serve.found_wrong import STATES, FoundWrong, FoundWrongList, State
from misgiving.serve.problems import ProblemError, documented
from misgiving.serve.routes.cases import BAD_REVIEW, BLIND, NO_CASE, CaseDep
from misgiving.serve.routes.tables import CSV, cases_as_csv, csv_response
from misgiving.serve.service import ReaderDep, Service, ServiceDep, key_of

router = APIRouter(
    tags=["monitoring"],
    responses=documented(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
WRONG_COLUMNS = (
    *("id", "received", "name", "group", "predicted_class", "answer", "model_fingerprint"),
    *("policy_fingerprint", "state", "since", "read_as", "contradicted_by", "told"),
)
PolicyQuery = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
StateQuery = Annotated[Sequence[State], Query(description="Of these states; default: of all.")]


class NewNote(BaseModel, extra="forbid"):
    """A note that somebody was told."""

    told_by: StorableText = Field(
        default="", max_length=200, description="Who answers for it: with keys, their name."
    )
    note: StorableText = Field(default="", max_length=2000, description="Who was told, and how.")
    state: State = Field(description="State that the operator knows; another one is a conflict.")


@router.get("/audit", responses=NO_CASE)
def get_audit(
    request: Request, service: ServiceDep, policy: PolicyQuery | None = None
) -> Audit | None:
    """Get what audits say of the accepted answers; null: the policy has none."""
    if policy is None or policy == service.policy_fingerprint:
        audit = None if service.monitor is None else service.monitor.audit()
    else:
        (row,) = _rows_of(service, [policy])
        audit = count_audits(service.store, row, service.settings)
    key = key_of(request)
    hidden = dict.fromkeys(HIDDEN if key and key.role == "read" else ())
    return audit and audit.model_copy(update=hidden)


@router.get("/audit.csv", responses={**CSV, **NO_CASE}, response_class=Response)
def export_audit(
    service: ServiceDep,
    policy: Annotated[Sequence[PolicyQuery], Query()] = (),
    shadow: Annotated[bool, Query(description="Of the last shadow, also after its end.")] = False,
) -> StreamingResponse:
    """Export the audit sample for `misgiving calibrate --from-cases`, with the paths of images.

    It ends before the first case that is open: those that are settled sooner are a selection.
    Several policies give one sample, in which each group has the lowest of their shares as chance.
    """
    if shadow:
        rows: list[Any] = [
            Shadow(*each)
            for each in service.store.shadows().items()
            if each[0] in policy or not policy
        ][-1:]
    else:
        rows = _rows_of(service, policy or [service.policy_fingerprint or ""])
    alarms = {
        row.policy_fingerprint: first_alarm(service.store, row, service.settings) for row in rows
    }
    sample_of = " ".join(f"{row.policy_fingerprint or 'none'}@{row.share:g}" for row in rows)

    def is_after_alarm(case: Case) -> str:
        alarm = alarms[case.policy_fingerprint]
        return "yes" if alarm is not None and case.received > alarm else "no"

    return cases_as_csv(
        service,
        "audit.csv",
        audit_sample(service.store, rows),
        path=service.image,
        sample_of=lambda _: sample_of,
        after_alarm=is_after_alarm,
        **({service.column: lambda case: case.value} if service.column else {}),
    )


def _rows_of(service: Service, policies: Sequence[str]) -> list[Any]:
    audits = {name: row for name, row in service.store.audits().items() if row.target is not None}
    if service.settings.shadow:
        audits[service.policy_fingerprint or ""] = service.audits
    for policy in policies:
        if policy not in audits:
            audited = ", ".join(audits) or "none (option audit_share)"
            detail = f"there are no audits of the policy {policy!r}; those audited are: {audited}"
            raise ProblemError(HTTPStatus.NOT_FOUND, detail)
    return [audits[policy] for policy in dict.fromkeys(policies)]


@router.get("/found-wrong")
def list_found_wrong(
    service: ServiceDep, reader: ReaderDep, state: StateQuery = STATES
) -> FoundWrongList:
    """List accepted answers, of any policy, that a reader found wrong; none ever leaves the list.

    Those that are blind to the reader who asks are left out, in the counts, too.
    """
    return service.found_wrong.answers(reader, state)


@router.get("/found-wrong.csv", responses=CSV, response_class=Response)
def export_found_wrong(
    service: ServiceDep, reader: ReaderDep, state: StateQuery = STATES
) -> StreamingResponse:
    """Export the accepted answers that a reader found wrong as CSV."""
    answers = service.found_wrong.answers(reader, state).answers
    return csv_response("found-wrong.csv", WRONG_COLUMNS, map(_row, answers))


def _row(answer: FoundWrong) -> list[object]:
    values = answer.model_dump(mode="json")
    values["read_as"] = "; ".join(name or "none" for name in answer.read_as)
    values["contradicted_by"] = "; ".join(answer.contradicted_by)
    notes = (f"{note['told_at']} {note['told_by']}: {note['note']}" for note in values["told"])
    values["told"] = "; ".join(notes)
    return [values[name] for name in WRONG_COLUMNS]


@router.post("/cases/{id}/told", responses={**NO_CASE, **BAD_REVIEW})
def tell(
    request: Request, service: ServiceDep, case: CaseDep, reader: ReaderDep, given: NewNote
) -> FoundWrong:
    """Note that whoever may have acted on an accepted answer was told that it was found wrong."""
    if case.blind:
        raise ProblemError(HTTPStatus.CONFLICT, BLIND)
    told_by = key.name if (key := key_of(request)) else given.told_by.strip()
    if not told_by:
        raise UsageError("give `told_by`: who answers for it")
    service.found_wrong.tell(case.id, told_by=told_by, note=given.note, state=given.state)
    return next(each for each in service.found_wrong.answers(reader).answers if each.id == case.id)
